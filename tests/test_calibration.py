"""Confidences: by hand, on data whose probabilities are known, and by the program on the tiny world."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from vivo.calibration import (
    FACTS,
    FILE,
    Calibration,
    at_most_the_first,
    best_threshold,
    expected_calibration_error,
    facts,
    fit,
    reliability,
)
from vivo.captioner import Caption
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.metrics.tokenizer import ptb_tokenize
from vivo.serve.describer import Describer

ROOT = Path(__file__).resolve().parent.parent


def caption(text: str = "two dogs on a sofa", **more) -> Caption:
    labels = ["dog", "dog", "sofa", "cat", ""]
    scores = np.array([0.5, 0.75, 0.625, 0.875, 1.0], np.float32)
    regions = Regions(np.zeros((5, 4), np.float32), np.zeros((5, 2), np.float16), labels, scores, 10, 10)
    return Caption(text, -1.5, ["dog", "sofa", "cat"], regions, None, ["x"] * 4, [-1.0, -2.0, -2.5, -0.5], **more)


def test_facts_by_hand() -> None:
    found = dict(zip(FACTS, facts(caption()), strict=True))
    assert found == {
        "mean log-probability": -1.5, "least log-probability": -2.5, "sum of log-probabilities": -6.0,
        "word pieces": 4.0, "tags": 3.0, "tags said": 2.0, "least score of a tag said": 0.625,
        "greatest score of a tag not said": 0.875, "named regions": 4.0, "unnamed regions": 1.0,
    }  # fmt: skip
    assert dict(zip(FACTS, facts(caption("a dogfish")), strict=True))["tags said"] == 0.0  # no dog


def test_error_by_hand() -> None:
    confidence = np.array([0.05, 0.05, 0.95, 0.95, 0.95, 1.0])
    right = np.array([False, True, True, True, False, True])
    bins = reliability(confidence, right)
    assert [(one.count, one.right) for one in bins] == [(2, 0.5), (4, 0.75)]
    assert [one.confidence for one in bins] == pytest.approx([0.05, 0.9625])
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.45 + 4 * 0.2125) / 6)


def test_threshold_by_hand() -> None:
    confidence = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    right = np.array([False, False, True, False, True])
    assert best_threshold(confidence, right, 0.25) == 0.4  # below or at .4, one of four is right
    assert best_threshold(confidence, right, 0.0) == 0.2
    assert best_threshold(confidence, ~right, 0.1) == 0.0


def test_no_caption_is_surer_than_the_first() -> None:
    assert at_most_the_first(np.array([0.5, 0.7, 0.2])).tolist() == [0.5, 0.5, 0.2]


def test_fitting_finds_probabilities_that_come_true() -> None:
    """Right with a probability that no single fact is; on other captions the error is chance alone."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(8000, len(FACTS)))
    truth = 1 / (1 + np.exp(-(1.5 * rows[:, 0] - rows[:, 3] + rows[:, 1] * rows[:, 2])))
    right = random.random(8000) < truth
    fitted = fit(rows[:4000], right[:4000])
    found = fitted.probabilities(rows[4000:])
    assert expected_calibration_error(reliability(found, right[4000:])) < 0.03
    assert np.abs(found - truth[4000:]).mean() < 0.05
    with pytest.raises(UserError, match="all 4000 captions are right"):
        fit(rows[:4000], np.ones(4000, dtype=bool))


def test_file_round_trip_and_damage(tmp_path: Path) -> None:
    assert Calibration.from_folder(tmp_path) is None
    random = np.random.default_rng(1)
    rows = random.normal(size=(50, len(FACTS)))
    fitted = fit(rows, rows[:, 0] > 0)
    fitted.threshold = 0.25
    fitted.save(tmp_path)
    again = Calibration.from_folder(tmp_path)
    assert again == fitted and again.confidences([]) == []
    several = again.confidences([caption(), caption("a sofa")])
    assert several[1] <= several[0] == pytest.approx(fitted.probabilities(np.array([facts(caption())]))[0])
    content = json.loads((tmp_path / FILE).read_text())
    damages = {"facts": ["other"]}, {"weights": [1.0]}, {"threshold": 7}, {"scale": "x"}, {"new": 1}
    for damage in damages:
        (tmp_path / FILE).write_text(json.dumps(content | damage))
        with pytest.raises(UserError, match="no readable calibration"):
            Calibration.from_folder(tmp_path)


def test_the_program_on_the_tiny_world(tiny_world: Path, tiny_captioner: Path, tmp_path: Path) -> None:
    """A random model names no class: the word that it says most is made one, which every second picture shows."""
    folder, count = tmp_path / "captioner", 24
    shutil.copytree(tiny_captioner, folder)
    nocaps = tiny_world / "world" / "nocaps"
    pictures = json.loads((nocaps / "nocaps_val_captions.json").read_text())["images"][:count]
    files = [nocaps / "images" / picture["file_name"] for picture in pictures]
    found = Describer(folder, "cpu", 2).captioner.caption_files(files, beam=2)
    said = [[set(ptb_tokenize(caption.text)) for caption in one.captions] for one in found]
    counts = Counter(word for captions in said for words in captions for word in words if word.isalpha())
    word, times = counts.most_common(1)[0]
    named = {"name": word, "plural": word, "forms": [word], "mid": "/m/0said", "role": "base", "detector": True}
    (tmp_path / "classes.json").write_text(json.dumps([named | {"parents": []}]))
    boxes = (nocaps / "validation-annotations-bbox.csv").read_text()
    for picture in pictures[::2]:
        boxes += f"{picture['open_images_id']},xclick,/m/0said,1,0.1,0.9,0.1,0.9,0,0,0,0,0\n"
    (tmp_path / "boxes.csv").write_text(boxes)
    command = [
        sys.executable, "eval/calibrate.py", "--checkpoint", folder, "--captions", nocaps / "nocaps_val_captions.json",
        "--pictures", nocaps / "images", "--classes", tmp_path / "classes.json", "--beam", "2", "--limit", str(count),
        "--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "out",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "expected calibration error" in done.stdout

    facts_found = json.loads((tmp_path / "out" / "reliability.json").read_text())
    calibration = Calibration.from_folder(folder)
    checked = [
        (number, words)
        for number, picture in enumerate(pictures)
        for words in said[number]
        if word in words and hashlib.sha256(str(picture["id"]).encode()).digest()[0] % 2
    ]
    assert 0 < len(checked) < times
    assert facts_found["captions"] == len(checked) == sum(one[0] for one in facts_found["bins"])
    assert calibration.notes["fitted on captions"] == times - len(checked)
    right = sum(number % 2 == 0 for number, _ in checked)
    assert 0 < right < len(checked) and facts_found["right"] == pytest.approx(right / len(checked), abs=1e-4)
    plot = ElementTree.parse(tmp_path / "out" / "reliability.svg")
    assert len(plot.findall(".//{*}circle")) == len(facts_found["bins"])
    assert Describer(folder, "cpu", 2).calibration == calibration is not None
