"""The reward of self-critical training: CIDEr-D with ends, by hand, against pycocoevalcap, and its stored table."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from vivo.data.coco import read_captions
from vivo.errors import UserError
from vivo.metrics.cider import CiderD, DocumentFrequencies
from vivo.metrics.document_frequencies import END, count_document_frequencies
from vivo.metrics.reward import CaptionReward
from vivo.metrics.tokenizer import ptb_tokenize

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real sample data is not beside this checkout")
PICTURES = [["a dog runs", "the dog"], ["a cat"], ["two cows on grass"]]


def test_a_caption_that_breaks_off_gets_less():
    """Against "a cat": finished it is the reference; unfinished it lacks the n-grams that end in the end."""
    whole, cut = CaptionReward(PICTURES)(["a cat", "a cat"], [True, False], [1, 1])
    # idf: a 2 of 3 pictures, <eos> 3 of 3, all else 1 of 3
    a, end, rare = math.log(3 / 2), 0.0, math.log(3)
    one = (a * a + rare * rare) / (math.hypot(a, rare) * math.sqrt(a * a + rare * rare + end))
    two = rare * rare / (rare * math.hypot(rare, rare))  # "a cat" of "a cat", "cat <eos>"
    assert whole == pytest.approx(10 / 4 * 3)  # no 4-grams
    assert cut == pytest.approx(10 / 4 * (one + two) * math.exp(-1 / 72))


def test_an_empty_caption_gets_nothing():
    assert CaptionReward(PICTURES)(["", ".", "a dog"], [True, False, True], [0, 1, 0]).tolist()[:2] == [0.0, 0.0]


def test_a_reward_hangs_on_its_own_caption_alone():
    """A final full stop that PTB would give to the word or not by what comes next; and calls change nothing."""
    reward = CaptionReward(PICTURES)
    alone = [reward([c], [True], [p])[0] for c, p in (("a cat on vitamin B.", 1), ("The dog", 0), ("a new word", 2))]
    before = copy.deepcopy(reward._scorer.__dict__)
    together = reward(["a cat on vitamin B.", "The dog", "a new word"], [True] * 3, [1, 0, 2])
    assert together.tolist() == alone
    after = reward._scorer.__dict__
    known = [found["_ngrams"]._vocabulary for found in (before, after)]
    assert known[0] == known[1] and len(before["_idf"][0]) == len(after["_idf"][0])


@needs_shared
@pytest.mark.parametrize("stored", [False, True])
def test_rewards_equal_pycocoevalcap_on_real_captions(stored: bool, tmp_path: Path):
    """400 pictures of COCO; sampled captions are other pictures' captions, shuffled, cut or repeated words."""
    pictures = [example.captions[:5] for example in read_captions(SHARED / "coco_captions_val2017.json")[:400]]
    references = {n: [" ".join([*ptb_tokenize(c), END]) for c in captions] for n, captions in enumerate(pictures)}
    table = None
    if stored:
        count_document_frequencies(pictures).save(tmp_path / "table.json")
        table = DocumentFrequencies.load(tmp_path / "table.json")
        assert 1 not in table.counts.values() and table.counts[END] == 400
    reward = CaptionReward(pictures, table)
    rng = np.random.default_rng(0)
    for turn in range(3):
        captions, ended = [], []
        for number in range(400):
            words = pictures[number if turn == 0 else rng.integers(400)][rng.integers(5)].split()
            if turn == 1:
                rng.shuffle(words)
            captions.append(" ".join(words[: rng.integers(1, len(words) + 1)] + words[-1:] * int(rng.integers(3))))
            ended.append(bool(rng.integers(2)))
        hypotheses = {
            n: [" ".join([*ptb_tokenize(c), *[END] * e])] for n, (c, e) in enumerate(zip(captions, ended, strict=True))
        }
        _, expected = Cider().compute_score(references, hypotheses)
        assert np.abs(reward(captions, ended, range(400)) - expected).max() < 1e-9


def test_the_table_knows_its_corpus(tmp_path: Path):
    path = tmp_path / "table.json"
    table = count_document_frequencies(PICTURES)
    table.save(path)
    stored = DocumentFrequencies.load(path)
    assert stored.corpus == table.corpus and stored.pictures == 3
    assert stored.counts == {ngram: n for ngram, n in table.counts.items() if n > 1}
    same = CaptionReward(PICTURES[::-1], stored)(["a dog"], [True], [2])  # the order of pictures is no matter
    assert same == pytest.approx(CaptionReward(PICTURES)(["a dog"], [True], [0]), abs=1e-12)
    for other in (PICTURES[:2], [*PICTURES[:2], ["two cows on gras"]]):
        with pytest.raises(UserError, match=r"table.json: counted over other captions \(3 pictures\) than those of"):
            CaptionReward(other, stored, str(path))
    content = json.loads(path.read_text())
    content["counts"]["a"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its SHA-256 is another one"):
        DocumentFrequencies.load(path)


def test_ends_change_no_plain_score():
    """The table with ends serves captions without."""
    references = [[ptb_tokenize(c) for c in captions] for captions in PICTURES]
    captions = [["a", "dog"], ["the", "cat"], ["two", "cows"]]
    plain = CiderD(references, DocumentFrequencies.of(references)).score(captions)
    assert CiderD(references, count_document_frequencies(PICTURES)).score(captions).tolist() == plain.tolist()
