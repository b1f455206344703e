"""The files of a novel-object benchmark: written whole, read again, checked for leaks.

tags.jsonl                     image-tag pairs (pre-training)
captions.jsonl                 captions without held-out words (fine-tuning); no tags in it
captions_val.json              the same for validation while training, COCO format (if any)
nocaps_val_captions.json       evaluation, with domains, in nocaps' format
nocaps_val_image_info.json     the same pictures without their captions, for prediction
classes.json                   objects with word forms; role "novel" is held out
vocabulary.txt                 word pieces for the models (`model.vocabulary`), if the text model's are cut
training_pictures.tsv          id<TAB>path, for pretrain/extract_regions.py --list: one store each
evaluation_pictures.tsv
pictures.jsonl                 {"image_id", "file_name", "sha256", "sets"} of every picture
split.json                     options, sources, counts
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivo.data.coco import read_captions
from vivo.data.examples import read_caption_examples, read_tag_examples, write_caption_examples, write_tag_examples
from vivo.data.nocaps import WorldClass, read_classes, read_nocaps, read_pictures
from vivo.data.novel_split import NovelSplit, check_no_leak
from vivo.data.own import OwnPicture
from vivo.data.types import CaptionExample, TagExample
from vivo.data.vocabulary import write_pieces
from vivo.errors import UserError
from vivo.files import atomic_folder, atomic_write_json, atomic_write_text

NEEDED = (
    "pictures.jsonl",
    "tags.jsonl",
    "captions.jsonl",
    "classes.json",
    "nocaps_val_captions.json",
    "nocaps_val_image_info.json",  # without it prediction would take its pictures from the file with the captions
    "split.json",
)
FILES = (
    *NEEDED,
    "captions_val.json",
    "vocabulary.txt",
    "training_pictures.tsv",
    "evaluation_pictures.tsv",
)
"""All that is written."""
_DESCRIPTION = "from {source}, written by vivo"


@dataclass(frozen=True)
class NovelBenchmark:
    """What is written: pictures and, in the same order, their tags in pre-training and content hashes."""

    source: str
    pictures: Sequence[OwnPicture]
    tags: Sequence[Sequence[str]]
    hashes: Sequence[str]
    classes: Sequence[WorldClass]
    split: NovelSplit
    record: dict[str, Any]  # what split.json says
    pieces: Sequence[str] = ()


def write_novel_benchmark(benchmark: NovelBenchmark, out: str | Path) -> None:
    """Write all files to a folder, check them as `check_novel_benchmark` does, and only then put it in place.

    Raises:
        UserError: a leak, a folder that cannot be written.
    """
    split, pictures = benchmark.split, benchmark.pictures
    with atomic_folder(out) as folder:
        write_tag_examples(
            (TagExample(pictures[i].image_id, list(benchmark.tags[i])) for i in split.pairs), folder / "tags.jsonl"
        )
        write_caption_examples(
            (CaptionExample(pictures[i].image_id, pictures[i].file, pictures[i].captions) for i in split.finetuning),
            folder / "captions.jsonl",
        )
        if len(split.validation):
            write_coco_captions(folder / "captions_val.json", benchmark.source, [pictures[i] for i in split.validation])
        evaluation = [pictures[i] for i in split.evaluation]
        write_coco_captions(folder / "nocaps_val_captions.json", benchmark.source, evaluation, split.domains)
        info = _coco(benchmark.source, evaluation, split.domains)
        atomic_write_json(folder / "nocaps_val_image_info.json", info | {"annotations": []})
        atomic_write_json(folder / "classes.json", [asdict(entry) for entry in benchmark.classes])
        if benchmark.pieces:
            write_pieces(benchmark.pieces, folder / "vocabulary.txt")
        _write_lists(folder, benchmark)
        atomic_write_json(folder / "split.json", benchmark.record)
        check_novel_benchmark(folder)


def check_novel_benchmark(folder: str | Path) -> None:
    """Read a benchmark as the programs read it and check that nothing of the evaluation is in training.

    Raises:
        UserError: see `vivo.data.novel_split.check_no_leak`, what the readers raise, and where the pictures to caption
            are not those whose captions are there.
    """
    folder = Path(folder)
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: is missing; make the split again (finetune/prepare_novel_split.py)")
    hashes = read_hashes(folder / "pictures.jsonl")
    training = list(read_caption_examples(folder / "captions.jsonl"))
    if (folder / "captions_val.json").is_file():
        training += read_captions(folder / "captions_val.json")
    pair_ids = [example.image_id for example in read_tag_examples(folder / "tags.jsonl")]
    novel = [entry for entry in read_classes(folder / "classes.json") if entry.role == "novel"]
    evaluation = read_nocaps(folder / "nocaps_val_captions.json")
    listed = [example.image_id for example in read_pictures(folder / "nocaps_val_captions.json")]
    if listed != [example.image_id for example in evaluation]:
        raise UserError(
            f"{folder}: nocaps_val_image_info.json and nocaps_val_captions.json list different pictures; make the split"
            " again"
        )
    try:
        check_no_leak(training, pair_ids, evaluation, novel, hashes)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def read_hashes(path: str | Path) -> dict[str, str]:
    """Content hash of each picture, by id, from a pictures.jsonl.

    Raises:
        UserError: the file cannot be read; a row that is damaged.
    """
    hashes = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the split again") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            hashes[str(entry["image_id"])] = str(entry["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, row {number}: damaged; make the split again") from error
    return hashes


def _write_lists(folder: Path, benchmark: NovelBenchmark) -> None:
    split, pictures = benchmark.split, benchmark.pictures
    sets: list[list[str]] = [[] for _ in pictures]
    for name in ("pairs", "finetuning", "validation", "evaluation"):
        for place in getattr(split, name):
            sets[place].append(name)
    rows = [
        {"image_id": picture.image_id, "file_name": picture.file, "sha256": digest, "sets": where}
        for picture, digest, where in zip(pictures, benchmark.hashes, sets, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    atomic_write_text(folder / "pictures.jsonl", "".join(lines))
    for name, wanted in (("training", True), ("evaluation", False)):
        chosen = [p for p, where in zip(pictures, sets, strict=True) if where and ("evaluation" not in where) == wanted]
        atomic_write_text(folder / f"{name}_pictures.tsv", picture_list(chosen))


def picture_list(pictures: Sequence[OwnPicture]) -> str:
    """The pictures as `pretrain/extract_regions.py --list` reads them: id<TAB>path a line."""
    return "".join(f"{picture.image_id}\t{picture.file}\n" for picture in pictures)


def write_coco_captions(path: Path, source: str, pictures: Sequence[OwnPicture], domains: Sequence[str] = ()) -> None:
    """Pictures with their captions in COCO's format; with `domains` (one a picture) in nocaps'."""
    texts = [(picture, caption) for picture in pictures for caption in picture.captions]
    annotations = [
        {"image_id": _json_id(picture.image_id), "id": number, "caption": caption}
        for number, (picture, caption) in enumerate(texts)
    ]
    atomic_write_json(path, _coco(source, pictures, domains) | {"annotations": annotations})


def _coco(source: str, pictures: Sequence[OwnPicture], domains: Sequence[str]) -> dict[str, Any]:
    images = [{"id": _json_id(picture.image_id), "file_name": picture.file} for picture in pictures]
    for image, domain in zip(images, domains, strict=False):  # validation has none
        image["domain"] = domain
    return {"info": {"description": _DESCRIPTION.format(source=Path(source).name)}, "licenses": [], "images": images}


def _json_id(image_id: str) -> int | str:
    """COCO's ids are numbers; other ids stay text."""
    return int(image_id) if image_id.isascii() and image_id.isdigit() and str(int(image_id)) == image_id else image_id
