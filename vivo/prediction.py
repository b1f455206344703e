"""Captions for batches: the model under a search of vivo/decoding, with its keys and values cached.

Tags and regions are encoded once per picture and shared by all its beams: the K beams of a picture
stand side by side in the length dimension, kept apart by the mask, so the context is not copied for
each of them. A step costs two positions a beam: the last token, whose keys and values are kept, and a
[MASK] behind it, whose output is the next token (Hu et al. 2021, Fig. 2c).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.caching import TextCache
from vivo.config import DecodeConfig
from vivo.data.collate import Batch, ContextCollator, Limits, to_device
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.text import decode_caption, load_tokenizer
from vivo.decoding.oscar import oscar_beam_search, oscar_greedy_search
from vivo.decoding.rules import AtLeast, NoRepeat
from vivo.decoding.search import Hypothesis, Rule, beam_search, greedy_search
from vivo.errors import UserError
from vivo.modeling import Context, VivoForCaptioning
from vivo.weights import load_model

if TYPE_CHECKING:
    from vivo.constrained_prediction import ConstrainedCaptions


class CachedStep:
    """A step function (vivo/decoding/search.py) over one batch of pictures.

    The kept tokens of all beams stand in one cache in the order in which they were written, and each beam has
    the list of those that are its own: to reorder beams is to reorder these lists.

    Args:
        context: of B pictures. room: kept and new elements that the cache has room for without growing.
    """

    def __init__(self, model: VivoForCaptioning, context: Context, room: int = 0):
        self.model, self.context = model, context
        self.cache = TextCache(context, room)
        self.place = 0  # position of the last token
        # bool [B, K, P]: which kept tokens each beam has written
        self.own = torch.zeros(context.mask.shape[0], 1, 0, dtype=torch.bool, device=context.mask.device)

    def __call__(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """int64 [B, K], int64 [B, K] -> float32 [B, K, V]."""
        pictures, beams = tokens.shape
        earlier = self.own.gather(1, parents[..., None].expand(-1, -1, self.cache.kept))
        ids = torch.cat([tokens, torch.full_like(tokens, self.model.config.mask_token_id)], dim=1)
        positions = torch.full_like(ids, self.place)
        positions[:, beams:] += 1
        itself = torch.eye(beams, dtype=torch.bool, device=ids.device).expand(pictures, -1, -1)
        self.own = torch.cat([earlier, itself], dim=2)
        # rows: last tokens, then [MASK]s; columns: kept tokens, last tokens, [MASK]s
        of_tokens = torch.cat([self.own, torch.zeros_like(itself)], dim=2)
        mask = torch.cat([of_tokens, torch.cat([self.own, itself], dim=2)], dim=1)
        log_p = self._log_p(ids, positions, mask)
        self.cache.keep(beams)  # the last tokens; [MASK] is written over
        self.place += 1
        return log_p

    def _log_p(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """int64 [B, 2 K] twice, bool [B, 2 K, P + 2 K] -> float32 [B, K, V] at the [MASK]s."""
        pictures, beams = ids.shape[0], ids.shape[1] // 2
        asked = torch.arange(pictures * 2 * beams, device=ids.device).view(pictures, 2, beams)[:, 1].flatten()
        hidden = self.model.vivo.encode_text(self.context, ids, positions, mask, self.cache, wanted=asked)
        return self.model.logits(hidden).float().log_softmax(dim=-1).view(pictures, beams, -1)


class GraphedStep(CachedStep):
    """The same on a GPU, as a CUDA graph from the fourth call on: a step is some 300 small kernels, and to start them
    takes the CPU several times as long as to run them.

    The graph reads all of the cache, kept or not, under a mask of fixed width.

    Args:
        captured: False runs the same function of fixed shapes without a graph (for a CPU, and tests).
    """

    def __init__(self, model: VivoForCaptioning, context: Context, room: int, captured: bool = True):
        super().__init__(model, context, room + -(context.mask.shape[1] + room) % 8)
        self.captured = captured
        self.beams = 0  # of the call before
        self.graph: torch.cuda.CUDAGraph | None = None
        self.given: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.found: Tensor | None = None

    def _log_p(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        same, self.beams = ids.shape[1] == self.beams, ids.shape[1]
        width = mask.shape[2]
        if not same or width > self.cache.room:
            self.given = self.graph = self.found = None
            return super()._log_p(ids, positions, mask)
        place = torch.arange(self.cache.kept, self.cache.kept + self.beams, device=ids.device)
        if self.given is None:
            wide = torch.zeros(*mask.shape[:2], self.cache.room, dtype=torch.bool, device=mask.device)
            self.given = (ids.clone(), positions.clone(), wide, place)
        for kept, new in zip(self.given, (ids, positions, None, place), strict=True):
            if new is not None:
                kept.copy_(new)
        self.given[2][:, :, :width] = mask
        self.cache.place = self.given[3]
        try:
            if self.found is None or not self.captured:  # the first of these shapes: kernels are chosen
                self.found = super()._log_p(*self.given[:3])
                return self.found
            if self.graph is None:
                self.graph = self._capture()
            self.graph.replay()
            return self.found.clone()
        finally:
            self.cache.place = None

    def _capture(self) -> torch.cuda.CUDAGraph:
        """By hand: torch.cuda.graph collects garbage and empties PyTorch's store of memory first, at each batch."""
        graph, stream, here = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.found = super()._log_p(*self.given[:3])
            finally:
                graph.capture_end()
        here.wait_stream(stream)
        return graph


@torch.inference_mode()
def caption_batch(model: VivoForCaptioning, batch: Batch, decode: DecodeConfig) -> list[list[Hypothesis]]:
    """Hypotheses of each picture of a batch (tag and region keys of data/collate.py), best first."""
    config = model.config
    limit = min(decode.max_tokens, config.max_caption_tokens - 1)
    nothing = torch.empty(0, dtype=torch.int64, device=batch["tag_ids"].device)
    # under autocast the graph would hold the weights' 16-bit copies, which others share
    graphed = nothing.is_cuda and limit > 5 and not torch.is_autocast_enabled("cuda")
    kind = GraphedStep if graphed else CachedStep
    step = kind(model, model.encode_context(batch, wanted=nothing), decode.beam * (limit + 2))
    pictures, device = batch["region_mask"].shape[0], batch["region_mask"].device
    ends = (config.cls_token_id, config.sep_token_id)
    rules = decoding_rules(decode, config.sep_token_id)
    if decode.conventions == "oscar":
        if decode.beam == 1:
            return [[h] for h in oscar_greedy_search(step, pictures, *ends, limit, device, rules)]
        return oscar_beam_search(step, pictures, *ends, decode.beam, limit, decode.length_penalty, device, rules)
    if decode.beam == 1:
        return [[h] for h in greedy_search(step, pictures, *ends, limit, decode.length_penalty, device, rules)]
    found = beam_search(
        step,
        pictures,
        *ends,
        decode.beam,
        limit,
        decode.length_penalty,
        device,
        rules,
        decode.groups,
        decode.diversity,
    )
    check_found(found)
    return found


def check_found(found: Sequence[Sequence[Hypothesis]]) -> None:
    """Every picture has a hypothesis, unless the model gives no probabilities."""
    if not all(found):
        raise UserError("no caption was found: the model gives no token a probability (NaN); are its weights whole?")


def decoding_rules(decode: DecodeConfig, end: int) -> list[Rule]:
    """What the configuration forbids a search to write."""
    rules: list[Rule] = []
    if decode.no_repeat:
        rules.append(NoRepeat(decode.no_repeat))
    if decode.min_tokens:
        rules.append(AtLeast(decode.min_tokens, end))
    return rules


def load_captioning_model(checkpoint: Path, store: RegionStore) -> tuple[PreTrainedTokenizerFast, VivoForCaptioning]:
    """Tokenizer and model for the features of `store`; features of another detector are refused."""
    model = load_model(VivoForCaptioning, checkpoint).eval()
    model.check_can_caption(str(checkpoint))
    store.check_compatible(model.config.region_fingerprint, model.config.feature_size)
    store.check_all_fit(model.config.max_regions)
    return load_tokenizer(checkpoint), model.to("cuda" if torch.cuda.is_available() else "cpu")


def decode_pictures(
    model: VivoForCaptioning,
    tokenizer: PreTrainedTokenizerFast,
    store: RegionStore,
    image_ids: Sequence[str],
    tags: TagSource,
    decode: DecodeConfig,
    shown: Mapping[str, str] | None = None,
    constrained: "ConstrainedCaptions | None" = None,
) -> dict[str, list[Hypothesis]]:
    """Hypotheses of each picture, best first, by id.

    Args:
        tags: never of kind "labels": pictures to caption have none.
        shown: for a control, the picture whose regions and tags the model gets instead of its own.
        constrained: the search with constraints, where there are any.
    """
    collator = ContextCollator(tokenizer, Limits.of(model.config))
    results: dict[str, list[Hypothesis]] = {}
    for first in range(0, len(image_ids), decode.batch_size):
        ids = image_ids[first : first + decode.batch_size]
        sources = [shown[i] if shown else i for i in ids]
        regions = [store[i] for i in sources]
        batch = collator([(i, tags(i, [], r), r) for i, r in zip(sources, regions, strict=True)])
        batch = to_device(batch, model.device)
        found = constrained(model, batch, ids) if constrained else caption_batch(model, batch, decode)
        results |= dict(zip(ids, found, strict=True))
    return results


def caption_pictures(
    model: VivoForCaptioning,
    tokenizer: PreTrainedTokenizerFast,
    store: RegionStore,
    image_ids: Sequence[str],
    tags: TagSource,
    decode: DecodeConfig,
    shown: Mapping[str, str] | None = None,
    constrained: "ConstrainedCaptions | None" = None,
) -> dict[str, tuple[str, float]]:
    """Caption and score of each picture, by id; see `decode_pictures`."""
    found = decode_pictures(model, tokenizer, store, image_ids, tags, decode, shown, constrained)
    return {i: (decode_caption(tokenizer, best.tokens), best.score) for i, (best, *_) in found.items()}
