"""Linear maps of few rows on a CPU.

A step of a search multiplies some ten rows, two for each beam, with all weights. The library's product of two matrices
is made for many rows: it cuts the weights into panels anew in each call, and its threads wait for one another several
times. With large weights on the left and each thread at a block of them it does less of both (docs/benchmarks.md);
small ones, which a cache holds, it made slower.

n rows, I inputs, O outputs
"""

from math import gcd

import torch
from torch import Tensor, nn

FEWEST, MOST = 8, 128
"""Rows from which and up to which it pays: of less there is a faster product already."""
LARGE = 2**20
"""Weights from which on it pays: those of the feed-forward maps of BERT-base."""


class Linear(nn.Linear):
    """`nn.Linear`; without gradients, few rows on a CPU come out column by column, as the next product wants them."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        if not self._few(x):
            return super().forward(x)
        blocks = gcd(torch.get_num_threads(), self.out_features)
        weights = self.weight.view(blocks, -1, self.in_features)
        columns = x.t().contiguous().expand(blocks, -1, -1)
        return torch.baddbmm(self.bias.view(blocks, -1, 1), weights, columns).flatten(0, 1).t()

    def _few(self, x: Tensor) -> bool:
        if torch.compiler.is_compiling() or self.bias is None:
            return False
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dim() != 2 or not FEWEST <= x.shape[0] <= MOST:
            return False
        if self.weight.numel() < LARGE:
            return False
        return x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
