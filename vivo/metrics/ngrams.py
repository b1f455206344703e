"""The n-grams (n = 1..4) of captions as numbers, counted: what CIDEr-D and BLEU are made of.

A token's number is its place in the vocabulary, that of a longer n-gram the rank of the pair (number of all but its
last token, number of the last token) among the references' pairs. So captions become integer arrays once, and all
scores of them are sums over arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

ORDERS = 4

Tokens = Sequence[str]


@dataclass
class Counted:
    """The n-grams of one order in some captions: a cell for each caption and n-gram, by rising caption, then n-gram.

    caption, ngram, count: int64 [cells]. place: where the n-gram stands first in the caption; None where it was not
    asked for. distinct: numbers run from 0 to below it.
    """

    caption: np.ndarray
    ngram: np.ndarray
    count: np.ndarray
    place: np.ndarray | None
    distinct: int


class ReferenceNgrams:
    """The n-grams of a split's references, numbered and counted.

    Args:
        references: [picture][reference][token]; at least one reference a picture.
        places: keep where the n-grams stand (for stored document frequencies).

    Attributes:
        captions: all references in order, each a list of words. first: int64 [pictures + 1], where each picture's
            begin. picture_of: int64 [captions]. lengths: int64 [captions], in words. counted: one for each order.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]], places: bool = False) -> None:
        per_picture = np.array([len(captions) for captions in references], dtype=np.int64)
        self.first = np.concatenate([[0], np.cumsum(per_picture)])
        self.picture_of = np.repeat(np.arange(len(references)), per_picture)
        self.captions = [words_of(tokens) for picture in references for tokens in picture]
        self.lengths = np.array([len(words) for words in self.captions], dtype=np.int64)
        self._vocabulary: dict[str, int] = {}
        self._pairs: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * ORDERS  # sorted; orders 2.. only
        self.counted = self._count(self.captions, places, learn=True)

    @property
    def pictures(self) -> int:
        """How many there are."""
        return len(self.first) - 1

    def count(self, captions: Sequence[list[str]], places: bool = False) -> list[Counted]:
        """The n-grams of other captions (lists of words); those that no reference has get numbers after the known
        ones."""
        return self._count(captions, places, learn=False)

    def _count(self, captions: Sequence[list[str]], places: bool, learn: bool) -> list[Counted]:
        flat = list(chain.from_iterable(captions))
        vocabulary = self._vocabulary if learn else {}
        known = 0 if learn else len(self._vocabulary)
        tokens = np.fromiter(map(self._vocabulary.get, flat, repeat(-1)), dtype=np.int64, count=len(flat))
        for place in np.flatnonzero(tokens < 0).tolist():
            tokens[place] = known + vocabulary.setdefault(flat[place], len(vocabulary))
        lengths = np.array([len(c) for c in captions], dtype=np.int64)
        caption = np.repeat(np.arange(len(captions)), lengths)
        place = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found = [_counted(caption, tokens, place, known + len(vocabulary), places)]
        at, ngram = np.arange(len(tokens)), tokens  # where the (n-1)-grams begin in the flat list, and their numbers
        for order in range(1, ORDERS):
            longer = place[at] + order < lengths[caption[at]]
            at = at[longer]
            pairs = (ngram[longer] << 32) | tokens[at + order]
            if learn:
                self._pairs[order], ngram = np.unique(pairs, return_inverse=True)
                distinct = len(self._pairs[order])
            else:
                ngram, distinct = _ranks(self._pairs[order], pairs)
            found.append(_counted(caption[at], ngram, place[at], distinct, places))
        return found


def words_of(tokens: Tokens) -> list[str]:
    """Tokens with a no-break space inside (phone numbers) count as several, as in pycocoevalcap."""
    return " ".join(tokens).split()


def _counted(caption: np.ndarray, ngram: np.ndarray, place: np.ndarray, distinct: int, places: bool) -> Counted:
    """From one entry for each occurrence."""
    keys = caption * distinct + ngram
    first = None
    if places:
        cells, at, count = np.unique(keys, return_index=True, return_counts=True)
        first = place[at]
    else:
        cells, count = np.unique(keys, return_counts=True)
    row, number = np.divmod(cells, max(1, distinct))
    return Counted(row, number, count, first, distinct)


def _ranks(known: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of each value (its place among the sorted `known`, or a number after them), and how many numbers exist."""
    place = np.searchsorted(known, values)
    missing = known[np.minimum(place, len(known) - 1)] != values if len(known) else np.ones(len(values), dtype=bool)
    new, rank = np.unique(values[missing], return_inverse=True)
    place[missing] = len(known) + rank
    return place, len(known) + len(new)
