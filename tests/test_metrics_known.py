"""Known scores: numbers that pycocoevalcap and the published notebook gave for whole sets of captions.

tests/golden/scores.json:
  "published": tylin/coco-caption's 1,000 predictions on COCO val2014 (its notebook prints three digits, pycocoevalcap
      four). The predictions are not in this repository: VIVO_COCO_CAPTION names a folder with
      captions_val2014_fakecap_results.json, else the test skips.
  "mixed": 1,000 predictions that this test makes of COCO val2014's own captions. Written by
      VIVO_WRITE_GOLDEN=1 pytest tests/test_metrics_known.py, from pycocoevalcap's own path with Java.
The captions of COCO val2014 are in pycocoevalcap's wheel.
"""

import json
import os
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor as TheirMeteor
from pycocoevalcap.rouge.rouge import Rouge
from test_metrics_java import WHEEL
from test_metrics_tokenizer import java_tokens

from vivo.data.types import CaptionExample
from vivo.metrics.meteor import Meteor
from vivo.metrics.nocaps import SplitScorer

GOLDEN = Path(__file__).parent / "golden" / "scores.json"


@pytest.fixture(scope="module")
def val2014() -> dict[int, list[str]]:
    """Captions by picture."""
    with zipfile.ZipFile(WHEEL / "spice" / "spice-1.0.jar") as jar:
        annotations = json.loads(jar.read("coco/annotations/captions_val2014.json"))["annotations"]
    captions: dict[int, list[str]] = {}
    for annotation in annotations:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    return captions


def ours(captions: Mapping[int, list[str]], predictions: Mapping[int, str], meteor: Meteor | None) -> dict[str, float]:
    """Overall scores (times 100) of the pictures that have predictions."""
    split = [CaptionExample(str(i), "", captions[i]) for i in predictions]
    return SplitScorer(split, meteor=meteor).score({str(i): p for i, p in predictions.items()}).table["overall"]


def mixed(captions: Mapping[int, list[str]]) -> dict[int, str]:
    """Predictions of 1,000 pictures: the begin of a reference and the end of another, some of the next picture's."""
    rng = random.Random(2014)
    ids = sorted(captions)[:1000]
    found = {}
    for image_id, other in zip(ids, [*ids[1:], ids[0]], strict=True):
        one = rng.choice(captions[image_id]).split()
        two = rng.choice(captions[other if rng.random() < 0.3 else image_id]).split()
        found[image_id] = " ".join(one[: rng.randrange(len(one) + 1)] + two[len(two) // 2 :])
    return found


def by_pycocoevalcap(java: str, captions: Mapping[int, list[str]], predictions: Mapping[int, str], folder: Path):
    """Overall scores (times 100) with Java's tokens."""
    flat = iter(java_tokens(java, [text for i in predictions for text in captions[i]], folder))
    gts = {i: [next(flat) for _ in captions[i]] for i in predictions}
    res = {
        i: [text] for i, text in zip(predictions, java_tokens(java, list(predictions.values()), folder), strict=True)
    }
    found = {f"BLEU-{n}": b for n, b in enumerate(Bleu(4).compute_score(gts, res, verbose=0)[0], 1)}
    for name, scorer in (("METEOR", TheirMeteor), ("ROUGE_L", Rouge), ("CIDEr", Cider)):
        found[name] = float(scorer().compute_score(gts, res)[0])
    return {name: 100 * score for name, score in found.items()}


def test_a_thousand_coco_captions_score_as_written_down(
    val2014, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    predictions = mixed(val2014)
    if os.environ.get("VIVO_WRITE_GOLDEN"):
        java = request.getfixturevalue("java")
        golden = json.loads(GOLDEN.read_text()) | {"mixed": by_pycocoevalcap(java, val2014, predictions, tmp_path)}
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    expected = json.loads(GOLDEN.read_text())["mixed"]
    found = ours(val2014, predictions, None)
    assert {m: found[m] for m in expected if m != "METEOR"} == pytest.approx(
        {m: score for m, score in expected.items() if m != "METEOR"}, rel=0, abs=1e-9
    )


def test_meteor_of_these_captions(val2014, java: str) -> None:
    """Java's part; pycocoevalcap's number to the last digit."""
    expected = json.loads(GOLDEN.read_text())["mixed"]["METEOR"]
    assert ours(val2014, mixed(val2014), Meteor())["METEOR"] == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_published_thousand_captions(val2014, java: str) -> None:
    folder = os.environ.get("VIVO_COCO_CAPTION", "")
    path = Path(folder) / "captions_val2014_fakecap_results.json"
    if not folder or not path.is_file():
        pytest.skip("VIVO_COCO_CAPTION names no folder with captions_val2014_fakecap_results.json (tylin/coco-caption)")
    predictions = {entry["image_id"]: entry["caption"] for entry in json.loads(path.read_text())}
    assert len(predictions) == 1000
    found = ours(val2014, predictions, Meteor())
    expected = json.loads(GOLDEN.read_text())["published"]
    assert {m: found[m] for m in expected} == pytest.approx(expected, rel=0, abs=0.005)  # four digits, times 100
