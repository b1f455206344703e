"""The .h5 files of the nocaps baseline (updown-baseline, image-feature-extractors); needs h5py.

    image_id [N] int64   width, height [N]   num_boxes [N]
    boxes [N] float32 lists of R * 4   features [N] float32 lists of R * F   scores [N] float32 lists of R
    (or boxes [N, R, 4] and features [N, R, F], of which the first num_boxes count)

The class numbers that some of these files hold have no names in them: regions get no label.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vivo.data.foreign.base import ForeignPicture, PictureList, count_of, regions_from, size_of, text_of
from vivo.data.foreign.bottom_up import check_size
from vivo.data.types import Regions
from vivo.errors import UserError

if TYPE_CHECKING:
    import h5py

_BLOCK = 4096  # rows of which the small columns are read at once


class NocapsH5:
    """Streams the pictures of an .h5 file (a `ForeignSource`).

    Args:
        source: the file.
        pictures: ids and sizes; None: ids and sizes of the file.

    Raises:
        UserError: no h5py, not HDF5, a data set missing or of another length.
    """

    kind = "nocaps h5"

    def __init__(self, source: str | Path, pictures: PictureList | None = None) -> None:
        try:
            import h5py  # noqa: F401 - here, so that the reason comes before the work
        except ImportError as error:
            raise UserError(f"{source}: reading .h5 needs h5py; install it: pip install 'vivo[h5]'") from error
        self.path = Path(source)
        self.pictures = pictures
        self.store_bytes = int(0.55 * size_of(self.path))
        with self._open() as file:
            self.extent = len(file["image_id"])

    def _open(self) -> "h5py.File":
        import h5py

        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be read as HDF5 ({str(error)[:80]}); the file is cut or no .h5: copy it again"
            ) from error
        needed = ["image_id", "boxes", "features"] + ([] if self.pictures else ["width", "height"])
        for name in needed:
            if name not in file:
                found = ", ".join(file) or "nothing"
                fix = "; or give the sizes with --images" if name in ("width", "height") else ""
                file.close()
                raise UserError(
                    f"{self.path}: no data set {name!r} (it has: {found}); expected the layout of the nocaps"
                    f" baseline{fix}"
                )
        for name in {*needed, "num_boxes", "width", "height", "scores"} & set(file):
            depths = (1, 2, 3) if name in ("boxes", "features", "scores") else (1,)
            if not isinstance(file[name], h5py.Dataset) or len(file[name].shape or ()) not in depths:
                file.close()
                raise UserError(
                    f"{self.path}: {name!r} is no data set with a row a picture; expected the layout of the nocaps"
                    " baseline"
                )
        lengths = {name: len(file[name]) for name in (*needed, "num_boxes", "scores") if name in file}
        if len(set(lengths.values())) > 1:
            file.close()
            raise UserError(f"{self.path}: data sets of different lengths: {lengths}; the file is damaged")
        return file

    def __iter__(self) -> Iterator[ForeignPicture]:
        with self._open() as file:
            small = [name for name in ("image_id", "num_boxes", "width", "height") if name in file]
            for start in range(0, self.extent, _BLOCK):
                try:
                    block = {name: file[name][start : start + _BLOCK].tolist() for name in small}
                except OSError as error:
                    last = min(start + _BLOCK, self.extent)
                    raise UserError(
                        f"{self.path}, rows {start + 1} to {last}: {', '.join(small)} cannot be read"
                        f" ({str(error)[:80]}); the file is damaged: copy it again"
                    ) from error
                for place, key in enumerate(block["image_id"]):
                    row = start + place
                    where = f"{self.path}, row {row + 1}"
                    name = text_of(where, key) if isinstance(key, bytes) else str(key)
                    image_id, *size = self.pictures(where, name) if self.pictures else (name,)
                    values = {column: rows[place] for column, rows in block.items()}
                    yield ForeignPicture(
                        where, image_id, row + 1, partial(self._regions, file, row, where, values, tuple(size))
                    )

    def _regions(self, file: "h5py.File", row: int, where: str, values: dict, listed: tuple[int, ...]) -> Regions:
        try:
            boxes, features = np.asarray(file["boxes"][row]), np.asarray(file["features"][row])
            scores = np.asarray(file["scores"][row]) if "scores" in file else None
        except OSError as error:
            raise UserError(
                f"{where}: cannot be read ({str(error)[:80]}); the file is damaged: copy it again"
            ) from error
        if boxes.ndim not in (1, 2) or features.ndim != boxes.ndim:
            raise UserError(
                f"{where}: boxes of shape {boxes.shape} and features of shape {features.shape}; expected two lists of"
                " numbers, or [R, 4] and [R, F]"
            )
        count = count_of(where, "the number of boxes", values.get("num_boxes", boxes.size // 4))
        if boxes.ndim == 2:  # padded to a fixed number of regions
            boxes, features = boxes[:count], features[:count]
            scores = scores[:count] if scores is not None else None
        if boxes.size != count * 4 or not features.size or features.size % count:
            raise UserError(
                f"{where}: {count} boxes by num_boxes, but {boxes.size} numbers in boxes and {features.size} in"
                f" features; expected {count} x 4 and a multiple of {count}; did the extraction finish?"
            )
        if scores is not None and scores.size != count:
            raise UserError(f"{where}: {scores.size} scores for {count} boxes; the file is damaged")
        found = tuple(count_of(where, name, values[name]) for name in ("width", "height") if name in values)
        check_size(where, found if len(found) == 2 else (), listed)
        width, height = listed or found
        return regions_from(where, boxes.reshape(count, 4), features.reshape(count, -1), width, height, scores=scores)
