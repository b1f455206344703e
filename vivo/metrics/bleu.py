"""BLEU-1..4 (Papineni et al. 2002) from corpus counts, by pycocoevalcap's own scorer.

Counts are taken once per picture, so that the BLEU of any part of a split is a sum over its pictures.
The reference length is the closest one, as in pycocoevalcap's `Bleu`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

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
