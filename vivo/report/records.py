"""What a report is made of: rows of numbers, pictures with captions, curves.

Plain records without behaviour, so that the demo, the evaluation and the tests can fill them without knowing how
a page is built.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivo.explanation import WordEvidence  # which imports PyTorch

Interval = tuple[float, float] | None


@dataclass
class RowResult:
    """One row of the results table.

    Attributes:
        name: the row's name in results.json and key of `GalleryPicture.captions`, e.g. "vivo, no tags".
        description: half a line on what the row is.
        seeds: seeds of the runs that the row is the mean of.
        metrics: {"in" | "near" | "out" | "overall": {"CIDEr": ..., "F1": ..., "F1_unknown": ...}};
            CIDEr times 100, F1 in 0..1. What is absent or not a number is shown as a dash.
        intervals: the same nesting with 95 % intervals (low, high) or None; may be empty.
        seconds: time that the row took, training included; None or nan is shown as a dash.
    """

    name: str
    description: str
    seeds: list[int]
    metrics: Mapping[str, Mapping[str, float]]
    intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    seconds: float | None = None


@dataclass
class GalleryPicture:
    """One evaluation picture with what the detector saw and what each row said.

    Attributes:
        image_id, domain: as in nocaps; domain is "in-domain" | "near-domain" | "out-domain".
        picture_path: the picture's file; `width`, `height` is its size in pixels.
        boxes: x1 y1 x2 y2 in pixels; labels: a class name each, "" where the detector knows no name; scores in 0..1.
        references: the reference captions.
        captions: row name -> caption.
        novel_objects: novel classes that the references name; unknown_objects: those that the detector cannot name.
        named: row name -> novel classes that the row's caption names and the references do, too (the metric's word).
        tags: what the models are told, where it is not the labels (as with a tagger's file); None: the labels.
    """

    image_id: str
    picture_path: Path
    domain: str
    boxes: Sequence[Sequence[float]]
    labels: list[str]
    scores: Sequence[float]
    width: int
    height: int
    references: list[str]
    captions: dict[str, str]
    novel_objects: list[str] = field(default_factory=list)
    unknown_objects: list[str] = field(default_factory=list)
    named: dict[str, list[str]] = field(default_factory=dict)
    tags: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse regions that do not belong together before they become a wrong picture."""
        if not len(self.boxes) == len(self.labels) == len(self.scores):
            raise ValueError(
                f"picture {self.image_id}: {len(self.boxes)} boxes, {len(self.labels)} labels and "
                f"{len(self.scores)} scores; they must be equally many"
            )
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"picture {self.image_id}: size {self.width} x {self.height} is not positive")


@dataclass
class EvaluatedPicture(GalleryPicture):
    """A picture of the pages that show all of them (`vivo.report.evaluation_page`, `comparison_page`).

    Attributes:
        picture_path: where there is no file, `Path()`.
        metrics: row name -> metric -> score of this picture's caption, times 100.
        evidence: row name -> what each word of its caption hangs on.
        traces: row name -> a line of predictions.constraints.jsonl (`vivo.constrained_prediction`).
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    evidence: dict[str, list["WordEvidence"]] = field(default_factory=dict)
    traces: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Curve:
    """Loss against step of one run; `stage` ("pre-training", "fine-tuning") chooses the panel."""

    row: str
    step: list[int]
    loss: list[float]
    stage: str = ""
