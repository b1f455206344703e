"""What an extraction says before and while it works: size on disk, pictures/s, time left."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivo.data.types import Regions
from vivo.detectors.base import Detector
from vivo.detectors.picture_batches import sample_pictures
from vivo.errors import UserError
from vivo.progress import size_text

_SAMPLE = 8
"""Pictures that are detected once more to estimate the size, at most: a second on a CPU."""
_SHARE = 16
"""Of so many pictures (rounded up) one is: eight of 24 took a quarter of the whole run."""
_RECORD_BYTES = 900
"""What Arrow and the index take for a picture beside its regions (measured: 874 to 878)."""
_LINE_SECONDS = 30.0
_LOOK_SECONDS = 2.0


def stored_bytes(regions: Regions, feature_size: int) -> int:
    """About how many bytes a RegionStore needs for one picture: float16 features, float32 boxes and scores, labels."""
    labels = sum(4 + len(label.encode()) for label in regions.labels)
    return len(regions.labels) * (2 * feature_size + 16 + 4) + labels + _RECORD_BYTES


def announce(paths: Sequence[str], store: Path, detector: Detector) -> str:
    """One line with the store's expected growth, from a few pictures of the list.

    Raises:
        UserError: the disk has less free than that.
    """
    pictures = sample_pictures(paths, _SAMPLE)[: -(-len(paths) // _SHARE)]
    if not pictures:
        return f"{store}: {len(paths)} pictures to do, size unknown: none of the first tries could be read"
    found = detector.detect(pictures)
    regions = sum(len(r.labels) for r in found) / len(found)
    needed = len(paths) * sum(stored_bytes(r, detector.feature_size) for r in found) / len(found)
    free = shutil.disk_usage(next(place for place in (store, *store.absolute().parents) if place.exists())).free
    size = f"{len(paths)} pictures to do, about {regions:.1f} regions of {detector.feature_size} numbers each"
    if needed > free:
        raise UserError(
            f"{store}: {size} need about {size_text(needed)}, but only {size_text(free)} are free there; free some"
            " space or choose another folder"
        )
    return f"{store}: {size}: about {size_text(needed)} ({size_text(free)} free)"


def try_extraction(paths: Sequence[str], store: Path, detector: Detector) -> list[str]:
    """A dry run: lines that say how large the store would become and how long one process would take.

    Raises:
        UserError: none of the first tries can be read; what `announce` raises.
    """
    pictures = sample_pictures(paths, _SAMPLE)
    if not pictures:
        raise UserError(f"{paths[0]}: cannot be read, nor can others of the {len(paths)} pictures; check their folder")
    lines = [announce(paths, store, detector)]  # which also warms the detector up
    start = monotonic()
    detector.detect(pictures)
    rate = len(pictures) / max(monotonic() - start, 1e-6)
    return [
        *lines,
        f"dry run: {len(pictures)} pictures at {rate:.1f}/s; one process would take about"
        f" {len(paths) / rate / 3600:.1f} h for all, without reading them; nothing was written",
    ]


class ProgressReport:
    """A bar on a terminal; elsewhere (a job's log) a line every half minute. Speaks after `begin`, on stderr.

    Args:
        shown: False: silent.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Progress | None = None

    def begin(self, announcement: str, total: int, elsewhere: Callable[[], int]) -> None:
        """Say the first line and start to count.

        Args:
            announcement: see `announce`.
            total: pictures to do in all processes.
            elsewhere: how many of them the other processes have finished by now.
        """
        if not self._shown:
            return
        print(announcement, file=sys.stderr, flush=True)
        self._total, self._elsewhere = total, elsewhere
        self._own = self._others = 0
        self._start = self._said = self._looked = monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
        console = Console(stderr=True)
        self._bar = Progress(TextColumn("regions"), *columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("regions", total=total, speed="")
        self._bar.start()

    def add(self, pictures: int) -> None:
        """This process has done so many more pictures."""
        if self._bar is not None:
            self._own += pictures
            self._show()

    def others(self) -> None:
        """Only look what the other processes have done."""
        if self._bar is not None:
            self._show()

    def end(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        now = monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._others, self._looked = self._elsewhere(), now
        done = self._own + self._others
        rate = done / max(now - self._start, 1e-6)
        self._bar.update(self._task, completed=done, speed=f"{rate:.1f} pictures/s")
        if self._bar.disable and now - self._said > _LINE_SECONDS:
            self._said = now
            left = (self._total - done) / rate if rate else 0.0
            print(
                f"{done} of {self._total} pictures, {rate:.1f} pictures/s, {left / 60:.1f} minutes left",
                file=sys.stderr,
                flush=True,
            )
