"""What is in a source of pictures and captions, and what a model will make of it: `vivo data check`.

Everything is measured with the code that training uses: its tokenizer, its limits, its masks. A problem (a row
that cannot be read, an id twice, a picture that is missing or broken, a box outside its picture) makes the
data unusable as it is; a remark (twins, repeated or cut captions, unknown pieces) is for a person to judge.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerFast

from vivo.data.collate import Limits
from vivo.data.content import Opener, content_hash, each_picture, open_own
from vivo.data.own import OwnData, OwnPicture
from vivo.data.text import TagPieces
from vivo.errors import UserError


@dataclass(frozen=True)
class Lengths:
    """One distribution: numbers, and the longest that the model takes (None: no limit)."""

    name: str
    values: np.ndarray
    limit: int | None = None

    @property
    def over(self) -> int:
        """How many are beyond the limit and will be cut."""
        return 0 if self.limit is None else int((self.values > self.limit).sum())


@dataclass
class DataReport:
    """What `check_data` found.

    Attributes:
        counts: "pictures", "captions", "tags", ... -> number.
        lengths: one row each.
        unknown: text that gives [UNK] pieces -> how often.
        repeated: captions that occur more than once -> how often; within one picture in `repeated_within`.
        twins: groups of ids of pictures with the same content.
        problems: what makes the data unusable, one line each.
        pictures_read: whether the files were opened.
    """

    counts: dict[str, int]
    lengths: list[Lengths]
    unknown: Counter[str]
    repeated: Counter[str]
    repeated_within: int
    problems: list[str]
    twins: list[list[str]] = field(default_factory=list)
    pictures_read: bool = False


def check_data(
    data: OwnData,
    tokenizer: PreTrainedTokenizerFast,
    limits: Limits,
    open_picture: Opener | None = None,
    workers: int = 2,
) -> DataReport:
    """Count, measure and look for what is wrong.

    Args:
        limits: of the model that will read the data.
        open_picture: `vivo.detectors.pictures.open_picture`; None: the files are not opened.
    """
    pictures = data.pictures
    captions = [caption for picture in pictures for caption in picture.captions]
    tags = [tag for picture in pictures for tag in picture.tags]
    counts = {
        "pictures": len(pictures),
        "with captions": sum(bool(picture.captions) for picture in pictures),
        "with tags": sum(bool(picture.tags) for picture in pictures),
        "captions": len(captions),
        "tags": len(tags),
        "different tags": len({tag.lower() for tag in tags}),
        "boxes": sum(len(picture.boxes) for picture in pictures),
    }
    pieces = [
        ids
        for start in range(0, len(captions), 1000)
        for ids in tokenizer([text.lower() for text in captions[start : start + 1000]], add_special_tokens=False)[
            "input_ids"
        ]
    ]
    of_tag = TagPieces(tokenizer)
    tag_pieces = [sum(len(of_tag(tag)) for tag in picture.tags) for picture in pictures if picture.tags]
    lengths = [
        Lengths("captions a picture", np.array([len(p.captions) for p in pictures if p.captions])),
        Lengths("words a caption", np.array([len(caption.split()) for caption in captions])),
        # [CLS] and [SEP] stand around them
        Lengths("word pieces a caption", np.array([len(ids) for ids in pieces]), limits.max_caption_tokens - 2),
        Lengths("tags a picture", np.array([len(p.tags) for p in pictures if p.tags])),
        Lengths("tag pieces a picture", np.array(tag_pieces), limits.max_tag_tokens),
    ]
    unk = tokenizer.unk_token_id
    unknown = Counter(
        word
        for text, ids in zip([*captions, *tags], [*pieces, *map(of_tag, tags)], strict=True)
        if unk in ids
        for word in _words(tokenizer, text)
        if unk in tokenizer(word, add_special_tokens=False)["input_ids"]
    )
    repeated = Counter({text: n for text, n in Counter(caption.lower() for caption in captions).items() if n > 1})
    within = sum(len(p.captions) - len({caption.lower() for caption in p.captions}) for p in pictures)
    report = DataReport(counts, lengths, unknown, repeated, within, list(data.problems))
    if open_picture is not None:
        _check_pictures(pictures, report, open_picture, workers)
    return report


def _words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text.lower())
    return [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def _check_pictures(pictures: Sequence[OwnPicture], report: DataReport, open_picture: Opener, workers: int) -> None:
    """Open every picture: missing and broken files, boxes outside, equal contents."""

    def look(picture: OwnPicture) -> tuple[str, list[str]]:
        return _look(picture, open_picture)

    contents: dict[str, list[str]] = {}
    for picture, (digest, problems) in zip(pictures, each_picture(look, pictures, workers), strict=True):
        report.problems += problems
        if digest:
            contents.setdefault(digest, []).append(picture.image_id)
    report.twins = [ids for ids in contents.values() if len(ids) > 1]
    report.pictures_read = True


def _look(picture: OwnPicture, open_picture: Opener) -> tuple[str, list[str]]:
    """(content hash or "", problems) of one picture."""
    try:
        image = open_own(picture, open_picture)
    except UserError as error:
        return "", [str(error)]
    problems = [
        f"{picture.where}: box {box.box} of {box.label!r} ends outside its picture of {image.width} x {image.height}"
        " pixels; boxes are x1 y1 x2 y2 in pixels"
        for box in picture.boxes
        if box.box[2] > image.width + 1 or box.box[3] > image.height + 1  # tools round
    ]
    return content_hash(image), problems
