"""Attention in training on a CPU: block by block, without padding and without the keys that a mask shuts out.

The elements of a batch stand packed, those of a picture (or caption) side by side. A *block* is a stretch of queries
and the stretches of keys that these may see: in the context pass the tags and regions of one picture, in the text pass
one caption and the picture that it tells of. Padded rows look through every pair of places of the longest one: 2.4
times as many pairs for pictures of 10 to 50 regions, 2.5 times for rows of five captions that do not see each other.
Here scores, softmax, dropout and their gradients are computed, and kept, for the pairs that there are.

A function with a backward of its own: it reads queries, keys and values where they are instead of copying them by
heads, keeps one byte of dropout a pair, and computes again what was dropped.

n packed elements, m queries, c packed elements of the context, D width, N heads, H = D / N
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vivo.dropout import Kept

SHUT_OUT = -1e9
"""What a mask adds to a score: exp(-1e9) is 0, and a softmax over nothing else is no NaN."""


@dataclass(frozen=True)
class Block:
    """Queries first to last of m see keys of the context and keys of their own pass.

    Attributes:
        queries, own, context: stretches of the m queries, the n elements, the c context elements.
        bias: float32 [queries, context + own] that is added to the scores; None where all keys are seen.
    """

    queries: slice
    own: slice
    context: slice
    bias: Tensor | None = None

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Queries, and keys that they look through."""
        queries, *keys = (stretch.stop - stretch.start for stretch in (self.queries, self.own, self.context))
        return queries, sum(keys)


@dataclass(frozen=True)
class Blocks:
    """Of all n elements of a pass, in their order, each query in one block and each own key in one."""

    all: Sequence[Block]

    @cached_property
    def pairs(self) -> int:
        """Of a query and a key that it looks through."""
        return sum(queries * keys for queries, keys in (block.shape for block in self.all))

    def of(self, wanted: Tensor) -> "Blocks":
        """The same with the queries `wanted` alone, int64 [K], ascending indices among the n."""
        ends = torch.tensor([end for block in self.all for end in (block.queries.start, block.queries.stop)])
        cuts = torch.searchsorted(wanted, ends).view(-1, 2).tolist()
        found = []
        for block, (first, last) in zip(self.all, cuts, strict=True):
            if first < last:
                rows = wanted[first:last] - block.queries.start
                bias = None if block.bias is None else block.bias[rows]
                found.append(Block(slice(first, last), block.own, block.context, bias))
        return Blocks(found)


def context_blocks(lengths: Sequence[int]) -> Blocks:
    """One for each picture; `lengths`: its tags and regions, which see each other."""
    found, begin = [], 0
    for length in lengths:
        stretch = slice(begin, begin := begin + length)
        if length:
            found.append(Block(stretch, stretch, slice(0, 0)))
    return Blocks(found)


def text_blocks(mask: Tensor, real: Tensor, context_lengths: Sequence[int]) -> Blocks:
    """Blocks of captions that read the context of their pictures.

    Args:
        mask: bool [B, L, L], text to text. real: bool [B, L]; those elements, packed row by row, are the n.
        context_lengths: packed context elements of each of the B pictures.
    """
    found, begin, context = [], 0, 0
    for seen, row, length in zip(mask, real, context_lengths, strict=True):
        seen = seen[row][:, row]
        for first, last in _parts(seen):
            part = seen[first:last, first:last]
            bias = None
            if not part.all():
                bias = F.pad(torch.zeros(part.shape).masked_fill_(~part, SHUT_OUT), (length, 0))
            stretch = slice(begin + first, begin + last)
            found.append(Block(stretch, stretch, slice(context, context + length), bias))
        begin, context = begin + len(seen), context + length
    return Blocks(found)


def _parts(seen: Tensor) -> list[tuple[int, int]]:
    """The finest cut of [L, L] into stretches that see nothing of one another."""
    if not len(seen):
        return []
    places = torch.arange(len(seen))
    farthest = torch.where(seen | seen.T, places, -1).amax(dim=1).maximum(places)
    ends = (farthest.cummax(dim=0).values == places).nonzero()[:, 0].add(1).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


@dataclass(frozen=True)
class BlockPass:
    """What a layer of one pass reads.

    Attributes:
        blocks: of the m queries. wanted: int64 [m], which of the n elements these are, ascending; None for all.
        context: keys and values [c, D] of the context in this layer; None: there is none.
    """

    blocks: Blocks
    wanted: Tensor | None = None
    context: tuple[Tensor, Tensor] | None = None


def block_attention(q: Tensor, own: tuple[Tensor, Tensor], given: BlockPass, heads: int, dropout: float) -> Tensor:
    """softmax(q k' / sqrt(H) + bias) v in every block, as `F.scaled_dot_product_attention`; softmax in float32.

    Args:
        q: [m, D]. own: keys and values [n, D] of this pass. dropout: probability that an attention weight is dropped.

    Returns:
        [m, D]; 0 for queries that are in no block.
    """
    # a context of no elements, so that the function below has one case
    context = given.context or (own[0][:0], own[1][:0])
    with torch.autocast("cpu", enabled=False):  # which would make scores 16 bits wide
        return _BlockAttention.apply(q, *own, *context, given.blocks, heads, dropout)


class _BlockAttention(torch.autograd.Function):
    # a block is small, so what can be done once for all of them stands before the loops
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        blocks: Blocks,
        heads: int,
        dropout: float,
    ) -> Tensor:
        kept = Kept((heads * blocks.pairs,), dropout) if dropout else None
        ctx.blocks, ctx.heads, ctx.scale_of_kept = blocks, heads, kept.scale if kept else 1.0
        given, mask, weights = (q, k, v, context_k, context_v), kept.mask if kept else None, []
        queries, *read = _by_heads(given, heads)
        queries = queries * queries.shape[2] ** -0.5
        out = q.new_zeros(q.shape)
        (target,) = _by_heads((out,), heads, widened=False)
        for block, factor in zip(blocks.all, _factors(mask, ctx.scale_of_kept, blocks, heads), strict=True):
            keys, values = _read_by(block, *read)
            looking = queries[:, block.queries]
            if block.bias is None:
                scores = torch.bmm(looking, keys.mT)
            else:
                scores = torch.baddbmm(block.bias.to(looking.dtype), looking, keys.mT)
            weights.append(scores.softmax(dim=-1))
            used = weights[-1] if factor is None else weights[-1] * factor
            target[:, block.queries] = torch.bmm(used, values)
        ctx.save_for_backward(*given, mask, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, down: Tensor) -> tuple[Tensor | None, ...]:
        saved, blocks, heads = ctx.saved_tensors, ctx.blocks, ctx.heads  # read once: recomputation wants that
        (*given, mask), weights = saved[:6], saved[6:]
        upper, queries, *read = _by_heads((down, *given), heads)
        scale = queries.shape[2] ** -0.5
        queries = queries * scale
        found = [torch.zeros(x.shape, dtype=queries.dtype) for x in given]  # captions add up in the context's
        of_q, of_k, of_v, of_context_k, of_context_v = _by_heads(found, heads)
        factors = _factors(mask, ctx.scale_of_kept, blocks, heads)
        for block, factor, weight in zip(blocks.all, factors, weights, strict=True):
            keys, values = _read_by(block, *read)
            looking, above = queries[:, block.queries], upper[:, block.queries]
            used, of_weight = weight, torch.bmm(above, values.mT)
            if factor is not None:
                used, of_weight = weight * factor, of_weight.mul_(factor)
            of_score = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            of_q[:, block.queries] = torch.bmm(of_score, keys)
            size = block.context.stop - block.context.start
            for own, context, part in (
                (of_k, of_context_k, torch.bmm(of_score.mT, looking)),
                (of_v, of_context_v, torch.bmm(used.mT, above)),
            ):
                own[:, block.own] = part[:, size:]
                if size:
                    context[:, block.context] += part[:, :size]
        found[0] *= scale
        return (*(x.to(down.dtype) for x in found), None, None, None)


def _by_heads(given: Sequence[Tensor], heads: int, widened: bool = True) -> list[Tensor]:
    """[L, D] -> [N, L, H], views; `widened`: what has 16 bits to float32."""
    views = [x.unflatten(1, (heads, -1)).transpose(0, 1) for x in given]
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in views] if widened else views


def _read_by(block: Block, *read: Tensor) -> tuple[Tensor, Tensor]:
    """Own keys and values, the context's -> the block's keys and values [N, context + own, H]."""
    k, v = (x[:, block.own] for x in read[:2])
    if block.context.stop == block.context.start:
        return k, v
    context_k, context_v = (x[:, block.context] for x in read[2:])
    return torch.cat([context_k, k], dim=1), torch.cat([context_v, v], dim=1)


def _factors(mask: Tensor | None, scale: float, blocks: Blocks, heads: int) -> Sequence[Tensor | None]:
    """bool [N * pairs] -> of each block float32 [N, queries, keys], `scale` for weights that stay, else 0."""
    if mask is None:
        return [None] * len(blocks.all)
    shapes = [(heads, *block.shape) for block in blocks.all]
    parts = mask.to(torch.float32).mul_(scale).split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
