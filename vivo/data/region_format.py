"""The format of a RegionStore: names, schema, fingerprint, checks (`vivo.data.regions` reads and writes it)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vivo.data.types import Regions
from vivo.errors import UserError

FORMAT = "vivo-regions"
VERSION = 1
BOX_CONVENTION = "float32 x1 y1 x2 y2, absolute pixels of the original picture, origin at the top left"
MANIFEST, INDEX, PROGRESS = "manifest.json", "index.arrow", "progress.jsonl"
# Detectors round and resize: a box may leave its picture by this many pixels before it is an error.
_BOX_TOLERANCE = 1.0


def fingerprint_of(detector: Mapping[str, Any]) -> str:
    """16 hex digits over a detector's description: equal text, equal features.

    Args:
        detector: JSON values only (name, weights SHA-256, thresholds, ...); key order does not matter.
    """
    text = json.dumps(detector, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_features(
    expected_fingerprint: str, expected_size: int, found_fingerprint: str, found_size: int, source: str
) -> None:
    """Refuse region features that a model was not trained on.

    Args:
        expected_fingerprint, expected_size: what the model records (detector fingerprint, F).
        found_fingerprint, found_size: what the store or the detector at hand gives.
        source: names that store or detector in the message.

    Raises:
        UserError: says expected, found, the probable reason and the fix.
    """
    if expected_size != found_size:
        reason = "the features come from another detector, or from another of its layers"
    elif not expected_fingerprint:
        raise UserError(
            f"{source}: nothing says which detector's features the model knows, so it reads no store; import it again"
            " and name a store of them (finetune/import_checkpoint.py --regions)"
        )
    elif expected_fingerprint != found_fingerprint:
        reason = (
            "same size, but other detector weights, layer or thresholds, so the numbers mean other things to the model"
        )
    else:
        return
    raise UserError(
        f"{source}: the model expects features of size {expected_size} from detector {expected_fingerprint}, found size"
        f" {found_size} from detector {found_fingerprint}; probable reason: {reason}; fix: extract the regions again"
        " with the detector that the model names"
    )


INDEX_SCHEMA = pa.schema([("image_id", pa.large_string()), ("hash", pa.uint64()), ("position", pa.int64())])
"""image_id in the order of writing; hash sorted, with the position in image_id that each belongs to."""


def schema_of(feature_size: int) -> pa.Schema:
    """The Arrow schema of a shard for features of size F."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("features", pa.list_(pa.list_(pa.float16(), feature_size))),
            ("labels", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float32())),
        ]
    )


def hash_of(image_id: str) -> int:
    """64 bits of a picture id, equal on every machine (Python's own hash is salted)."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem_with(regions: Regions, feature_size: int) -> str | None:
    """What is wrong with the regions of one picture, or None: shapes, finite numbers, boxes in the picture."""
    boxes, features, scores = (np.asarray(a) for a in (regions.boxes, regions.features, regions.scores))
    count = len(features)
    if features.ndim != 2 or count == 0:
        return f"features have shape {features.shape}, expected [R, {feature_size}] with R >= 1"
    if features.shape[1] != feature_size:
        return f"feature size {features.shape[1]}, the store has {feature_size}; they come from another detector"
    if boxes.shape != (count, 4) or scores.shape != (count,) or len(regions.labels) != count:
        return (
            f"{count} regions, but boxes {boxes.shape}, scores {scores.shape} and {len(regions.labels)} labels;"
            " expected [R, 4], [R] and R"
        )
    if not all(isinstance(label, str) for label in regions.labels):
        return "a label is not text; unnamed regions have the label ''"
    if not np.isfinite(features).all():
        return "NaN or infinity in the features"
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "NaN or infinity in the boxes or scores"
    if regions.width < 1 or regions.height < 1:
        return f"picture size {regions.width} x {regions.height}"
    limits = np.array([regions.width, regions.height], dtype=np.float32) + _BOX_TOLERANCE
    if (boxes[:, :2] < -_BOX_TOLERANCE).any() or (boxes[:, 2:] > limits).any() or (boxes[:, :2] > boxes[:, 2:]).any():
        return (
            f"a box lies outside the {regions.width} x {regions.height} picture or is not x1 <= x2, y1 <= y2;"
            " are boxes pixels x1 y1 x2 y2 of the original picture?"
        )
    if (scores < -1e-3).any() or (scores > 1 + 1e-3).any():
        return "a score is not in 0..1"
    return None


def view_of(array: pa.Array, dtype: type[np.generic]) -> np.ndarray:
    """Read-only numpy view [N] of an Arrow array of plain numbers (`Array.to_numpy` would import pandas)."""
    if len(array) == 0:  # frombuffer refuses an empty buffer
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def regions_of(batch: pa.RecordBatch) -> Regions:
    """One record batch of a shard (one picture) as `Regions`; arrays are views into the batch."""
    _, width, height, boxes, features, labels, scores = batch.columns
    return Regions(
        boxes=view_of(boxes.values.values, np.float32).reshape(-1, 4),
        features=view_of(features.values.values, np.float16).reshape(-1, features.values.type.list_size),
        labels=labels.values.to_pylist(),
        scores=view_of(scores.values, np.float32),
        width=width[0].as_py(),
        height=height[0].as_py(),
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Parse and check STORE/manifest.json.

    Raises:
        UserError: no store there, an unfinished one, not JSON, a key missing, another format version.
    """
    file = path / MANIFEST
    if not file.is_file():
        if (path / PROGRESS).exists():
            raise UserError(f"{path}: this store is unfinished; run the extraction again, it goes on where it was")
        raise UserError(f"{path}: not a region store (no {MANIFEST}); make one with pretrain/extract_regions.py")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            raise UserError(
                f"{file}: format {manifest['format']} {manifest['version']}, this program reads {FORMAT} {VERSION}"
            )
        for key in ("detector", "fingerprint", "feature_size", "pictures", "regions", "shards", "index"):
            manifest[key]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error!r}); extract the store again") from error
    return manifest


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, for one-line messages."""
    return (str(error) or repr(error)).splitlines()[0]


def open_mapped(file: Path, expected_bytes: int, schema: pa.Schema) -> pa.RecordBatchFileReader:
    """Map an Arrow file of the store; nothing but its footer is read, and no file descriptor stays open.

    Raises:
        UserError: missing, of another size than the manifest says, not an Arrow file, or of another schema.
    """
    try:
        found = file.stat().st_size
        if found != expected_bytes:
            raise UserError(
                f"{file}: {found} bytes, the manifest says {expected_bytes}; the file is truncated or was exchanged:"
                " copy it again or extract the store again"
            )
        with pa.memory_map(str(file)) as mapped:
            # The buffer keeps the mapping alive, the descriptor is closed: a process may have only 1024 of those,
            # and a store of 1.7 million pictures has more shards. Reopening one costs four times a read.
            content = mapped.read_buffer()
        reader = pa.ipc.open_file(pa.BufferReader(content))
        if not reader.schema.equals(schema):
            raise UserError(f"{file}: damaged (its columns are not those of this format); copy or extract it again")
        return reader
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy or extract the store again") from error


def read_batch(reader: pa.RecordBatchFileReader, number: int, file: Path) -> pa.RecordBatch:
    """Record batch `number` of an open file, as views; `UserError` naming the file where it is damaged."""
    try:
        return reader.get_batch(number)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: damaged ({first_line(error)}); copy or extract the store again") from error
