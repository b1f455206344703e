"""Writing a RegionStore: whole files only, resumable after every finished shard (layout: `vivo.data.regions`)."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from vivo.data.region_format import (
    BOX_CONVENTION,
    FORMAT,
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    PROGRESS,
    VERSION,
    fingerprint_of,
    hash_of,
    open_mapped,
    read_batch,
    read_manifest,
    schema_of,
    sha256_of,
)
from vivo.data.region_shards import ShardFile, number_of, shard_name, storable, write_whole
from vivo.data.types import Regions
from vivo.errors import UserError


class RegionStoreWriter:
    """Writes a store shard by shard; a run that was killed goes on after its last finished shard.

    Use as a context manager: leaving it normally closes the store (index, manifest); leaving it by an
    exception keeps the finished shards and drops the one in work. Files get their final name only when
    they are whole, and the manifest comes last: a folder with a manifest is a finished store.
    Opening a finished store of the same detector lets one append to it.

    Args:
        path: the store's folder, made if missing.
        detector_fingerprint: the detector's description of itself (JSON values).
        feature_size: F.
        shard_pictures: pictures in a shard. More = fewer open files, fewer = less work lost by a kill.

    Raises:
        UserError: unwritable folder, another writer at work, a store of another detector or feature size.
    """

    def __init__(
        self,
        path: str | Path,
        detector_fingerprint: Mapping[str, Any],
        feature_size: int,
        shard_pictures: int = 1024,
    ) -> None:
        if feature_size < 1 or shard_pictures < 1:
            raise UserError(f"{path}: feature size {feature_size} and pictures a shard {shard_pictures} must be >= 1")
        self.path = Path(path)
        self.feature_size = feature_size
        self.shard_pictures = shard_pictures
        # Through JSON once, so that what is compared and fingerprinted is what a reader will see.
        self.detector = json.loads(json.dumps(detector_fingerprint, allow_nan=False))
        self._schema = schema_of(feature_size)
        self._shards: list[dict[str, Any]] = []  # finished: name, bytes, sha256, pictures, regions, ids
        self._done: set[str] = set()
        self._progress: BinaryIO | None = None
        self._open: ShardFile | None = None
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if (self.path / MANIFEST).exists():
                self._load_finished()
            else:
                self._start()

    def __enter__(self) -> "RegionStoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def done_ids(self) -> frozenset[str]:
        """Ids of all pictures that need not be written again."""
        return frozenset(self._done)

    def write(self, image_id: str, regions: Regions) -> None:
        """Append one picture. Features are cast to float16, boxes and scores to float32.

        Raises:
            UserError: naming the picture: wrong feature size, shapes, NaN or infinity (also by overflow
                of float16), boxes outside the picture, an id that is there already; or: disk full.
        """
        regions = storable(self.path, image_id, regions, self.feature_size)
        if image_id in self._done:
            raise UserError(
                f"{self.path}: picture {image_id!r}: the store holds this picture already; ids must be unique"
            )
        with self._writing():
            if self._progress is None:
                self._start()
            if self._open is None:
                self._open = ShardFile(self.path / shard_name(self.next_number()), self._schema)
            self._open.write(image_id, regions)
            self._done.add(image_id)
            if len(self._open.ids) == self.shard_pictures:
                self._finish_shard()

    def next_number(self) -> int:
        """The number of the next shard: numbers may have gaps (see `adopt`), names never come twice."""
        return 1 + max((number_of(shard["name"]) for shard in self._shards), default=-1)

    def adopt(self, shards: Iterable[Mapping[str, Any]]) -> None:
        """Take in whole shard files that other processes wrote into the store's folder, in the order given.

        Args:
            shards: what `ShardFile.finish` returned for each. Those that the store has already are passed over,
                so that a run that was killed in the middle can give all of them again.

        Raises:
            UserError: a file is missing or cut, or a picture is in two of them.
        """
        known = {shard["name"] for shard in self._shards}
        new = [dict(shard) for shard in shards if shard["name"] not in known]
        if not new:
            return
        for shard in new:
            file = self.path / shard["name"]
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise UserError(f"{file}: missing or not whole; run the same command again")
            twins = self._done.intersection(shard["ids"])
            if twins or len(set(shard["ids"])) != len(shard["ids"]):
                raise UserError(
                    f"{file}: holds pictures a second time ({sorted(twins)[:3]}); delete the folder {self.path} and"
                    " extract again"
                )
            self._done.update(shard["ids"])
        with self._writing():
            if self._progress is None:
                self._start()
            self._shards += new
            self._note(*new)

    def close(self) -> None:
        """Finish the last shard, write index and manifest. Without anything new to write: no change."""
        with self._writing():
            if self._open is not None:
                self._finish_shard()
            if self._progress is None:
                return
            index = self._write_index()
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "detector": self.detector,
                "fingerprint": fingerprint_of(self.detector),
                "feature_size": self.feature_size,
                "dtype": "float16",
                "boxes": BOX_CONVENTION,
                "pictures": len(self._done),
                "regions": sum(shard["regions"] for shard in self._shards),
                "index": index,
                "shards": [{key: value for key, value in shard.items() if key != "ids"} for shard in self._shards],
            }
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            write_whole(self.path / MANIFEST, text.encode())
            (self.path / PROGRESS).unlink()
            self._release()

    def abort(self) -> None:
        """Stop without finishing: finished shards stay, a later writer goes on after them."""
        if self._open is not None:
            self._done.difference_update(self._open.ids)
            self._open.drop()
            self._open = None
        if self._progress is not None and not self._shards and not any(self.path.glob("shard-*.arrow")):
            (self.path / PROGRESS).unlink(missing_ok=True)  # nothing to go on from: leave nothing behind
        self._release()

    def _release(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            fix = "free some space" if error.errno == errno.ENOSPC else "choose a folder that can be written"
            raise UserError(
                f"{self.path}: cannot write the store ({error.strerror or error}); {fix} and run the same command again"
            ) from error

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "detector": self.detector, "feature_size": self.feature_size}

    def _refuse_other(self, detector: Mapping[str, Any], feature_size: int) -> None:
        if detector != self.detector or feature_size != self.feature_size:
            raise UserError(
                f"{self.path}: holds features of size {feature_size} from detector {fingerprint_of(detector)}"
                f" ({detector.get('name', 'without name')}), this run would add size {self.feature_size} from"
                f" {fingerprint_of(self.detector)} ({self.detector.get('name', 'without name')}); the two must not be"
                " mixed: choose another folder or delete this one"
            )

    def _lock(self) -> BinaryIO:
        # Appending mode creates the file if it is missing and cuts nothing if another process was faster.
        file = (self.path / PROGRESS).open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(
                f"{self.path}: another process is writing this store; wait for it or choose another folder"
            ) from error
        except OSError:
            pass  # a file system without locks: nothing to hold on to, and no reason to refuse work
        file.seek(0)
        return file

    def _start(self) -> None:
        """Take the progress file: go on from what it says, or begin it with the header and known shards."""
        self._progress = self._lock()
        try:
            if self._shards or not self._resume():
                self._progress.truncate(0)
                self._note(self._header(), *self._shards)
            # Now the store is unfinished (again): no reader may meet the old index with new shards.
            (self.path / MANIFEST).unlink(missing_ok=True)
        except BaseException:
            self._release()
            raise

    def _resume(self) -> bool:
        """Read the progress file; False if there is nothing in it (new, or killed while it was begun)."""
        valid_until = 0
        for line in self._progress:
            # A line cut by a kill, or a shard that is not whole: that shard and what follows is done again.
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if valid_until == 0:
                    if (entry["format"], entry["version"]) != (FORMAT, VERSION):
                        raise KeyError("version")
                    self._refuse_other(entry["detector"], entry["feature_size"])
                else:
                    file = self.path / entry["name"]
                    if not file.is_file() or file.stat().st_size != entry["bytes"]:
                        break
                    self._done.update(entry["ids"])
                    self._shards.append(entry)
            except (KeyError, TypeError, json.JSONDecodeError) as error:
                raise UserError(
                    f"{self.path / PROGRESS}: damaged or of another version; delete the folder {self.path} and extract"
                    " again"
                ) from error
            valid_until += len(line)
        self._progress.truncate(valid_until)
        return valid_until > 0

    def _load_finished(self) -> None:
        manifest = read_manifest(self.path)
        self._refuse_other(manifest["detector"], manifest["feature_size"])
        if (self.path / PROGRESS).exists():  # killed between the manifest and the end of close()
            with self._lock():
                (self.path / PROGRESS).unlink()
        index = self.path / INDEX
        ids = read_batch(open_mapped(index, manifest["index"]["bytes"], INDEX_SCHEMA), 0, index).column("image_id")
        start = 0
        for shard in manifest["shards"]:
            in_shard = ids[start : start + shard["pictures"]].to_pylist()
            self._shards.append({**shard, "ids": in_shard})
            self._done.update(in_shard)
            start += len(in_shard)

    def _note(self, *entries: dict[str, Any]) -> None:
        self._progress.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self._progress.flush()
        os.fsync(self._progress.fileno())

    def _finish_shard(self) -> None:
        shard = self._open.finish()
        self._open = None
        self._shards.append(shard)
        self._note(shard)

    def _write_index(self) -> dict[str, Any]:
        ids = [image_id for shard in self._shards for image_id in shard["ids"]]
        hashes = np.fromiter(map(hash_of, ids), dtype=np.uint64, count=len(ids))
        positions = np.argsort(hashes, kind="stable")
        columns = [pa.array(ids, pa.large_string()), pa.array(hashes[positions]), pa.array(positions.astype(np.int64))]
        file = self.path / INDEX
        temporary = file.with_name(file.name + ".tmp")
        batch = pa.record_batch(columns, schema=INDEX_SCHEMA)
        with temporary.open("wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        os.replace(temporary, file)
        return {"name": INDEX, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
