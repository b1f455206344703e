"""RegionStore: the region features of any number of pictures in one folder.

    STORE/manifest.json      detector, fingerprint, feature size, counts, checksums; its presence = finished
          index.arrow        picture id -> place, memory-mapped, searched in O(log N)
          shard-00000.arrow  Arrow IPC file, one record batch (of one row) a picture, memory-mapped
          progress.jsonl     only while a writer is at work: the detector, then one line a finished shard

Columns of a shard: image_id string, width int32, height int32, boxes list<float32[4]>,
features list<float16[F]>, labels list<string>, scores list<float32>: any Arrow reader understands it.
Reading a picture is one binary search and one jump into a mapped file: nothing of the store is
loaded at opening but the manifest, whatever the number of pictures.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from vivo.data.region_format import (
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    check_features,
    fingerprint_of,
    first_line,
    hash_of,
    open_mapped,
    problem_with,
    read_batch,
    read_manifest,
    regions_of,
    schema_of,
    sha256_of,
    view_of,
)
from vivo.data.region_writer import RegionStoreWriter
from vivo.data.types import Regions
from vivo.errors import UserError

__all__ = ["ImageIds", "MissingPicture", "RegionStore", "RegionStoreWriter", "check_features", "fingerprint_of"]

# Each open shard is one mapping, of which Linux allows a process 65,530.
_OPEN_SHARDS = 16384


class MissingPicture(UserError, KeyError):  # noqa: N818 - not every error is called Error
    """A picture id that a store does not hold; a `KeyError` for code, one readable line for people."""

    __str__ = UserError.__str__  # KeyError would print the repr


class ImageIds(Sequence[str]):
    """The picture ids of a store in the order of writing: a lazy view of the mapped index."""

    def __init__(self, ids: pa.Array) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self._ids[place].as_py()

    def __iter__(self) -> Iterator[str]:
        # In blocks: to_pylist is far faster than one scalar at a time, and all ids at once may be large.
        for start in range(0, len(self), 4096):
            yield from self._ids[start : start + 4096].to_pylist()


class RegionStore:
    """Read-only view of a finished store; cheap to pickle: the copy reopens the files when first used.

    `len(store)`, `image_id in store`, `store[image_id] -> Regions`, iteration over ids. The arrays of
    the returned `Regions` are read-only views into the mapped file (no copy).

    Args:
        path: the store's folder.

    Raises:
        UserError: not a store, unfinished, of another format version, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._index  # noqa: B018 - open now, so that a wrong folder is an error here and not in a worker

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The parsed manifest.json."""
        return read_manifest(self.path)

    @cached_property
    def _index(self) -> tuple[ImageIds, np.ndarray, np.ndarray, list[int]]:
        """(ids, sorted hashes uint64 [N], their positions int64 [N], first position of each shard)."""
        file = self.path / INDEX
        batch = read_batch(open_mapped(file, self.manifest["index"]["bytes"], INDEX_SCHEMA), 0, file)
        pictures = [shard["pictures"] for shard in self.manifest["shards"]]
        if not batch.num_rows == sum(pictures) == self.manifest["pictures"]:
            raise UserError(
                f"{self.path}: index, shards and manifest disagree on the number of pictures ({batch.num_rows},"
                f" {sum(pictures)}, {self.manifest['pictures']}); the store is damaged: extract it again"
            )
        ids, hashes, positions = batch.columns
        return ImageIds(ids), view_of(hashes, np.uint64), view_of(positions, np.int64), [0, *accumulate(pictures)]

    @cached_property
    def _shard(self):
        return lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def _open_shard(self, number: int) -> tuple[pa.RecordBatchFileReader, Path]:
        shard = self.manifest["shards"][number]
        file = self.path / shard["name"]
        reader = open_mapped(file, shard["bytes"], schema_of(self.feature_size))
        if reader.num_record_batches != shard["pictures"]:
            raise UserError(f"{file}: not the number of pictures that the manifest names")
        return reader, file

    @property
    def image_ids(self) -> ImageIds:
        """All picture ids in the order of writing (lazy sequence)."""
        return self._index[0]

    @property
    def detector(self) -> dict[str, Any]:
        """What the detector said of itself: the part of the manifest under the fingerprint."""
        return self.manifest["detector"]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over `detector`: what a model records and refuses on mismatch."""
        return self.manifest["fingerprint"]

    @property
    def feature_size(self) -> int:
        """F, the length of one region's feature vector."""
        return self.manifest["feature_size"]

    def check_compatible(self, store_fingerprint: str, feature_size: int) -> None:
        """Raise `UserError` unless this store is of the kind that a model recorded.

        Args:
            store_fingerprint: fingerprint of the store that the model was trained on.
            feature_size: feature size that the model expects.
        """
        source = f"{self.path} (detector {self.detector.get('name', 'without name')})"
        check_features(store_fingerprint, feature_size, self.fingerprint, self.feature_size, source)

    def check_all_fit(self, most: int) -> None:
        """Raise `UserError` where a model would always lose the last regions of a grid, the whole picture among them.

        A detector's regions are sorted by score, and cutting the last ones is what `max_regions` is for.

        Args:
            most: regions of one picture that the model takes.
        """
        pictures, regions = self.manifest["pictures"], self.manifest["regions"]
        if self.detector.get("name") == "grid" and regions > most * pictures:
            raise UserError(
                f"{self.path}: a grid of {regions // pictures} regions a picture, the last of which is the whole"
                f" picture, but the model takes {most}; train with model.max_regions={regions // pictures} or more"
            )

    def __len__(self) -> int:
        return self.manifest["pictures"]

    def __iter__(self) -> Iterator[str]:
        return iter(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._position(image_id) is not None

    def __getitem__(self, image_id: str) -> Regions:
        """The regions of one picture.

        Raises:
            MissingPicture: (a UserError and a KeyError) the store has no such picture.
        """
        shard, row = self._place(image_id)
        reader, file = self._shard(shard)
        return regions_of(read_batch(reader, row, file))

    def sample_features(self, image_ids: Sequence[str], most: int = 1000) -> np.ndarray:
        """Feature rows of `most` of these pictures, evenly spread, for statistics: float32 [rows, feature_size].

        Raises:
            UserError: one is not finite, which would make the statistics, and so all, NaN.
        """
        found = []
        for image_id in image_ids[:: max(1, len(image_ids) // most)]:
            features = self[image_id].features.astype(np.float32)
            if not np.isfinite(features).all():
                raise UserError(
                    f"{self.path}: picture {image_id} has features that are not finite; `vivo features verify` names "
                    "all such pictures"
                )
            found.append(features)
        return np.concatenate(found)

    def shard_of(self, image_id: str) -> int:
        """Which shard (its place in the manifest) holds a picture; `MissingPicture` if none does."""
        return self._place(image_id)[0]

    def shard_problem(self, shard: int) -> str | None:
        """What is wrong with the file of a shard (missing, cut, bytes changed), or None. Reads all of it."""
        return self._file_problem(self.manifest["shards"][shard])

    def common_ids(self, other: "RegionStore") -> Iterator[str]:
        """Ids of pictures that both stores hold; by their sorted hashes, so that millions take about a second."""
        ids, hashes, positions, _ = self._index
        theirs = other._index[1]
        if not len(theirs):
            return
        places = np.minimum(np.searchsorted(theirs, hashes), len(theirs) - 1)
        for position in positions[theirs[places] == hashes]:
            image_id = ids[int(position)]
            if image_id in other:
                yield image_id

    def _place(self, image_id: str) -> tuple[int, int]:
        """(shard, row in it) of a picture."""
        position = self._position(image_id)
        if position is None:
            raise MissingPicture(
                f"{self.path}: no regions of picture {image_id!r}; extract them (pretrain/extract_regions.py),"
                f" or is it another data set? The store's ids look like {self.image_ids[:3]}"
            )
        starts = self._index[3]
        shard = bisect_right(starts, position) - 1
        return shard, position - starts[shard]

    def _position(self, image_id: str) -> int | None:
        ids, hashes, positions, _ = self._index
        # The key must be uint64 too: beside a Python int numpy would convert (and so load) the whole column.
        key = np.uint64(hash_of(image_id))
        place = int(hashes.searchsorted(key))
        while place < len(hashes) and hashes[place] == key:
            if ids[int(positions[place])] == image_id:
                return int(positions[place])
            place += 1
        return None

    def verify(self) -> list[str]:
        """Read everything and list what is wrong: checksums, counts, ids, NaN, boxes. Empty list = clean."""
        problems = []
        if fingerprint_of(self.detector) != self.fingerprint:
            problems.append(f"{MANIFEST}: the fingerprint is not that of the detector beside it")
        index_problem = self._file_problem(self.manifest["index"])
        problems += [index_problem] if index_problem else []
        total = 0
        for number, shard in enumerate(self.manifest["shards"]):
            file_problem = self._file_problem(shard)
            problems += [file_problem] if file_problem else []
            regions = 0
            try:
                reader, _ = self._shard(number)
            except UserError as error:
                problems += [] if file_problem else [str(error)]
                continue
            for row in range(shard["pictures"]):
                try:
                    batch = reader.get_batch(row)
                    # Offsets first: a view over damaged offsets would read outside the file.
                    batch.validate(full=True)
                    image_id, picture = batch.column("image_id")[0].as_py(), regions_of(batch)
                except (OSError, ValueError, KeyError, IndexError, AttributeError, pa.ArrowException) as error:
                    problems.append(f"{shard['name']}, row {row + 1}: cannot be read: {first_line(error)}")
                    continue
                where = f"{shard['name']}, row {row + 1}, picture {image_id!r}"
                if not index_problem and self._position(image_id) != self._index[3][number] + row:
                    problems.append(f"{where}: the index does not lead here")
                if problem := problem_with(picture, self.feature_size):
                    problems.append(f"{where}: {problem}")
                regions += len(picture.labels)
            if regions != shard["regions"]:
                problems.append(f"{shard['name']}: {regions} regions, the manifest says {shard['regions']}")
            total += shard["regions"]
        if total != self.manifest["regions"]:
            problems.append(f"{MANIFEST}: says {self.manifest['regions']} regions, its shards add up to {total}")
        return problems

    def _file_problem(self, entry: dict[str, Any]) -> str | None:
        file = self.path / entry["name"]
        if not file.is_file():
            return f"{entry['name']}: missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{entry['name']}: {file.stat().st_size} bytes, the manifest says {entry['bytes']}"
        if sha256_of(file) != entry["sha256"]:
            return f"{entry['name']}: SHA-256 differs from the manifest: bytes were changed"
        return None
