"""What the model says of pictures, in terms that no wire format knows: everything that runs on the model's thread.

B pictures, R regions; boxes are x1 y1 x2 y2 as shares of the picture
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vivo.calibration import Calibration
from vivo.captioner import Caption, Captioner
from vivo.config import DecodeConfig
from vivo.data.types import Regions
from vivo.explanation import Explainer
from vivo.report.highlight import WORD
from vivo.serve.pictures import Picture

MOST_DENSE = 10  # captions of regions, the whole picture's included, as Image Analysis gives them

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for; detections and tags are always there, as everything else hangs on them."""

    captions: bool = True
    dense: bool = False
    words: bool = False


@dataclass(frozen=True)
class Scored:
    """A text with its confidence."""

    text: str
    confidence: float


@dataclass(frozen=True)
class Region:
    """A region: its box, its tag ("": it has none), the detector's score, and its caption where one was wanted."""

    box: Box
    tag: str
    score: float
    caption: Scored | None = None


@dataclass(frozen=True)
class Word:
    """A word of the best caption: its place there, its probability, and for each region the share of that probability
    which is gone without the region and its tag (0: nothing)."""

    start: int
    end: int
    probability: float
    regions: list[float]


@dataclass
class Description:
    """All that was found in a picture.

    Attributes:
        captions: the search's best, then by falling confidence (none has more than the first); also those below the
            threshold.
        tags: by falling confidence.
        regions: as the detector gave them, by falling score, the whole picture perhaps among them.
        words: of the first caption.
    """

    captions: list[Scored] = field(default_factory=list)
    tags: list[Scored] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)


class Describer:
    """A captioner with its calibration.

    Args:
        folder: captioner folder.
        device: see `Captioner.from_pretrained`.
        beam: width of the search.
    """

    def __init__(self, folder: Path, device: str | None = None, beam: int = 5) -> None:
        self.captioner = Captioner.from_pretrained(folder, device)
        self.calibration = Calibration.from_folder(folder)
        self.explainer = Explainer(self.captioner.model, self.captioner.tokenizer)
        self.search, self.dense_search = DecodeConfig(beam=beam), DecodeConfig(beam=1)
        written = max((path.stat().st_mtime for path in folder.glob("*.safetensors")), default=0.0)
        self.version = datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%d")

    @property
    def threshold(self) -> float:
        """Calibrated confidence below which a caption is better not shown."""
        return self.calibration.threshold if self.calibration else 0.0

    def describe(self, pictures: Sequence[Picture], wanted: Sequence[Wanted]) -> list[Description]:
        """One batch: what each of B pictures is asked for."""
        regions = self.captioner.detector.detect([picture.image for picture in pictures])
        tags = self.captioner.tags_of(regions)
        found = [
            Description(tags=_tags(of), regions=[_region(r, n) for n in range(len(r.labels))])
            for r, of in zip(regions, tags, strict=True)
        ]
        asked = [n for n, one in enumerate(wanted) if one.captions or one.words]
        written = self.captioner.caption_regions([regions[n] for n in asked], [tags[n] for n in asked], self.search)
        for n, captions in zip(asked, written, strict=True):
            ordered = self._ordered(captions)
            found[n].captions = [one for one, _ in ordered]
            if wanted[n].words and ordered:
                found[n].words = self._words(ordered[0][1])
        self._caption_regions([n for n, one in enumerate(wanted) if one.dense], regions, found)
        return found

    def _ordered(self, captions: Sequence[Caption]) -> list[tuple[Scored, Caption]]:
        """Captions that say something, each once: the search's best, then by falling confidence."""
        unlike = {caption.text: caption for caption in reversed(captions) if caption.text.strip()}
        kept = [caption for caption in captions if unlike.get(caption.text) is caption]
        if self.calibration is not None:
            confidences = self.calibration.confidences(kept)
        else:  # mean probability of a token: no more than an order
            confidences = [float(np.exp(min(0.0, caption.score))) for caption in kept]
        scored = [(Scored(c.text, p), c) for c, p in zip(kept, confidences, strict=True)]
        return scored[:1] + sorted(scored[1:], key=lambda one: -one[0].confidence)

    def _words(self, caption: Caption) -> list[Word]:
        """What the caption's words hang on: a region and its tag are two inputs, and their falls are added."""
        words = [match.span() for match in WORD.finditer(caption.text)]
        tags = [tag.lower() for tag in caption.tags]
        found = []
        for word in self.explainer.explain(caption.text, tags, caption.regions, words):
            of_tags = dict(word.tags)
            falls = np.array(word.regions)
            for n, label in enumerate(caption.regions.labels[: len(falls)]):
                falls[n] += of_tags.get(label.lower(), 0.0) if label else 0.0
            shares = np.zeros(len(caption.regions.labels))
            shares[: len(falls)] = 1.0 - np.exp(-np.clip(falls, 0.0, None))
            found.append(Word(word.start, word.end, float(np.exp(word.log_probability)), shares.tolist()))
        return found

    def _caption_regions(
        self, asked: Sequence[int], regions: Sequence[Regions], found: Sequence[Description]
    ) -> None:  # fmt: skip
        """Put captions into the regions of the pictures `asked` for: what lies in a region, seen as a picture."""
        places = [(n, k) for n in asked for k in _best_parts(found[n])]
        views = [_view(regions[n], k) for n, k in places]
        tags = self.captioner.tags_of(views) if views else []
        for first in range(0, len(places), 32):
            part = slice(first, first + 32)
            written = self.captioner.caption_regions(views[part], tags[part], self.dense_search)
            for (n, k), captions in zip(places[part], written, strict=True):
                ordered = self._ordered(captions)
                if ordered:
                    one = found[n].regions[k]
                    found[n].regions[k] = Region(one.box, one.tag, one.score, ordered[0][0])


def _tags(found: Sequence[tuple[str, float]]) -> list[Scored]:
    """Each tag once, the surest first."""
    surest: dict[str, float] = {}
    for name, score in found:
        surest[name] = max(score, surest.get(name, 0.0))
    return [Scored(name, min(1.0, score)) for name, score in sorted(surest.items(), key=lambda item: -item[1])]


def _region(regions: Regions, number: int) -> Region:
    x1, y1, x2, y2 = (float(value) for value in regions.boxes[number])
    shares = (x1 / regions.width, y1 / regions.height, x2 / regions.width, y2 / regions.height)
    box = tuple(min(1.0, max(0.0, value)) for value in shares)
    return Region(box, regions.labels[number], min(1.0, max(0.0, float(regions.scores[number]))))


def _best_parts(description: Description) -> list[int]:
    """Numbers of the regions that get a caption of their own: the best, without the whole picture."""
    parts = [n for n, region in enumerate(description.regions) if region.score > 0 and not is_whole(region.box)]
    return sorted(parts, key=lambda n: -description.regions[n].score)[: MOST_DENSE - 1]


def is_whole(box: Box) -> bool:
    """Whether a region is (next to) the whole picture."""
    return (box[2] - box[0]) * (box[3] - box[1]) >= 0.98


def _view(regions: Regions, number: int) -> Regions:
    """A region as if it were the picture: itself, and every region of which at least half lies in it, cut to it."""
    box = regions.boxes[number].astype(np.float32)
    size = np.maximum(box[2:] - box[:2], 1.0)
    low, high = np.maximum(regions.boxes[:, :2], box[:2]), np.minimum(regions.boxes[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    area = np.maximum((regions.boxes[:, 2:] - regions.boxes[:, :2]).prod(axis=1), 1e-6)
    kept = np.flatnonzero((shared >= 0.5 * area) | (np.arange(len(area)) == number))
    boxes = np.concatenate([low[kept] - box[:2], np.maximum(high[kept], low[kept]) - box[:2]], axis=1)
    return Regions(
        boxes.astype(np.float32),
        regions.features[kept],
        [regions.labels[k] for k in kept],
        regions.scores[kept],
        max(1, round(float(size[0]))),
        max(1, round(float(size[1]))),
    )
