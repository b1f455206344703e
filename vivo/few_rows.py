"""Linear maps of few rows on a CPU.

A step of a search multiplies some ten rows, two for each beam, with all weights. The library's product of two matrices
is made for many rows: it lays the weights out anew in each call, and its threads wait for one another several
times. With the weights on the left and each thread at its own block of them it does less of either
(docs/benchmarks.md).

n rows, I inputs, O outputs
"""

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST, MOST = 5, 256
"""Rows from which and up to which it pays: of less than five there is a faster product already."""


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[n, I], [O, I], [O] -> [n, O]: as PyTorch's.

    Few rows on a CPU without gradients come out column by column, as the next product wants them.
    """
    if not _few(x, weight):
        return F.linear(x, weight, bias)
    blocks = gcd(torch.get_num_threads(), weight.shape[0])
    columns = x.t().contiguous().expand(blocks, -1, -1)
    weights = weight.view(blocks, -1, weight.shape[1])
    return torch.baddbmm(bias.view(blocks, -1, 1), weights, columns).flatten(0, 1).t()


def _few(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or x.dim() != 2 or not FEWEST <= x.shape[0] <= MOST or torch.is_grad_enabled():
        return False
    return x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
