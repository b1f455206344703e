"""Pictures, captions and tags of your own: one record a picture, from three kinds of source.

    JSON lines (.jsonl)   {"image": "photos/1.jpg", "captions": ["a dog"], "tags": ["dog"],
                           "boxes": [{"label": "dog", "box": [x1, y1, x2, y2]}], "image_id": "1"}
    COCO (.json)          {"images": [{"id", "file_name", "tags"}], "annotations": [{"image_id", "caption"}]}
    anything else         a source of `datasets`: a Parquet file, a folder (imagefolder, save_to_disk), a hub id

Only the picture must be there. Paths are relative to the file's folder (or to one that is named), boxes are
pixels of the original picture, and a picture without "tags" has the labels of its boxes as tags. Rows of the
examples that vivo writes itself (tags.jsonl, captions.jsonl) are read too.

What is wrong with a row goes on a list, so that `vivo data check` can show all of it; `OwnData.or_raise`
stops at the first.
"""

import difflib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vivo.data.coco import picture_id, plain_id, read_caption_file, read_json
from vivo.data.types import CaptionExample, TagExample
from vivo.errors import UserError

_KEYS = ("image", "captions", "tags", "boxes", "image_id", "file_name", "domain")


@dataclass(frozen=True)
class Columns:
    """Names of the keys or columns; `None` columns may be missing from the source."""

    image: str = "image"
    captions: str = "captions"
    tags: str = "tags"
    boxes: str = "boxes"
    image_id: str = "image_id"


@dataclass(frozen=True)
class LabelledBox:
    """One box: x1 y1 x2 y2 in pixels of the original picture, and what is in it."""

    label: str
    box: tuple[float, float, float, float]


@dataclass
class OwnPicture:
    """One picture and what is known of it.

    Attributes:
        image_id: given, or the stem of the file's name.
        file: its path as the source has it, "" where the source names none.
        path: where the file should lie; None where there is no file.
        data: reads the picture's bytes where the source itself holds them, else None.
        where: the place in the source, for messages.
    """

    image_id: str
    file: str
    path: Path | None
    where: str
    captions: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    boxes: list[LabelledBox] = field(default_factory=list)
    data: Callable[[], bytes] | None = None


@dataclass
class OwnData:
    """All readable pictures of a source, and a line for each row that is not.

    Attributes:
        folder: what `OwnPicture.file` is relative to.
        problems: what, where and the fix, in the order of the source.
    """

    source: str
    folder: Path
    pictures: list[OwnPicture]
    problems: list[str]

    def or_raise(self) -> "OwnData":
        """Itself.

        Raises:
            UserError: the first problem, and how many there are.
        """
        if self.problems:
            more = f" ({len(self.problems)} problems in all: vivo data check {self.source})"
            raise UserError(self.problems[0] + (more if len(self.problems) > 1 else ""))
        return self


def read_own(
    source: str | Path,
    pictures: str | Path | None = None,
    columns: Columns = Columns(),
    split: str = "train",
    instances: str | Path | None = None,
) -> OwnData:
    """Read a source of pictures, whole.

    Args:
        source: see the module's text.
        pictures: folder that the paths are relative to; default: the folder of the file.
        columns: names of the keys (JSON lines) or columns (`datasets`).
        split: of a `datasets` source that has several.
        instances: COCO instances JSON: boxes and their class names, added by picture id.

    Raises:
        UserError: what cannot be read at all: no such file, not JSON, a column missing, no pictures; in COCO
            files also the first wrong entry.
    """
    path = Path(source)
    kind = path.suffix.lower()
    if kind in (".jsonl", ".json") and not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    folder = Path(pictures) if pictures is not None else path.parent
    if pictures is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the pictures")
    if kind == ".jsonl":
        data = _read_rows(str(source), folder, _json_rows(path), columns)
    elif kind == ".json":
        data = _read_coco(path, folder)
    else:
        from vivo.data.own_datasets import dataset_rows  # here: `datasets` takes half a second to import

        rows = dataset_rows(str(source), split, columns)
        if pictures is None and not path.is_file():
            folder = path if path.is_dir() else Path(".")
        data = _read_rows(str(source), folder, rows, columns, merge=True)
    if instances is not None:
        _add_instances(Path(instances), data.pictures)
    if not data.pictures and not data.problems:
        raise UserError(f"{source}: there are no pictures in it")
    return data


def tag_examples_of(pictures: list[OwnPicture]) -> Iterator[TagExample]:
    """The pictures that have tags, as pre-training reads them: tags in lower case, each once."""
    for picture in pictures:
        tags = list(dict.fromkeys(" ".join(tag.lower().split()) for tag in picture.tags))
        if tags:
            yield TagExample(picture.image_id, tags)


def caption_examples_of(pictures: list[OwnPicture]) -> Iterator[CaptionExample]:
    """The pictures that have captions, as fine-tuning reads them, with their given tags."""
    for picture in pictures:
        if picture.captions:
            yield CaptionExample(picture.image_id, picture.file, picture.captions, "", picture.tags)


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row or the line that is no JSON) of a JSON lines file."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    yield f"{path}, row {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    yield (
                        f"{path}, row {number}",
                        f"not JSON ({error.msg} at column {error.colno}); write one {{...}} a line",
                    )
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _read_rows(
    source: str, folder: Path, rows: Iterator[tuple[str, Any]], columns: Columns, merge: bool = False
) -> OwnData:
    """Pictures of rows, problems apart.

    Args:
        merge: rows with one caption as plain text may repeat their picture, as many `datasets` do.
    """
    found: dict[str, OwnPicture] = {}
    problems: list[str] = []
    spool = _Spool()
    for where, row in rows:
        try:
            picture = _picture_of(row, where, folder, columns, spool)
        except UserError as error:
            problems.append(str(error))
            continue
        first = found.setdefault(picture.image_id, picture)
        if first is picture:
            continue
        same = first.file == picture.file and picture.data is None
        if merge and same and isinstance(row.get(columns.captions), str):
            first.captions += picture.captions
        elif same:
            problems.append(f"{where}: picture {picture.image_id} stands in {first.where} too; make one row of them")
        else:
            name = picture.file or "the picture"
            problems.append(
                f"{where}: {name} has the id {picture.image_id!r} of {first.file} ({first.where});"
                ' give both an "image_id"'
            )
    return OwnData(source, folder, list(found.values()), problems)


class _Spool:
    """A nameless temporary file for the pictures that a table holds: they need not fit into memory."""

    def __init__(self) -> None:
        self._file = None
        self._end = 0

    def add(self, data: bytes) -> Callable[[], bytes]:
        """Keep `data` and return what reads it again; threads may."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="vivo-pictures-", buffering=0)
            self._file.write(data)
        except OSError as error:
            raise UserError(
                f"no room for temporary pictures ({error.strerror}); set TMPDIR to a larger disk"
            ) from error
        begin, self._end = self._end, self._end + len(data)
        return partial(self._read, len(data), begin)

    def _read(self, size: int, begin: int) -> bytes:
        return os.pread(self._file.fileno(), size, begin)


def _picture_of(row: Any, where: str, folder: Path, columns: Columns, spool: _Spool) -> OwnPicture:
    if isinstance(row, str):
        raise UserError(f"{where}: {row}")
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object; write one {{...}} a line")
    names = {columns.image, columns.captions, columns.tags, columns.boxes, columns.image_id}
    for key in row:
        if key not in names and key not in _KEYS:
            near = difflib.get_close_matches(key, sorted(names), 1)
            guess = f'; is "{near[0]}" meant?' if near else f" (keys are {', '.join(sorted(names))})"
            raise UserError(f'{where}: unknown key "{key}"{guess}')
    file, data = _image_of(row, where, columns)
    given = row.get(columns.image_id)
    if given is not None:
        image_id = picture_id(given, f'{where}: "{columns.image_id}"')
    elif file:
        image_id = _id_of_name(file)
    elif data is not None:
        image_id = where.rpartition(" ")[2]  # a picture inside a table, without a name: the number of its row
    else:
        raise UserError(f'{where}: no "{columns.image}"; every row names its picture')
    captions = _texts(row.get(columns.captions), columns.captions, where)
    clean = [" ".join(caption.split()) for caption in captions]
    if "" in clean:
        raise UserError(f"{where}: caption {clean.index('') + 1} is blank; remove or write it")
    boxes = _boxes(row.get(columns.boxes), where)
    tags = row.get(columns.tags)
    tags = _texts(tags, columns.tags, where) if tags is not None else list(dict.fromkeys(box.label for box in boxes))
    if not all(tag.strip() for tag in tags):
        raise UserError(f"{where}: a tag is blank; remove or write it")
    path = folder / file if file and data is None else None
    kept = spool.add(data) if data is not None else None
    return OwnPicture(image_id, file, path, where, clean, tags, boxes, kept)


def _image_of(row: dict[str, Any], where: str, columns: Columns) -> tuple[str, bytes | None]:
    """(path, bytes) of the picture: a path, or what `datasets` has for one."""
    image = row.get(columns.image, row.get("file_name"))
    if image is None or image == "":
        return "", None
    if isinstance(image, str):
        return image, None
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        return image.get("path") or "", image["bytes"]
    if isinstance(image, dict) and isinstance(image.get("path"), str):
        return image["path"], None
    raise UserError(f'{where}: "{columns.image}" must be the path of a picture, found {_shown(image)}')


def _id_of_name(file: str) -> str:
    """The id that a file name stands for: its stem, COCO's numbers without zeros (as extraction has it)."""
    stem = Path(file).stem
    return plain_id(re.sub(r"^COCO_(?:train|val|test)20\d\d_(?=[0-9]{1,12}$)", "", stem))


def _texts(value: Any, key: str, where: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f'{where}: "{key}" must be a list of texts, found {_shown(value)}')
    return value


def _boxes(value: Any, where: str) -> list[LabelledBox]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f'{where}: "boxes" must be a list, found {_shown(value)}')
    return [_box(entry, f"{where}, box {number}") for number, entry in enumerate(value, 1)]


def _box(entry: Any, where: str) -> LabelledBox:
    if not isinstance(entry, dict) or sorted(entry) != ["box", "label"] or not isinstance(entry["label"], str):
        raise UserError(f'{where}: must be {{"label": "dog", "box": [x1, y1, x2, y2]}}, found {_shown(entry)}')
    sides = entry["box"]
    numbers = isinstance(sides, list) and all(isinstance(side, int | float) for side in sides)
    if not numbers or len(sides) != 4 or not all(map(math.isfinite, sides)):
        raise UserError(f"{where}: box must be four numbers x1 y1 x2 y2, found {_shown(sides)}")
    x1, y1, x2, y2 = map(float, sides)
    if not (0 <= x1 < x2 and 0 <= y1 < y2):
        raise UserError(f"{where}: {_shown(sides)} is no box x1 y1 x2 y2 in pixels; is it x y width height?")
    return LabelledBox(entry["label"], (x1, y1, x2, y2))


def _read_coco(path: Path, folder: Path) -> OwnData:
    problems: list[str] = []
    found = []
    for number, (image_id, image, captions) in enumerate(read_caption_file(path, require_captions=False)):
        where = f"{path}, images[{number}]"
        file = image.get("file_name", "")
        try:
            tags = _texts(image.get("tags"), "tags", where)
        except UserError as error:
            problems.append(str(error))
            continue
        found.append(OwnPicture(image_id, file, folder / file if file else None, where, captions, tags))
    return OwnData(str(path), folder, found, problems)


def _add_instances(path: Path, pictures: list[OwnPicture]) -> None:
    """Boxes and class names of a COCO instances file, to the pictures of the same id; others are left out."""
    content = read_json(path)
    keys = ("categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise UserError(f'{path}: no lists "categories" and "annotations"; is it a COCO instances file?')
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    except (KeyError, TypeError) as error:
        raise UserError(f'{path}: a category without "id" or "name"; is it a COCO instances file?') from error
    by_id = {picture.image_id: picture for picture in pictures}
    matched = False
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}, annotations[{number}]"
        category = entry.get("category_id") if isinstance(entry, dict) else None
        if not isinstance(category, int | str) or category not in names:
            raise UserError(f'{where}: no category_id that "categories" lists; is it a COCO instances file?')
        picture = by_id.get(picture_id(entry.get("image_id"), f"{where}.image_id"))
        if picture is None:
            continue
        matched = True
        sides = entry.get("bbox")
        if not isinstance(sides, list) or len(sides) != 4 or not all(isinstance(side, int | float) for side in sides):
            raise UserError(f"{where}: bbox must be x y width height, found {_shown(sides)}")
        x, y, width, height = map(float, sides)
        label = names[category]
        picture.boxes.append(LabelledBox(label, (x, y, x + width, y + height)))
        if label not in picture.tags:
            picture.tags.append(label)
    if not matched:
        raise UserError(f"{path}: has boxes of none of the {len(pictures)} pictures; is it of another split?")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
