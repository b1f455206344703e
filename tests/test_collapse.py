"""Alarms of validations: by hand, and on fine-tunings that really collapse."""

from pathlib import Path

import pytest
from test_training import config_for

from vivo.data.examples import read_caption_examples, write_caption_examples
from vivo.data.types import CaptionExample
from vivo.training.collapse import alarms, repetition, signs
from vivo.training.runs import finetune
from vivo.training.tracking import read_records
from vivo.training.validation import exchanged


def test_signs_of_collapse_by_hand():
    assert repetition("a a a a") == pytest.approx(2 / 3) and repetition("a dog") == 0 == repetition("a") == repetition(
        ""
    )
    fine = signs(["a dog in the grass", "a cat on a mat"], [True, True])
    assert fine == {"distinct": 1.0, "commonest": 0.5, "words": 5.0, "ended": 1.0, "repetition": 0.0}
    assert alarms(fine | {"CIDEr": 40.0, "CIDEr_shuffled": 8.0}, 2) == []
    even = signs(["a dog in grass"] * 10 + ["a cat on a mat"] * 10, [False] * 10 + [True] * 10)
    assert (even["distinct"], even["commonest"]) == (2 / 20, 0.5)
    assert alarms(even, 20) == []  # on the bound is not beyond it
    bad = signs(["a a a"] * 11 + ["b b b"] * 10 + ["c c c"] * 10, [False] * 16 + [True] * 15)
    bad |= {"CIDEr": 4.0, "CIDEr_shuffled": 3.0}
    assert [text.split(" (")[0] for text in alarms(bad, 31)] == [
        "few distinct captions", "captions that do not end", "repetition", "the picture is not used",
    ]  # fmt: skip
    assert alarms(signs(["dog", "cat"], [True, True]), 2) == ["short captions (1.0 words)"]
    same = ["a dog in the grass"]
    for pictures in (2, 8, 2000):  # of 8 pictures one caption is more than a tenth
        found = signs(same * pictures, [True] * pictures)
        assert alarms(found, pictures) == [f"one caption for {pictures} of {pictures} pictures"]
    most = signs(same * 70 + [f"a dog and {n} cats" for n in range(30)], [True] * 100)
    assert alarms(most, 100) == ["one caption for 70 of 100 pictures"]
    assert alarms(signs(same, [True]), 1) == []


def test_each_picture_is_exchanged_for_another_one():
    for count in (2, 3, 50):
        ids = [str(n) for n in range(count)]
        other = exchanged(ids)
        assert sorted(other) == sorted(ids) and all(a != b for a, b in zip(ids, other, strict=True))
        assert exchanged(ids) == other
    neighbours = sum(int(b) == (int(a) + 1) % 50 for a, b in zip(ids, other, strict=True))
    assert neighbours < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "caption", "expected"),
    [
        # far too fast: what is left is the most frequent word
        (["optim.lr=0.05", "optim.duration=4steps"], "",
         ["one caption for 8 of 8 pictures", "captions that do not end", "repetition"]),
        # captions that do not hang on the picture
        (["optim.lr=1e-3", "optim.duration=30steps"], "a horse on a wooden table.",
         ["one caption for 8 of 8 pictures", "the picture is not used"]),
    ],
)  # fmt: skip
def test_a_run_that_collapses_raises_alarms(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], caption: str, expected
):
    """Real fine-tunings that end with one caption for all pictures (a healthy one: tests/test_training.py)."""
    if caption:
        examples = read_caption_examples(tiny_world / "examples" / "captions.jsonl")
        same = [CaptionExample(e.image_id, e.file_name, [caption]) for e in examples]
        write_caption_examples(same, tmp_path / "same.jsonl")
        overrides = [*overrides, f"data.examples={tmp_path / 'same.jsonl'}"]
    finetune(config_for(
        tiny_world, tmp_path / "run", "captions", "init=minilm", "optim.warmup=1step", "optim.batch_size=8",
        "tracking.validate_every=100percent", *overrides,
        f"data.validation_references={tiny_world / 'world' / 'coco' / 'captions_val.json'}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
    ))  # fmt: skip
    said = [line for line in capsys.readouterr().out.splitlines() if "ALARM" in line]
    (record,) = (r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "validation_alarms" in r)
    texts = record["validation_alarms"].split("; ")
    assert said == [f"  ALARM after {record['step']} updates: {text}" for text in texts]
    assert [text.partition(" (")[0] for text in texts] == expected, texts
