"""Reads what W&B wrote offline: a run-<id>.wandb file is a log of protobuf records in LevelDB's format.

wandb 0.31 has no reader of its own in Python (`wandb.sdk.internal.datastore` of older versions is gone). The file: 7
bytes of header (":W&B", a magic number, a version), then blocks of 32,768 bytes, each a row of chunks
(CRC-32, length, type, bytes); type 1 is a whole record, 2, 3, 4 its first, middle and last part.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32_768, 7


@dataclass
class Stretch:
    """One .wandb file: a stretch of a run."""

    run_id: str = ""
    project: str = ""
    name: str = ""
    resumed: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # step -> what was logged at it
    summary: dict[str, Any] = field(default_factory=dict)  # what was set without a step
    metrics: dict[str, str] = field(default_factory=dict)  # metric -> its x axis
    artifacts: list[dict[str, Path]] = field(default_factory=list)  # of each: file inside it -> where it lies now
    exit_code: int | None = None


def raw_records(path: Path) -> Iterator[bytes]:
    """The bytes of each record; every checksum is checked."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, whole = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, place)
        body = data[place + HEADER : place + HEADER + length]
        assert len(body) == length and zlib.crc32(bytes([kind]) + body) == checksum, f"{path}: damaged at {place}"
        place += HEADER + length
        whole = body if kind in (1, 2) else whole + body
        if kind in (1, 4):
            yield whole


def read_stretch(path: Path) -> Stretch:
    """Run, configuration, history rows and exit of one .wandb file."""
    found = Stretch()
    for data in raw_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run_id, found.project, found.name = record.run.run_id, record.run.project, record.run.display_name
            for item in record.run.config.update:
                found.config[item.key] = json.loads(item.value_json)
        elif kind == "history":
            row = nested(record.history.item)
            assert row["_step"] not in found.rows, f"step {row['_step']} stands twice in {path}"
            found.rows[row["_step"]] = row
        elif kind == "summary":
            found.summary |= nested(record.summary.update)
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            found.artifacts.append({c.path: Path(c.local_path) for c in record.artifact.manifest.contents})
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def nested(items: Any) -> dict[str, Any]:
    """History items, {"a": {"b": 1}} of nested keys."""
    row: dict[str, Any] = {}
    for item in items:
        *groups, last = list(item.nested_key) or [item.key]
        inner = row
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = json.loads(item.value_json)
    return row


def stretches(folder: Path) -> list[Stretch]:
    """All offline stretches below a run folder, oldest first. Ends W&B's own process first: in wandb 0.31 a finished
    run's file may still be without its last block, and is whole when that process has ended (as after any command)."""
    wandb.teardown()
    files = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return [read_stretch(path) for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


def told(found: list[Stretch]) -> dict[str, Any]:
    """What W&B's Api would tell of a run with these stretches, one after the other, as
    `vivo.experiment.wandb_runs.fetch_records` asks for it: a summary has the last value of each metric."""
    summary: dict[str, Any] = {}
    for stretch in found:
        for row in stretch.rows.values():
            summary |= row
        summary |= stretch.summary
    state = "finished" if found[-1].exit_code == 0 else "crashed"
    return {
        "id": found[-1].run_id,
        "name": found[-1].name,
        "state": state,
        "config": found[-1].config,
        "summary": summary,
        "commit": "",
    }
