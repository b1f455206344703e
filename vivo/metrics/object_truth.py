"""What a source says of the objects of pictures: reference captions, image-level labels, or boxes.

    present   the source says so: "dog" is labelled
    implied   so it follows: a dog is an animal. Present classes are implied
    judged    the pair of picture and class counts in an F1: it is present, or the source could have said so and did not

"animal" on a picture of a dog is no mistake of a caption, and a caption that says "dog" has not missed the animal: such
pairs are not judged. Nor are pairs whose class the source knows nowhere, and with `verified` those that nobody was
asked about (labels are not exhaustive: most pairs were never looked at).

N pictures, C classes
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class PlacedClass(Protocol):
    """What is needed of a class here: `vivo.data.nocaps.WorldClass` has it."""

    @property
    def name(self) -> str: ...
    @property
    def mid(self) -> str: ...
    @property
    def parents(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Truth:
    """bool [N, C] each, see above."""

    present: np.ndarray
    implied: np.ndarray
    judged: np.ndarray

    def members(self, classes: np.ndarray) -> "Truth":
        """The same of some classes (bool [C] or indices)."""
        return Truth(self.present[:, classes], self.implied[:, classes], self.judged[:, classes])


def truth_of_captions(named: np.ndarray, above: np.ndarray) -> Truth:
    """Reference captions as truth: what they name is there, and nothing else, as in `vivo.metrics.f1.object_f1`.

    Args:
        named: bool [N, C], whether any reference names the class.
        above: as `ancestors_matrix` gives it.
    """
    return Truth(named, implied_by(named, above), np.ones_like(named))


def truth_of_annotations(
    present: Mapping[str, Collection[str]],
    absent: Mapping[str, Collection[str]],
    known: Collection[str],
    image_ids: Sequence[str],
    classes: Sequence[PlacedClass],
    verified: bool = False,
) -> Truth:
    """Labels or boxes as truth.

    Args:
        present, absent: class ids by picture id.
        known: class ids that the source has for any picture.
        image_ids: the N pictures.
        classes: the C classes, with their ids.
        verified: judge only what people said is there or is not; a general class that is not there rules out the
            finer ones.
    """
    number = {named.mid: c for c, named in enumerate(classes) if named.mid}
    above = ancestors_matrix(classes)
    there, denied = (_matrix(said, image_ids, number, len(classes)) for said in (present, absent))
    implied = implied_by(there, above)
    if verified:
        judged = there | (_any(denied, above.T) & ~implied)  # nor is what is below a class that is not there
    else:
        judged = np.zeros_like(there)
        judged[:, [c for mid, c in number.items() if mid in known]] = True
        judged &= there | ~implied
    return Truth(there, implied, judged)


def either(one: Truth, other: Truth) -> Truth:
    """There where any source says so; judged as not there where both say so (Rohrbach et al. 2018, section 3: objects
    that are annotated or named by a reference caption)."""
    present, implied = one.present | other.present, one.implied | other.implied
    return Truth(present, implied, present | (one.judged & other.judged & ~implied))


def ancestors_matrix(classes: Sequence[PlacedClass]) -> np.ndarray:
    """bool [C, C]: whether the second class is the first or is more general than it, by the names of its parents."""
    number = {named.name: c for c, named in enumerate(classes)}
    above = np.eye(len(classes), dtype=bool)
    for c, named in enumerate(classes):
        above[c, [number[parent] for parent in named.parents if parent in number]] = True
    while True:  # parents of parents, where a class names only its nearest
        further = (above.astype(np.float32) @ above.astype(np.float32)) > 0
        if (further == above).all():
            return above
        above = further


def implied_by(present: np.ndarray, above: np.ndarray) -> np.ndarray:
    """bool [N, C]: what is present, and all that is more general."""
    return _any(present, above)


def _any(said: np.ndarray, leads_to: np.ndarray) -> np.ndarray:
    return (said.astype(np.float32) @ leads_to.astype(np.float32)) > 0


def _matrix(
    said: Mapping[str, Collection[str]], image_ids: Sequence[str], number: Mapping[str, int], size: int
) -> np.ndarray:
    matrix = np.zeros((len(image_ids), size), dtype=bool)
    for row, image_id in enumerate(image_ids):
        matrix[row, [number[mid] for mid in said.get(image_id, ()) if mid in number]] = True
    return matrix
