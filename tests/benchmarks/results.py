"""What benchmark programs write: rows of one table, and everything else that was measured beside them.

A row is {"name", "ours", "rival", "unit", "ratio", "goal", "limit"}; ratio >= goal means reached. `ours` and `rival`
are what was measured, in `unit`; where less is better ratio = rival / ours and the goal is inverted. `limit` is what
the hardware would allow of `ours`, null where nothing was computed.
"""

import json
import platform
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any


class Results:
    """The rows of a run, written anew after each section: what was measured stays if the program is killed."""

    def __init__(self, file: Path, seconds: float = 1e9):
        self.file, self.rows, self.notes = file, [], {}
        self.end = monotonic() + seconds
        self.section_end = self.end
        self.notes["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.notes["python"] = platform.python_version()

    def row(
        self, name: str, ours: float, rival: float | None, unit: str, goal: float | None, limit: float | None = None,
        *, less_is_better: bool = False,
    ) -> None:  # fmt: skip
        """Add a row, and print it."""
        ratio = None if rival is None else (rival / ours if less_is_better else ours / rival)
        found = {"name": name, "ours": ours, "rival": rival, "unit": unit, "ratio": ratio, "goal": goal, "limit": limit}
        self.rows.append(found)
        print(_line(found), flush=True)

    def note(self, name: str, value: Any) -> None:
        """Keep what is no row."""
        self.notes[name] = value
        self.write()  # a section that is killed has told this much
        print(f"    {name}: {_short(value)}", flush=True)

    def left(self) -> float:
        """Seconds left for this section."""
        return min(self.end, self.section_end) - monotonic()

    def run(self, name: str, section: Callable[["Results"], None], seconds: float) -> None:
        """Run a section; its error or its time-out loses nothing but what it has not measured yet."""
        begun = monotonic()
        if self.end - begun < 5:
            self.note(f"{name}/skipped", "no time left")
            return
        self.section_end = begun + seconds
        print(f"== {name}", flush=True)
        try:
            with _alarm(min(seconds, self.end - begun)):
                section(self)
        except Exception as error:  # whatever goes wrong: the other sections are to run
            traceback.print_exc()
            self.note(f"{name}/error", f"{type(error).__name__}: {error}"[:500])
        self.note(f"{name}/seconds", monotonic() - begun)
        self.write()

    def write(self) -> None:
        """The rows, and beside them (FILE.notes.json) the notes."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.rows, indent=1) + "\n")
        self.file.with_suffix(".notes.json").write_text(json.dumps(self.notes, indent=1) + "\n")

    def table(self) -> str:
        """All rows as text."""
        return "\n".join(map(_line, self.rows))


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return str(value)


def _line(row: dict[str, Any]) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:,.4g}"

    return (
        f"{row['name'][:66]:<66} ours {shown(row['ours']):>9} rival {shown(row['rival']):>9} {row['unit'][:16]:<16}"
        f" ratio {shown(row['ratio']):>7} goal {shown(row['goal']):>5} limit {shown(row['limit']):>9}"
    )
