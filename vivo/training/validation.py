"""What a captioner writes while it learns: captions beside references, and the signs of collapse."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerFast

from vivo.captioning import CaptioningModel
from vivo.config import DecodeConfig, TrainConfig
from vivo.data.nocaps import read_nocaps
from vivo.data.regions import RegionStore
from vivo.data.tag_source import TagSource
from vivo.data.text import decode_caption
from vivo.data.types import CaptionExample
from vivo.decoding.search import Hypothesis
from vivo.metrics.cider import cider_d
from vivo.prediction import decode_pictures
from vivo.self_tagging import open_tag_source
from vivo.training import tables
from vivo.training.collapse import alarms, signs
from vivo.training.tables import TableWriter
from vivo.training.tasks import keeps_repeats, tagger_of

SHOWN = 8
# So many pictures are also captioned from another one's regions and tags.
SHUFFLED = 256


class CaptionValidation:
    """Greedy captions of the validation pictures, with CIDEr-D and the signs of collapse.

    Called on all processes: each captions its part of the pictures, and all get the same record.
    """

    def __init__(
        self,
        store: RegionStore,
        examples: Sequence[CaptionExample],
        tags: TagSource,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerFast,
        decode: DecodeConfig,
        table: TableWriter,
    ):
        self.table = table
        self.store, self.examples, self.tags, self.accelerator = store, examples, tags, accelerator
        self.tokenizer, self.decode = tokenizer, decode

    @classmethod
    def of(
        cls, config: TrainConfig, tokenizer: PreTrainedTokenizerFast, accelerator: Accelerator
    ) -> "CaptionValidation | None":
        """From `data.validation_*`; None where the run has no captions to validate."""
        if config.objective not in ("captions", "scst") or not config.data.validation_references:
            return None
        data, store = config.data, RegionStore(config.data.validation_regions)
        examples = read_nocaps(data.validation_references)
        kind = data.tags if data.tags in ("none", "file", "self") else "detector"
        ids = [e.image_id for e in examples]
        source = open_tag_source(kind, store, ids, data.tag_file, tagger_of(config), keeps_repeats(config))
        files = {e.image_id: e.file_name for e in examples}
        table = TableWriter(Path(config.out), store, files, data.validation_pictures)
        return cls(store, examples, source, accelerator, tokenizer, DecodeConfig(), table)

    def __call__(self, model: CaptioningModel, step: int) -> dict[str, float | str]:
        """One record for metrics.jsonl; the first captions are printed."""
        references = {e.image_id: e.captions for e in self.examples}
        ids = list(references)
        found = self._captions(model, ids, ids)
        limit = min(self.decode.max_tokens, model.config.max_caption_tokens - 1)
        captions = {i: decode_caption(self.tokenizer, hypothesis.tokens) for i, hypothesis in found.items()}
        numbers = signs(list(captions.values()), [len(h.tokens) < limit for h in found.values()])
        if len(ids) > 1:
            numbers["CIDEr"] = _cider(captions, references, ids)
            few = ids[:SHUFFLED]
            others = self._captions(model, few, exchanged(few))
            shuffled = {i: decode_caption(self.tokenizer, hypothesis.tokens) for i, hypothesis in others.items()}
            numbers["CIDEr_shuffled"] = _cider(shuffled, references, few)
        if self.accelerator.is_main_process:
            for image_id in ids[:SHOWN]:
                print(f"  {image_id}: {captions[image_id]!r}  reference: {references[image_id][0]!r}")
            tags = {i: self.tags(i, [], self.store[i]) for i in ids[: tables.SHOWN]}
            self.table.write(step, ids, tags, captions, references)
            for text in alarms(numbers, len(ids)):
                print(f"  ALARM after {step} updates: {text}")
        record: dict[str, float | str] = {f"validation_{name}": value for name, value in numbers.items()}
        return record | {"validation_alarms": "; ".join(alarms(numbers, len(ids)))}

    def _captions(self, model: CaptioningModel, ids: Sequence[str], shown: Sequence[str]) -> dict[str, Hypothesis]:
        """The best hypothesis of each picture from the regions and tags of `shown`, computed by all processes."""
        mine = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        with self.accelerator.autocast(), torch.no_grad():
            found = decode_pictures(
                model,
                self.tokenizer,
                self.store,
                ids[mine],
                self.tags,
                self.decode,
                dict(zip(ids[mine], shown[mine], strict=True)),
            )
        everywhere = dict(gather_object([(i, hypotheses[0]) for i, hypotheses in found.items()]))
        return {i: everywhere[i] for i in ids}


def exchanged(ids: Sequence[str]) -> list[str]:
    """For each picture another one, each once, always the same. Not the next one: neighbours in a file may be alike."""
    order = np.random.default_rng(0).permutation(len(ids))
    other = {ids[one]: ids[two] for one, two in zip(order, np.roll(order, 1), strict=True)}
    return [other[image_id] for image_id in ids]


def _cider(captions: dict[str, str], references: dict[str, list[str]], ids: Sequence[str]) -> float:
    """CIDEr-D times 100, document frequencies over these pictures alone."""
    scores = cider_d({i: captions[i] for i in ids}, {i: references[i] for i in ids})
    return 100 * float(sum(scores.values()) / len(scores))
