"""Exponential moving averages of the trained weights, in float32, on the weights' device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Averages:
    """average <- d average + (1 - d) weight after each update, d = min(decay, (1 + n) / (10 + n)) after n updates.

    The smaller d of the first updates lets the average leave the starting weights (as in TensorFlow's
    ExponentialMovingAverage). It depends on the update's number alone, so a resumed run goes on exactly.

    Args:
        model: its trained parameters are followed. decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {
            name: p.detach().to(torch.float32, copy=True) for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Follow the weights after update number `done` (from 1)."""
        decay = min(self.decay, (1 + done) / (10 + done))
        weights = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1.0 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved averages, in place."""
        for name, own in self.tensors.items():
            own.copy_(tensors[name])

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within the block the model's parameters are the averages; afterwards the weights again, bit for bit."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            for name, p in self._parameters.items():
                p.copy_(self.tensors[name])
            yield
        finally:
            for name, p in self._parameters.items():
                p.copy_(kept[name])
