"""How well a model in pre-training reads tags from regions alone, on pictures that it is not trained on.

All tags of a picture are masked, whatever the run's own share of masked tags: the figures of runs that mask more or
fewer of them can be compared, which their training losses cannot. All word pieces compete, as when a caption is
written.
"""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vivo.data.collate import Batch, Limits, TagCollator, to_device
from vivo.data.datasets import TagPictures
from vivo.losses import tag_set_loss
from vivo.modeling import VivoForTagPretraining
from vivo.training.tables import SHOWN, TableWriter

BATCH_SIZE = 64


class TagValidation:
    """Loss and share of right pieces with every tag masked.

    Called on all processes: each computes its part of the pictures, and all get the same record.

    Args:
        data: the pictures that were held out. table: writes what was read from the first of them.
    """

    def __init__(
        self,
        data: TagPictures,
        tokenizer: PreTrainedTokenizerFast,
        limits: Limits,
        accelerator: Accelerator,
        table: TableWriter,
    ):
        self.data, self.tokenizer, self.accelerator, self.table = data, tokenizer, accelerator, table
        self.shown = data.image_ids[:SHOWN]
        self.collator = TagCollator(tokenizer, limits, 0, 1.0, 1.0, 0)

    @torch.no_grad()
    def __call__(self, model: VivoForTagPretraining, step: int) -> dict[str, float]:
        """One record for metrics.jsonl."""
        device = self.accelerator.device
        sums = torch.zeros(3, dtype=torch.float32, device=device)
        read: list[tuple[str, list[str]]] = []
        for batch in self._batches():
            batch = to_device(batch, device)
            with self.accelerator.autocast():
                logits = model(batch)["logits"]
            losses = tag_set_loss(logits, batch["target_ids"], batch["group_slots"], batch["group_size"])
            sums += torch.stack([losses[name].float() for name in ("loss", "correct", "count")])
            read += self._read(batch, logits.argmax(dim=1))
        loss, correct, count = self.accelerator.reduce(sums, "sum").tolist()
        predicted = dict(gather_object(read))
        if self.accelerator.is_main_process:
            tags = {image_id: self.data.tags_of(place) for place, image_id in enumerate(self.shown)}
            self.table.write(step, self.shown, tags, predicted_tags=predicted)
        count = max(count, 1.0)
        return {"validation_loss": loss / count, "validation_correct": correct / count}

    def _batches(self) -> Iterator[Batch]:
        """This process's part."""
        mine = range(self.accelerator.process_index, len(self.data), self.accelerator.num_processes)
        for first in range(0, len(mine), BATCH_SIZE):
            yield self.collator([self.data[0, place] for place in mine[first : first + BATCH_SIZE]])

    def _read(self, batch: Batch, pieces: Tensor) -> list[tuple[str, list[str]]]:
        """(picture, the likeliest text of each of its masked tags) of those that the table shows."""
        shown = set(self.shown)
        rows = (batch["slot_index"] // max(1, batch["tag_ids"].shape[1])).tolist()
        found: dict[str, list[str]] = {i: [] for i in batch["image_ids"] if i in shown}
        best = pieces.tolist()
        for group in batch["group_slots"].tolist():
            for slots in ([slot for slot in tag if slot >= 0] for tag in group):
                if slots and (image_id := batch["image_ids"][rows[slots[0]]]) in found:
                    found[image_id].append(self.tokenizer.decode([best[slot] for slot in slots]))
        return list(found.items())
