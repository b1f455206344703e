"""Several captioners as one: each encodes the pictures for itself, and the mean of their probabilities is searched."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from vivo.captioning import CaptioningModel, Collate
from vivo.data.collate import Batch
from vivo.decoding.ensemble import MeanStep
from vivo.decoding.search import Step
from vivo.errors import UserError


class Ensemble(CaptioningModel):
    """What a captioner offers (vivo/captioning.py), of several of one kind.

    Args:
        models: trained alike: one batch, of the first one's collator, is for all. tokenizers: of each.

    Raises:
        UserError: they do not have the same words in the same order, or are of several kinds.
    """

    def __init__(self, models: Sequence[CaptioningModel], tokenizers: Sequence[PreTrainedTokenizerFast]):
        first = tokenizers[0].get_vocab()
        for number, (model, tokenizer) in enumerate(zip(models, tokenizers, strict=True), 1):
            if type(model) is not type(models[0]):
                raise UserError(
                    f"ensemble: model {number} is a {type(model).__name__}, not a {type(models[0]).__name__}"
                )
            if tokenizer.get_vocab() != first:
                raise UserError(
                    f"ensemble: model {number} has other words than the first; train them on one vocabulary"
                )
        self.models = list(models)

    @property
    def config(self) -> Any:
        """The first one's."""
        return self.models[0].config

    @property
    def device(self) -> torch.device:
        """Of all."""
        return self.models[0].device

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collate:
        """The first one's."""
        return self.models[0].collator(tokenizer)

    def encode_pictures(self, batch: Batch) -> list[Any]:
        """What each says."""
        return [model.encode_pictures(batch) for model in self.models]

    def step(self, context: list[Any], room: int = 0) -> Step:
        """All under one search."""
        return MeanStep([model.step(own, room) for model, own in zip(self.models, context, strict=True)])

    def check_store(self, store: Any) -> None:
        """Every one of them must know its features."""
        for model in self.models:
            model.check_store(store)

    @property
    def never_said(self) -> tuple[int, ...]:
        """The first one's."""
        return self.models[0].never_said
