"""The typed records that pass between detectors, stores, readers and collation.

Notation (all of vivo): B pictures, R regions, T tag tokens, C caption tokens, M masked tags,
D width, V word pieces, F region feature size. Boxes are absolute pixels x1 y1 x2 y2 of the
original picture everywhere but inside a batch.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Regions:
    """What a detector says about one picture, and what a RegionStore keeps of it.

    Attributes:
        boxes: float32 [R, 4], x1 y1 x2 y2 in pixels of the original picture.
        features: float16 [R, F].
        labels: R class names; "" marks a region that the detector cannot name.
        scores: float32 [R] in 0..1, confidence of the label (of objectness where label is "").
        width, height: size of the original picture in pixels.

    A picture without detections has one whole-image region with label "" (R >= 1 always).
    Regions are sorted by falling score of objectness, so that a cut keeps the best.
    """

    boxes: np.ndarray
    features: np.ndarray
    labels: list[str]
    scores: np.ndarray
    width: int
    height: int


@dataclass
class TagExample:
    """One picture of the pre-training set: an unordered list of tags, duplicates removed."""

    image_id: str
    tags: list[str]


@dataclass
class CaptionExample:
    """One picture with its reference captions (1 or more; 0 where only predictions are wanted).

    `domain` is "in-domain" | "near-domain" | "out-domain" for nocaps pictures, else "".
    `tags` are image-level labels where the data set has any (never used on nocaps).
    """

    image_id: str
    file_name: str
    captions: list[str] = field(default_factory=list)
    domain: str = ""
    tags: list[str] = field(default_factory=list)
