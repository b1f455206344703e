"""Rare classes and frequent ones: how often captions name what is there, by how often training saw it.

The paper's Table 3 counts categories and their share of all mentions by occurrences in COCO's training captions,
cumulatively: at most 0, 10, 100, 1,000, 10,000 (`shares_up_to`). The same bins, not cumulative, serve for recall, by
mentions in training captions or by pictures that are tagged with a class in pre-training (`bins_of`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

EDGES = (0, 10, 100, 1_000, 10_000)
"""Upper ends of the bins, each inclusive; a last bin has what is above."""


def bins_of(counts: np.ndarray, edges: Sequence[int] = EDGES) -> dict[str, np.ndarray]:
    """Name of each bin that has classes ("0", "1-10", ..., "> 10,000") -> bool [C], its classes.

    Args:
        counts: int [C], how often training saw each class.
        edges: rising.
    """
    place = np.searchsorted(np.asarray(edges), counts, side="left")
    names = [_name(low, high) for low, high in zip((-1, *edges), edges, strict=False)] + [f"> {edges[-1]:,}"]
    return {name: place == n for n, name in enumerate(names) if (place == n).any()}


def _name(below: int, high: int) -> str:
    return f"{high:,}" if below + 1 == high else f"{below + 1:,}-{high:,}"


def shares_up_to(counts: np.ndarray, mentions: np.ndarray, edges: Sequence[int] = EDGES) -> list[dict[str, Any]]:
    """The paper's Table 3: for each edge, the classes with at most so many occurrences in training captions.

    Args:
        counts: int [C], mentions in the training captions.
        mentions: int [C], mentions in the captions of the evaluation.

    Returns:
        [{"at most", "classes", "share of training mentions", "share of evaluation mentions"}], shares 0..1, None
        where nothing is mentioned at all.
    """
    rows = []
    for edge in edges:
        rare = counts <= edge
        row: dict[str, Any] = {"at most": edge, "classes": int(rare.sum())}
        for name, of in (("share of training mentions", counts), ("share of evaluation mentions", mentions)):
            row[name] = float(of[rare].sum() / of.sum()) if of.sum() else None
        rows.append(row)
    return rows
