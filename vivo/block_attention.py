"""Attention in training on a CPU: block by block, without padding and without the keys that a mask shuts out.

The elements of a batch stand packed, those of a picture (or caption) side by side. A *block* is a stretch of queries and the
stretches of keys that these may see: in the context pass the tags and regions of one picture; in the text pass one
caption and the picture that it tells of. A padded batch looks through every pair of places of its longest row: 2.4 times
as many pairs on pictures of 10 to 50 regions, and 2.5 times where a row holds five captions that do not see each
other. Scores, softmax, dropout and their gradients are then computed, and kept, for the pairs that there are.

One function with its own backward, because it reads queries, keys and values in place (strides instead of copies),
keeps one byte of dropout a pair and computes what was dropped again.

n packed elements, m queries, c packed context elements, D width, N heads, H = D / N
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vivo.dropout import Kept, apply_kept

SHUT_OUT = -1e9
"""What a mask adds to a score: exp(-1e9) is 0, and a softmax over nothing else is no NaN."""


@dataclass(frozen=True)
class Block:
    """Queries first to last of m see keys of the context and keys of their own pass.

    Attributes:
        queries, own, context: stretches of the m queries, the n elements, the c context elements.
        bias: float32 [queries, own] that is added to the scores of own keys; None where all are seen.
    """

    queries: slice
    own: slice
    context: slice
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Queries, and keys that they look through."""
        queries, *keys = (stretch.stop - stretch.start for stretch in (self.queries, self.own, self.context))
        return queries, sum(keys)

    @property
    def keys(self) -> int:
        """Of its own pass."""
        return self.own.stop - self.own.start


@dataclass(frozen=True)
class Blocks:
    """Of all n elements of a pass, in their order, each query in one block and each own key in one."""

    all: Sequence[Block]

    @property
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
            bias = None if part.all() else torch.zeros(part.shape).masked_fill_(~part, SHUT_OUT)
            stretch = slice(begin + first, begin + last)
            found.append(Block(stretch, stretch, slice(context, context + length), bias))
        begin, context = begin + len(seen), context + length
    return Blocks(found)


def _parts(seen: Tensor) -> list[tuple[int, int]]:
    """The finest cut of [L, L] into stretches that see nothing of one another."""
    size = len(seen)
    places = torch.arange(size)
    either = seen | seen.T
    farthest = torch.where(either, places, -1).amax(dim=1).maximum(places) if size else places
    ends = (farthest.cummax(dim=0).values == places).nonzero()[:, 0].add(1).tolist() if size else []
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
    return _BlockAttention.apply(q, *own, *context, given.blocks, heads, dropout)


class _BlockAttention(torch.autograd.Function):
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
        ctx.blocks, ctx.heads, ctx.kept_scale = blocks, heads, kept.scale if kept else 1.0
        masks = kept.mask if kept else None
        given, weights = (q, k, v, context_k, context_v), []
        out = q.new_zeros(q.shape)
        for block, mask in zip(blocks.all, _by_block(masks, blocks, heads), strict=True):
            queries, keys, values = _operands(*given, block, heads)
            scores = queries @ keys.mT
            scores *= queries.shape[2] ** -0.5
            if block.bias is not None:
                scores[..., -block.bias.shape[1] :] += block.bias
            weights.append(scores.softmax(dim=-1))
            used = weights[-1] if mask is None else apply_kept(weights[-1], mask, ctx.kept_scale)
            _by_heads(out[block.queries], heads).copy_(used @ values)
        ctx.save_for_backward(*given, masks, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, down: Tensor) -> tuple[Tensor | None, ...]:
        *given, masks = ctx.saved_tensors[:6]
        weights, blocks, heads = ctx.saved_tensors[6:], ctx.blocks, ctx.heads
        of_q, *of_read = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in given)
        by_block = zip(blocks.all, _by_block(masks, blocks, heads), weights, strict=True)
        for block, mask, weight in by_block:
            queries, keys, values = _operands(*given, block, heads)
            upper = _by_heads(down[block.queries], heads).to(weight.dtype)
            used, of_weight = weight, upper @ values.mT
            if mask is not None:
                used, of_weight = (apply_kept(x, mask, ctx.kept_scale) for x in (weight, of_weight))
            of_score = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            of_score *= queries.shape[2] ** -0.5
            _by_heads(of_q[block.queries], heads).copy_(of_score @ keys)
            for target, of_context, part in zip(
                of_read[:2], of_read[2:], (of_score.mT @ queries, used.mT @ upper), strict=True
            ):
                seen, itself = part.split([block.context.stop - block.context.start, block.keys], dim=1)
                _by_heads(target[block.own], heads).copy_(itself)
                _by_heads(of_context[block.context], heads).add_(seen)
        return of_q, *of_read, None, None, None


def _by_heads(x: Tensor, heads: int) -> Tensor:
    """[L, D] -> [N, L, H], a view."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def _operands(
    q: Tensor, k: Tensor, v: Tensor, context_k: Tensor, context_v: Tensor, block: Block, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block [N, *, H], in float32 where they have 16 bits."""
    read = [k[block.own], v[block.own]]
    if block.context.stop > block.context.start:
        read = [torch.cat([c[block.context], own]) for c, own in zip((context_k, context_v), read, strict=True)]
    kind = torch.promote_types(q.dtype, torch.float32)
    queries, keys, values = (_by_heads(part, heads).to(kind) for part in (q[block.queries], *read))
    return queries, keys, values


def _by_block(mask: Tensor | None, blocks: Blocks, heads: int) -> Sequence[Tensor | None]:
    """bool [N * pairs] -> of each block [N, queries, keys]."""
    if mask is None:
        return [None] * len(blocks.all)
    shapes = [(heads, *block.shape) for block in blocks.all]
    parts = mask.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
