"""Dropout, on a CPU with random numbers that cost a quarter of PyTorch's.

PyTorch draws 53 bits for each element on one thread, about 7 ns: a tenth of an update of BERT-base on two cores. Here
four elements share 64 bits: an element is dropped with a probability that is a multiple of 1 / 65536 (0.1 becomes
0.1000061), and what is kept is scaled by the exact inverse, so the mean stays what it was. The mask is kept for the
backward pass as one byte an element instead of four. On a GPU PyTorch's own is used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

_LEVELS = 1 << 16


class Kept:
    """Which elements stay, and by what they are multiplied.

    Args:
        shape: of what is dropped from. p: probability, above 0, that an element is dropped.

    Attributes:
        mask: bool, True where an element stays. scale: of those that stay.
    """

    def __init__(self, shape: torch.Size | tuple[int, ...], p: float):
        number = torch.Size(shape).numel()
        dropped = min(round(p * _LEVELS), _LEVELS - 1)
        # the whole range of int64: without bounds the highest bit would be 0, and every fourth number never negative
        bits = torch.empty(-(-number // 4), dtype=torch.int64).random_(-(2**63), None)
        self.mask = bits.view(torch.int16)[:number].view(shape) >= dropped - _LEVELS // 2
        self.scale = _LEVELS / (_LEVELS - dropped) if p < 1.0 else 0.0


def apply_kept(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    """x, 0 where the mask is False, multiplied by `scale` elsewhere."""
    # a product with bools is made one by one, the one with floats by vectors
    return mask.to(x.dtype).mul_(x).mul_(scale)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, p: float) -> Tensor:
        kept = Kept(x.shape, p)
        ctx.save_for_backward(kept.mask)
        ctx.scale = kept.scale
        return apply_kept(x, kept.mask, kept.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, down: Tensor) -> tuple[Tensor, None]:
        return apply_kept(down, *ctx.saved_tensors, ctx.scale), None


def dropout(x: Tensor, p: float) -> Tensor:
    """x [...] with elements dropped with probability p (0 to 1), the others scaled; in training alone."""
    if x.device.type != "cpu" or not 0.0 < p < 1.0 or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return _Dropout.apply(x, p)


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        return dropout(x, self.p) if self.training else x
