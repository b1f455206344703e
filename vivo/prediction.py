"""Captions for batches: the model under a search of vivo/decoding, with its keys and values cached.

Tags and regions are encoded once per picture and shared by all its beams: the K beams of a picture
stand side by side in the length dimension, kept apart by the mask, so nothing of the context is
copied. A step costs two positions a beam: the last token, whose keys and values are kept, and a
[MASK] behind it, whose output is the next token (Hu et al. 2021, Fig. 2c).
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vivo.config import DecodeConfig
from vivo.data.collate import Batch, ContextCollator, Limits, to_device
from vivo.data.datasets import choose_tags
from vivo.data.regions import RegionStore
from vivo.decoding.search import Hypothesis, beam_search, greedy_search
from vivo.errors import UserError
from vivo.modeling import Context, TextState, VivoForCaptioning


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
        hidden, new = self.model.vivo.encode_text(
            self.context, ids, positions, mask.expand(pictures, -1, -1), self.state
        )
        self._append(new, beam)
        self.place += 1
        return self.model.logits(hidden[:, beam:]).float().log_softmax(dim=-1)

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
    step = CachedStep(model, model.encode_context(batch), decode.beam)
    pictures, device = batch["region_mask"].shape[0], batch["region_mask"].device
    ends = (config.cls_token_id, config.sep_token_id)
    if decode.beam == 1:
        return [[h] for h in greedy_search(step, pictures, *ends, limit, decode.length_penalty, device)]
    return beam_search(step, pictures, *ends, decode.beam, limit, decode.length_penalty, device)


def check_can_caption(model: VivoForCaptioning, where: str) -> None:
    """Refuse a checkpoint that has seen tags only: its captions would be noise."""
    if model.config.training_stage != "captions":
        raise UserError(f"{where}: this model has not learned to caption yet; fine-tune it with finetune/train.py")


def context_batches(
    store: RegionStore, image_ids: Sequence[str], tags: str, collator: ContextCollator, batch_size: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Batches of the pictures `image_ids` in their order; `tags` is "detector" or "none"."""
    def example(image_id: str) -> tuple:
        regions = store[image_id]
        return image_id, choose_tags(tags, [], regions), regions

    loader: Iterable[Batch] = DataLoader(
        list(image_ids), batch_size=batch_size, collate_fn=lambda ids: collator([example(i) for i in ids])
    )
    for batch in loader:
        yield to_device(batch, torch.device(device))


def limits_of(model: VivoForCaptioning) -> Limits:
    """The collator's limits, as the model's configuration has them."""
    config = model.config
    return Limits(config.max_regions, config.max_tag_tokens, config.max_caption_tokens, config.tag_position_offset)
