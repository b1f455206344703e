"""Spatial relations between the units of a scene, derived from their boxes alone."""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[int, int, int, int]

KINDS = ("left of", "right of", "above", "below", "next to", "on", "under", "behind", "in front of")
_TOUCH = 7  # pixels between a lower edge and the upper edge that it stands on
_NEAR = 16  # pixels of gap between neighbours


@dataclass(frozen=True)
class Relation:
    """Unit `subject` stands in relation `kind` (one of KINDS) to unit `object` (indices of units)."""

    subject: int
    kind: str
    object: int


def area(box: Box) -> int:
    """Square pixels of a box x1, y1, x2, y2."""
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def intersection(first: Box, second: Box) -> int:
    """Square pixels that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0, width) * max(0, height)


def relations_of(boxes: Sequence[Box], order: Sequence[int]) -> list[Relation]:
    """All relations between units, both ways round.

    Args:
        boxes: one box per unit, pixels.
        order: unit indices in painting order (the last is in front).

    A pair has one main relation, clear cases only (a diagonal neighbour is neither left of nor above),
    and "next to" as well where the gap between two side by side is small.
    """
    found = []
    for first in range(len(boxes)):
        for second in range(len(boxes)):
            if first == second:
                continue
            in_front = order.index(first) > order.index(second)
            found += [Relation(first, kind, second) for kind in _kinds(boxes[first], boxes[second], in_front)]
    return found


def _kinds(a: Box, b: Box, a_in_front: bool) -> list[str]:
    """The relations of box a to box b."""
    if _stands_on(a, b):
        return ["on"]
    if _stands_on(b, a):
        return ["under"]
    if intersection(a, b) > 0.1 * min(area(a), area(b)):
        return ["in front of" if a_in_front else "behind"]
    dx = (a[0] + a[2] - b[0] - b[2]) / 2
    dy = (a[1] + a[3] - b[1] - b[3]) / 2
    if abs(dx) > 1.4 * abs(dy):
        gap = max(a[0], b[0]) - min(a[2], b[2])
        return ["left of" if dx < 0 else "right of"] + (["next to"] if gap < _NEAR else [])
    if abs(dy) > 1.4 * abs(dx):
        return ["above" if dy < 0 else "below"]
    return []


def _stands_on(upper: Box, lower: Box) -> bool:
    centre = (upper[0] + upper[2]) / 2
    return abs(upper[3] - lower[1]) <= _TOUCH and lower[0] <= centre <= lower[2]
