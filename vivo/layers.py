"""The parts of the model (vivo/modeling.py): embeddings, region projection, one transformer layer, masked-token head.

B pictures, L positions, n real elements of a padded [B, L], K wanted ones, D width, N heads, H = D / N, F region
feature size, V word pieces, P of them
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivo.block_attention import BlockPass, block_attention
from vivo.dropout import Dropout
from vivo.errors import UserError
from vivo.few_rows import Linear
from vivo.model_config import VivoConfig
from vivo.packing import Packing

ALIGNED = 8
"""A GPU's fast 16-bit matrix products want sizes that divide by it: BERT's 30,522 word pieces and 2,048 + 6 numbers of
a region are padded with zeros to the next."""
Read = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys and values [B, N, L, H] of some elements -> those that their queries read, [B, N, *, H]."""


class TextEmbeddings(nn.Module):
    """word + position + segment, layer norm, dropout; as in BERT."""

    def __init__(self, config: VivoConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor, segment: int | Tensor) -> Tensor:
        """int [...], int [...], one segment or int [...] -> [..., D]."""
        summed = self.word(input_ids) + self.position(position_ids) + self.segment.weight[segment]
        return self.dropout(self.norm(summed))


class RegionProjection(nn.Module):
    """[features ; x1/W y1/H x2/W y2/H w/W h/H] -> D: one linear map, dropout; layer norm by option.

    The published code of the field differs in the layer norm; the paper does not mention it.
    `mean` and `scale` (0 and 1 unless `set_statistics` was called) standardise each feature first: features
    whose sizes differ by orders of magnitude are learned several times more slowly.
    """

    def __init__(self, config: VivoConfig):
        super().__init__()
        self.linear = nn.Linear(config.feature_size + 6, config.hidden_size)
        self.standardised = config.standardise_regions
        self.norm = (
            nn.LayerNorm(config.hidden_size, eps=config.region_layer_norm_eps)
            if config.region_layer_norm
            else nn.Identity()
        )
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.register_buffer("mean", torch.zeros(config.feature_size))
        self.register_buffer("scale", torch.ones(config.feature_size))

    def set_statistics(self, features: Tensor) -> None:
        """Take mean and scale of each feature from a sample [pictures' regions, F] of the training set.

        Raises:
            UserError: it is of one region, or of the same one many times.
        """
        self.mean.copy_(features.mean(dim=0))
        if len(features) < 2 or not (deviation := features.std(dim=0)).mean() > 0:
            raise UserError(
                f"model.standardise_regions: the features of the {len(features)} regions that were looked at are the "
                "same, so they have no scale; give more pictures, or false"
            )
        self.scale.copy_(1.0 / (deviation + 0.05 * deviation.mean()))

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """[..., F], [..., 6] of any float dtype -> [..., D] in that of the weights (standardised in the positions')."""
        if self.standardised:
            features = features.to(positions.dtype)
        # a feature that is rare in the sample can lie hundreds of deviations away
        features = ((features - self.mean) * self.scale).clamp(-8.0, 8.0) if self.standardised else features
        weight, kind = self.linear.weight, self.linear.weight.dtype
        if features.is_cuda and torch.is_autocast_enabled("cuda"):
            kind, empty = torch.get_autocast_dtype("cuda"), -weight.shape[1] % ALIGNED
            parts = (
                features.to(kind),
                positions.to(kind),
                positions.new_zeros(*positions.shape[:-1], empty, dtype=kind),
            )
            projected = F.linear(torch.cat(parts, dim=-1), F.pad(weight.to(kind), (0, empty)), self.linear.bias)
        else:
            projected = self.linear(torch.cat([features.to(positions.dtype), positions], dim=-1).to(kind))
        return self.dropout(self.norm(projected))


def _attention_kernel(x: Tensor) -> AbstractContextManager[None]:
    """PyTorch's choice, except where gradients are wanted on a CPU: the fused kernel's backward takes 3-4 times as long
    there as plain matrix products (64 x 12 heads x 27 places, bfloat16, two cores: 55 ms against 14 ms)."""
    if x.device.type == "cpu" and torch.is_grad_enabled():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


class Layer(nn.Module):
    """One post-norm transformer layer; its queries may read keys and values that came before."""

    def __init__(self, config: VivoConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward_in = Linear(width, config.intermediate_size)
        self.feed_forward_out = Linear(config.intermediate_size, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        x: Tensor,
        packing: Packing | None,
        mask: Tensor | None,
        read: Read | None = None,
        wanted: Tensor | None = None,
        blocks: BlockPass | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One layer over the real elements of a batch.

        Args:
            x: [n, D], packed by `packing`. mask: bool [B, 1 or L, keys].
            read: these elements' own keys and values -> all that they may read; None for their own.
            wanted: int [K], places in [B * L] whose output is computed; None for all n.
            blocks: attention goes through these instead of padded rows, and nothing else is looked at.

        Returns:
            The new x, [n, D] or [K, D], and this call's own keys and values [B, N, L, H] (zero at padding); with
            `blocks` [n, D] each.
        """
        if blocks is not None:
            return self._in_blocks(x, blocks)
        width = x.shape[1]
        if wanted is None:
            q, k, v = self.qkv(x).split(width, dim=1)
        else:
            k, v = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:]).split(width, dim=1)
        own = k, v = self._heads(packing.pad(k)), self._heads(packing.pad(v))
        if wanted is not None:
            x = x.index_select(0, packing.order(wanted))
            if not x.shape[0]:
                return x, own
            q = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        q = self._heads(packing.pad(q, wanted))
        if read is not None:
            k, v = read(k, v)
        with _attention_kernel(x):
            attended = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask[:, None], dropout_p=self.attention_dropout if self.training else 0.0
            )
        attended = attended.transpose(1, 2).flatten(2)
        attended = packing.pack(attended) if wanted is None else attended.flatten(0, 1).index_select(0, wanted)
        return self._behind_attention(x, attended), own

    def _in_blocks(self, x: Tensor, given: BlockPass) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `forward`."""
        width = x.shape[1]
        if given.wanted is None:
            q, k, v = self.qkv(x).split(width, dim=1)
        else:
            k, v = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:]).split(width, dim=1)
            x = x.index_select(0, given.wanted)
            if not x.shape[0]:
                return x, (k, v)
            q = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        share = self.attention_dropout if self.training else 0.0
        return self._behind_attention(x, block_attention(q, (k, v), given, self.heads, share)), (k, v)

    def _behind_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """[K, D], what it read [K, D] -> [K, D]."""
        # autocast would make norms float32; where layers were given 16 bits, they pass 16 bits on
        x = self.attention_norm(x + self.dropout(self.attention_output(attended))).to(x.dtype)
        inner = self.feed_forward_out(F.gelu(self.feed_forward_in(x)))
        return self.feed_forward_norm(x + self.dropout(inner)).to(x.dtype)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, N, L, H]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MaskedTokenHead(nn.Module):
    """dense, gelu, layer norm, then the word embeddings themselves as output weights, plus a bias.

    With `tie_word_embeddings` False there are output weights of its own (`output`).
    """

    def __init__(self, config: VivoConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.output = None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, False)

    def forward(self, hidden: Tensor, word_embeddings: Tensor, pieces: Tensor | None = None) -> Tensor:
        """[..., D], [V, D] -> logits [..., V], or [..., P] of `pieces`."""
        weights, bias = word_embeddings if self.output is None else self.output.weight, self.bias
        if pieces is not None:
            weights, bias = weights[pieces], bias[pieces]
        hidden, size = self.norm(F.gelu(self.dense(hidden))), len(bias)
        if hidden.is_cuda and size % ALIGNED and torch.is_autocast_enabled("cuda"):
            empty = -size % ALIGNED
            weights = F.pad(weights.to(torch.get_autocast_dtype("cuda")), (0, 0, 0, empty))
            return F.linear(hidden, weights, F.pad(bias, (0, empty)))[..., :size]
        return F.linear(hidden, weights, bias)
