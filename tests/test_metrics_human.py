"""Leave-one-out scores of reference captions: against pycocoevalcap fold by fold, and the program."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from test_metrics_predictions import program

from vivo.data.nocaps import read_nocaps
from vivo.data.types import CaptionExample
from vivo.errors import UserError
from vivo.metrics import bleu, cider, human, rouge
from vivo.metrics.bleu import bleu_of_sums
from vivo.metrics.human import human_scores, kept_human_record
from vivo.metrics.java import JavaScoreError
from vivo.metrics.meteor import Meteor
from vivo.metrics.ngrams import ReferenceNgrams
from vivo.metrics.tokenizer import ptb_tokenize_all

NOCAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "nocaps_val_captions.json"
WORDS = "a the dog cat runs on red mat 1\u00a01/2".split(" ")
CAPTION = st.lists(st.sampled_from(WORDS), max_size=9)


def fold_by_pycocoevalcap(tokens: list[list[list[str]]], k: int) -> tuple[list[float], list[float], list[float]]:
    """(corpus BLEU-1..4, ROUGE-L, CIDEr of each picture that has it) of caption k against the others."""
    texts = [[" ".join(caption) for caption in captions] for captions in tokens]
    gts = {n: [t for j, t in enumerate(captions) if j != k] for n, captions in enumerate(texts)}
    res = {n: [captions[min(k, len(captions) - 1)]] for n, captions in enumerate(texts)}
    has = [n for n, captions in enumerate(texts) if len(captions) > k]
    some = ({n: gts[n] for n in has}, {n: res[n] for n in has})
    return (
        Bleu(4).compute_score(*some, verbose=0)[0],
        Rouge().compute_score(*some)[1].tolist(),
        Cider().compute_score(gts, res)[1][has].tolist(),
    )


def check_folds(tokens: list[list[list[str]]]) -> None:
    """Every fold of our three leave-one-out functions equals pycocoevalcap's."""
    ngrams = ReferenceNgrams(tokens)
    texts = [[" ".join(caption) for caption in captions] for captions in tokens]
    scores = (bleu.leave_one_out(ngrams), rouge.leave_one_out(texts), cider.leave_one_out(ngrams))
    for k in range(max(map(len, tokens))):
        at = np.array([first + k for first, of in zip(ngrams.first, tokens, strict=False) if len(of) > k])
        expected = fold_by_pycocoevalcap(tokens, k)
        found = (bleu_of_sums(scores[0][at].sum(axis=0)), scores[1][at], scores[2][at])
        for ours, theirs in zip(found, expected, strict=True):
            assert np.allclose(ours, theirs, rtol=0, atol=1e-9)


@given(
    st.lists(CAPTION.filter(bool), min_size=2, max_size=4),  # pycocoevalcap needs a word in each fold
    st.lists(st.lists(CAPTION, min_size=2, max_size=4), min_size=1, max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_each_fold_equals_pycocoevalcap(first: list[list[str]], others: list[list[list[str]]]) -> None:
    check_folds([first, *others])


@pytest.mark.skipif(not NOCAPS.is_file(), reason="the real sample data is not beside this checkout")
def test_each_fold_of_nocaps_equals_pycocoevalcap() -> None:
    """120 pictures, whose last ones have fewer captions."""
    examples = read_nocaps(NOCAPS)[:120]
    tokens = [ptb_tokenize_all(e.captions)[: 10 - n // 40] for n, e in enumerate(examples)]
    check_folds(tokens)


def split() -> list[CaptionExample]:
    """Four pictures, two domains, three captions but for one picture."""
    captions = [
        ["a dog runs", "a brown dog runs", "the dog"],
        ["a cat sleeps", "one cat"],
        ["a bus stops", "a red bus", "the bus stops here"],
        ["two kites", "kites in the sky", "a kite"],
    ]
    domains = ["in-domain", "in-domain", "out-domain", "out-domain"]
    return [CaptionExample(str(n), "", c, d) for n, (c, d) in enumerate(zip(captions, domains, strict=True))]


def test_a_picture_counts_once_however_many_captions_it_has() -> None:
    examples = split()
    mean, first = human_scores(examples)
    tokens = [ptb_tokenize_all(e.captions) for e in examples]
    by_fold = [fold_by_pycocoevalcap(tokens, k)[2] for k in range(3)]
    by_fold[2].insert(1, np.nan)  # picture 1 has two captions
    assert mean.cider == pytest.approx(100 * np.nanmean(by_fold, axis=0))
    assert first.cider == pytest.approx(100 * np.array(by_fold[0]))
    table = mean.table(resamples=200)
    assert list(table) == ["in", "out", "overall"]
    value, low, high = table["out"]["CIDEr"]
    assert value == pytest.approx(mean.cider[2:].mean()) and low <= value <= high
    assert table["overall"]["BLEU-2"].value == pytest.approx(100 * bleu_of_sums(mean.bleu_counts.sum(axis=0))[1])


def test_what_cannot_be_left_out_is_refused() -> None:
    examples = split()
    with pytest.raises(UserError, match="picture 9 has 1 reference"):
        human_scores([*examples, CaptionExample("9", "", ["a dog"])])
    with pytest.raises(UserError, match="1 picture.s.: document frequencies need a split"):
        human_scores(examples[:1])


def test_meteor_of_people(java: str) -> None:
    """Its statistics are those of each caption against the others, in the means every picture weighs the same."""
    mean, first = human_scores(split()[:2], Meteor())
    dog, cat = ([" ".join(t) for t in ptb_tokenize_all(e.captions)] for e in split()[:2])
    expected = Meteor().score([*dog, *cat], [dog[1:], dog[::2], dog[:2], cat[1:], cat[:1]], {"first": [0, 3]})
    assert np.array_equal(first.meteor_statistics, expected.statistics[[0, 3]])
    assert first.table(50)["overall"]["METEOR"].value == pytest.approx(100 * expected.groups["first"])
    assert mean.meteor_statistics[0] == pytest.approx(expected.statistics[:3].mean(axis=0))
    assert mean.meteor_statistics[1] == pytest.approx(expected.statistics[3:].mean(axis=0))


def test_the_record_is_kept_for_the_same_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVO_CACHE", str(tmp_path))
    examples = split()
    computed = []
    compute = human.human_scores
    monkeypatch.setattr(human, "human_scores", lambda *a: computed.append(1) or compute(*a))
    record = kept_human_record(examples)
    assert kept_human_record(examples) == record == json.loads(json.dumps(record)) and len(computed) == 1
    (kept,) = (tmp_path / "human").iterdir()
    kept.write_text("{}")  # damaged
    assert kept_human_record(examples) == record and len(computed) == 2
    examples[0].captions[0] = "a wolf runs"
    assert kept_human_record(examples)["mean"] != record["mean"] and len(computed) == 3
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIVO_CACHE", str(tmp_path / "file"))  # nowhere to keep it
    assert kept_human_record(split()) == record


def captions_file(path: Path) -> Path:
    """The split as a file."""
    examples = split()
    images = [{"id": int(e.image_id), "file_name": "", "domain": e.domain} for e in examples]
    annotations = [
        {"id": 10 * n + k, "image_id": n, "caption": caption}
        for n, e in enumerate(examples)
        for k, caption in enumerate(e.captions)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    references = captions_file(tmp_path / "captions.json")
    (tmp_path / "partition.csv").write_text("image_id,domain\n0,near\n1,in\n2,near-domain\n3,out\n")
    assert program("human").main([str(references), "--out", str(tmp_path / "new" / "h.json")]) == 0
    printed = capsys.readouterr().out
    assert "mean over captions, against 1 to 2 others" in printed and "first captions, against 1 to 2 others" in printed
    record = json.loads((tmp_path / "new" / "h.json").read_text())
    mean, first = human_scores(split())
    assert record["mean"]["overall"]["CIDEr"][0] == pytest.approx(mean.cider.mean())
    assert record["first"]["in"]["ROUGE_L"][0] == pytest.approx(first.rouge[:2].mean())
    assert record["references"] == [2, 3] and record["pictures"] == 4
    common = [str(references), "--partition", str(tmp_path / "partition.csv")]
    assert program("human").main(common) == 0
    assert f"in / near / out are those of {tmp_path / 'partition.csv'} (1 / 2 / 1 pictures" in capsys.readouterr().out
    monkeypatch.setattr(Meteor, "check", lambda self: (_ for _ in ()).throw(JavaScoreError("java is away", "get it")))
    assert program("human").main([*common, "--meteor"]) == 2
    assert capsys.readouterr().err == "error: METEOR cannot be had: java is away; get it\n"
