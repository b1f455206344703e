"""VivoProcessor: pictures or their regions into a batch, captions back into text, in the habit of transformers.

    import vivo
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(DIR), AutoModelForImageTextToText.from_pretrained(DIR)
    ids = model.generate(**processor(["photo.jpg"]), num_beams=5)
    print(processor.batch_decode(ids))

`vivo.captioner.Captioner` is the shorter way, and gives scores and tags.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils import PROCESSOR_NAME

from vivo.data.collate import Batch, ContextCollator, Limits, detected_tags
from vivo.data.text import decode_caption, load_tokenizer
from vivo.data.types import Regions
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.model_config import VivoConfig
from vivo.weights import read_configuration


class VivoProcessor(ProcessorMixin):
    """Tokenizer and input limits of a model, and the detector of a captioner folder.

    Args:
        limits: fields of vivo.data.collate.Limits; default: those of a VivoConfig.
        detector: regions of pictures; None: regions must be given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, limits: dict[str, int | str | bool] | None = None,
        detector: Detector | None = None, chat_template: str | None = None,
    ):  # fmt: skip
        super().__init__(tokenizer, chat_template=chat_template)
        self.limits = limits or asdict(Limits.of(VivoConfig()))
        self._detector = detector

    @classmethod
    def from_pretrained(cls, folder: str | Path, **ignored) -> "VivoProcessor":
        """From the folder of a model, of a captioner or of a saved processor; nothing is downloaded."""
        folder = Path(folder)
        if (folder / "config.json").is_file():
            read_configuration(folder / "config.json")
            limits = asdict(Limits.of(VivoConfig.from_pretrained(folder)))
        elif (folder / PROCESSOR_NAME).is_file():
            limits = _limits(folder / PROCESSOR_NAME)
        else:
            raise UserError(f"{folder}: no config.json or {PROCESSOR_NAME}; give the folder of a model of vivo")
        detector = load_detector(folder / "detector") if (folder / "detector").is_dir() else None
        return cls(load_tokenizer(folder), limits, detector)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Tokenizer, limits and the detector, as `from_pretrained` reads them; alone or beside a model."""
        if self._detector is not None:  # first, so that a push takes it along
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self._detector.save_pretrained(Path(save_directory) / "detector")
        return super().save_pretrained(str(save_directory), push_to_hub, **kwargs)

    def __call__(
        self,
        images: Sequence[str | Path | Image.Image] | str | Path | Image.Image | None = None,
        regions: Sequence[Regions] | None = None,
        tags: Sequence[Sequence[str]] | None = None,
        return_tensors: str = "pt",
    ) -> Batch:
        """One batch: tag and region keys of data/collate.py.

        Args:
            images: pictures, for which the folder must have a detector/. regions: what a detector said, instead.
            tags: of each picture; default: the class names of its regions.
            return_tensors: "pt", the only kind there is.
        """
        if return_tensors != "pt":
            raise UserError(f'processor: return_tensors is {return_tensors!r}; only "pt" (PyTorch) is there')
        if regions is None:
            if images is None or self._detector is None:
                raise UserError("processor: give regions=, or images= to one that was loaded with a detector/")
            pictures = [images] if isinstance(images, str | Path | Image.Image) else images
            regions = self._detector.detect([p if isinstance(p, Image.Image) else open_picture(p) for p in pictures])
        limits = Limits(**self.limits)
        told = tags or [detected_tags(r, limits.tags_as_text) for r in regions]
        rows = [(str(i), [t.lower() for t in told[i]], r) for i, r in enumerate(regions)]
        return ContextCollator(self.tokenizer, limits)(rows)

    def batch_decode(self, ids: torch.Tensor | Sequence[Sequence[int]], **ignored) -> list[str]:
        """int [B, L] as `generate` gives it -> captions."""
        rows = ids.tolist() if isinstance(ids, torch.Tensor) else ids
        return [decode_caption(self.tokenizer, row) for row in rows]


def _limits(path: Path) -> dict[str, int | str | bool]:
    """What `save_pretrained` wrote of them."""
    try:
        return asdict(Limits(**json.loads(path.read_text(encoding="utf-8"))["limits"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: holds no limits of a processor of vivo ({error}); save it again") from error


AutoProcessor.register(VivoConfig, VivoProcessor)
