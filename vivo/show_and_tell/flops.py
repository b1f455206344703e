"""Floating-point operations of a training step of Show and Tell; conventions: vivo/training/flops.py.

Forward, for n inputs of the LSTM (padding, which is computed, included), B pictures and K supervised words:

    LSTM      2 n 4 H (E + H)
    softmax   2 K H V
    picture   2 B F E, and where pixels come the encoder, counted by PyTorch on one picture
"""

from functools import cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode

from vivo.data.collate import Batch
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.training.flops import BOTH_GRADIENTS, FORWARD, ONE_GRADIENT, Work


class RecurrentWork:
    """The work of one training pass over a batch (on the CPU)."""

    def __init__(self, model: ShowAndTell):
        self.model = model

    def __call__(self, batch: Batch) -> Work:
        """Forward and backward."""
        c, trained = self.model.config, not self.model.config.encoder_frozen
        captions, length = batch["text_ids"].shape
        pictures = len(batch["image_ids"])
        targets = batch["target_ids"].shape[0]
        inputs = captions * (length + 1)
        flops = BOTH_GRADIENTS * 8.0 * inputs * c.lstm_size * (c.embedding_size + c.lstm_size)
        flops += BOTH_GRADIENTS * 2.0 * targets * c.lstm_size * c.vocab_size
        flops += (BOTH_GRADIENTS if trained else ONE_GRADIENT) * 2.0 * pictures * c.feature_size * c.embedding_size
        if "pixels" in batch:
            flops += (BOTH_GRADIENTS if trained else FORWARD) * pictures * self.encoder_flops
        return Work(flops, targets + captions)

    @cached_property
    def encoder_flops(self) -> float:
        """Of one picture, forward."""
        encoder, size = self.model.encoder, self.model.config.picture_size
        device = next(encoder.parameters()).device
        training = encoder.training
        encoder.eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
        encoder.train(training)
        return float(counter.get_total_flops())
