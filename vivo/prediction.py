"""Captions for batches: the model under a search of vivo/decoding, with its keys and values cached.

Tags and regions are encoded once per picture and shared by all its beams: the K beams of a picture
stand side by side in the length dimension, kept apart by the mask, so nothing of the context is
copied. A step costs two positions a beam: the last token, whose keys and values are kept, and a
[MASK] behind it, whose output is the next token (Hu et al. 2021, Fig. 2c).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.config import DecodeConfig
from vivo.data.collate import Batch, ContextCollator, Limits, to_device
from vivo.data.predictions import write_predictions
from vivo.data.region_format import sha256_of
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.text import decode_caption, load_tokenizer
from vivo.decoding.oscar import oscar_beam_search, oscar_greedy_search
from vivo.decoding.search import Hypothesis, beam_search, greedy_search
from vivo.files import writable_folder
from vivo.modeling import Context, TextState, VivoForCaptioning
from vivo.self_tagging import open_tag_source
from vivo.weights import load_model


class CachedStep:
    """A step function (vivo/decoding/search.py) over one batch of pictures."""

    def __init__(self, model: VivoForCaptioning, context: Context, beam: int):
        self.model, self.context, self.beam = model, context, beam
        self.state: TextState | None = None
        self.place = 0  # position of the last token

    def __call__(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """int [B, K], int [B, K] -> float32 [B, K, V]."""
        pictures, beam = tokens.shape
        self._reorder(parents)
        masks = torch.full_like(tokens, self.model.config.mask_token_id)
        ids = torch.cat([tokens, masks], dim=1)
        positions = torch.full_like(ids, self.place)
        positions[:, beam:] += 1
        same = torch.eye(beam, dtype=torch.bool, device=ids.device)
        alone = torch.zeros_like(same)
        # rows: last tokens, then [MASK]s; columns: cached tokens step by step, last tokens, [MASK]s
        seen = torch.cat([same] * (self.place + 1), dim=1)
        mask = torch.cat([torch.cat([seen, alone], dim=1), torch.cat([seen, same], dim=1)], dim=0)
        asked = torch.arange(pictures * 2 * beam, device=ids.device).view(pictures, 2, beam)[:, 1].flatten()
        hidden, new = self.model.vivo.encode_text(
            self.context, ids, positions, mask.expand(pictures, -1, -1), self.state, wanted=asked
        )
        self._append(new, beam)
        self.place += 1
        return self.model.logits(hidden).float().log_softmax(dim=-1).view(pictures, beam, -1)

    def _append(self, new: TextState, beam: int) -> None:
        """Keep the keys and values of the last tokens; those of [MASK] are dropped."""
        keys = [k[:, :, :beam] for k in new.keys]
        values = [v[:, :, :beam] for v in new.values]
        if self.state is not None:
            keys = [torch.cat([old, k], dim=2) for old, k in zip(self.state.keys, keys, strict=True)]
            values = [torch.cat([old, v], dim=2) for old, v in zip(self.state.values, values, strict=True)]
        self.state = TextState(keys, values)

    def _reorder(self, parents: Tensor) -> None:
        """Let each beam's cache be that of the beam it continues."""
        if self.state is None or self.beam == 1:
            return
        pictures, beam = parents.shape

        def moved(cache: Tensor) -> Tensor:
            _, heads, _, size = cache.shape
            by_step = cache.view(pictures, heads, self.place, beam, size)
            index = parents[:, None, None, :, None].expand_as(by_step)
            return by_step.gather(3, index).flatten(2, 3)

        self.state = TextState([moved(k) for k in self.state.keys], [moved(v) for v in self.state.values])


@torch.inference_mode()
def caption_batch(model: VivoForCaptioning, batch: Batch, decode: DecodeConfig) -> list[list[Hypothesis]]:
    """Hypotheses of each picture of a batch (tag and region keys of data/collate.py), best first."""
    config = model.config
    limit = min(decode.max_tokens, config.max_caption_tokens - 1)
    nothing = torch.empty(0, dtype=torch.int64, device=batch["tag_ids"].device)
    step = CachedStep(model, model.encode_context(batch, wanted=nothing), decode.beam)
    pictures, device = batch["region_mask"].shape[0], batch["region_mask"].device
    ends = (config.cls_token_id, config.sep_token_id)
    if decode.rules == "oscar":
        if decode.beam == 1:
            return [[h] for h in oscar_greedy_search(step, pictures, *ends, limit, device)]
        return oscar_beam_search(step, pictures, *ends, decode.beam, limit, decode.length_penalty, device)
    if decode.beam == 1:
        return [[h] for h in greedy_search(step, pictures, *ends, limit, decode.length_penalty, device)]
    return beam_search(step, pictures, *ends, decode.beam, limit, decode.length_penalty, device)


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
) -> dict[str, list[Hypothesis]]:
    """Hypotheses of each picture, best first, by id.

    Args:
        tags: never of kind "labels": pictures to caption have none.
        shown: for a control, the picture whose regions and tags the model gets instead of its own.
    """
    collator = ContextCollator(tokenizer, Limits.of(model.config))
    results: dict[str, list[Hypothesis]] = {}
    for first in range(0, len(image_ids), decode.batch_size):
        ids = image_ids[first : first + decode.batch_size]
        sources = [shown[i] if shown else i for i in ids]
        regions = [store[i] for i in sources]
        batch = collator([(i, tags(i, [], r), r) for i, r in zip(sources, regions, strict=True)])
        found = caption_batch(model, to_device(batch, model.device), decode)
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
) -> dict[str, tuple[str, float]]:
    """Caption and score of each picture, by id; see `decode_pictures`."""
    found = decode_pictures(model, tokenizer, store, image_ids, tags, decode, shown)
    return {i: (decode_caption(tokenizer, best.tokens), best.score) for i, (best, *_) in found.items()}


def predict_split(
    checkpoint: Path,
    regions: Path,
    image_ids: Sequence[str],
    tags: str,
    decode: DecodeConfig,
    out: Path,
    shown: Mapping[str, str] | None = None,
    tag_file: str = "",
) -> dict[str, str]:
    """Caption a split and write `out` with its header. Returns the captions by picture id.

    Args:
        tags: "detector", "none", "file" (with `tag_file`) or "self" (by the model in the checkpoint's tagger/).
    """
    store = RegionStore(regions)
    tokenizer, model = load_captioning_model(checkpoint, store)
    writable_folder(out.parent)  # before the work, not behind it
    source = open_tag_source(tags, store, image_ids, tag_file, checkpoint / "tagger", model.config.tags_as_text)
    found = caption_pictures(model, tokenizer, store, image_ids, source, decode, shown)
    header = {
        "decode": dataclasses.asdict(decode),
        "tags": tags,
        "checkpoint": checkpoint.name,
        "weights_sha256": sha256_of(checkpoint / "model.safetensors"),
        "region_fingerprint": store.fingerprint,
        "pictures": len(found),
        "control": "another picture's regions and tags" if shown else "",
    }
    write_predictions(
        out, [{"image_id": i, "caption": text, "score": score} for i, (text, score) in found.items()], header
    )
    return {image_id: text for image_id, (text, _) in found.items()}
