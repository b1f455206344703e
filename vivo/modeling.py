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

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from vivo.block_passes import hidden_of_tags, hidden_of_text
from vivo.caching import TextCache
from vivo.captioning import CaptioningModel, Collate
from vivo.decoding.search import Step
from vivo.layers import Layer, MaskedTokenHead, Read, RegionProjection, TextEmbeddings
from vivo.model_config import VivoConfig
from vivo.packing import Packing, Windows, context_places, true_places
from vivo.whole_rows import WholeRows

if TYPE_CHECKING:
    from vivo.data.regions import RegionStore

CAPTION_SEGMENT = 0
CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
CONTEXT_KEYS = (
    "tag_ids",
    "tag_positions",
    "tag_mask",
    "tag_words",
    "region_features",
    "region_positions",
    "region_mask",
)


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
        self.compiled = False  # see `compile_layers`
        self.whole_rows: WholeRows | None = None  # how compiled layers run on windows
        self.post_init()

    def encode_context(
        self, batch: Mapping[str, Tensor], wanted: Tensor | None = None, windows: Windows | None = None
    ) -> Context:
        """Tags and regions, which see each other in both directions and nothing else.

        Args:
            batch: CONTEXT_KEYS: tag_ids int [B, T], T may be 0; tag_positions int [B, T], from tag_position_offset on;
                tag_mask bool [B, T], False for padding; region_features [B, R, F]; region_positions [B, R, 6];
                region_mask bool [B, R]; if there, tag_words bool [B, T], True for those with the segment of captions.
            wanted: int [K], places in the flattened [B * S] whose output is needed; None for all. With none
                (K = 0) the context is there to be read by text.
            windows: of this batch: the layers run on windows instead of pictures. Needs `wanted`; no text can read
                such a context.

        Returns:
            Context; rows of `hidden` are the T tags, then the R regions, or the K wanted ones.
        """
        x, packing = self.embed_context(batch, windows)
        mask = torch.cat([batch["tag_mask"], batch["region_mask"]], dim=1)
        x = self._narrowed(x)
        if windows is None:
            with self._kernel(x, self.compiled):
                x, keys, values = self._layers(x, packing, mask[:, None, :], None, wanted)
            return Context(x, keys, values, mask)
        wanted = windows.places[packing.order(wanted)]
        x, packing, mutual, first = windows.pack(x), Packing(*windows.rows.shape), windows.mask(), 0
        with self._kernel(x, True):
            if self.whole_rows is not None and self.whole_rows.can_run(self.layers, x) and self._plain_training():
                first = len(self.layers) - 1  # the last layer has few elements to compute
                x = self.whole_rows(self.layers[:first], x.view(*windows.rows.shape, -1), mutual).flatten(0, 1)
            x, keys, values = self._layers(x, packing, mutual, None, wanted, first)
        return Context(x, keys, values, mask)

    def embed_context(self, batch: Mapping[str, Tensor], windows: Windows | None = None) -> tuple[Tensor, Packing]:
        """What the first layer reads, of the batch that `encode_context` takes: all tags, then all regions [n, D], and
        their places in the rows [B, T + R]."""
        tag_mask, region_mask = batch["tag_mask"], batch["region_mask"]
        (rows, tags), regions = tag_mask.shape, region_mask.shape[1]
        tag_places = true_places(tag_mask) if windows is None else windows.tag_places
        region_places = true_places(region_mask) if windows is None else windows.region_places
        of_tags, of_regions = Packing(rows, tags, tag_places), Packing(rows, regions, region_places)
        seen = self.regions(of_regions.pack(batch["region_features"]), of_regions.pack(batch["region_positions"]))
        segment: int | Tensor = self.config.tag_segment
        if (words := batch.get("tag_words")) is not None:
            segment = torch.where(of_tags.pack(words), CAPTION_SEGMENT, segment)
        told = self.embeddings(of_tags.pack(batch["tag_ids"]), of_tags.pack(batch["tag_positions"]), segment)
        x = torch.cat([told.to(seen.dtype), seen])
        size = tags + regions
        places = [context_places(tag_places, tags, size), context_places(region_places, regions, size, tags)]
        return x, Packing(rows, size, torch.cat(places))

    def embed_text(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Caption tokens: int [...], int [...] -> [..., D]."""
        return self.embeddings(input_ids, position_ids, CAPTION_SEGMENT)

    @property
    def in_blocks(self) -> bool:
        """Whether the pass of a loss goes block by block: in training on a CPU (vivo/block_passes.py)."""
        on_cpu = self.layers[0].qkv.weight.device.type == "cpu" and torch.is_grad_enabled()
        return on_cpu and not self.compiled and not torch.compiler.is_compiling()

    def compile_layers(self, whole: bool, **options: Any) -> None:
        """Compile each layer, with activations between layers in autocast's 16 bits, if there is autocast.

        Args:
            whole: windows go through `whole_rows`. options: of `torch.compile`.
        """
        self.compiled = True
        self.whole_rows = WholeRows(**options) if whole else None
        for layer in self.layers:
            layer.compile(dynamic=True, **options)

    def _narrowed(self, x: Tensor) -> Tensor:
        """In the dtype that compiled layers hand on."""
        narrow = self.compiled and torch.is_autocast_enabled(x.device.type)
        return x.to(torch.get_autocast_dtype(x.device.type)) if narrow else x

    def _plain_training(self) -> bool:
        """Nothing comes between a layer's parameters and their use: recomputation, or FSDP's collection."""
        sharded = isinstance(self.layers[0].qkv.weight, DTensor)
        return self.training and not self.activation_checkpointing and not sharded

    def _kernel(self, x: Tensor, cudnn: bool) -> AbstractContextManager[None]:
        """cuDNN's attention on a GPU in training, where it can. For each new shape it makes a plan, so windows, which
        have few, always go there. (Layers that are recomputed would be recomputed by another kernel.)"""
        if cudnn and x.is_cuda and torch.is_grad_enabled() and not self.activation_checkpointing:
            return sdpa_kernel(CUDNN_FIRST, set_priority=True)
        return nullcontext()

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
        x = self._narrowed(self.embed_text(packing.pack(input_ids), packing.pack(position_ids)))
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

        with self._kernel(x, self.compiled):
            return self._layers(x, packing, mask, reader, wanted)[0]

    def _layers(
        self,
        x: Tensor,
        packing: Packing,
        mask: Tensor,
        reader: Callable[[int], Read] | None,
        wanted: Tensor | None,
        first: int = 0,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """[n, D] through the layers from `first` on -> output [B, L, D] or [K, D], and each layer's keys and values."""
        keys, values = [], []
        for index, layer in enumerate(self.layers[first:], first):
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

    def compile(self, **options: Any) -> None:
        """On a GPU layer by layer, see `VivoModel.compile_layers`; else as PyTorch does."""
        if torch.cuda.is_available():
            self.vivo.compile_layers(whole=True)
        else:
            super().compile(**options)

    def encode_context(
        self, batch: dict[str, Tensor], wanted: Tensor | None = None, windows: Windows | None = None
    ) -> Context:
        """See `VivoModel.encode_context`."""
        return self.vivo.encode_context(batch, wanted, windows)

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
        if windows is None and self.vivo.in_blocks:
            hidden = hidden_of_tags(self.vivo, batch, slots)
        else:
            hidden = self.encode_context(batch, slots, windows).hidden
        return self.logits(hidden, batch.get("competing"))

    def caption_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits at supervised caption positions only.

        Args:
            batch: keys of data/collate.py's CaptionBatch; `target_index` int [K] points into the
                flattened [B * L] text elements; `text_mask` bool [B, L, L].

        Returns:
            [K, V] in the order of `target_index`; [K, P] where the batch names P `competing` pieces.
        """
        targets = batch["target_index"]
        if self.vivo.in_blocks:
            return self.logits(hidden_of_text(self.vivo, batch, targets), batch.get("competing"))
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
