"""The text part of a CaptionBatch (vivo/data/collate.py): captions as text elements, some of them supervised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivo.attention_mask import text_attention_mask
from vivo.data.padding import lengths_mask, padded
from vivo.randomness import example_generator


def chosen_captions(seed: int, epoch: int, image_id: str, captions: Sequence[str], count: int) -> list[str]:
    """The `count` captions of a picture that an epoch reads: consecutive epochs walk through all of them, in an order
    of the picture's own."""
    walk = example_generator(seed, 0, image_id, "caption order").permutation(len(captions))
    return [captions[walk[(epoch * count + i) % len(captions)]] for i in range(count)]


@dataclass
class CaptionText:
    """One caption as text elements: ids, positions, query flags; which elements are supervised, by what."""

    ids: list[int]
    positions: list[int]
    query: list[bool]
    where: list[int]
    targets: list[int]


def masked_text(tokens: Sequence[int], hidden: np.ndarray, mask: int) -> CaptionText:
    """The caption [CLS] .. [SEP] with its `hidden` tokens (bool [tokens]) replaced by `mask`: they are the targets."""
    ids = [mask if h else t for t, h in zip(tokens, hidden, strict=True)]
    where = np.flatnonzero(hidden).tolist()
    return CaptionText(ids, list(range(len(ids))), [False] * len(ids), where, [tokens[i] for i in where])


def dense_text(tokens: Sequence[int], mask: int) -> CaptionText:
    """The true tokens but the last, and behind them one [MASK] query for each place 1 .. n - 1.

    Every token behind [CLS] is a target in one pass, each asked for from the true tokens to its left, as decoding asks.

    Args:
        tokens: [CLS] w1 .. wn [SEP], or without [SEP] where a caption was cut before it ended.
    """
    tokens = list(tokens)
    known = len(tokens) - 1
    return CaptionText(
        tokens[:-1] + [mask] * known,
        list(range(known)) + list(range(1, known + 1)),
        [False] * known + [True] * known,
        list(range(known, 2 * known)),
        tokens[1:],
    )


def text_keys(texts: Sequence[Sequence[CaptionText]], pad: int) -> dict[str, Tensor]:
    """Text keys of a batch; the captions [picture][caption] of one picture stand behind one another in its row."""
    ids = [[i for text in row for i in text.ids] for row in texts]
    positions = padded([[p for text in row for p in text.positions] for row in texts], 0)
    query = padded([[q for text in row for q in text.query] for row in texts], False)
    group = padded([[g for g, text in enumerate(row) for _ in text.ids] for row in texts], -1)
    length = positions.shape[1]
    index, targets = [], []
    for row, captions in enumerate(texts):
        place = row * length
        for text in captions:
            index.extend(place + i for i in text.where)
            targets.extend(text.targets)
            place += len(text.ids)
    real = lengths_mask(ids)
    return {
        "text_ids": padded(ids, pad),
        "text_positions": positions,
        "text_places": real.flatten().nonzero()[:, 0],
        "text_mask": text_attention_mask(positions, real, group, query),
        "target_index": torch.tensor(index, dtype=torch.int64),
        "target_ids": torch.tensor(targets, dtype=torch.int64),
    }
