"""ShowAndTellProcessor: pictures into a batch, captions back into text, in the habit of transformers.

import vivo
from transformers import AutoModelForImageTextToText, AutoProcessor

processor, model = AutoProcessor.from_pretrained(DIR), AutoModelForImageTextToText.from_pretrained(DIR)
print(processor.batch_decode(model.generate(**processor(["photo.jpg"]), num_beams=3)))
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast, ProcessorMixin

from vivo.data.collate import Batch
from vivo.data.text import decode_caption, load_tokenizer
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.show_and_tell.model_config import ShowAndTellConfig
from vivo.show_and_tell.pictures import PictureCollator, PictureReader


class ShowAndTellProcessor(ProcessorMixin):
    """Tokenizer of a model, and how it cuts pictures."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, size: int = 299, resize: int = 346, chat_template: str | None = None
    ):  # fmt: skip
        super().__init__(tokenizer, chat_template=chat_template)
        self.size, self.resize = size, resize

    @classmethod
    def from_pretrained(cls, folder: str | Path, **ignored) -> "ShowAndTellProcessor":
        """From a model's folder; nothing is downloaded."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json; give the folder of a model of vivo")
        config = ShowAndTellConfig.from_pretrained(folder)
        return cls(load_tokenizer(folder), config.picture_size, config.picture_resize)

    def __call__(self, images: Sequence[str | Path | Image.Image] | str | Path | Image.Image) -> Batch:
        """One batch of pictures: `pixels` and `image_ids` of vivo/show_and_tell/collate.py."""
        pictures = [images] if isinstance(images, str | Path | Image.Image) else images
        opened = [p if isinstance(p, Image.Image) else open_picture(p) for p in pictures]
        seen = PictureReader(self.size, self.resize).detect(opened)
        return PictureCollator()([(str(i), [], picture) for i, picture in enumerate(seen)])

    def batch_decode(self, ids: torch.Tensor | Sequence[Sequence[int]], **ignored) -> list[str]:
        """int [B, L] as `generate` gives it -> captions."""
        rows = ids.tolist() if isinstance(ids, torch.Tensor) else ids
        return [decode_caption(self.tokenizer, row) for row in rows]


AutoProcessor.register(ShowAndTellConfig, ShowAndTellProcessor)
