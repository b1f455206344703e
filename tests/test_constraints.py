"""From detections to constraints, each rule by hand."""

import numpy as np
import pytest

from vivo.data.class_forms import ClassWords
from vivo.data.types import Regions
from vivo.decoding.constraints import (
    BLACKLIST,
    REPLACEMENTS,
    ConstraintRules,
    LeftOut,
    choose_constraints,
    suppressors,
)

WORDS = ClassWords({}, {"animal": 4, "mammal": 3, "carnivore": 2, "dog": 0, "cat": 0})


def detected(*found: tuple[str, float, tuple[float, float, float, float]]) -> Regions:
    labels, scores, boxes = zip(*found, strict=True)
    return Regions(
        np.array(boxes, np.float32), np.zeros((len(found), 1), np.float16), list(labels),
        np.array(scores, np.float32), 100, 100,
    )  # fmt: skip


def chosen(regions: Regions, **rules) -> tuple[list[str], dict[str, str]]:
    constraints, left_out = choose_constraints(regions, WORDS.forms, WORDS.height, ConstraintRules(**rules))
    return [c.name for c in constraints], {x.name: x.reason for x in left_out}


def apart(number: int) -> tuple[float, float, float, float]:
    return (10.0 * number, 0.0, 10.0 * number + 9, 9.0)


def test_the_surest_three_with_their_forms_scores_and_boxes():
    regions = detected(
        ("Dog", 0.5, apart(0)), ("", 0.99, apart(1)), ("Kite", 0.75, apart(2)), ("Knife", 1.0, apart(3)),
        ("Cat", 0.25, apart(4)), ("Zebra", 0.0, apart(5)),
    )  # fmt: skip
    constraints, left_out = choose_constraints(regions, WORDS.forms, WORDS.height)
    assert [(c.name, c.score, c.forms) for c in constraints] == [
        ("knife", 1.0, ("knife", "knives")), ("kite", 0.75, ("kite", "kites")), ("dog", 0.5, ("dog", "dogs")),
    ]  # fmt: skip
    assert constraints[0].box == apart(3)
    assert left_out == [LeftOut("cat", 0.25, "not among the 3 surest")]  # no name and no score are no detections


def test_blacklisted_classes_and_low_scores():
    regions = detected(("Person", 0.9, apart(0)), ("Human face", 0.9, apart(1)), ("Dog", 0.3, apart(2)))
    names, reasons = chosen(regions, least_score=0.5)
    assert names == [] and reasons == {"person": "blacklisted", "human face": "blacklisted", "dog": "score below 0.5"}
    assert len(BLACKLIST) == 39


def test_a_finer_class_suppresses_a_more_general_one_on_the_same_box():
    box = (0.0, 0.0, 10.0, 10.0)
    names, reasons = chosen(detected(("Animal", 0.9, box), ("Dog", 0.2, (0.0, 0.0, 10.0, 9.0)), ("Cat", 0.3, box)))
    assert names == ["cat", "dog"]  # of one height, both stay
    assert reasons == {"animal": "overlaps with a finer class, cat"}  # the one that overlaps most
    names, _ = chosen(detected(("Animal", 0.9, box), ("Dog", 0.2, (0.0, 0.0, 10.0, 8.4))))
    assert names == ["animal", "dog"]  # 0.84
    names, _ = chosen(detected(("Animal", 0.9, box), ("Dog", 0.2, (0.0, 0.0, 10.0, 8.4))), overlap=0.8)
    assert names == ["dog"]


def test_what_is_suppressed_suppresses_nothing():
    """Mammal and animal overlap, so do animal and dog, but not mammal and dog."""
    dog, mammal, animal = (0.0, 0.0, 10.0, 10.0), (0.0, 1.0, 10.0, 12.0), (0.0, 0.0, 10.0, 11.5)
    boxes = np.array([animal, mammal, dog], np.float32)
    assert suppressors(boxes, [4, 3, 0], 0.85) == [1, None, None]  # animal: IoU .875 with mammal, .870 with dog
    assert suppressors(boxes[[0, 2]], [4, 0], 0.85) == [1, None]
    chain = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8]], np.float32)
    # the middle one goes by the finest; it would have suppressed the first, which has IoU .80 with the finest
    assert suppressors(chain, [4, 3, 2], 0.85) == [None, 2, None]


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_a_comparison_of_all_pairs(seed: int):
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 3, (12, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(8, 10, (12, 2))], axis=1)
    heights = generator.integers(0, 4, 12).tolist()

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        common = max(wide, 0) * max(high, 0)
        return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

    kept = set()
    for height in range(4):
        for i in (i for i in range(12) if heights[i] == height):
            if not any(heights[j] < height and iou(boxes[i], boxes[j]) >= 0.6 for j in kept):
                kept.add(i)
    found = suppressors(boxes, heights, 0.6)
    assert {i for i in range(12) if found[i] is None} == kept and 0 < len(kept) < 12
    assert all(j is None or (j in kept and heights[j] < heights[i]) for i, j in enumerate(found))


def test_names_count_once_after_their_replacement():
    regions = detected(
        ("Table", 0.9, apart(0)), ("Kitchen & dining room table", 0.8, apart(1)), ("Band-aid", 0.7, apart(2)),
        ("Dog", 0.6, apart(3)),
    )  # fmt: skip
    constraints, left_out = choose_constraints(regions, WORDS.forms, WORDS.height)
    # three boxes, then duplicates go, as in the baseline: the dog does not move up
    assert [(c.name, c.detected) for c in constraints] == [("table", "table"), ("bandaid", "band-aid")]
    assert constraints[1].forms == ("band-aid", "band-aids", "bandaid", "bandaids")
    assert {x.name: x.reason for x in left_out} == {
        "kitchen & dining room table": "table is a constraint already", "dog": "not among the 3 surest",
    }  # fmt: skip
    assert len(REPLACEMENTS) == 6


def test_a_picture_without_detections_has_no_constraints():
    assert chosen(detected(("", 0.5, apart(0)))) == ([], {})
