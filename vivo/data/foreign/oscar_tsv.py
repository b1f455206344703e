"""Oscar's and VinVL's feature.tsv, with its .lineidx, label.tsv and yaml.

    feature.tsv   key TAB {"num_boxes": n, "features": base64 of float32 [n, 2054]}     (captioning)
                  key TAB n TAB base64                                                 (retrieval, VQA)
    feature.lineidx   the byte at which each row begins, one a line
    label.tsv     key TAB [{"class", "conf", "rect": [x1, y1, x2, y2]}, ...]
                  key TAB {"objects": [the same], "image_w", "image_h"}                (VinVL)
    train.yaml    feature: train.feature.tsv, label: train.label.tsv, ...

2,054 = 2,048 + x1/W, y1/H, x2/W, y2/H, width/W, height/H. A store keeps boxes in pixels, and collation
computes the six again, so they are checked (among themselves, and against the rectangles of label.tsv)
and cut off. Nothing in feature.tsv says how large the picture is: that comes from label.tsv or from a
COCO or nocaps JSON file.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vivo.data.foreign.base import (
    ForeignPicture,
    PictureList,
    check_feature_size,
    count_of,
    floats_of,
    line_of,
    open_foreign,
    regions_from,
    rows_of,
    size_of,
    text_of,
)
from vivo.data.types import Regions
from vivo.errors import UserError

_POSITIONS = 6
# The six numbers were rounded, and some detectors count a box's width with one pixel more.
_POSITION_TOLERANCE = 0.01
_PIXEL_TOLERANCE = 2.0
_LEAST_OVERLAP = 0.5
_OTHER_LABELS = (
    "probable reason: label.tsv comes from another detector than the features (as Oscar's captioning labels do);"
    " use --match-labels overlap, or --labels none"
)


class OscarTsv:
    """Streams the pictures of a feature.tsv (a `ForeignSource`).

    Args:
        source: the feature TSV, or the yaml that names it and its labels.
        labels: the label TSV; default: what the yaml names, or the file beside the features with "label" for
            "feature" in its name, if there is one. "none": no labels.
        match: "rows": object i of label.tsv is region i, which is checked; "overlap": each object's name goes
            to the region that covers it best (IoU of at least 0.5), for labels of another detector.
        pictures: sizes and ids; None: sizes from label.tsv, keys as ids.
        feature_size: size without the six position values; None: recognised (size - 6 is a power of two).

    Raises:
        UserError: a file is missing or not what it should be, a .lineidx that does not fit.
    """

    kind = "Oscar TSV"

    def __init__(
        self,
        source: str | Path,
        labels: str | Path | None = None,
        match: str = "rows",
        pictures: PictureList | None = None,
        feature_size: int | None = None,
    ) -> None:
        if match not in ("rows", "overlap"):
            raise UserError(f"match {match!r}: must be rows or overlap")
        self.features, named_labels = _files_of(Path(source))
        self.path = self.features
        self.labels = None if str(labels) == "none" else Path(labels) if labels else named_labels
        for file in (self.features, self.labels):
            if file is not None and not file.is_file():
                raise UserError(f"{file}: no such file; check the path (and the yaml that names it)")
        self.match, self.pictures, self.feature_size = match, pictures, feature_size
        self.extent = size_of(self.features)
        self.store_bytes = int(0.4 * self.extent)
        self._check_lineidx()

    def __iter__(self) -> Iterator[ForeignPicture]:
        with ExitStack() as stack:
            label_rows = rows_of(stack.enter_context(open_foreign(self.labels)), self.labels) if self.labels else None
            offsets = _offsets(self.features) if _lineidx(self.features).is_file() else None
            number = 0
            for number, start, row in rows_of(stack.enter_context(open_foreign(self.features)), self.features):
                where = f"{self.features}, row {number}"
                if offsets is not None and (offset := next(offsets, None)) != start:
                    says = "ends before it" if offset is None else f"says byte {offset}"
                    raise UserError(
                        f"{_lineidx(self.features)}, row {number}: {says}, but the row begins at byte {start} of"
                        f" {self.features.name}; one of the two is cut or of another version: copy both again, or"
                        " delete the .lineidx (nothing here needs it)"
                    )
                key, _, content = row.partition(b"\t")
                label = None
                if label_rows is not None:
                    label_key, _, label = next(label_rows, (0, 0, b""))[2].partition(b"\t")
                    if label_key.strip() != key.strip():
                        self._refuse_mismatch(number, text_of(where, key), text_of(f"{self.labels}", label_key))
                name = text_of(where, key)
                if not name or not content:
                    raise UserError(f"{where}: expected `key TAB features`, found {row[:40]!r}; is it a feature.tsv?")
                image_id, *size = self.pictures(where, name) if self.pictures else (name,)
                read = partial(self._regions, number, content, label, tuple(size))
                yield ForeignPicture(where, image_id, start + len(row) + 1, read)
            if offsets is not None and (offset := next(offsets, None)) is not None:
                raise UserError(
                    f"{_lineidx(self.features)}, row {number + 1}: says byte {offset}, but {self.features.name} has"
                    f" {number} rows; one of the two is cut or of another version: copy both again"
                )
            if label_rows is not None and (extra := next(label_rows, None)) is not None:
                self._refuse_mismatch(number + 1, "", text_of(f"{self.labels}", extra[2].partition(b"\t")[0]))

    def _check_lineidx(self) -> None:
        """Find a cut file before the hours of work: the last offset, and equal numbers of rows in both files."""
        counts = {}
        for file in filter(None, (self.features, self.labels)):
            if _lineidx(file).is_file():
                last = -1
                for number, offset in enumerate(_offsets(file), 1):
                    if not last < offset < size_of(file):
                        raise UserError(
                            f"{_lineidx(file)}, row {number}: byte {offset} follows byte {last}, and {file.name} has"
                            f" {size_of(file)} bytes; {file.name} is cut or of another version: copy both again"
                        )
                    last, counts[file] = offset, number
        if len(counts) == 2 and len(set(counts.values())) == 2:
            for number, (key, label_key) in enumerate(zip_longest(*map(_keys, counts), fillvalue=""), 1):
                if key != label_key:
                    self._refuse_mismatch(number, key, label_key)

    def _refuse_mismatch(self, number: int, key: str, label_key: str) -> None:
        """Row `number` of the two files is not the same picture: say which file lacks what ("" = it has ended)."""
        where = f"{self.labels}, row {number}"
        if not key:
            raise UserError(
                f"{where}: picture {label_key!r} has no features: {self.features.name} ends after row {number - 1};"
                " it is cut, or the two are not of the same set"
            )
        with open_foreign(self.labels) as file:
            rows = (n for n, _, row in rows_of(file, self.labels) if row.partition(b"\t")[0].strip() == key.encode())
            found = next(rows, None)
        if found is None:
            raise UserError(
                f"{self.features}, row {number}: picture {key!r} is not in {self.labels}; copy that file again"
            )
        raise UserError(
            f"{where}: picture {label_key!r} is not in row {number} of {self.features.name}, which goes on with {key!r}"
            f" (row {found} of {self.labels.name}); both must list the same pictures in the same order"
        )

    def _regions(self, number: int, content: bytes, label: bytes | None, size: tuple[int, ...]) -> Regions:
        where = f"{self.features}, row {number}"
        values, row_size = _values(where, content)
        features, positions = self._without_positions(where, values)
        at_labels = f"{self.labels}, row {number}"
        objects, label_size = _objects(at_labels, label) if label is not None else (None, ())
        sizes = {found for found in (size, row_size, label_size) if found}
        if len(sizes) > 1:
            raise UserError(
                f"{where}: different sizes of the picture in the files: {sorted(sizes)}; is it the right set?"
            )
        size = next(iter(sizes), ())
        rects = _rects(at_labels, objects) if objects else None
        if self.match == "overlap" or objects is None:
            boxes = self._boxes(where, positions, None, size)
            regions = regions_from(where, boxes, features, *size)
            return _named_by_overlap(regions, objects, rects) if objects and rects is not None else regions
        if len(objects) != len(features):
            raise UserError(f"{at_labels}: {len(objects)} objects for {len(features)} regions; {_OTHER_LABELS}")
        if not size and positions is not None and rects is not None:
            size = _size_from(at_labels, positions, rects)
        boxes = self._boxes(where, positions, rects, size)
        confidences = [item.get("conf") for item in objects]
        scores = None if None in confidences else np.array(confidences, np.float32)
        return regions_from(where, boxes, features, *size, labels=[item["class"] for item in objects], scores=scores)

    def _without_positions(self, where: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(features [R, F], the four corners as shares of the picture [R, 4] or None)."""
        size = values.shape[1]
        bare = size - _POSITIONS
        expected = self.feature_size
        has_positions = bare == expected if expected else bare >= 64 and bare & (bare - 1) == 0
        if not has_positions:
            check_feature_size(where, size, expected)
            return values, None
        p = values[:, bare:]
        extent = np.stack([p[:, 2] - p[:, 0], p[:, 3] - p[:, 1]], axis=1)
        if np.isfinite(values).all():  # NaN has a message of its own
            inside = (p[:, :4] >= -_POSITION_TOLERANCE) & (p[:, :4] <= 1 + _POSITION_TOLERANCE)
            fits = [np.abs(p[:, 4:] - e).max() <= _POSITION_TOLERANCE for e in (extent, extent[:, ::-1])]
            if not inside.all() or not any(fits):
                raise UserError(
                    f"{where}: features of size {size} should be {bare} and x1/W, y1/H, x2/W, y2/H, w/W, h/H, but the"
                    f" last six of region 1 are {np.round(p[0], 3).tolist()}; if all {size} are features, say"
                    f" --feature-size {size}"
                )
        return values[:, :bare], p[:, :4]

    def _boxes(self, where: str, positions: np.ndarray | None, rects: np.ndarray | None, size: tuple) -> np.ndarray:
        if not size:
            raise UserError(
                f"{where}: nothing says how large the picture is; give --images with the COCO or nocaps JSON file of"
                " this data set"
            )
        if positions is None:
            if rects is None:
                raise UserError(f"{where}: no boxes: neither six position values nor rectangles in a label.tsv")
            return rects
        boxes = positions * np.array([*size, *size], np.float32)
        if rects is None:
            return boxes
        apart = np.abs(boxes - rects).max(axis=1)
        if np.isfinite(apart).all() and apart.max() > _PIXEL_TOLERANCE:
            i = int(apart.argmax())
            raise UserError(
                f"{where}: region {i + 1} lies at {np.round(boxes[i], 1).tolist()} by its position values, at"
                f" {np.round(rects[i], 1).tolist()} by label.tsv; {_OTHER_LABELS}"
            )
        return rects


def _files_of(source: Path) -> tuple[Path, Path | None]:
    """(feature file, label file or None) that a yaml names, or a TSV and its neighbour."""
    if source.suffix not in (".yaml", ".yml"):
        neighbour = source.with_name(source.name.replace("feature", "label"))
        return source, neighbour if neighbour != source and neighbour.is_file() else None
    try:
        named = yaml.safe_load(source.read_text(encoding="utf-8"))
        files = [source.parent / named[key] if named.get(key) else None for key in ("feature", "label")]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise UserError(f"{source}: cannot be read as `feature: FILE` and `label: FILE` ({error!r})") from error
    if files[0] is None:
        raise UserError(f'{source}: names no "feature" file; is it one of the yaml files of Oscar\'s captioning data?')
    return files[0], files[1]


def _lineidx(tsv: Path) -> Path:
    return tsv.with_suffix(".lineidx")


def _offsets(tsv: Path) -> Iterator[int]:
    """The numbers of a .lineidx, one at a time."""
    with open_foreign(_lineidx(tsv)) as file:
        number = 0
        while line := line_of(file, _lineidx(tsv), number + 1):
            number += 1
            try:
                yield int(line)
            except ValueError as error:
                raise UserError(
                    f"{_lineidx(tsv)}, row {number}: {line[:40]!r} is no byte offset; delete the file (nothing"
                    " here needs it)"
                ) from error


def _keys(tsv: Path) -> Iterator[str]:
    """The keys of a TSV through its .lineidx, without reading what is between."""
    with open_foreign(tsv) as file:
        for number, offset in enumerate(_offsets(tsv), 1):
            file.seek(offset)
            yield text_of(f"{tsv}, row {number}", line_of(file, tsv, number, 512).partition(b"\t")[0])


def _values(where: str, content: bytes) -> tuple[np.ndarray, tuple[int, ...]]:
    """(float32 [R, F], (width, height) or ()) of a row without its key."""
    if not content.lstrip().startswith(b"{"):  # n TAB base64
        count, _, features = content.partition(b"\t")
        rows = count_of(where, "the number of boxes", text_of(where, count))
        return floats_of(where, "features", features.strip(), rows), ()
    try:
        row = json.loads(content)
        features, boxes = row["features"], row["num_boxes"]
        size = (int(row["image_w"]), int(row["image_h"])) if "image_w" in row and "image_h" in row else ()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{where}: not whole JSON with "num_boxes" and "features" ({str(error)[:60]}); the file is cut or damaged:'
            " copy or download it again"
        ) from error
    return floats_of(where, "features", features, count_of(where, "num_boxes", boxes)), size


def _objects(where: str, label: bytes) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """(objects, (width, height) or ()) of a row of label.tsv without its key."""
    try:
        row = json.loads(label)
        objects = row["objects"] if isinstance(row, dict) else row
        size = (int(row["image_w"]), int(row["image_h"])) if isinstance(row, dict) and "image_w" in row else ()
        if not all(isinstance(item["class"], str) for item in objects):
            raise TypeError("a class is not text")
        if not all(isinstance(item.get("conf", 1.0), int | float | None) for item in objects):
            raise TypeError('a "conf" is not a number')
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{where}: not whole JSON with a list of objects that have a "class" ({str(error)[:60]}); copy it again'
        ) from error
    return objects, size


def _rects(where: str, objects: list[dict[str, Any]]) -> np.ndarray | None:
    """float32 [objects, 4], or None where label.tsv has no rectangles."""
    if not any("rect" in item for item in objects):
        return None
    try:
        rects = np.array([item["rect"] for item in objects], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{where}: a "rect" is missing or not four numbers ({str(error)[:60]})') from error
    if rects.shape[1:] != (4,):
        raise UserError(f'{where}: "rect" must be x1, y1, x2, y2, found an array of shape {rects.shape}')
    return rects


def _size_from(where: str, positions: np.ndarray, rects: np.ndarray) -> tuple[int, int]:
    """Width and height that turn the position values into the rectangles (least squares over all corners)."""
    shares, pixels = positions.reshape(-1, 2, 2).astype(np.float64), rects.reshape(-1, 2, 2).astype(np.float64)
    weight = (shares**2).sum(axis=(0, 1))
    if (weight == 0).any():
        raise UserError(f"{where}: the picture's size cannot be told from its boxes; give --images")
    size = (shares * pixels).sum(axis=(0, 1)) / weight
    if np.abs(shares * size - pixels).max() > _PIXEL_TOLERANCE:
        raise UserError(f"{where}: the rectangles do not belong to the position values; {_OTHER_LABELS}")
    if np.abs(size - size.round()).max() > 0.1:
        raise UserError(f"{where}: the picture's size cannot be told from its rounded boxes; give --images")
    return int(size[0].round()), int(size[1].round())


def _named_by_overlap(regions: Regions, objects: list[dict[str, Any]], rects: np.ndarray) -> Regions:
    """The regions with the names of the objects that they cover best, surest object first; one name a region."""
    corners = np.minimum(regions.boxes[:, None, 2:], rects[None, :, 2:])
    inner = (corners - np.maximum(regions.boxes[:, None, :2], rects[None, :, :2])).clip(min=0).prod(axis=2)
    area, rect_area = ((b[:, 2:] - b[:, :2]).clip(min=0).prod(axis=1) for b in (regions.boxes, rects))
    overlap = inner / np.maximum(area[:, None] + rect_area[None] - inner, 1e-9)
    labels, scores = list(regions.labels), regions.scores.copy()
    for i in sorted(range(len(objects)), key=lambda i: -float(objects[i].get("conf", 1.0))):
        free = np.where([label == "" for label in labels], overlap[:, i], 0.0)
        best = int(free.argmax())
        if free[best] >= _LEAST_OVERLAP:
            labels[best], scores[best] = objects[i]["class"], float(objects[i].get("conf", 1.0))
    return replace(regions, labels=labels, scores=scores)
