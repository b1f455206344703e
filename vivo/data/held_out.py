"""Pictures kept out of training, chosen by their ids alone: the same for every seed, order and number of processes."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

from vivo.data.types import CaptionExample, TagExample

Example = TypeVar("Example", TagExample, CaptionExample)


class Chosen(Sequence[Example]):
    """Some of `examples`, by their places in ascending order, without a copy."""

    def __init__(self, examples: Sequence[Example], places: Sequence[int]):
        self.examples, self.places = examples, places
        self.path = getattr(examples, "path", None)  # of the file, for messages

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> Example:
        return self.examples[self.places[place]]

    def __iter__(self) -> Iterator[Example]:
        places = iter(self.places)  # ascending; reading all in a row is far faster than one by one
        wanted = next(places, None)
        for place, example in enumerate(self.examples):
            if place == wanted:
                yield example
                wanted = next(places, None)


def hold_out(examples: Sequence[Example], share: float) -> tuple[Sequence[Example], Sequence[Example]]:
    """(those to train on, those kept out): about `share` of the pictures, a hash of whose id lies below it.

    With share 0 the first are `examples` as they are.
    """
    if share == 0:
        return examples, []
    kept: list[int] = []
    out: list[int] = []
    for place, example in enumerate(examples):
        digest = hashlib.sha256(example.image_id.encode()).digest()
        (out if int.from_bytes(digest[:8], "big") < share * 2**64 else kept).append(place)
    return Chosen(examples, kept), Chosen(examples, out)


def without(examples: Sequence[Example], image_ids: Collection[str]) -> Sequence[Example]:
    """Those of other pictures than `image_ids`: what is held out of one set must not be trained on by another."""
    kept = [place for place, example in enumerate(examples) if example.image_id not in image_ids]
    return examples if len(kept) == len(examples) else Chosen(examples, kept)
