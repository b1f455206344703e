"""Do tags and regions of one object meet? Whether the region that goes best with a tag lies on the tag's object.

The paper's Figure 3 shows how similar tags and regions are and gives no number. Here are some, over tags whose object
is boxed, for any measure of how well a region goes with a tag:

    grounded    the best region of the tag lies on an object of it, IoU >= 0.5
    chance      the same for a region drawn at random: the share of the picture's regions that lie on one
    possible    some region lies on one: no model can do better than this share of the tags
    whole       the best region is the whole picture, which lies on no object but goes with every tag
    margin      mean measure of the regions on such objects, less that of all others (of tags that have both kinds)

Sums over pictures and tags, so that `vivo.metrics.ratios.RatioScore` has them with intervals.

T tags, R regions of one picture
"""

from dataclasses import astuple, dataclass

import numpy as np

LEAST_OVERLAP = 0.5


@dataclass
class TagSums:
    """Sums over the boxed tags of one picture.

    Attributes:
        tags: how many. grounded, chance, possible, whole: of the module's text.
        contrasted: tags with both regions on their object and others. margin: sum over those.
    """

    tags: float = 0.0
    grounded: float = 0.0
    chance: float = 0.0
    possible: float = 0.0
    whole: float = 0.0
    contrasted: float = 0.0
    margin: float = 0.0

    def __add__(self, other: "TagSums") -> "TagSums":
        return TagSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def cosines(tags: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """[T, D], [R, D] -> cosine similarities float64 [T, R]; 0 with a vector of zeros."""

    def unit(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    return unit(tags) @ unit(regions).T


def on_object(overlap: np.ndarray, share_of_region: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """bool [R]: which regions lie on any of G boxes.

    Args:
        overlap: [R, G], intersection over union.
        share_of_region: [R, G], intersection over the region's area.
        groups: bool [G], boxes around a group of objects: a region on one of them lies on it, as Open Images' own
            evaluation has it, though it covers little of the group.
    """
    return (np.where(groups, share_of_region, overlap) >= LEAST_OVERLAP).any(axis=1)


def tag_sums(fit: np.ndarray, hits: np.ndarray, whole: np.ndarray) -> TagSums:
    """Sums over tags whose objects are boxed.

    Args:
        fit: [T, R], how well each region goes with each tag. Of equal ones the first counts.
        hits: bool [T, R], which regions lie on an object of the tag.
        whole: bool [R], regions that are the whole picture.
    """
    sums = TagSums()
    for of_tag, on in zip(fit, hits, strict=True):
        best = int(np.argmax(of_tag))
        sums.tags += 1
        sums.grounded += bool(on[best])
        sums.chance += float(on.mean())
        sums.possible += bool(on.any())
        sums.whole += bool(whole[best])
        if on.any() and not on.all():
            sums.contrasted += 1
            sums.margin += float(of_tag[on].mean() - of_tag[~on].mean())
    return sums
