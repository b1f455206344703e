"""What a captioner writes while it learns: captions beside references, and the signs of collapse."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from vivo.config import DecodeConfig, TrainConfig
from vivo.data.collate import ContextCollator
from vivo.data.nocaps import read_nocaps
from vivo.data.regions import RegionStore
from vivo.data.text import decode_caption
from vivo.data.types import CaptionExample
from vivo.metrics.cider import cider_d
from vivo.modeling import VivoForCaptioning
from vivo.prediction import caption_batch, context_batches, limits_of

SHOWN = 8


class CaptionValidation:
    """Greedy captions of the validation pictures, with CIDEr-D, distinct share and length."""

    def __init__(
        self, store: RegionStore, examples: Sequence[CaptionExample], tags: str, seed: int,
        tokenizer: PreTrainedTokenizerFast, decode: DecodeConfig,
    ):
        self.store, self.examples, self.tags, self.seed = store, examples, tags, seed
        self.tokenizer, self.decode = tokenizer, decode

    @classmethod
    def of(cls, config: TrainConfig, tokenizer: PreTrainedTokenizerFast) -> "CaptionValidation | None":
        """From `data.validation_*`; None where the run has no captions to validate."""
        if config.objective != "captions" or not config.data.validation_references:
            return None
        tags = "none" if config.data.tags == "none" else "detector"
        return cls(
            RegionStore(config.data.validation_regions), read_nocaps(config.data.validation_references),
            tags, config.seed, tokenizer, DecodeConfig(),
        )

    def __call__(self, model: VivoForCaptioning, step: int) -> dict[str, float | str]:
        """One record for metrics.jsonl; the first captions are part of it."""
        collator = ContextCollator(self.tokenizer, limits_of(model), self.seed)
        ids = [e.image_id for e in self.examples]
        captions: dict[str, str] = {}
        device = model.device
        for batch in context_batches(self.store, ids, self.tags, collator, self.decode.batch_size, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=torch.is_autocast_enabled(device.type)):
                found = caption_batch(model, batch, self.decode)
            captions |= {
                i: decode_caption(self.tokenizer, h[0].tokens) for i, h in zip(batch["image_ids"], found, strict=True)
            }
        for example in self.examples[:SHOWN]:
            print(f"  {example.image_id}: {captions[example.image_id]!r}  reference: {example.captions[0]!r}")
        record: dict[str, float | str] = {
            "validation_distinct": len(set(captions.values())) / len(captions),
            "validation_words": sum(len(c.split()) for c in captions.values()) / len(captions),
        }
        if len(self.examples) > 1:
            scores = cider_d(captions, {e.image_id: e.captions for e in self.examples})
            record["validation_CIDEr"] = 100 * float(sum(scores.values()) / len(scores))
        return record
