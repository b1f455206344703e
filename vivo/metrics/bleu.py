"""BLEU-1..4 (Papineni et al. 2002) from corpus counts, equal to pycocoevalcap's with the closest reference length.

Counts are taken once per picture, so the BLEU of any part of a split, of resamples too, is a sum over its pictures.
Own code because CIDEr-D has counted the same n-grams already (`vivo.metrics.ngrams`): pycocoevalcap's scorer took a
third of the time of all scores.
"""

from collections.abc import Sequence

import numpy as np

from vivo.metrics.ngrams import ORDERS, Counted, ReferenceNgrams, Tokens, words_of

# pycocoevalcap's guards against zeros.
_SMALL, _TINY = 1e-9, 1e-15
COUNTS = 2 + 2 * ORDERS
"""Of a caption: its length, that of the closest reference; n-grams, n = 1..4; those that a reference has as well."""


class CorpusBleu:
    """The references of a split, counted; counts sets of captions.

    Args:
        references: [picture][reference][token], at least one reference a picture; or their n-grams.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]] | ReferenceNgrams) -> None:
        self._ngrams = references if isinstance(references, ReferenceNgrams) else ReferenceNgrams(references)
        self._most = [_most_in_a_reference(self._ngrams, found, found.count) for found in self._ngrams.counted]

    def counts(self, captions: Sequence[Tokens]) -> np.ndarray:
        """float64 [pictures, COUNTS] of one caption (its tokens) a picture, for `bleu`."""
        words = [words_of(tokens) for tokens in captions]
        lengths = np.array([len(of) for of in words], dtype=np.int64)
        met = [
            _met(found, found.caption, keys, most, known.distinct, len(words))
            for found, known, (keys, most) in zip(
                self._ngrams.count(words), self._ngrams.counted, self._most, strict=True
            )
        ]
        pictures = np.arange(len(words))
        return _table(lengths, _closest(lengths, pictures, self._ngrams, None), met)


def leave_one_out(ngrams: ReferenceNgrams) -> np.ndarray:
    """float64 [captions, COUNTS]: of each reference against the others of its picture, at least one."""
    captions = np.arange(len(ngrams.captions))
    fold = captions - ngrams.first[ngrams.picture_of]
    table = np.zeros((len(captions), COUNTS))
    for left_out in range(fold.max() + 1):
        members = np.flatnonzero(fold == left_out)
        met = []
        for found in ngrams.counted:
            ours = fold[found.caption] == left_out
            keys, most = _most_in_a_reference(ngrams, found, np.where(ours, 0, found.count))
            place = np.searchsorted(members, found.caption[ours])
            mine = Counted(place, found.ngram[ours], found.count[ours], None, found.distinct)
            met.append(_met(mine, ngrams.picture_of[found.caption[ours]], keys, most, found.distinct, len(members)))
        lengths = ngrams.lengths[members]
        table[members] = _table(lengths, _closest(lengths, ngrams.picture_of[members], ngrams, members), met)
    return table


def bleu(counts: np.ndarray) -> list[float]:
    """BLEU-1..4, each 0..1, of the pictures whose `counts` [pictures, COUNTS] are given; no pictures: zeros."""
    return bleu_of_sums(counts.sum(axis=0)).tolist()


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 [..., 4] of summed counts [..., COUNTS]: for many resamples at once."""
    length, reference = sums[..., :1] + _TINY, sums[..., 1:2] + _SMALL
    precisions = (sums[..., 2 + ORDERS :] + _TINY) / (sums[..., 2 : 2 + ORDERS] + _SMALL)
    means = np.cumprod(precisions, axis=-1) ** (1.0 / np.arange(1, ORDERS + 1))
    return means * np.exp(np.minimum(0.0, 1.0 - reference / length))


def _most_in_a_reference(ngrams: ReferenceNgrams, found: Counted, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(picture * distinct + n-gram, rising; the most often that one reference of the picture has the n-gram)."""
    keys = ngrams.picture_of[found.caption] * found.distinct + found.ngram
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begin = np.flatnonzero(np.diff(ordered, prepend=-1))
    return ordered[begin], np.maximum.reduceat(count[order], begin) if len(begin) else count[:0]


def _met(
    found: Counted, picture: np.ndarray, keys: np.ndarray, most: np.ndarray, known: int, captions: int
) -> np.ndarray:
    """How many n-grams of each caption a reference of its picture has, each as often as there; [captions]."""
    if not len(keys):
        return np.zeros(captions)
    wanted = picture * known + found.ngram
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    same = (keys[at] == wanted) & (found.ngram < known)  # what no reference has is numbered from `known` on
    clipped = np.where(same, np.minimum(found.count, most[at]), 0)
    return np.bincount(found.caption, clipped, minlength=captions)


def _closest(
    lengths: np.ndarray, pictures: np.ndarray, ngrams: ReferenceNgrams, without: np.ndarray | None
) -> np.ndarray:
    """Length of the reference that is closest to each caption's, the shorter of two; but `without`'s own."""
    sizes = np.diff(ngrams.first)[pictures]
    row = np.repeat(np.arange(len(pictures)), sizes)
    reference = np.arange(len(row)) + np.repeat(ngrams.first[pictures] - (np.cumsum(sizes) - sizes), sizes)
    theirs = ngrams.lengths[reference]
    away = np.abs(theirs - lengths[row])
    if without is not None:
        away = np.where(reference == without[row], np.iinfo(np.int64).max, away)
    order = np.lexsort((theirs, away, row))
    return theirs[order][np.cumsum(sizes) - sizes]


def _table(lengths: np.ndarray, closest: np.ndarray, met: Sequence[np.ndarray]) -> np.ndarray:
    ngrams = [np.maximum(0, lengths - order) for order in range(ORDERS)]
    return np.stack([lengths, closest, *ngrams, *met], axis=1).astype(np.float64)
