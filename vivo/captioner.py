"""The five-line path from a picture to a caption.

    from vivo.captioner import Captioner
    captioner = Captioner.from_pretrained("runs/demo/vivo")
    for caption in captioner("photo.jpg"):
        print(caption.text, caption.score, caption.tags)

With `constraints=ClassWords()` captions must name what the detector saw; what else a search can do stands in
`decode=DecodeConfig(...)` (docs/decoding.md).

For many pictures, `captioner.caption_folder("photos")` gives one result after the other; neither the pictures nor the
results are in memory together, and a broken picture is a result that says so.

A captioner folder holds model, tokenizer and detector, so features can come from no other detector
than the one that the model was trained on. (Show and Tell looks at pixels itself, and needs no detector.)
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from vivo.captioners import load_captioner
from vivo.captioning import CaptioningModel
from vivo.config import DecodeConfig, checked_decode
from vivo.constrained_prediction import ConstrainedCaptions
from vivo.data.class_forms import ClassWords, read_class_words
from vivo.data.collate import detected_tags, to_device
from vivo.data.regions import fingerprint_of
from vivo.data.text import decode_caption, load_tokenizer
from vivo.data.types import Regions
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.extract import find_pictures
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.files import writable_folder
from vivo.model_card import FILE as CARD
from vivo.model_card import CardFacts, relicensed, write_card
from vivo.n_best import pieces_of
from vivo.prediction import caption_batch
from vivo.self_tagging import SelfTagger
from vivo.training.checkpoint import save_model


@dataclass(frozen=True)
class Caption:
    """A caption, its score (mean log-probability per token), and the tags and regions it was written from.

    Attributes:
        pieces, token_log_probabilities: its word pieces and the log-probability of each; [SEP] is the last piece of a
            caption that did not end because of its length.
        trace: of the best caption under constraints: which constraint put which word there
            (`vivo.constrained_prediction.ConstrainedCaptions.traces`).
    """

    text: str
    score: float
    tags: list[str]
    regions: Regions
    trace: dict[str, Any] | None = None
    pieces: list[str] = field(default_factory=list)
    token_log_probabilities: list[float] = field(default_factory=list)


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
    def from_pretrained(
        cls, folder: str | Path, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> "Captioner":
        """Load a captioner folder (see `save_pretrained`); nothing is downloaded.

        Args:
            dtype: of the captioning model; torch.bfloat16 is faster on most hardware, and a few captions differ.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json; --checkpoint takes a captioner folder such as runs/demo/vivo")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = load_captioner(folder).to(device, dtype)
        model.check_can_caption(str(folder))
        if model.reads_pixels:
            return cls(model, load_tokenizer(folder))
        if not (folder / "detector").is_dir():
            raise UserError(f"{folder}: no detector/ in it; it takes regions, not pictures (use eval/predict.py)")
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
        folder = writable_folder(folder)
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
        beam: int | None = None,
        max_tokens: int | None = None,
        constraints: ClassWords | None = None,
        decode: DecodeConfig | None = None,
    ) -> list[Caption]:
        """Captions of one picture, best first.

        Args:
            beam: 1 (the default) gives one caption, greedily; else there are as many as the beam is wide.
            max_tokens: longest caption, in word pieces; 20 by default.
            constraints: captions must name what the detector saw, by these words (`ClassWords()`: by rule;
                `vivo.data.class_forms.read_class_words` reads them); all that do are given. Best with a `beam` of 5.
            decode: all that a search can do (docs/decoding.md); the arguments above go before it.

        Raises:
            UserError: a value that a search cannot have.
        """
        return self.caption_many([picture], beam, max_tokens, constraints, decode)[0]

    def caption_folder(
        self,
        folder: str | Path,
        beam: int | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        constraints: ClassWords | None = None,
        decode: DecodeConfig | None = None,
    ) -> Iterator[CaptionedFile]:
        """Captions of all picture files under a folder, also in its subfolders, in the order of their paths."""
        return self.caption_files(find_pictures(folder), beam, max_tokens, batch_size, constraints, decode)

    def caption_files(
        self,
        paths: Iterable[str | Path],
        beam: int | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        constraints: ClassWords | None = None,
        decode: DecodeConfig | None = None,
    ) -> Iterator[CaptionedFile]:
        """Captions of any number of picture files, in their order, `batch_size` (16) at a time.

        A picture that cannot be read is a result with a `problem`; the others are captioned all the same.
        """
        search = self._search(beam, max_tokens, batch_size, constraints, decode or DecodeConfig(batch_size=16))
        return self._caption_files(paths, search, constraints)  # so that a wrong value is said here, not at first use

    def _caption_files(
        self, paths: Iterable[str | Path], decode: DecodeConfig, constraints: ClassWords | None
    ) -> Iterator[CaptionedFile]:
        rest = iter(paths)
        while part := [Path(path) for path in islice(rest, decode.batch_size)]:
            images: list[Image.Image] = []
            problems = dict.fromkeys(range(len(part)), "")
            for place, path in enumerate(part):
                try:
                    images.append(open_picture(path))
                except UserError as error:
                    problems[place] = str(error)
            found = iter(self.caption_many(images, constraints=constraints, decode=decode) if images else [])
            for place, path in enumerate(part):
                yield CaptionedFile(path, [], problems[place]) if problems[place] else CaptionedFile(path, next(found))

    def caption_many(
        self,
        pictures: Sequence[str | Path | Image.Image],
        beam: int | None = None,
        max_tokens: int | None = None,
        constraints: ClassWords | None = None,
        decode: DecodeConfig | None = None,
    ) -> list[list[Caption]]:
        """Captions of each picture of one batch."""
        search = self._search(beam, max_tokens, None, constraints, decode or DecodeConfig())
        if not pictures:
            return []
        images = [p if isinstance(p, Image.Image) else open_picture(p) for p in pictures]
        regions = self.detector.detect(images)
        return self.caption_regions(regions, self.tags_of(regions), search, constraints)

    def _search(
        self,
        beam: int | None,
        max_tokens: int | None,
        batch_size: int | None,
        constraints: ClassWords | None,
        decode: DecodeConfig,
    ) -> DecodeConfig:
        """`decode` with what else was given put into it, checked."""
        given = {"beam": beam, "max_tokens": max_tokens, "batch_size": batch_size}
        given["constraints"] = None if constraints is None else "detector"
        search = dataclasses.replace(decode, **{name: value for name, value in given.items() if value is not None})
        if search.constraint_regions:
            raise UserError(
                "decode.constraint_regions: is for eval/predict.py; a captioner has its own detector's regions"
            )
        if search.constraints != "none" and self.model.reads_pixels:
            raise UserError(
                "decode.constraints: this captioner has no detector, whose objects captions could have to name; leave "
                "them out, or give eval/predict.py decode.constraint_regions"
            )
        return checked_decode(search)

    def tags_of(self, regions: Sequence[Regions]) -> list[list[tuple[str, float]]]:
        """(tag, how surely it is there) of each picture, as the model is shown them; a detector's tag is as sure as
        its surest region."""
        if self.tagger is not None:
            return self.tagger.tags(regions)
        found = []
        for of_picture in regions:
            named = [(label, float(score)) for label, score in zip(of_picture.labels, of_picture.scores, strict=True)]
            surest = {label: max(s for other, s in named if other == label) for label, _ in named}
            tags = detected_tags(of_picture, self.model.config.tags_as_text)
            found.append([(label, surest[label]) for label in tags])
        return found

    def caption_regions(
        self,
        regions: Sequence[Regions],
        tags: Sequence[Sequence[tuple[str, float]]],
        search: DecodeConfig,
        constraints: ClassWords | None = None,
    ) -> list[list[Caption]]:
        """Captions of pictures of which the detector has already spoken.

        Args:
            regions: of each picture. tags: of each picture, as `tags_of` gives them.
        """
        if not regions:
            return []
        names = [str(i) for i in range(len(regions))]
        examples = [(name, [tag.lower() for tag, _ in tags[i]], regions[i]) for i, name in enumerate(names)]
        batch = to_device(self._collator(examples), self.model.device)
        traces: dict[str, dict[str, Any]] = {}
        if search.constraints == "none":
            found = caption_batch(self.model, batch, search)
        else:
            words = constraints or read_class_words(search.constraint_classes, search.constraint_hierarchy)
            constrained = ConstrainedCaptions(self.tokenizer, lambda name: regions[int(name)], words, search)
            found, traces = constrained(self.model, batch, names), constrained.traces
        return [
            [
                Caption(
                    decode_caption(self.tokenizer, one.tokens),
                    one.score,
                    [tag for tag, _ in tags[i]],
                    regions[i],
                    traces.get(name) if one is found[i][0] else None,
                    pieces_of(self.tokenizer, one),
                    one.token_log_probabilities,
                )
                for one in found[i]
            ]
            for i, name in enumerate(names)
        ]
