"""What a world will show: sizes, the things of every picture, and its generator.

The plan deals classes from shuffled decks, so that each comes up equally often (within one) in
each split; a picture's own chance hangs on (seed, split, index) alone, whoever paints it.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vivo.errors import UserError
from vivo.world.classes import BASE_CLASSES, CLASSES, NOVEL_CLASSES, ObjectClass
from vivo.world.glyphs import TINTS
from vivo.world.grammar import check_held_out
from vivo.world.scenes import COUNT_SHARES

SPLITS = ("open_images", "coco_train", "coco_val", "nocaps")
DOMAINS = ("out-domain", "in-domain", "out-domain", "near-domain")  # of nocaps pictures, in turn


@dataclass(frozen=True)
class WorldConfig:
    """Sizes and options of a world.

    Attributes:
        seed: same seed and sizes, same bytes.
        open_images: pictures with tags and boxes, of all classes.
        coco, coco_val: captioned pictures of base classes, for training and for validation.
        nocaps: evaluation pictures; a quarter in-domain, a quarter near-domain, half out-domain.
        captions_per_picture: of the coco pictures.
        references: captions of each nocaps picture.
        picture_size: side in pixels.
        held_out_pairs: (colour, object) and (object, relation, object) combinations that no coco picture shows,
            and so no training caption says, e.g. (("red", "car"), ("dog", "left of", "cat")). The evaluation
            pictures show them as often as any other. Relations: `vivo.world.relations.KINDS`.
        workers: processes that paint; no influence on the bytes.
    """

    seed: int = 0
    open_images: int = 4000
    coco: int = 1600
    coco_val: int = 100
    nocaps: int = 450
    captions_per_picture: int = 5
    references: int = 10
    picture_size: int = 224
    held_out_pairs: tuple[tuple[str, ...], ...] = ()
    workers: int = 2

    def validate(self) -> None:
        """Raise `UserError` for sizes or combinations that make no world."""
        for name in ("open_images", "coco", "coco_val", "nocaps", "captions_per_picture", "references", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"world: {name} must be at least 1, found {getattr(self, name)}")
        if not 96 <= self.picture_size <= 1024:
            raise UserError(f"world: picture_size must be 96 to 1024 pixels, found {self.picture_size}")
        if self.seed < 0:
            raise UserError(f"world: seed must not be negative, found {self.seed}")
        check_held_out(self.held_out_pairs, list(TINTS))

    def sizes(self) -> dict[str, int]:
        """Split -> number of pictures."""
        return dict(zip(SPLITS, (self.open_images, self.coco, self.coco_val, self.nocaps), strict=True))

    def identity(self) -> dict[str, Any]:
        """All that decides the bytes, as JSON values."""
        values = asdict(self)
        del values["workers"]
        values["held_out_pairs"] = [list(pair) for pair in self.held_out_pairs]
        return values


@dataclass(frozen=True)
class Task:
    """One picture to paint."""

    split: str
    index: int
    things: tuple[ObjectClass, ...]
    domain: str = ""

    def generator(self, seed: int, attempt: int | str = 0) -> np.random.Generator:
        """The picture's own chance: a counter-based generator keyed by where it stands.

        Args:
            attempt: which drawing of the scene, or what else is drawn apart from it.
        """
        key = hashlib.sha256(f"{seed}/{self.split}/{self.index}/{attempt}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))

    def hex_id(self, seed: int) -> str:
        """16 hexadecimal digits, as Open Images names its pictures."""
        return hashlib.sha256(f"{seed}/{self.split}/{self.index}/id".encode()).hexdigest()[:16]


class _Deck:
    """Classes dealt in shuffled rounds: any two have come up equally often, give or take one."""

    def __init__(self, classes: list[ObjectClass], rng: np.random.Generator) -> None:
        self.classes, self.rng, self.pile = classes, rng, []

    def deal(self, count: int) -> list[ObjectClass]:
        """`count` different classes."""
        dealt: list[ObjectClass] = []
        skipped: list[ObjectClass] = []
        while len(dealt) < count:
            if not self.pile:
                self.pile = [self.classes[int(index)] for index in self.rng.permutation(len(self.classes))]
            card = self.pile.pop()
            (skipped if card in dealt else dealt).append(card)
        self.pile += skipped  # a card that came twice over the border of two rounds waits for the next picture
        return dealt


def plan(config: WorldConfig) -> list[Task]:
    """All pictures of a world, split by split in order of their index."""
    rng = np.random.Generator(np.random.Philox(key=[config.seed, 2**40]))
    tasks: list[Task] = []
    for split, size in config.sizes().items():
        everything, base, novel = (_Deck(classes, rng) for classes in (CLASSES, BASE_CLASSES, NOVEL_CLASSES))
        for index in range(size):
            units = int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) + 1
            domain = DOMAINS[index % len(DOMAINS)] if split == "nocaps" else ""
            if domain == "near-domain":
                units = max(2, units)
                novel_units = int(rng.integers(1, units))
                things = novel.deal(novel_units) + base.deal(units - novel_units)
                things = [things[int(place)] for place in rng.permutation(units)]
            elif domain == "out-domain":
                things = novel.deal(units)
            elif split == "open_images":
                things = everything.deal(units)
            else:
                things = base.deal(units)
            tasks.append(Task(split, index, tuple(things), domain))
    return tasks
