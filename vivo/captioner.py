"""The five-line path from a picture to a caption.

    from vivo.captioner import Captioner
    captioner = Captioner.from_pretrained("runs/demo/vivo")
    for caption in captioner("photo.jpg"):
        print(caption.text, caption.score, caption.tags)

With `constraints=ClassWords()` captions must name what the detector saw (docs/decoding.md).

For many pictures, `captioner.caption_folder("photos")` gives one result after the other; neither the pictures nor the
results are in memory together, and a broken picture is a result that says so.

A captioner folder holds model, tokenizer and detector, so features can come from no other detector
than the one that the model was trained on. (Show and Tell looks at pixels itself, and needs no detector.)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vivo.captioners import captioner_class, load_captioner
from vivo.captioning import CaptioningModel
from vivo.config import DecodeConfig
from vivo.constrained_prediction import ConstrainedCaptions
from vivo.data.class_forms import ClassWords
from vivo.data.collate import detected_tags, to_device
from vivo.data.regions import fingerprint_of
from vivo.data.text import decode_caption, load_tokenizer
from vivo.data.types import Regions
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.extract import find_pictures
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.model_card import FILE as CARD
from vivo.model_card import CardFacts, relicensed, write_card
from vivo.prediction import caption_batch
from vivo.self_tagging import SelfTagger
from vivo.training.checkpoint import save_model


@dataclass(frozen=True)
class Caption:
    """A caption, its score (mean log-probability per token), and the tags and regions it was written from.

    Attributes:
        trace: of the best caption under constraints: which constraint put which word there
            (`vivo.constrained_prediction.ConstrainedCaptions.traces`).
    """

    text: str
    score: float
    tags: list[str]
    regions: Regions
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class CaptionedFile:
    """One picture of many: its captions, best first; or, of a picture that could not be read, why not."""

    path: Path
    captions: list[Caption] = field(default_factory=list)
    problem: str = ""


class Captioner:
    """Model + tokenizer + detector, and the tagger of a model that was fine-tuned on tags it wrote itself.

    Args:
        detector: None for a model that reads pixels.
    """

    def __init__(
        self,
        model: CaptioningModel,
        tokenizer: PreTrainedTokenizerFast,
        detector: Detector | None = None,
        tagger: SelfTagger | None = None,
    ):
        self.model, self.tokenizer, self.tagger = model.eval(), tokenizer, tagger
        self.detector = model.reader() if model.reads_pixels else detector
        self._collator = model.collator(tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | None = None) -> "Captioner":
        """Load a captioner folder (see `save_pretrained`); nothing is downloaded."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json; --checkpoint takes a captioner folder such as runs/demo/vivo")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        pixels = captioner_class(folder).reads_pixels
        if not pixels and not (folder / "detector").is_dir():
            raise UserError(f"{folder}: no detector/ in it; it takes regions, not pictures (use eval/predict.py)")
        model = load_captioner(folder).to(device)
        model.check_can_caption(str(folder))
        if pixels:
            return cls(model, load_tokenizer(folder))
        detector = load_detector(str(folder / "detector"))
        found = fingerprint_of(detector.fingerprint())
        if not model.config.region_fingerprint:
            raise UserError(
                f"{folder}: nothing says which detector's features the model knows; import it again with --regions"
            )
        if found != model.config.region_fingerprint:
            raise UserError(
                f"{folder}: the model knows features {model.config.region_fingerprint}, its detector/ makes {found}; "
                "put back the detector it was trained with"
            )
        own = folder / "tagger"
        tagger = SelfTagger.from_pretrained(own, device) if own.is_dir() else None
        return cls(model, load_tokenizer(folder), detector, tagger)

    def save_pretrained(self, folder: str | Path, license: str = "", language: str = "en") -> None:
        """Weights (safetensors), configuration, tokenizer, a model card, and the detector in `detector/`.

        The card is that of the folder that the model came from, where there is one.

        Args:
            license: of the weights, an SPDX id as "cc-by-sa-4.0"; "": what that card says, else "other".
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        card = Path(self.model.name_or_path or ".") / CARD
        known = card.read_text(encoding="utf-8") if self.model.name_or_path and card.is_file() else ""
        save_model(folder, self.model, self.tokenizer)
        if not self.model.reads_pixels:
            self.detector.save_pretrained(folder / "detector")
        if self.tagger is not None:
            self.tagger.save_pretrained(folder / "tagger")
        if known:
            known = relicensed(known, license, language) if license else known
            (folder / CARD).write_text(known, encoding="utf-8")
        else:
            write_card(folder, self.model.config, CardFacts(license=license or "other", language=language))

    def __call__(
        self,
        picture: str | Path | Image.Image,
        beam: int = 1,
        max_tokens: int = 20,
        constraints: ClassWords | None = None,
    ) -> list[Caption]:
        """Captions of one picture, best first.

        Args:
            beam: 1 gives one caption, greedily; else there are as many as the beam is wide.
            max_tokens: longest caption, in word pieces.
            constraints: captions must name what the detector saw, by these words (`ClassWords()`: by rule;
                `vivo.data.class_forms.read_class_words` reads them); all that do are given. Best with a `beam` of 5.
        """
        return self.caption_many([picture], beam, max_tokens, constraints)[0]

    def caption_folder(
        self,
        folder: str | Path,
        beam: int = 1,
        max_tokens: int = 20,
        batch_size: int = 16,
        constraints: ClassWords | None = None,
    ) -> Iterator[CaptionedFile]:
        """Captions of all picture files under a folder, also in its subfolders, in the order of their paths."""
        return self.caption_files(find_pictures(folder), beam, max_tokens, batch_size, constraints)

    def caption_files(
        self,
        paths: Iterable[str | Path],
        beam: int = 1,
        max_tokens: int = 20,
        batch_size: int = 16,
        constraints: ClassWords | None = None,
    ) -> Iterator[CaptionedFile]:
        """Captions of any number of picture files, in their order, `batch_size` at a time.

        A picture that cannot be read is a result with a `problem`; the others are captioned all the same.
        """
        rest = iter(paths)
        while part := [Path(path) for path in islice(rest, batch_size)]:
            images: list[Image.Image] = []
            problems = dict.fromkeys(range(len(part)), "")
            for place, path in enumerate(part):
                try:
                    images.append(open_picture(path))
                except UserError as error:
                    problems[place] = str(error)
            found = iter(self.caption_many(images, beam, max_tokens, constraints) if images else [])
            for place, path in enumerate(part):
                yield CaptionedFile(path, [], problems[place]) if problems[place] else CaptionedFile(path, next(found))

    def caption_many(
        self,
        pictures: Sequence[str | Path | Image.Image],
        beam: int = 1,
        max_tokens: int = 20,
        constraints: ClassWords | None = None,
    ) -> list[list[Caption]]:
        """Captions of each picture of one batch."""
        images = [p if isinstance(p, Image.Image) else open_picture(p) for p in pictures]
        regions = self.detector.detect(images)
        if self.tagger is None:
            tags = [detected_tags(r, self.model.config.tags_as_text) for r in regions]
        else:
            tags = [[name for name, _ in found] for found in self.tagger.tags(regions)]
        names = [str(i) for i in range(len(images))]
        examples = [(names[i], [t.lower() for t in tags[i]], regions[i]) for i in range(len(images))]
        batch = to_device(self._collator(examples), self.model.device)
        decode = DecodeConfig(beam=beam, max_tokens=max_tokens)
        traces: dict[str, dict[str, Any]] = {}
        if constraints is None:
            found = caption_batch(self.model, batch, decode)
        else:
            search = ConstrainedCaptions(self.tokenizer, lambda name: regions[int(name)], constraints, decode)
            found, traces = search(self.model, batch, names), search.traces
        return [
            [
                Caption(
                    decode_caption(self.tokenizer, one.tokens),
                    one.score,
                    tags[i],
                    regions[i],
                    traces.get(name) if one is found[i][0] else None,
                )
                for one in found[i]
            ]
            for i, name in enumerate(names)
        ]
