"""Captions for batches: a captioner (vivo/captioning.py) under a search of vivo/decoding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerFast

from vivo.cached_step import CachedStep, GraphedStep
from vivo.captioners import captioner_class, load_captioner
from vivo.captioning import CaptioningModel
from vivo.config import DecodeConfig
from vivo.data.collate import Batch, picture_rows, to_device
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.text import decode_caption, load_tokenizer
from vivo.decoding.oscar import oscar_beam_search, oscar_greedy_search
from vivo.decoding.rules import AtLeast, Never, NoRepeat
from vivo.decoding.search import Hypothesis, Rule, beam_search, greedy_search
from vivo.errors import UserError
from vivo.show_and_tell.pictures import PictureReader, PictureStore

if TYPE_CHECKING:
    from vivo.constrained_prediction import ConstrainedCaptions


@torch.inference_mode()
def caption_batch(model: CaptioningModel, batch: Batch, decode: DecodeConfig) -> list[list[Hypothesis]]:
    """Hypotheses of each picture of a batch (of the model's own collator), best first."""
    config = model.config
    limit = min(decode.max_tokens, config.max_caption_tokens - 1)
    step = model.step(model.encode_pictures(batch), decode.beam * (limit + 2))
    if isinstance(step, CachedStep) and limit > 5 and GraphedStep.fits(step):
        step = GraphedStep(step)
    rows = picture_rows(batch)
    pictures, device = rows.shape[0], rows.device
    ends = (config.cls_token_id, config.sep_token_id)
    rules = decoding_rules(decode, config.sep_token_id, model.never_said)
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


def decoding_rules(decode: DecodeConfig, end: int, never: Sequence[int] = ()) -> list[Rule]:
    """What the configuration, and the captioner itself (`never`), forbids a search to write."""
    rules: list[Rule] = [Never(never)] if never else []
    if decode.no_repeat:
        rules.append(NoRepeat(decode.no_repeat))
    if decode.min_tokens:
        rules.append(AtLeast(decode.min_tokens, end))
    return rules


def load_captioning_model(checkpoint: Path, store: RegionStore) -> tuple[PreTrainedTokenizerFast, CaptioningModel]:
    """Tokenizer and model for the features of `store`; features of another detector are refused."""
    model = load_captioner(checkpoint).eval()
    model.check_can_caption(str(checkpoint))
    model.check_store(store)
    return load_tokenizer(checkpoint), model.to("cuda" if torch.cuda.is_available() else "cpu")


def decode_pictures(
    model: CaptioningModel,
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
    collator = model.collator(tokenizer)
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
    model: CaptioningModel,
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


def open_store(checkpoint: Path, regions: Path | Mapping[str, Path]) -> RegionStore | PictureStore:
    """The RegionStore at a path, or picture files (by id) as the captioner in `checkpoint` cuts them.

    Raises:
        UserError: no such store, or picture files for a captioner that wants regions.
    """
    if isinstance(regions, Path):
        return RegionStore(regions)
    kind = captioner_class(checkpoint)
    if not kind.reads_pixels:
        raise UserError(f"{checkpoint}: takes regions, not pictures; give regions instead")
    config = kind.config_class.from_pretrained(checkpoint)
    folder = next(iter(regions.values())).parent if regions else Path()
    return PictureStore(regions, folder, PictureReader(config.picture_size, config.picture_resize))
