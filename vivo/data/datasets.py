"""Examples joined with their regions, for a DataLoader whose sampler yields (epoch, index)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.text import WordSequences
from vivo.data.types import CaptionExample, Regions, TagExample
from vivo.errors import UserError
from vivo.randomness import example_generator


def read_vocabulary(path: str) -> set[str] | None:
    """The tag names in a JSON list, or None for an empty path (keep every tag)."""
    if not path:
        return None
    try:
        names = json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"data.vocabulary {path}: not readable as a JSON list of tag names ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"data.vocabulary {path}: must be a JSON list of tag names")
    return set(names)


def _where(examples: Sequence) -> str:
    """The file that examples were read from, for the head of a message."""
    path = getattr(examples, "path", None)
    return "" if path is None else f"{path}, "


class _WithRegions(Dataset):
    """Examples whose picture is in the store; what is missing is an error, not a silent gap."""

    def __init__(self, examples: Sequence, store: RegionStore, tags: TagSource, region_dropout: float, seed: int):
        if not len(examples):
            raise UserError("no examples to train on: the example file is empty")
        missing = [(place, e.image_id) for place, e in enumerate(examples, 1) if e.image_id not in store]
        if missing:
            place, image_id = missing[0]
            raise UserError(
                f"{_where(examples)}example {place}: picture {image_id} has no regions in {store.path} ({len(missing)} "
                f"of {len(examples)} examples have none); extract them with pretrain/extract_regions.py"
            )
        tags.check(e.image_id for e in examples)
        self.examples, self.store, self.tags = examples, store, tags
        self.region_dropout, self.seed = region_dropout, seed

    @property
    def image_ids(self) -> list[str]:
        """Ids of the pictures, in the order of the examples."""
        return [example.image_id for example in self.examples]

    def digest(self) -> str:
        """16 hex digits over ids, tags and captions of the examples, in their order, whatever file they lie in."""
        told = hashlib.sha256()
        for example in self.examples:
            told.update(json.dumps([example.image_id, example.tags, getattr(example, "captions", [])]).encode())
        return told.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.examples)

    def _regions(self, image_id: str, epoch: int) -> Regions:
        """The picture's regions, some left out at random; at least one stays."""
        regions = self.store[image_id]
        if self.region_dropout == 0:
            return regions
        draw = example_generator(self.seed, epoch, image_id, "regions").random(len(regions.labels))
        kept = np.flatnonzero((draw >= self.region_dropout) | (draw == draw.max()))
        return Regions(
            regions.boxes[kept],
            regions.features[kept],
            [regions.labels[i] for i in kept],
            regions.scores[kept],
            regions.width,
            regions.height,
        )


class TagPictures(_WithRegions):
    """Items (epoch, image id, tags, hints, regions) for TagCollator.

    Args:
        hints: what else the model sees of a picture and never has to predict, as a detector's tags; may be "none".
    """

    def __init__(
        self,
        examples: Sequence[TagExample],
        store: RegionStore,
        tags: TagSource,
        vocabulary: set[str] | None,
        region_dropout: float,
        seed: int,
        hints: TagSource | None = None,
    ):
        super().__init__(examples, store, tags, region_dropout, seed)
        self.vocabulary, self.hints = vocabulary, hints or TagSource("none")
        self.hints.check(e.image_id for e in examples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, str, list[str], list[str], Regions]:
        epoch, index = key
        image_id = self.examples[index].image_id
        hints = self.hints(image_id, [], self.store[image_id] if self.hints.needs_regions else None)
        return epoch, image_id, self.tags_of(index), hints, self._regions(image_id, epoch)

    def tags_of(self, index: int) -> list[str]:
        """The tags to learn from one picture: those of the source that the vocabulary has."""
        example = self.examples[index]
        regions = self.store[example.image_id] if self.tags.needs_regions else None
        tags = self.tags(example.image_id, example.tags, regions)
        return tags if self.vocabulary is None else [tag for tag in tags if tag in self.vocabulary]


class CaptionPictures(_WithRegions):
    """Items (epoch, image id, tags, captions, regions) for CaptionCollator."""

    def __init__(
        self,
        examples: Sequence[CaptionExample],
        store: RegionStore,
        tags: TagSource,
        region_dropout: float,
        seed: int,
        named_only: bool = False,
    ):
        super().__init__(examples, store, tags, region_dropout, seed)
        self.words = WordSequences(caption for e in examples for caption in e.captions) if named_only else None
        without = next(((place, e) for place, e in enumerate(examples, 1) if not e.captions), None)
        if without is not None:
            place, example = without
            raise UserError(
                f"{_where(examples)}example {place}: picture {example.image_id} has no caption to learn from; take it "
                "out of the file"
            )

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, str, list[str], list[str], Regions]:
        epoch, index = key
        example = self.examples[index]
        regions = self.store[example.image_id] if self.tags.needs_regions else None
        tags = self.tags(example.image_id, example.tags, regions)
        if self.words is not None:
            tags = [tag for tag in tags if tag in self.words]
        return epoch, example.image_id, tags, example.captions, self._regions(example.image_id, epoch)
