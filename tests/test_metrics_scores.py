"""BLEU, ROUGE-L, CIDEr-D and the nocaps averages: by hand, and against pycocoevalcap."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics import rouge
from vivo.metrics.bleu import COUNTS, CorpusBleu, bleu
from vivo.metrics.cider import CiderD, DocumentFrequencies, cider_d
from vivo.metrics.java import JavaScoreError
from vivo.metrics.meteor import Meteor, score_sums
from vivo.metrics.nocaps import METRICS, SplitScorer, domains_note, score_by_domain, score_predictions
from vivo.metrics.rouge import rouge_l
from vivo.metrics.tokenizer import ptb_tokenize_all

NOCAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nocaps_val_captions.json"

CAPTION = st.lists(st.sampled_from("a the dog cat runs on red mat 1\u00a01/2".split(" ")), max_size=9)
PICTURE = st.tuples(CAPTION, st.lists(CAPTION.filter(bool), min_size=1, max_size=4))


def pycocoevalcap(captions: list[list[str]], references: list[list[list[str]]]):
    """BLEU-1..4, ROUGE-L and CIDEr of each picture, as pycocoevalcap computes them."""
    gts = {n: [" ".join(tokens) for tokens in texts] for n, texts in enumerate(references)}
    res = {n: [" ".join(tokens)] for n, tokens in enumerate(captions)}
    return (
        Bleu(4).compute_score(gts, res, verbose=0)[0],
        Rouge().compute_score(gts, res)[1],
        Cider().compute_score(gts, res)[1],
    )


def random_split(pictures: int, seed: int) -> list[CaptionExample]:
    """Sentences of a small grammar, five references a picture, domains in turn."""
    generator = random.Random(seed)
    nouns, verbs = ["dog", "cat", "teddy bear", "kite", "bus"], ["sits on", "is near", "looks at", "is left of"]
    domains = ["in-domain", "near-domain", "out-domain", "near-domain"]

    def sentence() -> str:
        return f"A {generator.choice(nouns)} {generator.choice(verbs)} the {generator.choice(nouns)}'s mat."

    return [
        CaptionExample(str(n), "", [sentence() for _ in range(5)], domains[n % len(domains)]) for n in range(pictures)
    ]


@given(st.lists(PICTURE, min_size=2, max_size=6))
@settings(max_examples=150, deadline=None)
def test_scores_equal_pycocoevalcap(pictures: list[tuple[list[str], list[list[str]]]]) -> None:
    captions, references = [c for c, _ in pictures], [r for _, r in pictures]
    expected_bleu, expected_rouge, expected_cider = pycocoevalcap(captions, references)
    texts = [[" ".join(tokens) for tokens in of_picture] for of_picture in references]
    joined = [" ".join(tokens) for tokens in captions]
    assert np.allclose(CiderD(references).score(captions), expected_cider, rtol=0, atol=1e-9)
    assert np.allclose(rouge_l(joined, texts), expected_rouge, rtol=0, atol=1e-12)
    assert np.allclose(bleu(CorpusBleu(references).counts(captions)), expected_bleu, rtol=0, atol=1e-12)


def test_long_captions_equal_pycocoevalcap() -> None:
    """Around 63 tokens, where the bits of ROUGE-L's integers end, and far beyond; also beside an empty one."""
    generator = random.Random(0)
    words = [chr(97 + n) for n in range(12)]
    for lengths in [(61, 63, 64), (62, 64, 65), (63, 64, 63), (64, 200, 90), (200, 63, 64), (300, 5, 0), (0, 70, 64)]:
        captions, *references = ([generator.choice(words) for _ in range(n)] for n in lengths)
        expected_bleu, expected_rouge, _ = pycocoevalcap([captions, ["z"]], [references, [["z"]]])
        texts = [" ".join(tokens) for tokens in references]
        assert rouge_l([" ".join(captions), "z"], [texts, ["z"]]).tolist() == pytest.approx(expected_rouge, abs=1e-12)
        counts = CorpusBleu([references, [["z"]]]).counts([captions, ["z"]])
        assert bleu(counts) == pytest.approx(expected_bleu, abs=1e-12)


def test_one_enormous_caption_is_not_paid_for_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of like length are padded together: all that is padded stays below twice the tokens and the area."""
    generator = random.Random(1)
    captions = [" ".join(generator.choices("abcdef", k=9)) for _ in range(400)]
    captions[7] = " ".join(generator.choices("abcdef", k=16_000))
    references = [[" ".join(generator.choices("abcdef", k=11)) for _ in range(5)] for _ in captions]
    padded = []
    by_bits = rouge._by_bits
    monkeypatch.setattr(rouge, "_by_bits", lambda ours, theirs: padded.append(theirs.size) or by_bits(ours, theirs))
    monkeypatch.setattr(rouge, "_AREA", 100_000)
    found = rouge_l(captions, references)
    assert sum(padded) < 2 * (5 * 16_000 + 2_000 * 11) and max(padded) <= 100_000
    monkeypatch.undo()
    expected = [Rouge().calc_score([caption], of) for caption, of in zip(captions[:9], references, strict=False)]
    assert found[:9].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.skipif(not NOCAPS.is_file(), reason="the real sample data is not beside this checkout")
def test_human_captions_of_nocaps_equal_pycocoevalcap() -> None:
    """600 pictures: the first caption against the other nine."""
    texts: dict[int, list[str]] = {}
    for annotation in json.loads(NOCAPS.read_text())["annotations"]:
        texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
    tokens = [ptb_tokenize_all(captions) for captions in list(texts.values())[:600]]
    captions, references = [t[0] for t in tokens], [t[1:] for t in tokens]
    expected_bleu, expected_rouge, expected_cider = pycocoevalcap(captions, references)
    assert np.abs(CiderD(references).score(captions) - expected_cider).max() < 1e-9
    joined, refs = [" ".join(t) for t in captions], [[" ".join(t) for t in r] for r in references]
    assert np.abs(rouge_l(joined, refs) - expected_rouge).max() < 1e-9
    assert np.abs(np.array(bleu(CorpusBleu(references).counts(captions))) - expected_bleu).max() < 1e-9


def test_cider_by_hand() -> None:
    """Two pictures, disjoint words: every n-gram weighs log 2; a perfect caption of 4 words has cosine 1."""
    references = [[["a", "b", "c", "d"]], [["e", "f", "g", "h"]]]
    scores = CiderD(references).score([["a", "b", "c", "d"], ["e", "f"]])
    # "e f": unigrams share 2 of 4 (norms sqrt 2 and sqrt 4), bigrams 1 of 3, no longer ones; 2 bigrams fewer
    by_hand = (2 / math.sqrt(2 * 4) + 1 / math.sqrt(1 * 3)) / 4 * math.exp(-(2**2) / (2 * 6**2)) * 10
    assert scores == pytest.approx([10.0, by_hand], abs=1e-12)


def test_cider_clips_repeated_words() -> None:
    references = [[["a", "b"]], [["c", "d"]]]
    once, thrice = CiderD(references).score([["a", "b"], ["c", "c", "c"]])
    # caption vector (3), clipped to the reference's 1: 1 / (3 * sqrt 2), one order of four; one bigram more
    assert once == pytest.approx(5.0)  # no 3- and 4-grams in either: two orders of four are 0
    assert thrice == pytest.approx(1 / (3 * math.sqrt(2)) / 4 * math.exp(-(1**2) / 72) * 10)


def test_cider_of_one_picture_needs_stored_frequencies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stored frequencies"):
        cider_d({"1": "a dog"}, {"1": ["a dog"]})
    split = random_split(30, seed=1)
    references = [ptb_tokenize_all(example.captions) for example in split]
    captions = [picture[0] for picture in references]
    whole = CiderD(references).score(captions)
    DocumentFrequencies.of(references).save(tmp_path / "df.json")
    stored = DocumentFrequencies.load(tmp_path / "df.json")
    assert 1 not in stored.counts.values()  # left out: the same idf as unseen
    alone = [CiderD([r], stored).score([c])[0] for r, c in zip(references, captions, strict=True)]
    assert np.allclose(alone, whole, rtol=0, atol=1e-12)


def test_references_with_all_n_grams_in_common_are_refused() -> None:
    """CIDEr of any caption would be 0, however good; stored frequencies help here too."""
    split = [CaptionExample(str(n), "", ["a dog", "the dog"]) for n in range(3)]
    with pytest.raises(UserError, match="CIDEr of these 3 pictures is 0 by definition: .*--document-frequencies"):
        SplitScorer(split)
    table = DocumentFrequencies(100, {"dog": 50, "a": 99, "the": 60, "a dog": 20, "the dog": 10})
    scored = SplitScorer(split, frequencies=table).score({"0": "a dog", "1": "dog", "2": "a cat"})
    assert scored.cider[0] > scored.cider[1] > scored.cider[2] > 0
    one = SplitScorer(split[:1], frequencies=table).score({"0": "a dog"})
    assert one.table["overall"]["CIDEr"] == pytest.approx(scored.cider[0])
    with pytest.raises(UserError, match="CIDEr of 1 picture.s. is 0 by definition"):
        SplitScorer(split[:1])


def test_cider_with_other_peoples_frequencies() -> None:
    """idf of n-grams of the caption that no reference has comes from the table too (it enters the norm)."""
    table = DocumentFrequencies(100, {"dog": 50, "cat": 10})
    score = CiderD([[["dog"]]], table).score([["dog", "cat"]])[0]
    dog, cat = math.log(100 / 50), math.log(100 / 10)
    assert score == pytest.approx(10 / 4 * dog / math.hypot(dog, cat) * math.exp(-1 / 72))
    assert CiderD([[["dog"]], [["cat"]]], table).score([["cat"], ["cat"]], pictures=[1, 0]) == pytest.approx([2.5, 0])


def test_damaged_frequencies_are_refused(tmp_path: Path) -> None:
    (tmp_path / "df.json").write_text("[1]")
    with pytest.raises(UserError, match="df.json"):
        DocumentFrequencies.load(tmp_path / "df.json")


def test_bleu_by_hand() -> None:
    """3 of 4 words and 2 of 3 pairs match; two references of lengths 6 and 5: 5 is the closest to 4."""
    references = [["the dog sat on a mat".split(), "one dog sat right here".split()]]
    scores = bleu(CorpusBleu(references).counts(["the dog sat down".split()]))
    brevity = math.exp(1 - 5 / 4)
    assert scores[0] == pytest.approx(3 / 4 * brevity, abs=1e-6)
    assert scores[1] == pytest.approx(math.sqrt(3 / 4 * 2 / 3) * brevity, abs=1e-6)
    assert bleu(np.zeros((0, COUNTS))) == [0.0] * 4


def test_rouge_by_hand() -> None:
    """Longest common subsequence "dog on mat": 3 of 4 words of the caption, 3 of 5 of the reference."""
    precision, recall, beta = 3 / 4, 3 / 5, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert rouge_l(["dog on red mat"], [["a dog sits on mat"]])[0] == pytest.approx(expected)


def test_domains_average_one_pass_over_the_split() -> None:
    """CIDEr by domain is the mean of per-picture scores with the frequencies of the whole split, overall the
    weighted mean; BLEU is computed from the corpus of the domain alone."""
    split = random_split(40, seed=2)
    predictions = {
        example.image_id: other.captions[0] for example, other in zip(split, split[1:] + split[:1], strict=True)
    }
    table, pictures = score_by_domain(
        predictions, {e.image_id: e.captions for e in split}, {e.image_id: e.domain for e in split}
    )
    references = [ptb_tokenize_all(example.captions) for example in split]
    captions = ptb_tokenize_all([predictions[example.image_id] for example in split])
    _, rouge, cider = pycocoevalcap(captions, references)
    assert [row["CIDEr"] for row in pictures.values()] == pytest.approx(100 * cider)
    for part, domain in {"in": "in-domain", "near": "near-domain", "out": "out-domain"}.items():
        members = [n for n, example in enumerate(split) if example.domain == domain]
        assert table[part]["pictures"] == len(members)
        assert table[part]["CIDEr"] == pytest.approx(100 * cider[members].mean())
        assert table[part]["ROUGE_L"] == pytest.approx(100 * rouge[members].mean())
        corpus = pycocoevalcap([captions[n] for n in members], [references[n] for n in members])[0]
        assert [table[part][f"BLEU-{n}"] for n in range(1, 5)] == pytest.approx([100 * b for b in corpus])
    weighted = sum(table[part]["CIDEr"] * table[part]["pictures"] for part in ("in", "near", "out"))
    assert table["overall"]["CIDEr"] == pytest.approx(weighted / table["overall"]["pictures"])
    assert set(table["overall"]) == {*METRICS, "pictures"}


class Away:
    """Java that cannot be had."""

    def score(self, *_: object) -> None:
        raise JavaScoreError("java is not on PATH", "get one")


class Told:
    """SPICE that is known beforehand."""

    def score(self, captions: list[str], references: list[list[str]]) -> np.ndarray:
        assert all(len(texts) == 5 for texts in references)
        return np.array([len(caption) / 100 for caption in captions])


def test_a_score_that_cannot_be_had_is_missing_and_never_zero() -> None:
    split = random_split(8, seed=5)
    predictions = {e.image_id: e.captions[0] for e in split}
    plain = SplitScorer(split).score(predictions)
    scores = SplitScorer(split, meteor=Away(), spice=Away()).score(predictions)
    assert scores.table == plain.table and scores.meteor is scores.spice is None
    assert scores.missing == dict.fromkeys(("METEOR", "SPICE"), "java is not on PATH; get one")


def test_spice_by_domain_is_a_mean_over_pictures() -> None:
    split = random_split(8, seed=5)
    scores = SplitScorer(split, spice=Told()).score({e.image_id: "dog " * (n + 1) for n, e in enumerate(split)})
    assert scores.spice.tolist() == pytest.approx([4 * n - 1 for n in range(1, 9)])
    assert {part: row["SPICE"] for part, row in scores.table.items()} == pytest.approx(
        {"in": (3 + 19) / 2, "near": (7 + 15 + 23 + 31) / 4, "out": (11 + 27) / 2, "overall": 17}
    )
    assert scores.per_picture()["3"].keys() == {"CIDEr", "ROUGE_L", "SPICE"} and "SPICE" not in scores.missing


def test_meteor_by_domain_is_of_its_pictures_statistics(java: str) -> None:
    split = random_split(8, seed=6)
    scorer = SplitScorer(split, meteor=Meteor())
    scores = scorer.score({e.image_id: split[n - 1].captions[0] for n, e in enumerate(split)})
    for part in ("in", "near", "out", "overall"):
        members = scorer.members(part)
        together = 100 * score_sums(scores.meteor_statistics[members].sum(axis=0))
        assert scores.table[part]["METEOR"] == pytest.approx(together, abs=1e-9)
    assert scores.table["overall"]["METEOR"] != pytest.approx(scores.meteor.mean(), abs=0.01)  # no mean of scores
    assert scores.per_picture()["3"]["METEOR"] == scores.meteor[3]


@pytest.mark.parametrize(
    ("sizes", "partition", "words"),
    [
        ((417, 2670, 1413), "", "Only overall compares with papers"),
        ((648, 2938, 914), "p.csv", "648 / 2,938 / 914 pictures: as many as the server's"),
        ((417, 2670, 1413), "p.csv", "417 / 2,670 / 1,413 pictures: not the server's"),
        ((1, 0, 2), "", ""),
        ((1, 0, 2), "p.csv", "those of p.csv (1 / 0 / 2 pictures"),
    ],
)
def test_what_is_said_beside_domains(sizes: tuple[int, int, int], partition: str, words: str) -> None:
    note = domains_note(dict(zip(("in", "near", "out"), sizes, strict=True)), partition)
    assert words in note and bool(words) == bool(note)


def test_scores_without_domains_are_overall_alone() -> None:
    split = [CaptionExample(e.image_id, "", e.captions) for e in random_split(5, seed=3)]
    assert list(score_predictions({e.image_id: "a dog" for e in split}, split).table) == ["overall"]


def test_every_picture_needs_its_prediction() -> None:
    split = random_split(5, seed=4)
    scorer = SplitScorer(split)
    captions = {example.image_id: "a dog" for example in split}
    with pytest.raises(UserError, match="1 of 5 pictures have no prediction .first: 3."):
        scorer.score({image_id: text for image_id, text in captions.items() if image_id != "3"})
    with pytest.raises(UserError, match="1 predictions are of pictures .* .first: 77."):
        scorer.score(captions | {"77": "a cat"})
    with pytest.raises(UserError, match="picture 9 has no reference"):
        SplitScorer([*split, CaptionExample("9", "")])


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """pycocoevalcap's BLEU prints by default."""
    split = random_split(4, seed=5)
    score_predictions({example.image_id: "" for example in split}, split)
    assert capfd.readouterr() == ("", "")


def test_empty_captions_score_zero() -> None:
    split = random_split(4, seed=6)
    scores = score_predictions({example.image_id: "..." for example in split}, split).table["overall"]
    assert scores["CIDEr"] == 0 and scores["ROUGE_L"] == 0 and scores["BLEU-1"] < 1e-6
