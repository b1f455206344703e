"""Scores that are one sum over pictures divided by another: precision, recall, micro F1, rates of mistakes."""

from collections.abc import Sequence

import numpy as np


class RatioScore:
    """sum(part) / sum(whole) over pictures, then the mean over seeds; a `vivo.metrics.bootstrap.Statistic`.

    The ratio of sums, not the mean of ratios: a picture with many mentions counts more than one with a single one,
    and one without any does not count.

    Args:
        part, whole: [N] or, with seeds, [S, N].
    """

    def __init__(self, part: np.ndarray | Sequence[np.ndarray], whole: np.ndarray | Sequence[np.ndarray]) -> None:
        self._part, self._whole = (np.atleast_2d(np.asarray(x, dtype=np.float64)) for x in (part, whole))
        self.pictures = self._part.shape[1]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """int [R, N] -> float64 [R]; NaN where a seed's `whole` is 0."""
        part, whole = weights @ self._part.T, weights @ self._whole.T  # [R, S]
        return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan).mean(axis=1)
