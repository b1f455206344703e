"""The whole model: VivoModel, and with a head VivoForTagPretraining, VivoForCaptioning, VivoForPretraining.

One BERT-shaped encoder (post-norm) reads caption, tags and regions. Text gets word + position +
segment embeddings; a region gets one linear projection of [features ; six box numbers] and neither
position nor segment (Oscar's `BertImgModel`; Hu et al. 2021, section 3). The masked-token head is
tied to the word embeddings.

Tags and regions never see the caption (attention_mask.py), so the model runs in two passes that
together equal one pass with the joint mask: `encode_context` (tags + regions, once per picture)
and `encode_text` (caption tokens, which also read the context's keys and values).

Padding is never computed: the linear maps run on the n real elements of a batch, packed into [n, D]
(vivo/packing.py); only attention, which is cheap beside them, sees rows of equal length. And the last layer
computes its output only where a loss or a choice reads it (`wanted`): with two layers that is a quarter of
the work of a training step. Both are exact.

    B pictures, T tag tokens, R regions, S = T + R context positions, L text positions,
    P kept text positions, D width, N heads, H = D / N, F region feature size, V word pieces
    n real elements of a padded [B, S] or [B, L], K wanted ones
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vivo.caching import TextCache
from vivo.captioning import CaptioningModel, Collate
from vivo.decoding.search import Step
from vivo.model_config import VivoConfig
from vivo.packing import Packing, Windows, context_places, true_places
from vivo.whole_rows import WholeRows, additive

if TYPE_CHECKING:
    from vivo.data.regions import RegionStore

CAPTION_SEGMENT = 0
CONTEXT_KEYS = (
    "tag_ids",
    "tag_positions",
    "tag_mask",
    "tag_words",
    "region_features",
    "region_positions",
    "region_mask",
)
ALIGNED = 8
"""A GPU's fast 16-bit matrix products want sizes that divide by it: BERT's 30,522 word pieces and 2,048 + 6 numbers of
a region are padded with zeros to the next."""
Read = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keys and values [B, N, L, H] of some elements -> those that their queries read, [B, N, *, H]."""


@dataclass
class Context:
    """Tags and regions of B pictures, encoded once.

    hidden: last layer, [B, S, D], or [K, D] where only K places were wanted. keys, values: per layer
    [B, N, S, H]. mask: bool [B, S].
    """

    hidden: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    def select(self, rows: Tensor) -> "Context":
        """The context of the pictures `rows` (int [B']), in that order."""
        return Context(self.hidden[rows], [k[rows] for k in self.keys], [v[rows] for v in self.values], self.mask[rows])


class TextEmbeddings(nn.Module):
    """word + position + segment, layer norm, dropout; as in BERT."""

    def __init__(self, config: VivoConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("mean", torch.zeros(config.feature_size))
        self.register_buffer("scale", torch.ones(config.feature_size))

    def set_statistics(self, features: Tensor) -> None:
        """Take mean and scale of each feature from a sample [pictures' regions, F] of the training set."""
        self.mean.copy_(features.mean(dim=0))
        deviation = features.std(dim=0)
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
    """PyTorch's choice, except in training on CPU: the fused kernel's backward takes 3-4 times as long there as
    plain matrix products (64 x 12 heads x 27 places, bfloat16, two cores: 55 ms against 14 ms)."""
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
        self.feed_forward_in = nn.Linear(width, config.intermediate_size)
        self.feed_forward_out = nn.Linear(config.intermediate_size, width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        mask: Tensor,
        read: Read | None = None,
        wanted: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One layer over the real elements of a batch.

        Args:
            x: [n, D], packed by `packing`. mask: bool [B, 1 or L, keys].
            read: these elements' own keys and values -> all that they may read; None for their own.
            wanted: int [K], places in [B * L] whose output is computed; None for all n.

        Returns:
            The new x, [n, D] or [K, D], and this call's own keys and values [B, N, L, H] (zero at padding).
        """
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
        x = self.attention_norm(x + self.dropout(self.attention_output(attended)))
        inner = self.feed_forward_out(F.gelu(self.feed_forward_in(x)))
        return self.feed_forward_norm(x + self.dropout(inner)), own

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


class VivoPreTrainedModel(PreTrainedModel):
    """save_pretrained / from_pretrained in the transformers convention (safetensors + JSON)."""

    config_class = VivoConfig
    base_model_prefix = "vivo"
    _no_split_modules = ["Layer"]  # what FSDP shards as one
    _supports_sdpa = True


class VivoModel(VivoPreTrainedModel):
    """The encoder."""

    def __init__(self, config: VivoConfig):
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.regions = RegionProjection(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.activation_checkpointing = False  # recompute each layer in the backward pass
        self.whole_rows: WholeRows | None = None  # how a GPU runs the layers in training; None: as everywhere
        self.post_init()

    def encode_context(
        self,
        tag_ids: Tensor,
        tag_positions: Tensor,
        tag_mask: Tensor,
        region_features: Tensor,
        region_positions: Tensor,
        region_mask: Tensor,
        wanted: Tensor | None = None,
        tag_words: Tensor | None = None,
        windows: Windows | None = None,
    ) -> Context:
        """Tags and regions, which see each other in both directions and nothing else.

        Args:
            tag_ids: int [B, T], T may be 0. tag_positions: int [B, T], from tag_position_offset on.
            tag_mask: bool [B, T], False for padding.
            region_features: [B, R, F]. region_positions: [B, R, 6]. region_mask: bool [B, R].
            wanted: int [K], places in the flattened [B * S] whose output is needed; None for all. With none
                (K = 0) the context is there to be read by text.
            tag_words: bool [B, T], True for those with the segment of captions; None for none of them.
            windows: of this batch: the layers run on windows instead of pictures. Needs `wanted`; keys and values
                are then of windows, and no text can read them.

        Returns:
            Context; rows of `hidden` are the T tags, then the R regions, or the K wanted ones.
        """
        rows, tags = tag_ids.shape
        regions = region_mask.shape[1]
        tag_places = true_places(tag_mask) if windows is None else windows.tag_places
        region_places = true_places(region_mask) if windows is None else windows.region_places
        of_tags, of_regions = Packing(rows, tags, tag_places), Packing(rows, regions, region_places)
        seen = self.regions(of_regions.pack(region_features), of_regions.pack(region_positions))
        segment: int | Tensor = self.config.tag_segment
        if tag_words is not None:
            segment = torch.where(of_tags.pack(tag_words), CAPTION_SEGMENT, segment)
        told = self.embeddings(of_tags.pack(tag_ids), of_tags.pack(tag_positions), segment)
        x = torch.cat([told.to(seen.dtype), seen])
        size = tags + regions
        packing = Packing(
            rows,
            size,
            torch.cat([context_places(tag_places, tags, size), context_places(region_places, regions, size, tags)]),
        )
        mask = torch.cat([tag_mask, region_mask], dim=1)
        if windows is not None and wanted is not None:
            wanted = windows.places[packing.order(wanted)]
            if self.whole_rows is not None and torch.is_autocast_enabled(x.device.type):
                x = x.to(torch.get_autocast_dtype(x.device.type))
            x, packing = windows.pack(x), Packing(*windows.rows.shape)
            if self.whole_rows is not None:
                x, keys, values = self._whole(x.view(*windows.rows.shape, -1), windows.mask(), wanted), [], []
            else:
                x, keys, values = self._layers(x, packing, windows.mask(), None, wanted)
        else:
            x, keys, values = self._layers(x, packing, mask[:, None, :], None, wanted)
        return Context(x, keys, values, mask)

    def _whole(self, x: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """[B, N, D] through all layers by `whole_rows`, with a mask [B, N, N] -> [K, D] at the places `wanted`."""
        x = self.whole_rows(self.layers[:-1], x, additive(mask, x.dtype))
        return self.layers[-1](x.flatten(0, 1), Packing(*x.shape[:2]), mask, None, wanted)[0]

    def encode_text(
        self,
        context: Context | None,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor,
        cache: TextCache | None = None,
        places: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Caption tokens, which read the context, kept tokens and one another as `mask` says.

        Args:
            context: of the same B pictures; None for plain text (weight parity with BERT).
            input_ids, position_ids: int [B, L].
            mask: bool [B or 1, L, P + L], text to (kept text, text); the context is always visible.
            cache: made of `context`, with P kept tokens; these L elements are written behind them. None: P = 0.
            places: int, where the real tokens stand in the flattened [B * L]; None for all.
            wanted: int [K], those whose output is needed; None for all.

        Returns:
            hidden [B, L, D] or [K, D].
        """
        packing = Packing(*input_ids.shape, places)
        x = self.embeddings(packing.pack(input_ids), packing.pack(position_ids), CAPTION_SEGMENT)
        if context is None:
            return self._layers(x, packing, mask, None, wanted)[0]
        rows, length = input_ids.shape
        seen = context.mask[:, None, :].expand(-1, length, -1)
        mask = torch.cat([seen, mask.expand(rows, -1, -1)], dim=2)

        def reader(index: int) -> Read:
            if cache is not None:
                return lambda k, v: cache.write(index, k, v)
            keys, values = context.keys[index], context.values[index]
            return lambda k, v: (torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2))

        return self._layers(x, packing, mask, reader, wanted)[0]

    def _layers(
        self,
        x: Tensor,
        packing: Packing,
        mask: Tensor,
        reader: Callable[[int], Read] | None,
        wanted: Tensor | None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """[n, D] through all layers -> output [B, L, D] or [K, D], and each layer's keys and values."""
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            arguments = (x, packing, mask, reader and reader(index), wanted if last else None)
            if self.activation_checkpointing and self.training:
                x, (k, v) = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x, (k, v) = layer(*arguments)
            keys.append(k)
            values.append(v)
        return (packing.pad(x) if wanted is None else x), keys, values


class _VivoWithHead(VivoPreTrainedModel):
    """Encoder and tied head: all stages have the same parameters, so each loads the others' checkpoints."""

    def __init__(self, config: VivoConfig):
        super().__init__(config)
        self.vivo = VivoModel(config)
        self.head = MaskedTokenHead(config)
        self.post_init()

    def logits(self, hidden: Tensor, pieces: Tensor | None = None) -> Tensor:
        """[..., D] -> [..., V] in the dtype of the computation; losses upcast to float32.

        Args:
            pieces: int [P], compute the logits of these word pieces only -> [..., P].
        """
        return self.head(hidden, self.vivo.embeddings.word.weight, pieces)

    def freeze_vocabulary(self, embeddings: bool = True, output_bias: bool = True) -> None:
        """Freeze word embeddings (input and output alike, tied or not) and output bias, or one of them.

        Without it cross-entropy on captions pushes down every word that no caption contains, and
        the visual vocabulary is forgotten (the VinVL nocaps recipe freezes too).
        """
        self.vivo.embeddings.word.weight.requires_grad_(not embeddings)
        if self.head.output is not None:
            self.head.output.weight.requires_grad_(not embeddings)
        self.head.bias.requires_grad_(not output_bias)

    def checkpoint_activations(self) -> None:
        """Recompute each layer in the backward pass."""
        self.vivo.activation_checkpointing = True

    def encode_context(
        self, batch: dict[str, Tensor], wanted: Tensor | None = None, windows: Windows | None = None
    ) -> Context:
        """`VivoModel.encode_context` from the keys of a batch (data/collate.py)."""
        return self.vivo.encode_context(
            batch["tag_ids"],
            batch["tag_positions"],
            batch["tag_mask"],
            batch["region_features"],
            batch["region_positions"],
            batch["region_mask"],
            wanted,
            batch.get("tag_words"),
            windows,
        )

    def tag_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits at masked tag slots only.

        Args:
            batch: keys of data/collate.py's TagBatch; `slot_index` int [K] points into the
                flattened [B * T] tag tokens.

        Returns:
            [K, V] for the K masked tag tokens of the batch, in the order of `slot_index`;
            [K, P] where the batch names P `competing` pieces.
        """
        tags = batch["tag_ids"].shape[1]
        slots = context_places(batch["slot_index"], tags, tags + batch["region_mask"].shape[1])
        windows = Windows(batch) if "window_rows" in batch else None
        return self.logits(self.encode_context(batch, slots, windows).hidden, batch.get("competing"))

    def caption_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits at supervised caption positions only.

        Args:
            batch: keys of data/collate.py's CaptionBatch; `target_index` int [K] points into the
                flattened [B * L] text elements; `text_mask` bool [B, L, L].

        Returns:
            [K, V] in the order of `target_index`; [K, P] where the batch names P `competing` pieces.
        """
        targets = batch["target_index"]
        context = self.encode_context(batch, targets[:0])  # read by its keys and values alone
        hidden = self.vivo.encode_text(
            context,
            batch["text_ids"],
            batch["text_positions"],
            batch["text_mask"],
            places=batch.get("text_places"),
            wanted=targets,
        )
        return self.logits(hidden, batch.get("competing"))


class VivoForTagPretraining(_VivoWithHead):
    """Masked-tag prediction over tags + regions."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"logits"}, see `tag_logits`."""
        return {"logits": self.tag_logits(batch)}


class VivoForCaptioning(CaptioningModel, _VivoWithHead):
    """Caption tokens given tags and regions: in fine-tuning, and in pre-training on image-sentence pairs alone."""

    batch_keys = CONTEXT_KEYS

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"logits"}, see `caption_logits`."""
        return {"logits": self.caption_logits(batch)}

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collate:
        """Tags and regions, see vivo/data/collate.py."""
        from vivo.data.collate import ContextCollator, Limits  # which imports transformers, which imports this module

        return ContextCollator(tokenizer, Limits.of(self.config))

    def encode_pictures(self, batch: dict[str, Tensor]) -> Context:
        """The context, to be read by its keys and values alone."""
        return self.encode_context(batch, torch.empty(0, dtype=torch.int64, device=batch["region_mask"].device))

    def step(self, context: Context, room: int = 0) -> Step:
        """See `vivo.cached_step.CachedStep`."""
        from vivo.cached_step import CachedStep  # which imports this module

        return CachedStep(self, context, room)

    def check_store(self, store: "RegionStore") -> None:
        """The features must come from the detector that the model was trained on, and none be always cut off."""
        store.check_compatible(self.config.region_fingerprint, self.config.feature_size)
        store.check_all_fit(self.config.max_regions)


class VivoForPretraining(_VivoWithHead):
    """Masked tags or caption tokens, whichever a batch asks for (objective "both"). Either kind reaches every
    parameter (text goes through the layers whose context output is not read), so DDP searches no unused ones."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"logits"} of `caption_logits` for a CaptionBatch, of `tag_logits` for a TagBatch."""
        return {"logits": self.caption_logits(batch) if "text_ids" in batch else self.tag_logits(batch)}


AutoModel.register(VivoConfig, VivoModel)
AutoModelForPreTraining.register(VivoConfig, VivoForPretraining)
AutoModelForImageTextToText.register(VivoConfig, VivoForCaptioning)
