"""What a captioner must offer: a model with these methods can be searched, sampled, validated, rewarded, constrained,
averaged with others, evaluated, served as a `Captioner` and loaded by folder. Nothing else is asked of it.

    context = model.encode_pictures(batch)           # pictures, encoded once
    step = model.step(context, room)                 # a step function of vivo/decoding/search.py over them

`batch` is what the model's own `collator` makes of pictures; `CAPTIONERS` in vivo/captioners.py lists the models.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from vivo.decoding.search import Step
from vivo.errors import UserError

if TYPE_CHECKING:  # transformers imports the models, and these import transformers
    from vivo.data.types import Regions
    from vivo.detectors.base import Detector

Batch = dict[str, Tensor | list[str]]
Collate = Callable[[Sequence[tuple[str, list[str], "Regions"]]], Batch]
"""Makes a batch of (picture id, tags, what is known of the picture)."""

DECODE_OPTIONS = {
    "num_beams": "beam",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat",
    "num_beam_groups": "groups",
    "diversity_penalty": "diversity",
}
"""Options of transformers' `generate` that a search here has, too -> fields of `vivo.config.DecodeConfig`."""


class CaptioningModel(ABC):
    """A class that lacks any of these methods cannot be made. Beside them, a captioner is a transformers model whose
    configuration has `cls_token_id` (begins a caption), `sep_token_id` (ends it), `pad_token_id`, `max_caption_tokens`,
    `region_fingerprint`, `training_stage`.

    Attributes:
        reads_pixels: whether a picture is enough, and no detector is needed: it then has a `reader` of its own.
        batch_keys: what it reads of a batch.
    """

    reads_pixels = False
    batch_keys: tuple[str, ...] = ()

    def reader(self) -> "Detector":
        """Of a model that reads pixels, what makes them of pictures, in the habit of a detector.

        Raises:
            UserError: a model of regions, which a detector must find first.
        """
        raise UserError(f"{self.name_or_path or type(self).__name__}: reads regions, not pictures; give a RegionStore")

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collate:
        """Batches of pictures to caption; nothing is random."""

    @abstractmethod
    def encode_pictures(self, batch: Batch) -> Any:
        """The pictures of a batch, as `step` wants them; several searches may share it."""

    @abstractmethod
    def step(self, context: Any, room: int = 0) -> Step:
        """The model under a search.

        Args:
            context: of `encode_pictures`. room: tokens that the search will write, all beams together, where it is
                known: what may be reserved.
        """

    @abstractmethod
    def check_store(self, store: Any) -> None:
        """`UserError` where the features of a store (or of what stands for one) are not those that the model knows."""

    @property
    def never_said(self) -> tuple[int, ...]:
        """Tokens that no caption may have."""
        return ()

    def check_can_caption(self, where: str) -> None:
        """Refuse a checkpoint that has seen no captions, or only in pre-training: what it writes would be noise."""
        if self.config.training_stage != "captions":
            raise UserError(f"{where}: this model has not learned to caption yet; fine-tune it with finetune/train.py")

    def generate(self, **given: Tensor | list[str] | float) -> Tensor:
        """Captions in the habit of transformers: `model.generate(**processor(pictures), num_beams=5)`.

        Args:
            given: what a processor gave, and any of DECODE_OPTIONS.

        Returns:
            int64 [B, longest]: the best caption of each picture, [SEP] behind it, then padding.

        Raises:
            UserError: an option that the search does not have, or a value that it cannot have.
        """
        from vivo.config import DecodeConfig, checked_decode
        from vivo.prediction import caption_batch  # which imports this module

        self.check_can_caption(self.name_or_path or type(self).__name__)
        if unknown := sorted(given.keys() - {*DECODE_OPTIONS, *self.batch_keys, "image_ids"}):
            raise UserError(f"generate: has no {', '.join(unknown)}; its options are {', '.join(DECODE_OPTIONS)}")
        options = {ours: given[theirs] for theirs, ours in DECODE_OPTIONS.items() if theirs in given}
        batch = {key: given[key] for key in self.batch_keys if key in given}
        found = caption_batch(self, batch, checked_decode(DecodeConfig(**options)))
        rows = [torch.tensor([*best.tokens, self.config.sep_token_id]) for best, *_ in found]
        return nn.utils.rnn.pad_sequence(rows, True, self.config.pad_token_id).to(self.device)
