"""The layers on a GPU in training: rows of one length, 16-bit activations, one compiled function for all layers.

`Layer` (vivo/modeling.py) leaves padding out and hands its keys and values on. Where rows are full (windows of
vivo/packing.py; captions with their context) and nobody reads the keys, a layer is a function of [W, N, D] alone,
which `torch.compile` turns into a few kernels beside the matrix products:

* attention takes queries, keys and values out of one [W, N, 3 D] and its backward puts the gradients into one;
* what is dropped is a hash of the place and a seed: nothing is kept for the backward pass, and a hash costs a fraction
  of a random number;
* additions and norms are computed in float32 within a kernel, and written in 16 bits.

W rows, N their length, D width
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from vivo.modeling import Layer

SEEDS = 4
"""Numbers that a layer's two dropouts take."""
_lse_dimensions = 4


# ---------------------------------------------------------------- attention


@torch.library.custom_op("vivo::attention", mutates_args=())
def attention(qkv: Tensor, bias: Tensor, heads: int, dropout: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """cuDNN's attention over [W, N, 3 D] with an additive mask [W, 1, N, N].

    Returns:
        [W, N, D], and what the backward pass needs: log-sum-exp [W * heads * N], seed, offset.
    """
    global _lse_dimensions
    q, k, v = _parts(qkv, heads)
    found = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, bias, True, dropout, False, False)
    out, lse, seed, offset = found[0], found[1], found[6], found[7]
    _lse_dimensions = lse.dim()
    return (
        out.transpose(1, 2).flatten(2).contiguous(),
        lse.reshape(-1),
        _scalar(seed, qkv.device),
        _scalar(offset, qkv.device),
    )


@attention.register_fake
def _(qkv: Tensor, bias: Tensor, heads: int, dropout: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, length, width = qkv.shape
    out, lse = qkv.new_empty(rows, length, width // 3), qkv.new_empty(rows * heads * length, dtype=torch.float32)
    return out, lse, qkv.new_empty((), dtype=torch.int64), qkv.new_empty((), dtype=torch.int64)


@torch.library.custom_op("vivo::attention_backward", mutates_args=())
def attention_backward(
    down: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, lse: Tensor, seed: Tensor, offset: Tensor, heads: int,
    dropout: float,
) -> Tensor:  # fmt: skip
    """The gradient of `qkv`, [W, N, 3 D]."""
    q, k, v = _parts(qkv, heads)
    rows, length, _ = qkv.shape
    lse = lse.view(rows, heads, length, *[1] * (_lse_dimensions - 3))
    given = (_by_heads(down.contiguous(), heads), q, k, v, _by_heads(out, heads), lse, seed, offset, bias)
    found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *given, None, None, length, length, dropout, False
    )
    return torch.cat([part.transpose(1, 2).flatten(2) for part in found], dim=2)


@attention_backward.register_fake
def _(
    down: Tensor, qkv: Tensor, bias: Tensor, out: Tensor, lse: Tensor, seed: Tensor, offset: Tensor, heads: int,
    dropout: float,
) -> Tensor:  # fmt: skip
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _kept(ctx, inputs, output) -> None:
    qkv, bias, ctx.heads, ctx.dropout = inputs
    ctx.save_for_backward(qkv, bias, *output)


def _backward(ctx, down: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
    qkv, bias, out, lse, seed, offset = ctx.saved_tensors
    found = torch.ops.vivo.attention_backward(down, qkv, bias, out, lse, seed, offset, ctx.heads, ctx.dropout)
    return found, None, None, None


attention.register_autograd(_backward, setup_context=_kept)


def _scalar(number: Tensor, device: torch.device) -> Tensor:
    return number.reshape(()).to(device) if number.numel() else torch.zeros((), dtype=torch.int64, device=device)


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """[W, N, D] -> [W, heads, N, H], a view."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _parts(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(_by_heads(part, heads) for part in qkv.chunk(3, dim=2))


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [W, N, N] -> [W, 1, N, N], 0 where True, -inf elsewhere: once for all layers."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)[:, None]


# ---------------------------------------------------------------- dropout


def dropped(x: Tensor, seeds: Tensor, share: float) -> Tensor:
    """Dropout of a dense tensor: which of its elements go is a hash (of Murmur's kind) of their place and two seeds.

    Args:
        seeds: int32 [2] on the device.
    """
    h = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape) * -1640531535 + seeds[0]
    h = (h ^ ((h >> 16) & 0xFFFF)) * 2146121005
    h = (h ^ ((h >> 15) & 0x1FFFF) ^ seeds[1]) * -2073254261
    h = h ^ ((h >> 16) & 0xFFFF)
    return torch.where((h & 0xFFFFFF) >= int(share * 2**24), x * (1.0 / (1.0 - share)), 0.0)


# ---------------------------------------------------------------- a layer

Weights = tuple[Tensor, ...]


def weights_of(layer: "Layer") -> Weights:
    """The parameters in the order in which `whole_layer` wants them."""
    parts = (layer.qkv, layer.attention_output, layer.feed_forward_in, layer.feed_forward_out)
    norms = (layer.attention_norm, layer.feed_forward_norm)
    return tuple(parameter for part in (*parts, *norms) for parameter in (part.weight, part.bias))


def whole_layer(
    x: Tensor, bias: Tensor, seeds: Tensor, weights: Weights, heads: int, shares: tuple[float, float], eps: float,
    way: frozenset[str] = frozenset(),
) -> Tensor:  # fmt: skip
    """[W, N, D] -> [W, N, D].

    Args:
        bias: from `additive`. seeds: int32 [SEEDS]. shares: dropped of attention's probabilities and of the hidden.
        way: "op" (cuDNN by `attention`), "thirds" (three projections), "random" (PyTorch's random numbers).
    """
    kind = x.dtype
    *linear, n1, m1, n2, m2 = weights
    qkv, qkv_bias, out, out_bias, inner, inner_bias, outer, outer_bias = (w.to(kind) for w in linear)

    def added(x: Tensor, new: Tensor, seeds: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if shares[1]:
            new = F.dropout(new.float(), shares[1]) if "random" in way else dropped(new.float(), seeds, shares[1])
        return F.layer_norm(x.float() + new.float(), (x.shape[2],), scale, shift, eps).to(kind)

    if "op" in way:
        attended = torch.ops.vivo.attention(F.linear(x, qkv, qkv_bias), bias, heads, shares[0])[0]
    else:
        if "thirds" in way:
            both = zip(qkv.chunk(3), qkv_bias.chunk(3), strict=True)
            q, k, v = (_by_heads(F.linear(x, w, b), heads) for w, b in both)
        else:
            q, k, v = _parts(F.linear(x, qkv, qkv_bias), heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=shares[0])
        attended = attended.transpose(1, 2).flatten(2)
    x = added(x, F.linear(attended, out, out_bias), seeds[:2], n1, m1)
    new = F.linear(F.gelu(F.linear(x, inner, inner_bias)), outer, outer_bias)
    return added(x, new, seeds[2:], n2, m2)


class WholeRows:
    """Runs layers by `whole_layer`.

    Args:
        compiled: by `torch.compile`. fixed: anew for every number of rows, instead of once for all.
    """

    def __init__(self, compiled: bool = True, fixed: bool = False, way: Sequence[str] = ("op",)):
        self.way, self.fixed, self.compiled = frozenset(way), fixed, compiled
        self.call = torch.compile(whole_layer, dynamic=False) if compiled else whole_layer

    def __call__(self, layers: Sequence["Layer"], x: Tensor, bias: Tensor) -> Tensor:
        """[W, N, D] through the layers."""
        numbers = torch.randint(-(2**31), 2**31, (len(layers), SEEDS), dtype=torch.int32, device=x.device)
        if self.compiled and not self.fixed:
            torch._dynamo.maybe_mark_dynamic(x, 0)
            torch._dynamo.maybe_mark_dynamic(bias, 0)
        for layer, seeds in zip(layers, numbers, strict=True):
            shares = (layer.attention_dropout, layer.dropout.p) if layer.training else (0.0, 0.0)
            eps = layer.attention_norm.eps
            x = self.call(x, bias, seeds, weights_of(layer), layer.heads, shares, eps, self.way)
        return x
