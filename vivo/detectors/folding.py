"""A convolutional network that computes the same with less work, in training too; its parameters keep their names.

    fold(network, lambda network: network(noise))    # by convolutions that fold their norms at every pass
    settle(network)                                  # for inference alone: plain ones, weights computed once

* A batch norm whose statistics stay as they are (its `training` is False) is folded into the convolution before it at
  every pass: w' = w gamma / sigma. Weights, gamma and beta get their exact gradients through these small tensors, and
  no feature map is read and written once more for the norm.
* TensorFlow's SAME padding with stride 2 and an even input puts one pixel more at the right and lower edge than at the
  left and upper one. A kernel with a row and a column of zeros in front and symmetric padding reads the same pixels,
  without a padded copy of the map.

`fold` tries a copy on noise first: a network in which a norm follows another convolution than the one before it among
the children would compute something else, and stays as it is.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn

TOLERANCE = 1e-3
"""Largest difference of the output of a folded network, as a share of its largest value."""


class FoldedConv(nn.Conv2d):
    """A convolution that also does the work of the batch norm behind it.

    Attributes:
        norm: that norm, alone in a tuple, for it is another module's child; () where there is none.
        same: whether TensorFlow's SAME padding is meant.
    """

    norm: tuple[nn.BatchNorm2d, ...]
    same: bool

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W']."""
        weight, bias, padding = self._folded()
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    @torch.no_grad()
    def settled(self) -> nn.Conv2d:
        """A plain convolution that computes what this one does now."""
        weight, bias, padding = self._folded()
        size, channels = tuple(weight.shape[2:]), (self.in_channels, self.out_channels)
        plain = nn.Conv2d(*channels, size, self.stride, padding, self.dilation, self.groups, device="meta")
        plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
        plain.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        return plain.train(self.training)

    def _folded(self) -> tuple[Tensor, Tensor | None, tuple[int, ...] | str]:
        """Weight, bias and padding of the convolution with all that it stands for."""
        weight, bias = self.weight, self.bias
        for norm in self.norm:
            if not norm.training:
                sigma = (norm.running_var + norm.eps).rsqrt()
                weight = weight * (norm.weight * sigma)[:, None, None, None]
                bias = ((0 if bias is None else bias) - norm.running_mean) * sigma * norm.weight + norm.bias
        if self.same:
            return F.pad(weight, (1, 0, 1, 0)), bias, tuple(size // 2 for size in self.kernel_size)
        return weight, bias, self.padding


class FoldedNorm(nn.BatchNorm2d):
    """What is left of a batch norm: itself while it takes the statistics of the batch, else nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return super().forward(x) if self.training else x


class FoldedNormAct(BatchNormAct2d):
    """The same of timm's batch norm, whose activation stays."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return super().forward(x) if self.training else self.act(self.drop(x))


@torch.no_grad()
def fold(network: nn.Module, output: Callable[[nn.Module], Tensor]) -> bool:
    """Fold `network`, in place, if its output stays the same; returns whether it did.

    Args:
        output: of a copy of the network on the CPU, on some input.
    """
    if not any(isinstance(module, nn.BatchNorm2d | Conv2dSame) for module in network.modules()):
        return False
    trial = copy.deepcopy(network).eval().cpu()  # a GPU's convolutions round to TF32 by default
    before = output(trial)
    fold_neighbours(trial)
    try:
        settle(trial)
        after = output(trial)
    except (RuntimeError, AttributeError):  # maps of another size somewhere in the middle; a norm is asked for
        return False
    if after.shape != before.shape or not (after - before).abs().max() <= TOLERANCE * before.abs().max():  # or NaN
        return False
    fold_neighbours(network)
    return True


def settle(module: nn.Module) -> None:
    """Put plain convolutions for the folded ones, in place, and take their norms out (timm's leave an activation)."""
    for name, child in list(module.named_children()):
        if isinstance(child, FoldedConv):
            setattr(module, name, child.settled())
        elif isinstance(child, FoldedNorm):
            setattr(module, name, nn.Identity())
        elif isinstance(child, FoldedNormAct):
            setattr(module, name, child.act)  # its `drop` does nothing in evaluation mode
        else:
            settle(child)


def fold_neighbours(module: nn.Module) -> None:
    """Exchange the classes of convolutions and norms, in the order of children. Not the modules themselves: their
    parameters, and all that refers to them, stay."""
    before: FoldedConv | None = None
    for child in module.children():
        if type(child) in (nn.Conv2d, Conv2dSame) and child.padding_mode == "zeros":
            same = type(child) is Conv2dSame
            if not same or (child.stride == (2, 2) and child.dilation == (1, 1) and child.kernel_size[0] % 2):
                child.__class__, child.norm, child.same = FoldedConv, (), same
                before = child
                continue
        elif type(child) in (nn.BatchNorm2d, BatchNormAct2d) and before and child.affine and child.track_running_stats:
            before.norm = (child,)
            child.__class__ = FoldedNormAct if type(child) is BatchNormAct2d else FoldedNorm
        else:
            fold_neighbours(child)
        before = None
