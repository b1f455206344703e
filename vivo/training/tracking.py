"""What a run says about itself: metrics.jsonl always, W&B by option, a progress bar. Rank 0 only.

metrics.jsonl is the truth: one JSON record a line, each with "step". W&B gets the same records and
can never end a run (`vivo.training.wandb_run`); `vivo sync` can give it all of them again (`vivo.training.sync`).
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vivo.config import TrackingConfig
from vivo.errors import UserError
from vivo.training.tables import cut_tables, table_path
from vivo.training.wandb_run import WandbRun, run_id_of, wandb_config

SHOWN = 5


class Tracker:
    """Records and progress of one run; a context manager. Does nothing where `active` is False.

    Args:
        folder: of the run. resolved: all fields of its configuration. steps, start: updates of the whole run, done
            before. name: of the run, for people. active: this is rank 0.
        run_id: of the W&B run that goes on, as a checkpoint knows it; "" = what the folder says, else a new one.

    Attributes:
        run_id: the W&B run's id, which checkpoints carry; "" where not active.
    """

    def __init__(
        self,
        folder: Path,
        config: TrackingConfig,
        resolved: dict[str, Any],
        steps: int,
        start: int,
        name: str,
        active: bool,
        run_id: str = "",
    ):
        self.active, self.steps, self.start, self.name = active, steps, start, name
        self._wandb_config, self._resolved, self._folder = config, resolved, folder
        self._wandb: WandbRun | None = None
        self.run_id = run_id_of(folder, run_id) if active else ""
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._began = time.monotonic()
        if active:
            self._path = folder / "metrics.jsonl"
            _cut_records(self._path, start)
            cut_tables(folder, start)
            self._records = _Records(self._path)

    def __enter__(self) -> "Tracker":
        if not self.active:
            return self
        if self._wandb_config.wandb != "disabled":
            facts = wandb_config(self._resolved, self._folder)
            tracking = self._wandb_config
            self._wandb = WandbRun(self._folder, tracking.wandb, tracking.project, self.name, self.run_id, facts)
            self._began = time.monotonic()  # an unreachable server has cost seconds that no update has
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task(self.name, total=self.steps, completed=self.start, rate="")
            self._progress.start()
        return self

    def __exit__(self, *error) -> None:
        if not self.active:
            return
        if self._progress:
            self._progress.stop()
        if lost := self._records.close():
            self.say(f"WARNING: {self._path}: the last {lost} records could not be written")
        if self._wandb:
            self._wandb.finish(exit_code=0 if error[0] is None else 1)

    def log(self, step: int, record: dict[str, Any]) -> None:
        """Append a record; `step` counts updates done."""
        if not self.active:
            return
        if problem := self._records.append({"step": step, **record}):
            self.say(f"WARNING: {self._path}: {problem}; records wait in memory, training goes on")
        if self._wandb:
            self._wandb.log(step, record)

    def log_table(self, step: int) -> None:
        """Show W&B the table that the validation at `step` has written, if it has written one."""
        path = table_path(self._folder, step)
        if self._wandb and path.is_file():
            self._wandb.log_table(step, path)

    def advance(self, step: int, record: dict[str, float] | None = None) -> None:
        """Move the bar; without a terminal print a line for each record instead."""
        if not self.active:
            return
        rate = f"loss {record['loss']:.3f}  {record['pictures_per_second']:.0f} pictures/s" if record else None
        if self._progress:
            self._progress.update(self._task, completed=step, **({"rate": rate} if rate else {}))
        elif rate:
            left = (time.monotonic() - self._began) / max(1, step - self.start) * (self.steps - step)
            self.say(f"{self.name} {step}/{self.steps}  {rate}  ETA {left:.0f} s")

    def say(self, text: str) -> None:
        """A line for the reader, above the bar."""
        if self.active:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Records:
    """Lines appended to a file whole or not at all; while the disk is full they wait here."""

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size
        self._waiting: list[bytes] = []

    def append(self, record: dict[str, Any]) -> str:
        """Returns what the system said when the disk turned out to be full, else ""."""
        first = not self._waiting
        self._waiting.append(json.dumps(record).encode() + b"\n")
        problem = self._write()
        return problem if first else ""

    def close(self) -> int:
        """Try once more; returns how many records are lost."""
        self._write()
        self._file.close()
        return len(self._waiting)

    def _write(self) -> str:
        content = b"".join(self._waiting)
        try:
            if self._file.write(content) < len(content):  # what fitted; the rest would have been refused
                raise OSError("no space left")
        except OSError as error:
            self._file.truncate(self._size)  # no half line between whole ones
            return error.strerror or str(error)
        self._size += len(content)
        self._waiting.clear()
        return ""


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl. Lines that hold none are named on stderr, and those after them are read."""
    return [record for _, record in _read_lines(path) if record is not None]


def _read_lines(path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Each line as it stands, and its record; None where it holds none, which is said on stderr.

    A last line without an end and without a record is what a kill left: it is left out and nothing is said.
    """
    content = path.read_bytes() if path.is_file() else b""
    *whole, last = content.split(b"\n")
    lines = [(line, _record_of(line)) for line in whole]
    if (record := _record_of(last)) is not None:
        lines.append((last, record))
    odd = [str(number) for number, (line, record) in enumerate(lines, 1) if record is None and line.strip()]
    if odd:
        shown = ", ".join(odd[:SHOWN]) + (f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else "")
        print(
            f"WARNING: {path}: no record with a step in line{'s' if len(odd) > 1 else ''} {shown}; read without, and "
            "kept in the file",
            file=sys.stderr,
        )
    return lines


def _record_of(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    known = isinstance(step, int | float) and not isinstance(step, bool) and 0 <= step < math.inf
    return record if known else None


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a record to the metrics.jsonl of a run that has ended.

    Raises:
        UserError: the disk is full, or the last line was cut by a kill, and the run is to go on first.
    """
    if not path.read_bytes().endswith(b"\n"):
        raise UserError(f"{path}: its last line is cut, the run was killed; give its command again, which goes on")
    records = _Records(path)
    problem = records.append(record)
    records.close()
    if problem:
        raise UserError(f"{path}: {problem}")


def _cut_records(path: Path, start: int) -> None:
    """Drop what was recorded after the checkpoint that the run resumes from; what is no record is not ours to drop."""
    # without updates done nothing is kept: the run begins anew, its validation before the first update too
    kept = [line for line, record in _read_lines(path) if record is None or 0 < start >= record["step"]]
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(b"".join(line + b"\n" for line in kept))
    temporary.rename(path)
