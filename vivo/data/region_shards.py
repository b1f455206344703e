"""One shard file of a RegionStore while it is written, and the check that every picture passes on its way in."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vivo.data.region_format import problem_with
from vivo.data.types import Regions
from vivo.errors import UserError


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.arrow"


def number_of(name: str) -> int:
    """The number in a shard's file name."""
    return int(name.removeprefix("shard-").removesuffix(".arrow"))


def storable(store: Path, image_id: str, regions: Regions, feature_size: int) -> Regions:
    """The regions as a store keeps them: features cast to float16, boxes and scores to float32.

    Raises:
        UserError: naming store and picture: wrong feature size, shapes, NaN or infinity (also by overflow
            of float16), boxes outside the picture, an id that is no text.
    """
    with np.errstate(over="ignore"):  # an overflow becomes infinity, which problem_with reports
        features = np.asarray(regions.features).astype(np.float16, copy=False)
    regions = Regions(
        boxes=np.asarray(regions.boxes, dtype=np.float32),
        features=features,
        labels=list(regions.labels),
        scores=np.asarray(regions.scores, dtype=np.float32),
        width=int(regions.width),
        height=int(regions.height),
    )
    problem = problem_with(regions, feature_size)
    if not image_id or image_id != image_id.encode("utf-8", "replace").decode():
        problem = "the id is empty or not valid Unicode; rename the picture"
    if problem:
        raise UserError(f"{store}: picture {image_id!r}: {problem}")
    return regions


class ShardFile:
    """A shard in work: hashed while it is written under a temporary name, renamed when whole.

    Args:
        file: its final place.
        schema: `vivo.data.region_format.schema_of` the feature size.
        temporary: the name until then; default NAME.tmp. Processes that may work on one shard at the same time
            (one of them forgotten by its launcher) need different ones.
    """

    def __init__(self, file: Path, schema: pa.Schema, temporary: Path | None = None) -> None:
        self.ids: list[str] = []
        self._regions = 0
        self._file = file
        self._temporary = temporary or file.with_name(file.name + ".tmp")
        self._sink = _HashingSink(self._temporary)
        self._schema = schema
        self._writer = pa.ipc.new_file(self._sink, schema)

    def write(self, image_id: str, regions: Regions) -> None:
        """Append one checked picture as a record batch of one row: it can be read without its neighbours."""
        count = len(regions.labels)

        def one_list(values: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)

        def vectors(array: np.ndarray) -> pa.Array:
            return one_list(pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1]))

        arrays = [
            pa.array([image_id]),
            pa.array([regions.width], pa.int32()),
            pa.array([regions.height], pa.int32()),
            vectors(regions.boxes),
            vectors(regions.features),
            one_list(pa.array(regions.labels, pa.string())),
            one_list(pa.array(regions.scores)),
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self.ids.append(image_id)
        self._regions += count

    def finish(self) -> dict[str, Any]:
        """Close and rename the file; returns its entry for progress and manifest (with the ids)."""
        self._writer.close()
        self._sink.sync()
        self._sink.close()
        os.replace(self._temporary, self._file)
        return {
            "name": self._file.name,
            "bytes": self._sink.size,
            "sha256": self._sink.digest.hexdigest(),
            "pictures": len(self.ids),
            "regions": self._regions,
            "ids": self.ids,
        }

    def drop(self) -> None:
        """Throw the file in work away."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._sink.close()
        self._temporary.unlink(missing_ok=True)


class _HashingSink:
    """The file object that Arrow writes to: counts and hashes on the way, so that no shard is read again."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("wb")
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        self.size += len(view)
        return self._file.write(view)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed


def write_whole(file: Path, content: bytes, temporary: Path | None = None) -> None:
    """Write a small file so that it is on the disk, whole, when it has its name; until then `temporary` or NAME.tmp."""
    temporary = temporary or file.with_name(file.name + ".tmp")
    with temporary.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(temporary, file)
