"""From examples to batches of Show and Tell.

A batch of pictures has one of these, and `image_ids`:

    pixels uint8 [B, 3, S, S]       of picture files (vivo/show_and_tell/pictures.py)
    features float16 [B, F]         what the frozen encoder said of them (a RegionStore of whole pictures)

One for training also has

    text_ids int64 [N, L]           [CLS] w1 .. wn of each caption, padded: what the LSTM reads
    text_picture int64 [N]          the row of its picture
    target_index int64 [K]          supervised places in the flattened [N * L], caption after caption
    target_ids int64 [K]            the next word there: w1 .. wn [SEP]
    draws float64 [N, L, 2]         with scheduled sampling: even random numbers in [0, 1) for each input

Whatever is random is drawn from (seed, epoch, image id).
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from vivo.data.caption_text import chosen_captions
from vivo.data.collate import Batch
from vivo.data.padding import padded
from vivo.data.text import encode_caption
from vivo.data.types import Regions
from vivo.randomness import example_generator
from vivo.show_and_tell.pictures import picture_keys

Example = tuple[int, str, list[str], list[str], Regions]
"""Epoch, picture id, tags (none), captions, pixels or features."""


def recurrent_captions(rows: Sequence[Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Text keys of captions [picture][caption][token], each [CLS] w1 .. wn [SEP] (or cut before its end)."""
    captions = [list(tokens) for row in rows for tokens in row]
    text_ids = padded([tokens[:-1] for tokens in captions], tokenizer.pad_token_id)
    length = text_ids.shape[1]
    places = [n * length + i for n, tokens in enumerate(captions) for i in range(len(tokens) - 1)]
    return {
        "text_ids": text_ids,
        "text_picture": torch.tensor([b for b, row in enumerate(rows) for _ in row], dtype=torch.int64),
        "target_index": torch.tensor(places, dtype=torch.int64),
        "target_ids": torch.tensor([t for tokens in captions for t in tokens[1:]], dtype=torch.int64),
    }


class SentenceCollator:
    """Training batches from `Example`s: `captions_per_picture` captions of each picture.

    Args:
        most: tokens of a caption, [CLS] and [SEP] counted.
        drawn: add `draws`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        most: int,
        seed: int,
        captions_per_picture: int,
        drawn: bool = False,
    ):
        self.tokenizer, self.most, self.seed = tokenizer, most, seed
        self.captions_per_picture, self.drawn = captions_per_picture, drawn

    def __call__(self, examples: Sequence[Example]) -> Batch:
        batch = picture_keys([picture for *_, picture in examples])
        rows = [
            [
                encode_caption(self.tokenizer, caption, self.most)
                for caption in chosen_captions(self.seed, epoch, image_id, captions, self.captions_per_picture)
            ]
            for epoch, image_id, _, captions, _ in examples
        ]
        batch |= recurrent_captions(rows, self.tokenizer)
        if self.drawn:
            shape = (self.captions_per_picture, self.most, 2)
            draws = [example_generator(self.seed, epoch, i, "scheduled").random(shape) for epoch, i, *_ in examples]
            length = batch["text_ids"].shape[1]
            batch["draws"] = torch.from_numpy(np.concatenate(draws)[:, :length].copy())
        batch["image_ids"] = [image_id for _, image_id, *_ in examples]
        return batch


class PictureSampleCollator:
    """Pictures whose captions are to be sampled, from `Example`s; see `vivo.data.collate.SampleCollator`."""

    def __init__(self, seed: int, samples: int, tokens: int):
        self.seed, self.samples, self.tokens = seed, samples, tokens

    def __call__(self, examples: Sequence[Example]) -> Batch:
        batch = picture_keys([picture for *_, picture in examples])
        shape = (self.samples, self.tokens)
        draws = [example_generator(self.seed, epoch, i, "samples").random(shape) for epoch, i, *_ in examples]
        batch["draws"] = torch.from_numpy(np.stack(draws))
        batch["image_ids"] = [image_id for _, image_id, *_ in examples]
        return batch
