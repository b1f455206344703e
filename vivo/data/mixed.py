"""Image-tag pairs and image-sentence pairs in one run (objective "both"): each update is of one kind.

The kind of an update and its place among the updates of its kind are pure functions of its number, so every
process does the same kind at the same time, and resuming needs only the step. Each kind is its own stream, as if
it were alone: its n-th batch hangs on (seed, n), and its epochs are counted by itself.

The pictures of both sets have one numbering: 0 .. T - 1 those with tags, T .. T + P - 1 those with captions.
"""

import math
from collections.abc import Sequence

from torch.utils.data import Dataset

from vivo.data.collate import Batch, CaptionCollator, TagCollator
from vivo.data.datasets import CaptionPictures, TagPictures
from vivo.data.sampler import StepBatches


def pairs_before(step: int, share: float) -> int:
    """How many of the updates 0 .. step - 1 are of pairs, where `share` of all are."""
    return math.floor(step * share + 1e-9)  # 100 * 0.29 is 28.999...


class MixedPictures(Dataset):
    """Items of both sets, each with its kind: ("tags" | "pairs", item of `TagPictures` or `CaptionPictures`)."""

    def __init__(self, tags: TagPictures, pairs: CaptionPictures):
        self.tags, self.pairs = tags, pairs

    @property
    def image_ids(self) -> list[str]:
        """Of all pictures, in the order of their numbers."""
        return [*self.tags.image_ids, *self.pairs.image_ids]

    def digest(self) -> str:
        """Of the examples of both sets."""
        return f"{self.tags.digest()}+{self.pairs.digest()}"

    def __len__(self) -> int:
        return len(self.tags) + len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, tuple]:
        epoch, index = key
        if index < len(self.tags):
            return "tags", self.tags[epoch, index]
        return "pairs", self.pairs[epoch, index - len(self.tags)]


class MixedCollator:
    """Batches of either kind; `data/collate.py` describes both (a CaptionBatch has `text_ids`, a TagBatch not)."""

    def __init__(self, tags: TagCollator, pairs: CaptionCollator):
        self._of = {"tags": tags, "pairs": pairs}

    def __call__(self, examples: Sequence[tuple[str, tuple]]) -> Batch:
        kinds = {kind for kind, _ in examples}
        assert len(kinds) == 1, "a batch is of one kind"
        return self._of[kinds.pop()]([item for _, item in examples])


class MixedBatches(StepBatches):
    """`StepBatches` over `MixedPictures`.

    Args:
        size: pictures of both sets. tags: how many of them, the first ones, have tags.
        share: of the updates that are of image-sentence pairs, above 0 and below 1, spread evenly; with 0.5 even
            updates (from 0) are of tags and odd ones of pairs.
    """

    def __init__(self, size: int, batch_size: int, seed: int, *arguments: int, tags: int, share: float):
        super().__init__(size, batch_size, seed, *arguments)
        self.tags, self.share = tags, share
        self._tags = StepBatches(tags, batch_size, seed, 0, 0)
        self._pairs = StepBatches(size - tags, batch_size, seed, 0, 0)

    def global_batch(self, step: int) -> list[tuple[int, int]]:
        """[(epoch of its kind, index)] * batch_size."""
        pairs = pairs_before(step, self.share)
        if pairs_before(step + 1, self.share) > pairs:
            return [(epoch, self.tags + index) for epoch, index in self._pairs.global_batch(pairs)]
        return self._tags.global_batch(step - pairs)
