"""Pre-training batches against a plain way to make them: one picture, one tag, one number at a time."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from vivo.data.collate import Limits, TagCollator
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions
from vivo.weights import bert_folder

LIMITS = Limits(max_regions=6, max_tag_tokens=8, max_caption_tokens=12, tag_position_offset=12)
NAMES = ["dog", "cat", "hot dog", "teddy bear", "cow", "umbrella", "surfboarding", "fire hydrant", " ", "hot dog bun"]
SEED = 3
PAD, MASK = 0, 103


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


def generator(epoch: int, image_id: str, purpose: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{SEED}\0{epoch}\0{image_id}\0{purpose}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


def that_fit(names: list[str], pieces: TagPieces, most: int) -> list[tuple[int, ...]]:
    kept: list[tuple[int, ...]] = []
    for name in names:
        if pieces(name) and sum(map(len, kept)) + len(pieces(name)) <= most:
            kept.append(pieces(name))
    return kept


def plain_tags(example: tuple, pieces: TagPieces, limits: Limits, options: dict) -> list[tuple[tuple, int | None, int]]:
    """(pieces, the first hidden one or None, position of the first) of each tag of a picture."""
    epoch, image_id, names, hints, _ = example
    draw, as_words = generator(epoch, image_id, "tags"), limits.tag_slots == "caption"
    tags = that_fit([names[i] for i in draw.permutation(len(names))], pieces, limits.max_tag_tokens)
    while as_words and tags and sum(map(len, tags)) + len(tags) - 1 >= limits.max_caption_tokens:  # 1 + gaps + pieces
        tags.pop()
    low, high = options["share_min"], options["share_max"]
    share = draw.uniform(low, high) if high > low else low
    hidden: set[int] = set()
    if tags:
        count = max(1, round(share * len(tags)))
        count = min(count, options["at_most"] or count)
        hidden = set(draw.choice(len(tags), size=count, replace=False).tolist())
    shown = []
    for place, tag in enumerate(tags):
        first = 0 if place in hidden else None
        if options["next_piece"] and place in hidden and len(tag) > 1 and draw.random() < options["next_piece"]:
            first = int(draw.integers(len(tag)))
            tag = tag[: first + 1]
        shown.append((tag, first))
    words = len(shown) if as_words else 0
    if hints:
        draw = generator(epoch, image_id, "hints")
        kept = []
        for i in draw.permutation(len(hints)):
            if draw.random() >= options["hint_dropout"]:
                kept.append(hints[i])
        for tag in that_fit(kept, pieces, limits.max_tag_tokens - sum(len(tag) for tag, _ in shown)):
            shown.insert(len(shown) if as_words else int(draw.integers(len(shown) + 1)), (tag, None))
    placed, position = [], 1
    for number, (tag, first) in enumerate(shown):
        if number == words:
            position = limits.tag_position_offset
        placed.append((tag, first, position))
        position += len(tag) + 1
    return placed


def plain_batch(examples: list[tuple], pieces: TagPieces, limits: Limits, options: dict) -> dict[str, torch.Tensor]:
    tags = [plain_tags(example, pieces, limits, options) for example in examples]
    rows, long = len(examples), max(sum(len(tag) for tag, *_ in picture) for picture in tags)
    regions = [example[-1] for example in examples]
    most = min(limits.max_regions, max(len(r.labels) for r in regions))
    batch = {
        "tag_words": torch.zeros(rows, long, dtype=torch.bool),
        "tag_ids": torch.full((rows, long), PAD),
        "tag_positions": torch.full((rows, long), limits.tag_position_offset),
        "tag_mask": torch.zeros(rows, long, dtype=torch.bool),
        "region_features": torch.zeros(rows, most, 3, dtype=torch.float16),
        "region_positions": torch.zeros(rows, most, 6),
        "region_mask": torch.zeros(rows, most, dtype=torch.bool),
    }
    if limits.tag_slots == "tags":
        del batch["tag_words"]
    index, targets, groups, matchable = [], [], [], []
    for row, picture in enumerate(tags):
        column, of_length = 0, {}
        for tag, first, position in picture:
            slots = []
            for number, piece in enumerate(tag):
                hidden = first is not None and number >= first
                if hidden:
                    slots.append(len(targets))
                    index.append(row * long + column)
                    targets.append(piece)
                batch["tag_ids"][row, column] = MASK if hidden else piece
                batch["tag_positions"][row, column] = position + number
                batch["tag_mask"][row, column] = True
                if "tag_words" in batch:
                    batch["tag_words"][row, column] = position + number < limits.tag_position_offset
                column += 1
            if first:
                groups.append([slots])
            elif slots:
                of_length.setdefault(len(slots), []).append(slots)
        groups.extend(of_length.values())
        matchable.append(max(map(len, of_length.values()), default=0) > 1)
        for n in range(min(most, len(regions[row].labels))):
            one = regions[row]
            x1, x2 = (one.boxes[n, i] / np.float32(one.width) for i in (0, 2))
            y1, y2 = (one.boxes[n, i] / np.float32(one.height) for i in (1, 3))
            batch["region_features"][row, n] = torch.tensor(one.features[n])
            batch["region_positions"][row, n] = torch.tensor([x1, y1, x2, y2, x2 - x1, y2 - y1])
            batch["region_mask"][row, n] = True
    size, length = (max(map(len, found), default=0) for found in (groups, [slots for g in groups for slots in g]))
    group_slots = torch.full((len(groups), size, length), -1)
    for number, group in enumerate(groups):
        for member, slots in enumerate(group):
            group_slots[number, member, : len(slots)] = torch.tensor(slots)
    return batch | {
        "slot_index": torch.tensor(index, dtype=torch.int64),
        "target_ids": torch.tensor(targets, dtype=torch.int64),
        "group_slots": group_slots,
        "group_size": torch.tensor([len(group) for group in groups], dtype=torch.int64),
        "matchable": torch.tensor(matchable),
        "image_ids": [example[1] for example in examples],
    }


def drawn_examples(count: int, rng: np.random.Generator) -> list[tuple]:
    examples = []
    for _ in range(count):
        regions = int(rng.integers(1, 9))
        size = [int(n) for n in rng.integers(1, 700, 2)]
        boxes = np.sort(rng.random((regions, 2, 2)), axis=1).reshape(-1, 4) * [*size, *size]
        features = rng.standard_normal((regions, 3)).astype(np.float16)
        seen = Regions(boxes.astype(np.float32), features, [""] * regions, np.ones(regions, np.float32), *size)
        names, hints = (list(rng.permutation(NAMES)[: rng.integers(most)]) for most in (8, 4))
        examples.append((int(rng.integers(4)), f"{rng.integers(1000)}", names, hints, seen))
    return examples


@pytest.mark.parametrize("slots", ["tags", "caption"])
@pytest.mark.parametrize("next_piece", [0.0, 0.6])
@pytest.mark.parametrize("at_most", [0, 1])
@pytest.mark.parametrize("share_max", [0.15, 1.0])
def test_batches_are_bit_for_bit_those_of_the_plain_way(tokenizer, slots, next_piece, at_most, share_max):
    limits, rng = replace(LIMITS, tag_slots=slots), np.random.default_rng(0)
    options = {"share_min": 0.15, "share_max": share_max, "at_most": at_most, "next_piece": next_piece}
    options["hint_dropout"] = 0.3
    collator = TagCollator(tokenizer, limits, SEED, **options)
    for pictures in (1, 2, 5, 5, 20):
        examples = drawn_examples(pictures, rng)
        made, plain = collator(examples), plain_batch(examples, TagPieces(tokenizer), limits, options)
        assert list(made) == list(plain) and made.pop("image_ids") == plain.pop("image_ids")
        for key, value in plain.items():
            assert made[key].dtype == value.dtype and made[key].is_contiguous(), key
            assert made[key].shape == value.shape and made[key].numpy().tobytes() == value.numpy().tobytes(), key
