"""BLEU-1..4 (Papineni et al. 2002) from corpus counts, by pycocoevalcap's own scorer.

Counts are taken once per picture, so that the BLEU of any part of a split is a sum over its pictures.
The reference length is the closest one, as in pycocoevalcap's `Bleu`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer, cook_refs, cook_test

ORDERS = 4


class CorpusBleu:
    """The references of a split, counted; scores sets of captions.

    Args:
        references: [picture][reference]: tokens joined by spaces.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self._references = [cook_refs(captions, n=ORDERS) for captions in references]

    def counts(self, captions: Sequence[str]) -> list[dict[str, Any]]:
        """Matches and lengths of each picture's caption (tokens joined by spaces), for `bleu`."""
        return [
            cook_test(caption, references, n=ORDERS)
            for caption, references in zip(captions, self._references, strict=True)
        ]


def bleu(counts: Iterable[dict[str, Any]]) -> list[float]:
    """BLEU-1..4, each 0..1, of the pictures whose `counts` are given; no pictures: zeros."""
    scorer = BleuScorer(n=ORDERS)
    scorer.ctest = list(counts)
    if not scorer.ctest:
        return [0.0] * ORDERS
    return scorer.compute_score(option="closest")[0]


def count_table(counts: Sequence[dict[str, Any]]) -> np.ndarray:
    """`counts` as float64 [pictures, 10], for `bleu_of_sums`: lengths of caption and closest reference; n-grams of the
    caption, n = 1..4; those among them that a reference has."""
    closest = [min((abs(length - c["testlen"]), length) for length in c["reflen"])[1] for c in counts]
    rows = [[c["testlen"], length, *c["guess"], *c["correct"]] for c, length in zip(counts, closest, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2 + 2 * ORDERS)


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 [..., 4] of summed rows [..., 10] of `count_table`: as `bleu`, for many resamples at once."""
    length, reference = sums[..., :1] + 1e-15, sums[..., 1:2] + 1e-9  # pycocoevalcap's guards against zeros
    precisions = (sums[..., 6:] + 1e-15) / (sums[..., 2:6] + 1e-9)
    means = np.cumprod(precisions, axis=-1) ** (1.0 / np.arange(1, ORDERS + 1))
    return means * np.exp(np.minimum(0.0, 1.0 - reference / length))
