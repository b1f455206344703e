"""Streaming readers of the official Open Images CSV files, and tag examples from them.

    class descriptions   LabelName,DisplayName          e.g. /m/01g317,Person   (header or none; the official file
                                                         has a third column: empty or the name again)
    image labels         ImageID,Source,LabelName,Confidence   1 verified present, 0 verified absent
    boxes                ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,...   normalised to 0..1

The files of the Open Images Challenge have fewer columns (no Source) and are read as well. Every reader holds one
row at a time, whatever the size of the file; how rows are counted is written in `vivo.data.csv_table`.
"""

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vivo.data.csv_table import CsvRows, CsvTable, Watch
from vivo.data.picture_groups import PictureGroups
from vivo.data.tag_rules import TagChooser, TagRules, tag_name
from vivo.data.types import TagExample
from vivo.errors import UserError


class Box(NamedTuple):
    """One box: x1 y1 x2 y2 as shares 0..1 of the picture's width and height."""

    image_id: str
    mid: str
    x1: float
    y1: float
    x2: float
    y2: float
    is_group: bool


@dataclass(frozen=True)
class LabelRows:
    """Which rows of the label files count.

    Attributes:
        least: Confidence from which a label counts as present. 1 (default): what people verified; any other value
            than 0 and 1 is then an error. Below 1 also machine-generated labels (they have shares such as 0.7).
        sources: values of the column Source that count, as "verification" and "crowdsource-verification";
            None: all. Box files are not asked.
        pictures: ids of the only pictures wanted; None: all.
        most: rows that are read of each file, for a look; None: all.
    """

    least: float = 1.0
    sources: Collection[str] | None = None
    pictures: Collection[str] | None = None
    most: int | None = None


def read_class_descriptions(path: str | Path) -> dict[str, str]:
    """Class id -> display name, as written in the file.

    Raises:
        UserError: naming file and row: fewer than two columns, other text in the third (an unquoted comma
            in the name), an empty name, one id with two names, no class at all.
    """
    names: dict[str, str] = {}
    rows = CsvRows(path)
    for cells in rows:
        if rows.row == 1 and cells[0].lower() in ("labelname", "label", "mid"):
            continue
        where = f"{path}, row {rows.row}"
        if len(cells) < 2 or not cells[0] or not cells[1].strip():
            raise UserError(f"{where}: expected `class id,name`, found {','.join(cells)!r}")
        if any(tag_name(cell) not in ("", tag_name(cells[1])) for cell in cells[2:]):
            raise UserError(f"{where}: text after the name {cells[1]!r}; a name with a comma in it must be quoted")
        if names.setdefault(cells[0], cells[1].strip()) != cells[1].strip():
            raise UserError(f"{where}: {cells[0]} is {names[cells[0]]!r} above and {cells[1].strip()!r} here; keep one")
    if not names:
        raise UserError(f"{path}: the file names no class; download the class descriptions again")
    return names


def image_label_table(path: str | Path) -> CsvTable:
    """An image label file, open for `read_image_labels`."""
    return CsvTable(path, ("ImageID", "LabelName", "Confidence"), optional=("Source",))


def read_image_labels(
    table: CsvTable, least: float = 1.0, sources: Collection[str] | None = None, watch: Watch | None = None
) -> Iterator[tuple[str, str, bool]]:
    """(picture id, class id, present or absent) of the image labels in the order of the file.

    `table.where()` says where the last one stands. Machine labels (see `LabelRows.least`) that are less sure than
    `least` say nothing and are passed over.

    Raises:
        UserError: naming file and row: a column missing, a Confidence that is neither 0 nor 1 (with `least`
            below 1: outside 0..1), an empty id; also if no row has one of the `sources`.
    """
    path = table.rows.path
    image_id, mid, confidence, source = table.columns
    if sources is not None and source is None:
        raise UserError(f"{path}, row 1: no column Source, so labels cannot be chosen by it; leave that option out")
    present_of: dict[str, bool | None] = {}
    other_sources, chosen = set(), False
    for cells in table.watched(watch):
        if sources is not None:
            if cells[source] not in sources:
                other_sources.add(cells[source])
                continue
            chosen = True
        text = cells[confidence]
        try:
            present = present_of[text]
        except KeyError:
            present = present_of[text] = _presence(text, least, table)
        if present is None:
            continue
        if not cells[image_id]:
            raise UserError(f"{table.where()}: the ImageID is empty; was the file damaged?")
        yield cells[image_id], cells[mid], present
    if sources is not None and not chosen:
        raise UserError(
            f"{path}: no label has the Source {' or '.join(sorted(sources))}; the file has"
            f" {', '.join(sorted(other_sources)[:8])}"
        )


def _presence(confidence: str, least: float, table: CsvTable) -> bool | None:
    """Verified present or absent, or None: not sure enough to say."""
    try:
        value = float(confidence)
    except ValueError:
        value = float("nan")
    if value in (0.0, 1.0):
        return value == 1.0
    if least < 1 and 0 < value < 1:
        return True if value >= least else None
    if 0 < value < 1:
        raise UserError(
            f"{table.where()}: Confidence {confidence!r} is neither 1 (present) nor 0 (absent); take the human-verified"
            " labels (…-human-imagelabels.csv), or say from which confidence machine-generated ones count"
        )
    raise UserError(f"{table.where()}: Confidence {confidence!r} is no number from 0 to 1; are the columns in order?")


def box_table(path: str | Path) -> CsvTable:
    """A file of boxes, open for `read_boxes`."""
    return CsvTable(path, ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"), optional=("IsGroupOf",))


def read_boxes(table: CsvTable, watch: Watch | None = None) -> Iterator[Box]:
    """The boxes in the order of the file; mind that its columns are XMin,XMax,YMin,YMax.

    Raises:
        UserError: naming file and row: a column missing, not a number, outside 0..1, min above max, an empty id.
    """
    image_id, mid, left, right, top, bottom, group = table.columns
    for cells in table.watched(watch):
        try:
            x1, x2, y1, y2 = float(cells[left]), float(cells[right]), float(cells[top]), float(cells[bottom])
        except ValueError as error:
            raise UserError(f"{table.where()}: a side of the box is not a number ({error})") from error
        if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
            raise UserError(
                f"{table.where()}: XMin {x1:g} XMax {x2:g} YMin {y1:g} YMax {y2:g} is not a box within 0..1;"
                " are the columns in the order XMin,XMax,YMin,YMax and normalised?"
            )
        if not cells[image_id]:
            raise UserError(f"{table.where()}: the ImageID is empty; was the file damaged?")
        is_group = group is not None and cells[group] == "1"
        yield Box(cells[image_id], cells[mid], x1, y1, x2, y2, is_group)


def is_box_file(path: str | Path) -> bool:
    """Whether the header of a CSV file is that of boxes."""
    return "XMin" in next(iter(CsvRows(path)), [])


def boxable_classes(path: str | Path) -> set[str]:
    """Ids of the classes of a vocabulary: those in a boxes CSV, or in a list such as class-descriptions-boxable.csv."""
    if is_box_file(path):
        return {box.mid for box in read_boxes(box_table(path))}
    return set(read_class_descriptions(path))


def read_picture_ids(path: str | Path) -> set[str]:
    """The picture ids in the column ImageID of any CSV file, or (without such a header) in its first column.

    About 150 bytes of memory a picture.
    """
    rows = iter(CsvRows(path))
    header = next(rows, None)
    if header is None:
        raise UserError(f"{path}: the file is empty; give a CSV with the column ImageID, or one id a line")
    column = header.index("ImageID") if "ImageID" in header else 0
    ids = {cells[column] for cells in rows if len(cells) > column}
    return ids if "ImageID" in header else ids | {header[0]}


def tag_examples(
    labels_csv: str | Path | Sequence[str | Path],
    descriptions_csv: str | Path,
    classes: Collection[str] | None = None,
    keep_empty: bool = False,
    *,
    rows: LabelRows | None = None,
    rules: TagRules | None = None,
    folder: str | Path | None = None,
    watch: Watch | None = None,
    report: Counter[str] | None = None,
) -> Iterator[TagExample]:
    """One example per picture, in the order in which the pictures come up in the files.

    By default its tags are the names of its verified-present classes, without repetition, in file order. Rows of one
    picture may stand anywhere and in several files: they are gathered on disk (`vivo.data.picture_groups`),
    so that memory is bounded.

    Args:
        labels_csv: the image labels and boxes, one file or several; the header tells which they are. A class that
            has a box in a picture is present there.
        descriptions_csv: the class descriptions.
        classes: class ids that may become tags (the vocabulary); None = all that are described.
        keep_empty: also yield pictures without any tag (only verified-absent labels, or none of `classes`).
        rows: which labels count; default: what people verified.
        rules: what becomes of them; default: all are kept.
        folder: for the sorting on disk, about half the size of the label files; it is deleted afterwards.
            Default: a new one in the system's temporary folder.
        watch: called with (path, rows so far, bytes so far) now and then while files are read.
        report: filled with counts of what was read and left out.

    Raises:
        UserError: naming file and row: a class id without description, and what the readers raise.
    """
    files = [labels_csv] if isinstance(labels_csv, str | Path) else list(labels_csv)
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(descriptions_csv).items()}
    if classes is not None and not names.keys() & set(classes):
        raise UserError(f"{descriptions_csv}: describes none of the {len(classes)} chosen classes; do the files match?")
    report = Counter() if report is None else report
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vivo-labels-"))) / "groups"
        groups = stack.enter_context(PictureGroups(folder))
        vocabulary = _Vocabulary(names, None if classes is None else frozenset(classes), descriptions_csv)
        for file in files:
            report["label rows"] += _note_labels(groups, file, vocabulary, rows or LabelRows(), watch)
        counts = groups.gather()
        report["labelled pictures"] = groups.pictures
        chooser = TagChooser(rules or TagRules(), {tag: counts[number] for number, tag in enumerate(vocabulary.tags)})
        for image_id, numbers in groups:
            present = [vocabulary.tags[number] for number in numbers if number > 0]
            absent = {vocabulary.tags[-number] for number in numbers if number < 0}
            report["labels said to be both present and absent"] += len(absent.intersection(present))
            tags = chooser.choose(image_id, present, absent)
            if tags or (keep_empty and tags is not None):
                yield TagExample(image_id, tags)
            else:
                report["pictures without tags"] += tags is not None
        report.update(chooser.report)
        if chooser.report["pictures without regions"] == groups.pictures > 0:
            raise UserError(
                f"none of the {groups.pictures} pictures of {files[0]} has regions in the store; are the picture ids"
                " of the labels and of the store of one kind?"
            )


class _Vocabulary:
    """Tags by number, from 1 (so that -n can say "not n"); number 0 stands for what is described but not chosen."""

    def __init__(self, names: dict[str, str], chosen: frozenset[str] | None, source: str | Path) -> None:
        self.source = source
        self.tags = ["", *dict.fromkeys(name for mid, name in names.items() if chosen is None or mid in chosen)]
        number_of = {tag: number for number, tag in enumerate(self.tags)}
        self.number_of = {mid: number_of[name] if chosen is None or mid in chosen else 0 for mid, name in names.items()}


def _note_labels(
    groups: PictureGroups, file: str | Path, vocabulary: _Vocabulary, rows: LabelRows, watch: Watch | None
) -> int:
    """Note all labels of a file, one note for neighbouring rows of a picture; returns the number of labels."""
    count = 0
    current, wanted = None, False
    notes: list[int] = []
    if is_box_file(file):
        table = box_table(file)
        labels = ((box.image_id, box.mid, True) for box in read_boxes(table, watch))
    else:
        table = image_label_table(file)
        labels = read_image_labels(table, rows.least, rows.sources, watch)
    number_of = vocabulary.number_of
    for image_id, mid, present in itertools.islice(labels, rows.most):
        count += 1
        if image_id != current:
            if wanted:
                groups.add(current, notes)
            current, notes = image_id, []
            wanted = rows.pictures is None or image_id in rows.pictures
        number = number_of.get(mid)
        if number is None:
            raise UserError(
                f"{table.where()}: unknown class id {mid!r}; {vocabulary.source} does not describe it: take the class"
                " descriptions of the same Open Images version"
            )
        if number:
            notes.append(number if present else -number)
    if wanted:
        groups.add(current, notes)
    return count
