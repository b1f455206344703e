"""What a captioner writes while it learns: captions beside references, and the signs of collapse."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from vivo.config import DecodeConfig, TrainConfig
from vivo.data.nocaps import read_nocaps
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.types import CaptionExample
from vivo.metrics.cider import cider_d
from vivo.modeling import VivoForCaptioning
from vivo.prediction import caption_pictures
from vivo.self_tagging import open_tag_source

SHOWN = 8


class CaptionValidation:
    """Greedy captions of the validation pictures, with CIDEr-D, distinct share and length."""

    def __init__(
        self,
        store: RegionStore,
        examples: Sequence[CaptionExample],
        tags: TagSource,
        bf16: bool,
        tokenizer: PreTrainedTokenizerFast,
        decode: DecodeConfig,
    ):
        self.store, self.examples, self.tags, self.bf16 = store, examples, tags, bf16
        self.tokenizer, self.decode = tokenizer, decode

    @classmethod
    def of(cls, config: TrainConfig, tokenizer: PreTrainedTokenizerFast, bf16: bool) -> "CaptionValidation | None":
        """From `data.validation_*`; None where the run has no captions to validate."""
        if config.objective != "captions" or not config.data.validation_references:
            return None
        data, store = config.data, RegionStore(config.data.validation_regions)
        examples = read_nocaps(data.validation_references)
        kind = data.tags if data.tags in ("none", "file", "self") else "detector"
        ids = [e.image_id for e in examples]
        return cls(
            store,
            examples,
            open_tag_source(kind, store, ids, data.tag_file, data.tagger or config.init),
            bf16,
            tokenizer,
            DecodeConfig(),
        )

    def __call__(self, model: VivoForCaptioning, step: int) -> dict[str, float | str]:
        """One record for metrics.jsonl; the first captions are part of it."""
        ids = [e.image_id for e in self.examples]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            found = caption_pictures(model, self.tokenizer, self.store, ids, self.tags, self.decode)
        captions = {image_id: text for image_id, (text, _) in found.items()}
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
