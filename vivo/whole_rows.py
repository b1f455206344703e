"""The layers on a GPU in training on windows (vivo/packing.py): one compiled function for all layers.

`Layer` (vivo/layers.py) leaves padding out and hands its keys and values on. Where rows are full and nobody reads the
keys, a layer is a function of [W, N, D] alone, which `torch.compile` turns into a few kernels beside the matrix
products. Attention takes queries, keys and values out of one [W, N, 3 D], and its backward puts the gradients into one:
left to the compiler, this copy alone took a ninth of an update (docs/benchmarks.md).

W rows, N their length, D width
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from vivo.layers import Layer

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


# ---------------------------------------------------------------- a layer

Weights = tuple[Tensor, ...]


def weights_of(layer: "Layer") -> Weights:
    """The parameters in the order in which `whole_layer` wants them."""
    parts = (layer.qkv, layer.attention_output, layer.feed_forward_in, layer.feed_forward_out)
    norms = (layer.attention_norm, layer.feed_forward_norm)
    return tuple(parameter for part in (*parts, *norms) for parameter in (part.weight, part.bias))


def whole_layer(
    x: Tensor, bias: Tensor, weights: Weights, heads: int, shares: tuple[float, float], eps: float
) -> Tensor:
    """[W, N, D] -> [W, N, D].

    Args:
        bias: from `additive`. shares: dropped of attention's probabilities and of the hidden.
    """
    kind = x.dtype
    *linear, n1, m1, n2, m2 = weights
    qkv, qkv_bias, out, out_bias, inner, inner_bias, outer, outer_bias = (w.to(kind) for w in linear)

    def added(x: Tensor, new: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        new = F.dropout(new.float(), shares[1])
        return F.layer_norm(x.float() + new, (x.shape[2],), scale, shift, eps).to(kind)

    told = F.linear(x, qkv, qkv_bias)
    if x.is_cuda:
        attended = torch.ops.vivo.attention(told, bias, heads, shares[0])[0]
    else:
        attended = F.scaled_dot_product_attention(*_parts(told, heads), attn_mask=bias, dropout_p=shares[0])
        attended = attended.transpose(1, 2).flatten(2)
    x = added(x, F.linear(attended, out, out_bias), n1, m1)
    return added(x, F.linear(F.gelu(F.linear(x, inner, inner_bias)), outer, outer_bias), n2, m2)


class WholeRows:
    """Runs layers by `whole_layer`, compiled once for any number of rows.

    Args:
        options: of `torch.compile`.
    """

    def __init__(self, **options: Any):
        self.call = torch.compile(whole_layer, dynamic=False, **options)

    @staticmethod
    def can_run(layers: Sequence["Layer"], x: Tensor) -> bool:
        """Whether these activations are what cuDNN's attention takes: 16 bits, heads of up to 128."""
        head = x.shape[-1] // layers[0].heads
        if x.dtype not in (torch.bfloat16, torch.float16) or head % 8 or head > 128:
            return False
        return not x.is_cuda or torch.cuda.get_device_capability(x.device) >= (8, 0)

    def __call__(self, layers: Sequence["Layer"], x: Tensor, mask: Tensor) -> Tensor:
        """[W, N, D] through the layers; mask bool [W, N, N]."""
        bias = additive(mask, x.dtype)
        torch._dynamo.maybe_mark_dynamic(x, 0)
        torch._dynamo.maybe_mark_dynamic(bias, 0)
        for layer in layers:
            shares = (layer.attention_dropout, layer.dropout.p)
            x = self.call(x, bias, weights_of(layer), layer.heads, shares, layer.attention_norm.eps)
        return x
