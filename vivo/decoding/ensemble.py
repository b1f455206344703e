"""Several models under one search: a step that says the mean of what their steps say."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vivo.decoding.search import Step


class MeanStep:
    """A step (vivo/decoding/search.py): the mean of the probabilities of `steps`, which share a vocabulary."""

    def __init__(self, steps: Sequence[Step]):
        self.steps = list(steps)

    def __call__(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """int64 [B, K], int64 [B, K] -> float32 [B, K, V]."""
        told = torch.stack([step(tokens, parents) for step in self.steps])
        return told.logsumexp(dim=0) - math.log(len(self.steps))
