"""Streaming readers of the official Open Images CSV and JSON files, and tag examples from them.

    class descriptions   LabelName,DisplayName          e.g. /m/01g317,Person   (header or none; the official file
                                                         has a third column: empty or the name again)
    image labels         ImageID,Source,LabelName,Confidence   1 verified present, 0 verified absent
    boxes                ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,...   normalised to 0..1
    hierarchy            {"LabelName", "Subcategory": [...], "Part": [...]} nested

Every reader holds one row (one picture) at a time, whatever the size of the file; rows are counted
as lines of the file, the header being row 1, so that `sed -n 17p` shows what an error is about.
"""

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from vivo.data.types import TagExample
from vivo.errors import UserError


class ImageLabel(NamedTuple):
    """One human statement about one picture: class `mid` is present (True) or absent (False)."""

    image_id: str
    mid: str
    present: bool
    row: int


class Box(NamedTuple):
    """One box: x1 y1 x2 y2 as shares 0..1 of the picture's width and height."""

    image_id: str
    mid: str
    x1: float
    y1: float
    x2: float
    y2: float
    is_group: bool
    row: int


def read_class_descriptions(path: str | Path) -> dict[str, str]:
    """Class id -> display name, as written in the file.

    Raises:
        UserError: naming file and row: fewer than two columns, other text in the third (an unquoted comma
            in the name), an empty name, one id with two names, no class at all.
    """
    names: dict[str, str] = {}
    for number, cells in _rows(Path(path)):
        if number == 1 and cells[0].lower() in ("labelname", "label", "mid"):
            continue
        where = f"{path}, row {number}"
        if len(cells) < 2 or not cells[0] or not cells[1].strip():
            raise UserError(f"{where}: expected `class id,name`, found {','.join(cells)!r}")
        if any(tag_name(cell) not in ("", tag_name(cells[1])) for cell in cells[2:]):
            raise UserError(f"{where}: text after the name {cells[1]!r}; a name with a comma in it must be quoted")
        if names.setdefault(cells[0], cells[1].strip()) != cells[1].strip():
            raise UserError(f"{where}: {cells[0]} is {names[cells[0]]!r} above and {cells[1].strip()!r} here; keep one")
    if not names:
        raise UserError(f"{path}: the file names no class; download the class descriptions again")
    return names


def read_image_labels(path: str | Path) -> Iterator[ImageLabel]:
    """The human-verified image labels in the order of the file, present and absent ones.

    Raises:
        UserError: naming file and row: a column missing, a Confidence that is neither 0 nor 1.
    """
    path = Path(path)
    rows, (image_id, mid, confidence) = _table(path, ("ImageID", "LabelName", "Confidence"))
    present_of = {"1": True, "0": False, "1.0": True, "0.0": False}
    for number, cells in rows:
        present = present_of.get(cells[confidence])
        if present is None:
            raise UserError(
                f"{path}, row {number}: Confidence {cells[confidence]!r} is neither 1 (present) nor 0 (absent);"
                " take the human-verified labels (…-human-imagelabels.csv), not the machine-generated ones"
            )
        yield ImageLabel(cells[image_id], cells[mid], present, number)


def read_boxes(path: str | Path) -> Iterator[Box]:
    """The boxes in the order of the file; mind that its columns are XMin,XMax,YMin,YMax.

    Raises:
        UserError: naming file and row: a column missing, not a number, outside 0..1, min above max.
    """
    path = Path(path)
    rows, columns = _table(path, ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"), optional=("IsGroupOf",))
    image_id, mid, *sides, group = columns
    for number, cells in rows:
        try:
            x1, x2, y1, y2 = (float(cells[side]) for side in sides)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: a side of the box is not a number ({error})") from error
        if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
            raise UserError(
                f"{path}, row {number}: XMin {x1:g} XMax {x2:g} YMin {y1:g} YMax {y2:g} is not a box within 0..1;"
                " are the columns in the order XMin,XMax,YMin,YMax and normalised?"
            )
        is_group = group is not None and cells[group] == "1"
        yield Box(cells[image_id], cells[mid], x1, y1, x2, y2, is_group, number)


def read_hierarchy(path: str | Path) -> dict[str, list[str]]:
    """Class id -> ids of its direct parents (a class may have several); the root has none.

    Only "Subcategory" (is a) counts; "Part" (a nose of a face) makes nothing a parent.

    Raises:
        UserError: missing file, not JSON, a node without LabelName.
    """
    try:
        root = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the class hierarchy JSON") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download the class hierarchy again") from error
    parents: dict[str, list[str]] = {}
    todo: list[tuple[object, str | None]] = [(root, None)]
    while todo:
        node, parent = todo.pop()
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            raise UserError(
                f"{path}: a node under {parent or 'the root'} has no LabelName; is this the hierarchy JSON?"
            )
        known = parents.setdefault(node["LabelName"], [])
        if parent is not None and parent not in known:
            known.append(parent)
        # Parts are walked for the classes below them, but do not hang on this node.
        todo += [(child, node["LabelName"]) for child in reversed(node.get("Subcategory", []))]
        todo += [(part, None) for part in reversed(node.get("Part", []))]
    return parents


def ancestors(mid: str, parents: dict[str, list[str]]) -> set[str]:
    """All classes above `mid`, without itself; safe against circles."""
    found: set[str] = set()
    todo = list(parents.get(mid, []))
    while todo:
        parent = todo.pop()
        if parent not in found:
            found.add(parent)
            todo += parents.get(parent, [])
    return found - {mid}


def boxable_classes(path: str | Path) -> set[str]:
    """Ids of the classes that have boxes: from a boxes CSV, or from class-descriptions-boxable.csv."""
    first = next(_rows(Path(path)), (1, []))[1]
    if "XMin" in first:
        return {box.mid for box in read_boxes(path)}
    return set(read_class_descriptions(path))


def tag_name(display_name: str) -> str:
    """A class name as a tag: lower case, single spaces; captions and detectors here write them so too."""
    return " ".join(display_name.lower().split())


def tag_examples(
    labels_csv: str | Path,
    descriptions_csv: str | Path,
    classes: Collection[str] | None = None,
    keep_empty: bool = False,
) -> Iterator[TagExample]:
    """One example per picture: the names of its verified-present classes, without repetition, in file order.

    Memory: one picture, plus 8 bytes and a set entry for each picture seen, to notice rows of one picture
    that are not neighbours (they are in the official files).

    Args:
        labels_csv: the human-verified image labels.
        descriptions_csv: the class descriptions.
        classes: class ids that may become tags (the vocabulary); None = all that are described.
        keep_empty: also yield pictures without any tag (only verified-absent labels, or none of `classes`).

    Raises:
        UserError: naming file and row: a class id without description, rows of a picture that are not
            neighbours, and what `read_image_labels` and `read_class_descriptions` raise.
    """
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(descriptions_csv).items()}
    if classes is not None and not names.keys() & set(classes):
        raise UserError(f"{descriptions_csv}: describes none of the {len(classes)} chosen classes; do the files match?")
    chosen = None if classes is None else frozenset(classes)
    seen: set[int] = set()  # hashes: a tenth of the memory of the ids
    current: str | None = None
    tags: dict[str, None] = {}
    for label in read_image_labels(labels_csv):
        if label.image_id != current:
            if current is not None and (tags or keep_empty):
                yield TagExample(current, list(tags))
            key = hash(label.image_id)
            if key in seen:
                raise UserError(
                    f"{labels_csv}, row {label.row}: picture {label.image_id} came up before with other pictures in"
                    " between; sort the file by ImageID (keep its header first)"
                )
            seen.add(key)
            current, tags = label.image_id, {}
        name = names.get(label.mid)
        if name is None:
            raise UserError(
                f"{labels_csv}, row {label.row}: unknown class id {label.mid!r}; {descriptions_csv} does not describe"
                " it: take the class descriptions of the same Open Images version"
            )
        if label.present and (chosen is None or label.mid in chosen):
            tags[name] = None
    if current is not None and (tags or keep_empty):
        yield TagExample(current, list(tags))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line of a CSV file that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
            except csv.Error as error:
                raise UserError(f"{path}, row {reader.line_num}: not CSV ({error}); is the file whole?") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); is it unpacked?") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _table(
    path: Path, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[Iterator[tuple[int, list[str]]], list[int | None]]:
    """The rows below the header and the places of the named columns; rows of another width are errors."""
    rows = _rows(path)
    header = next(rows, (1, []))[1]
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(
            f"{path}, row 1: no column {', '.join(missing)}; the header must name {', '.join(names)}, found"
            f" {','.join(header)[:120]!r}"
        )

    def checked() -> Iterator[tuple[int, list[str]]]:
        width = len(header)
        number = 1
        for number, cells in rows:
            if len(cells) != width:
                raise UserError(
                    f"{path}, row {number}: {len(cells)} columns, the header has {width}; was the file truncated?"
                )
            yield number, cells
        if number == 1:
            raise UserError(f"{path}: no rows below the header; download the file again")

    return checked(), [header.index(name) if name in header else None for name in (*names, *optional)]
