"""What the readers share: the record they stream, the checks of its numbers, picture sizes and ids from a JSON file."""

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from vivo.data.coco import read_json
from vivo.data.types import Regions
from vivo.errors import UserError

FLOAT16_MAX = 65504.0
# 100 regions of 2,054 numbers are 1.1 MB of text; a row this long is no row (a file without line ends).
_LONGEST_ROW = 256 * 2**20


@dataclass(frozen=True)
class ForeignPicture:
    """One picture of a foreign file, not decoded yet: a run that goes on passes over it for the price of its id.

    Attributes:
        where: file and row, for messages.
        image_id: the id in the store.
        position: how far the source is read after this picture, in the unit of `ForeignSource.extent`.
        regions: decodes it; raises `UserError` with `where` in it.
    """

    where: str
    image_id: str
    position: int
    regions: Callable[[], Regions]


class ForeignSource(Protocol):
    """A reader: iterate over its pictures in the order of the file.

    Attributes:
        kind: the format's name, for messages and for the manifest.
        path: its file or folder.
        extent: the last picture's `position` (bytes, rows or files).
        store_bytes: about how much the store will need on the disk; 0 = unknown.
    """

    kind: str
    path: Path
    extent: int
    store_bytes: int

    def __iter__(self) -> Iterator[ForeignPicture]: ...


class PictureList:
    """Sizes and ids of pictures from a COCO or nocaps JSON file ("images": id, width, height).

    Oscar names nocaps pictures by their Open Images id; everything else by the number in "id". A picture is
    found by its id, its "open_images_id" or the stem of its "file_name".

    Args:
        path: the JSON file.

    Raises:
        UserError: naming file and entry: not JSON, no "images", a key missing, a name for two pictures.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        content = read_json(self.path)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list) or not images:
            raise UserError(f'{path}: no "images" in it; give a COCO or nocaps JSON file (captions or image info)')
        self._known: dict[str, tuple[str, int, int]] = {}
        for number, image in enumerate(images):
            try:
                entry = (str(image["id"]), int(image["width"]), int(image["height"]))
                stem = Path(image.get("file_name", "")).stem
                names = {entry[0], str(image.get("open_images_id", "")), stem} - {""}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"{path}, images[{number}]: needs id, width and height ({error!r})") from error
            for name in names:
                if self._known.setdefault(name, entry) != entry:
                    raise UserError(f"{path}, images[{number}]: {name!r} names two pictures; give ids that are unique")

    def __call__(self, where: str, key: str) -> tuple[str, int, int]:
        """(id, width, height) of the picture that a foreign file calls `key`."""
        if key not in self._known:
            raise UserError(f"{where}: picture {key!r} is not in {self.path}; is that the JSON file of this data set?")
        return self._known[key]


def open_foreign(path: Path) -> BinaryIO:
    """A file of another project, to read; `UserError` where it cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check path and permissions") from error


def size_of(path: Path) -> int:
    """Bytes of a file of another project; `UserError` where there is none."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check path and permissions") from error


def line_of(file: BinaryIO, path: Path, number: int, longest: int = _LONGEST_ROW) -> bytes:
    """The next line with its end, b"" at the end of the file; `UserError` names row `number` where reading fails."""
    try:
        return file.readline(longest)
    except OSError as error:
        raise UserError(
            f"{path}, row {number}: cannot be read ({error.strerror or error}); is the disk or the network share there?"
        ) from error


def rows_of(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(row number from 1, byte where it begins, its content without the line end) of a text file, one at a time."""
    start = 0
    number = 0
    while line := line_of(file, path, number + 1):
        number += 1
        if len(line) == _LONGEST_ROW:
            raise UserError(f"{path}, row {number}: longer than 256 MB; is this a TSV file, with one picture a line?")
        yield number, start, line.rstrip(b"\r\n")
        start += len(line)


def text_of(where: str, content: bytes) -> str:
    """Bytes of a row as text."""
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 text ({error.reason}); is the file damaged or of another format?"
        ) from error


def count_of(where: str, what: str, value: object) -> int:
    """A whole number of at least 1."""
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UserError(f"{where}: {what} is {str(value)[:40]!r}, expected a whole number of 1 or more")
    return number


def floats_of(where: str, what: str, content: bytes | str, rows: int, columns: int | None = None) -> np.ndarray:
    """float32 [rows, columns] from base64.

    Args:
        where: file and row.
        what: "features" or "boxes".
        content: the base64 text.
        rows: number of regions that the row names.
        columns: numbers a region; None: whatever divides evenly.

    Raises:
        UserError: not base64, or another number of values than expected.
    """
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise UserError(
            f"{where}: the {what} are not whole base64 ({error}); the row is cut or damaged: copy or download again"
        ) from error
    per_row = rows * 4 * (columns or 1)
    if (len(data) != per_row) if columns else (not data or len(data) % per_row):
        wanted = f"{rows} x {columns} x 4 = {per_row}" if columns else f"a multiple of {rows} x 4"
        raise UserError(
            f"{where}: {len(data)} bytes of {what} for {rows} regions, expected {wanted} bytes of float32; probable"
            " reason: the row is cut, the number of boxes is wrong, or the numbers are float16 or float64"
        )
    return np.frombuffer(data, "<f4").reshape(rows, -1)


def regions_from(
    where: str,
    boxes: np.ndarray,
    features: np.ndarray,
    width: int,
    height: int,
    labels: list[str] | None = None,
    scores: np.ndarray | None = None,
) -> Regions:
    """Checked numbers as `Regions`, sorted by falling score where the source has scores.

    Args:
        boxes: [R, 4] in pixels; features: [R, F]; both numbers of any float type.
        labels: names, or None: no region has one.
        scores: [R] of the regions, or None: unknown, all become 1 and the source's order stays.
    """
    for what, values in (("features", features), ("boxes", boxes), ("scores", scores)):
        if values is not None and values.dtype.kind not in "fiu":
            raise UserError(f"{where}: the {what} are {values.dtype}, expected numbers; is it the right file?")
        if values is not None and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values.reshape(len(values), -1)))[0, 0])
            raise UserError(f"{where}: NaN or infinity in the {what} of region {row + 1}; extract this picture again")
    if np.abs(features).max(initial=0) > FLOAT16_MAX:
        raise UserError(
            f"{where}: a feature is {np.abs(features).max():.4g}, float16 ends at {FLOAT16_MAX:.0f}; probable reason:"
            " damaged numbers, or float64 read as float32"
        )
    labels = [""] * len(features) if labels is None else labels
    order = np.arange(len(features)) if scores is None else np.argsort(-scores, kind="stable")
    return Regions(
        boxes=np.asarray(boxes, np.float32)[order],
        features=features.astype(np.float16)[order],
        labels=[labels[i] for i in order],
        scores=np.ones(len(features), np.float32) if scores is None else np.asarray(scores, np.float32)[order],
        width=width,
        height=height,
    )


def check_feature_size(where: str, found: int, expected: int | None) -> None:
    """Refuse features of another size than the rest of the file (or `--feature-size`) has.

    Raises:
        UserError: expected, found, the probable reason.
    """
    if expected is None or found == expected:
        return
    if found == expected + 6:
        reason = "found has six position values at the end: give --feature-size without them"
    elif found == expected - 6:
        reason = "expected counts six position values in, the file holds the bare features"
    else:
        reason = "the features come from another detector or another of its layers"
    raise UserError(f"{where}: features of size {found}, expected {expected}; probable reason: {reason}")
