"""From what a detector says of a picture to the classes that its caption must name.

As the nocaps baseline does it (Agrawal et al. 2019, section 4.2 and appendix; its `ConstraintFilter`), in this order:

    1. regions without a name, or below the least score, are no constraints
    2. nor are the classes of `BLACKLIST`: too rare in captions, never said, or well known from COCO
    3. of two boxes that overlap by 0.85 or more the more general class goes ("dog" suppresses "animal");
       classes of one height stay both
    4. the 3 surest boxes are left
    5. names that no caption has are replaced, then each name counts once

Which boxes are left out, and why, is told beside the constraints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vivo.data.types import Regions

BLACKLIST = frozenset(
    {
        *("auto part", "bathroom accessory", "bicycle wheel", "boy", "building", "clothing", "door handle"),
        *("fashion accessory", "footwear", "girl", "hiking equipment", "human arm", "human beard", "human body"),
        *("human ear", "human eye", "human face", "human foot", "human hair", "human hand", "human head", "human leg"),
        *("human mouth", "human nose", "land vehicle", "mammal", "man", "person", "personal care", "plant"),
        *("plumbing fixture", "seat belt", "skull", "sports equipment", "tire", "tree", "vehicle registration plate"),
        *("wheel", "woman"),
    }
)
"""The 39 classes that are never constraints."""
REPLACEMENTS = {
    "band-aid": "bandaid",
    "wood-burning stove": "wood burning stove",
    "kitchen & dining room table": "table",
    "salt and pepper shakers": "salt and pepper",
    "power plugs and sockets": "power plugs",
    "luggage and bags": "luggage",
}
"""Class -> the name by which it is a constraint; two classes with one name are one constraint."""


@dataclass(frozen=True)
class ConstraintRules:
    """The choices above. least_score: of step 1. overlap: IoU of step 3. at_most: boxes of step 4."""

    least_score: float = 0.0
    overlap: float = 0.85
    at_most: int = 3


@dataclass(frozen=True)
class Constraint:
    """A class to name.

    Attributes:
        name: after `REPLACEMENTS`. detected: as the detector has it.
        forms: words of which one is to be written.
        score, box: of its surest region, pixels x1 y1 x2 y2.
    """

    name: str
    detected: str
    forms: tuple[str, ...]
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True)
class LeftOut:
    """A detection that is no constraint."""

    name: str
    score: float
    reason: str


def choose_constraints(
    regions: Regions,
    forms: Callable[[str], Sequence[str]],
    height: Callable[[str], int],
    rules: ConstraintRules | None = None,
) -> tuple[list[Constraint], list[LeftOut]]:
    """The constraints of a picture, surest first, and the detections that are none.

    Args:
        forms: class name in lower case -> the words by which captions name it.
        height: class name -> how general it is; 0 for the finest.
    """
    rules = rules or ConstraintRules()
    names = [" ".join(label.lower().split()) for label in regions.labels]
    scores = regions.scores.tolist()
    left_out: list[LeftOut] = []

    def keep(place: int, reason: str) -> bool:
        """False, with a note, where there is a reason against a region."""
        if reason:
            left_out.append(LeftOut(names[place], scores[place], reason))
        return not reason

    places = [i for i, name in enumerate(names) if name and scores[i] > 0]
    places = [i for i in places if keep(i, f"score below {rules.least_score:g}" * (scores[i] < rules.least_score))]
    places = [i for i in places if keep(i, "blacklisted" * (names[i] in BLACKLIST))]
    finer = suppressors(regions.boxes[places], [height(names[i]) for i in places], rules.overlap)
    reasons = ["" if other is None else f"overlaps with a finer class, {names[places[other]]}" for other in finer]
    places = [i for i, reason in zip(places, reasons, strict=True) if keep(i, reason)]
    places = sorted(places, key=lambda i: -scores[i])
    places = [
        i for n, i in enumerate(places) if keep(i, f"not among the {rules.at_most} surest" * (n >= rules.at_most))
    ]
    chosen: dict[str, Constraint] = {}
    for i in places:
        name = REPLACEMENTS.get(names[i], names[i])
        if keep(i, f"{name} is a constraint already" * (name in chosen)):
            box = tuple(regions.boxes[i].tolist())
            chosen[name] = Constraint(name, names[i], tuple(forms(names[i])), scores[i], box)
    return list(chosen.values()), left_out


def suppressors(boxes: np.ndarray, heights: Sequence[int], overlap: float) -> list[int | None]:
    """For each box [N, 4] the one that suppresses it, by number, or None.

    A box is suppressed by one of a finer class (smaller height) that is not suppressed itself, where their
    intersection over union is `overlap` or more.
    """
    found: list[int | None] = [None] * len(heights)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        if kept:
            low = np.maximum(boxes[i, :2], boxes[kept, :2])
            high = np.minimum(boxes[i, 2:], boxes[kept, 2:])
            common = np.prod(np.maximum(high - low, 0.0), axis=1)
            shared = common / np.maximum(areas[i] + areas[kept] - common, 1e-9)
            finer = np.array(heights)[kept] < heights[i]
            candidates = np.where(finer, shared, -1.0)
            if candidates.max() >= overlap:
                found[i] = kept[int(candidates.argmax())]
                continue
        kept.append(i)
    return found
