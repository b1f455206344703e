"""Features of bottom-up-attention: the TSV of its authors, and the one .npz a picture of its PyTorch versions.

    X.tsv    image_id TAB image_w TAB image_h TAB num_boxes TAB base64 boxes TAB base64 features   (float32)
    ID.npz   x [R, F] (or [F, R]), bbox [R, 4], num_bbox, image_w, image_h

Neither names classes or scores that can be read safely (the .npz keeps them in a pickle, which is never
loaded): regions get no name and the score 1, in the order of the file.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from vivo.data.foreign.base import (
    ForeignPicture,
    PictureList,
    count_of,
    floats_of,
    open_foreign,
    regions_from,
    rows_of,
    size_of,
    text_of,
)
from vivo.data.types import Regions
from vivo.errors import UserError

_COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


class BottomUpTsv:
    """Streams the pictures of a six-column TSV (a `ForeignSource`).

    Args:
        source: the file.
        pictures: ids, and sizes to check; None: the ids of the file.
    """

    kind = "bottom-up TSV"

    def __init__(self, source: str | Path, pictures: PictureList | None = None) -> None:
        self.path = Path(source)
        self.pictures = pictures
        self.extent = size_of(self.path)
        self.store_bytes = int(0.4 * self.extent)

    def __iter__(self) -> Iterator[ForeignPicture]:
        with open_foreign(self.path) as file:
            for number, start, row in rows_of(file, self.path):
                where = f"{self.path}, row {number}"
                columns = row.split(b"\t")
                if len(columns) != len(_COLUMNS):
                    reason = "this is LXMERT's layout" if len(columns) == 10 else "the row is cut"
                    raise UserError(
                        f"{where}: {len(columns)} columns, expected {len(_COLUMNS)} ({', '.join(_COLUMNS)}); probable"
                        f" reason: {reason}"
                    )
                key = text_of(where, columns[0])
                image_id, *size = self.pictures(where, key) if self.pictures else (key,)
                yield ForeignPicture(
                    where, image_id, start + len(row) + 1, partial(self._regions, where, columns, tuple(size))
                )

    def _regions(self, where: str, columns: list[bytes], listed: tuple[int, ...]) -> Regions:
        width, height, count = (
            count_of(where, name, text_of(where, value))
            for name, value in zip(_COLUMNS[1:4], columns[1:4], strict=True)
        )
        check_size(where, (width, height), listed)
        boxes = floats_of(where, "boxes", columns[4].strip(), count, 4)
        return regions_from(where, boxes, floats_of(where, "features", columns[5].strip(), count), width, height)


class BottomUpNpz:
    """Streams a folder of .npz files, sorted by name (a `ForeignSource`).

    Args:
        source: the folder.
        id_of: picture id of a file, where no list of pictures gives one.
        pictures: ids and sizes; None: sizes from the files.
    """

    kind = "bottom-up npz"
    store_bytes = 0  # compressed files do not tell

    def __init__(self, source: str | Path, id_of: Callable[[Path], str], pictures: PictureList | None = None) -> None:
        self.path = Path(source)
        self.id_of, self.pictures = id_of, pictures
        try:
            self._names = sorted(file.name for file in self.path.iterdir() if file.suffix == ".npz")
        except OSError as error:
            raise UserError(f"{source}: cannot be read as a folder ({error.strerror or error})") from error
        self.extent = len(self._names)
        if not self._names:
            raise UserError(f"{source}: no .npz files in it; give the folder that holds them")

    def __iter__(self) -> Iterator[ForeignPicture]:
        for place, name in enumerate(self._names, 1):
            file = self.path / name
            image_id, *size = self.pictures(str(file), file.stem) if self.pictures else (self.id_of(file),)
            yield ForeignPicture(str(file), image_id, place, partial(self._regions, file, tuple(size)))

    def _regions(self, file: Path, listed: tuple[int, ...]) -> Regions:
        arrays: dict[str, np.ndarray] = {}
        try:
            with np.load(file, allow_pickle=False) as content:
                names = content.files
                for name in ("x", "bbox", "num_bbox", "image_w", "image_h"):
                    if name in names:
                        arrays[name] = content[name]
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{file}: cannot be read ({str(error)[:80]}); the file is cut, damaged or not .npz: copy it again"
            ) from error
        for name in ("x", "bbox"):
            if name not in arrays:
                raise UserError(
                    f"{file}: no array {name!r} (it has: {', '.join(names)}); is it of bottom-up-attention?"
                )
        boxes, features = np.atleast_1d(arrays["bbox"]), arrays["x"]
        count = count_of(str(file), "num_bbox", arrays.get("num_bbox", np.array(len(boxes))).tolist())
        if boxes.shape != (count, 4) or features.ndim != 2 or count not in features.shape:
            raise UserError(
                f"{file}: {count} boxes by num_bbox, but bbox has shape {boxes.shape} and x {features.shape}; expected"
                f" ({count}, 4) and ({count}, F)"
            )
        if len(features) != count:  # the layout of some VQA code
            features = features.T
        found = tuple(
            count_of(str(file), name, arrays[name].tolist()) for name in ("image_w", "image_h") if name in arrays
        )
        if len(found) < 2 and not listed:
            raise UserError(f"{file}: no image_w and image_h in it; give --images with a COCO or nocaps JSON file")
        check_size(str(file), found if len(found) == 2 else (), listed)
        width, height = listed or found
        return regions_from(str(file), boxes, features, width, height)


def check_size(where: str, found: tuple[int, ...], listed: tuple[int, ...]) -> None:
    """Refuse a picture whose size in the features is not that of the list of pictures."""
    if found and listed and found != listed:
        raise UserError(
            f"{where}: the picture is {found[0]} x {found[1]} here and {listed[0]} x {listed[1]} in --images; is it the"
            " JSON file of this data set, or was the picture turned or resized before detection?"
        )
