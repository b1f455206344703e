"""Tokens that a search may not write next: rules of vivo/decoding/search.py.

B pictures, K beams, t tokens written, V word pieces
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Never:
    """Tokens that are never written."""

    def __init__(self, tokens: Sequence[int]):
        self.tokens = list(tokens)

    def __call__(self, history: Tensor, log_p: Tensor) -> Tensor:
        """int64 [B, K, t], float32 [B, K, V] -> float32 [B, K, V]."""
        log_p = log_p.clone()
        log_p[..., self.tokens] = -torch.inf
        return log_p


class NoRepeat:
    """No n word pieces twice in one caption (n-gram blocking, Paulus et al. 2018)."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, history: Tensor, log_p: Tensor) -> Tensor:
        """int64 [B, K, t], float32 [B, K, V] -> float32 [B, K, V]."""
        written = history.shape[2]
        if written < self.size:
            return log_p
        ngrams = history.unfold(2, self.size, 1)  # [B, K, t - n + 1, n]
        before = history[..., written - self.size + 1 :]  # the n - 1 last tokens
        again = (ngrams[..., :-1] == before[:, :, None]).all(dim=-1)
        # what would not repeat anything is written to one place behind the vocabulary and cut off
        words = log_p.shape[2]
        forbidden = torch.where(again, ngrams[..., -1], words)
        banned = torch.zeros(*log_p.shape[:2], words + 1, dtype=torch.bool, device=log_p.device)
        return log_p.masked_fill(banned.scatter(2, forbidden, True)[..., :words], -torch.inf)


class AtLeast:
    """No end token before `tokens` others."""

    def __init__(self, tokens: int, end: int):
        self.tokens, self.end = tokens, end

    def __call__(self, history: Tensor, log_p: Tensor) -> Tensor:
        """int64 [B, K, t], float32 [B, K, V] -> float32 [B, K, V]."""
        if history.shape[2] >= self.tokens:
            return log_p
        log_p = log_p.clone()
        log_p[..., self.end] = -torch.inf
        return log_p
