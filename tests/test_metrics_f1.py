"""Word forms and the F1 of named objects: longest match, hand-computed scores, resamples."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vivo.data.types import CaptionExample
from vivo.metrics.f1 import class_counts, f1_from_counts, macro_f1, object_f1
from vivo.metrics.nocaps import score_predictions
from vivo.metrics.tokenizer import ptb_tokenize
from vivo.metrics.word_forms import ClassFinder


@dataclass
class Named:
    """A class of classes.json, as far as the metric looks at it."""

    name: str
    forms: list[str] = field(default_factory=list)
    role: str = "base"
    detector: bool = True


CLASSES = [
    Named("bear", ["bear", "bears"]),
    Named("teddy bear", ["teddy bear", "teddy bears", "teddies"], "novel"),
    Named("mouse", ["mouse", "mice"], "novel", detector=False),
    Named("T-shirt", ["t-shirt", "t-shirts"]),
    Named("bear cub", ["bear cub", "bear cubs"], "novel"),
]


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("A bear.", {"bear"}),
        ("two teddy bears", {"teddy bear"}),
        ("a teddy bear and a bear", {"teddy bear", "bear"}),
        ("Teddy  Bears' mice", {"teddy bear", "mouse"}),
        ("the bear's T-shirt, torn", {"bear", "T-shirt"}),
        ("a teddy bear cub", {"teddy bear"}),  # from the left: each token is used once
        ("a mousetrap and a bearing", set()),
        ("teddy", set()),
        ("", set()),
    ],
)
def test_longest_match(caption: str, names: set[str]) -> None:
    found = ClassFinder(CLASSES).find(ptb_tokenize(caption))
    assert {CLASSES[n].name for n in found} == names


def test_shared_forms_name_both_classes() -> None:
    finder = ClassFinder([Named("bat (animal)", ["bat"]), Named("baseball bat", ["bat", "baseball bat"])])
    assert finder.find(["a", "bat"]) == {0, 1}
    assert finder.find(["a", "baseball", "bat"]) == {1}


def test_mentions_join_all_captions_of_a_picture() -> None:
    named = ClassFinder(CLASSES).mentions([[["a", "bear"], ["some", "mice"]], [[]], []])
    assert named.tolist() == [[True, False, True, False, False], [False] * 5, [False] * 5]


def test_f1_by_hand() -> None:
    """bear: said in 1, 2, 3, true in 1, 2, 4 -> P 2/3, R 2/3, F 2/3. mouse (novel, unknown): said in 4, true in 3 and
    4 -> P 1, R 1/2, F 2/3. teddy bear (novel): true in 1, never said -> 0. T-shirt: said once, never true: no class of
    the mean. bear cub: never anything."""
    predictions = {"1": "a bear", "2": "bears", "3": "one bear in a t-shirt", "4": "a mouse"}
    references = {
        "1": ["a bear with a teddy bear", "an animal"],
        "2": ["nothing", "a bear"],
        "3": ["two mice", "some mice"],
        "4": ["bears chase mice"],
    }
    f1 = object_f1(predictions, references, CLASSES)
    assert f1["in"] == pytest.approx(2 / 3)
    assert f1["out"] == pytest.approx((2 / 3 + 0) / 2)
    assert f1["out_unknown"] == pytest.approx(2 / 3)
    assert f1["overall"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert f1["per_class"]["mouse"] == {
        "role": "novel",
        "detector": False,
        "positives": 2,
        "predicted": 1,
        "precision": 1.0,
        "recall": 0.5,
        "F1": pytest.approx(2 / 3),
    }
    assert f1["per_class"]["T-shirt"]["F1"] is None and f1["per_class"]["T-shirt"]["precision"] == 0.0


def test_no_positives_is_no_score() -> None:
    f1 = object_f1({"1": "a bear"}, {"1": ["a tree"]}, CLASSES)
    assert [f1[group] for group in ("in", "out", "out_unknown", "overall")] == [None] * 4


def test_f1_in_the_table() -> None:
    """F1 is over all pictures, base classes under "in", novel ones under "out"; the scores share one pass."""
    split = [
        CaptionExample("1", "", ["a bear"], "in-domain"),
        CaptionExample("2", "", ["a mouse"], "out-domain"),
        CaptionExample("3", "", ["mice"], "out-domain"),
    ]
    scores = score_predictions({"1": "a bear", "2": "a mouse", "3": "a bear"}, split, CLASSES)
    assert scores.table["in"]["F1"] == pytest.approx(2 / 3)
    assert scores.table["out"]["F1"] == scores.table["out"]["F1_unknown"] == pytest.approx(2 / 3)
    assert scores.table["overall"]["F1"] == pytest.approx(2 / 3)
    assert "F1" not in scores.table.get("near", {})
    assert scores.named is not None and scores.named.sum() == 3
    assert score_predictions({"1": "", "2": "", "3": ""}, split).named is None


@given(arrays(bool, (7, 4)), arrays(bool, (7, 4)), st.lists(st.integers(0, 6), min_size=7, max_size=7))
@settings(max_examples=100, deadline=None)
def test_weights_are_repeated_pictures(predicted: np.ndarray, truth: np.ndarray, drawn: list[int]) -> None:
    weights = np.bincount(drawn, minlength=7)[None]
    weighted = macro_f1(f1_from_counts(class_counts(predicted, truth, weights)))
    repeated = macro_f1(f1_from_counts(class_counts(predicted[drawn], truth[drawn])))
    assert np.allclose(weighted[0], repeated, equal_nan=True)
