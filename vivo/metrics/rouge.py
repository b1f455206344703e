"""ROUGE-L (Lin 2004) per picture, equal to pycocoevalcap's `Rouge` (F with beta 1.2, best precision and best recall).

Own code because pycocoevalcap fills a table of Python lists for every pair of caption and reference. Here the longest
common subsequences of all pairs are found at once: a row of the table is the bits of one integer (Hyyro 2004,
"Bit-parallel LCS-length computation revisited"), a step is an addition.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

BETA = 1.2
_BITS = 63
_CHUNK = 20_000  # pairs at a time, and tokens of their longer ones with padding: bound memory and work
_AREA = 1_000_000


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 [pictures], 0..1.

    Args:
        captions: tokens joined by spaces, one caption a picture.
        references: [picture][reference]: tokens joined by spaces, at least one a picture.
    """
    sizes = np.array([len(texts) for texts in references], dtype=np.int64)
    if len(sizes) != len(captions):
        raise ValueError(f"{len(captions)} captions for {len(sizes)} pictures")
    texts = [*captions, *chain.from_iterable(references)]
    ours = np.repeat(np.arange(len(captions)), sizes)
    theirs = np.arange(len(captions), len(texts))
    return _best(ours, _split(texts), ours, theirs, len(captions))


def leave_one_out(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 [captions], 0..1: each caption ([picture][caption], at least two a picture) against the others."""
    texts = list(chain.from_iterable(captions))
    pairs = [
        (first + one, first + two)
        for first, size in zip(np.cumsum([0, *map(len, captions)]).tolist(), map(len, captions), strict=False)
        for one in range(size)
        for two in range(size)
        if one != two
    ]
    ours, theirs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return _best(ours, _split(texts), ours, theirs, len(texts))


def _best(
    group: np.ndarray, tokens: Sequence[list[int]], ours: np.ndarray, theirs: np.ndarray, groups: int
) -> np.ndarray:
    """F of the best precision and the best recall among the pairs (ours, theirs) of each group."""
    common = longest_common(tokens, ours, theirs)
    lengths = np.array([len(words) for words in tokens], dtype=np.float64)
    precision, recall = np.zeros(groups), np.zeros(groups)
    np.maximum.at(precision, group, common / lengths[ours])
    np.maximum.at(recall, group, common / lengths[theirs])
    below = recall + BETA**2 * precision
    return np.divide((1 + BETA**2) * precision * recall, below, out=np.zeros(groups), where=below > 0)


def longest_common(tokens: Sequence[list[int]], ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """int64 [pairs]: length of the longest common subsequence of tokens[ours] and tokens[theirs]."""
    lengths = np.array([len(words) for words in tokens], dtype=np.int64)
    found = np.zeros(len(ours), dtype=np.int64)
    long = np.minimum(lengths[ours], lengths[theirs]) > _BITS
    for pair in np.flatnonzero(long).tolist():  # rare
        found[pair] = _longest_common_of(tokens[ours[pair]], tokens[theirs[pair]])
    # The shorter one is in the bits; pairs of like lengths together, so that little of the padding is computed.
    swap = lengths[ours] > lengths[theirs]
    bits, steps = np.where(swap, theirs, ours), np.where(swap, ours, theirs)
    order = np.lexsort((lengths[bits], lengths[steps]))
    order = order[~long[order]]
    begin = 0
    while begin < len(order):
        pairs = order[begin : begin + _CHUNK]
        while len(pairs) > 1 and len(pairs) * lengths[steps[pairs[-1]]] > _AREA:
            pairs = pairs[: len(pairs) // 2]
        begin += len(pairs)
        found[pairs] = _by_bits(_padded(tokens, bits[pairs], -1), _padded(tokens, steps[pairs], -2))
    return found


def _by_bits(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[pairs] from numbers of tokens [pairs, at most 63] and [pairs, any], padded with what matches nothing."""
    rows = np.full(len(ours), -1, dtype=np.int64).astype(np.uint64)  # a 0 for each place where the subsequence grows
    for step in range(theirs.shape[1]):
        met = np.zeros(len(ours), dtype=np.uint64)
        for place in range(ours.shape[1]):
            met |= (ours[:, place] == theirs[:, step]).astype(np.uint64) << np.uint64(place)
        grown = rows & met
        rows = (rows + grown) | (rows - grown)
    zeros = np.ascontiguousarray(~rows).view(np.uint8).reshape(len(ours), 8)
    return np.unpackbits(zeros, axis=1).sum(axis=1, dtype=np.int64)


def _longest_common_of(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """By the table of all beginnings."""
    row = [0] * (len(ours) + 1)
    for token in theirs:
        above = row
        row = [0]
        for place, mine in enumerate(ours):
            row.append(above[place] + 1 if mine == token else max(above[place + 1], row[place]))
    return row[-1]


def _split(texts: Sequence[str]) -> list[list[int]]:
    """Numbers of the tokens; at single spaces, as pycocoevalcap has it: no words are one empty token."""
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(token, len(numbers)) for token in text.split(" ")] for text in texts]


def _padded(tokens: Sequence[list[int]], which: np.ndarray, padding: int) -> np.ndarray:
    """int64 [captions, longest]."""
    chosen = [tokens[number] for number in which.tolist()]
    lengths = np.array([len(words) for words in chosen], dtype=np.int64)
    padded = np.full((len(chosen), lengths.max(initial=0)), padding, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.fromiter(
        chain.from_iterable(chosen), dtype=np.int64, count=int(lengths.sum())
    )
    return padded
