"""One line of progress on stderr: share, pictures/s and time left; a new line now and then where stderr is a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# A log of a day's work stays readable, and a job that hangs is noticed within a coffee.
_SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def progress_of(
    what: str, total: float, unit: str = "pictures", shown: bool = True, before: float = 0.0
) -> Iterator[Callable[..., None]]:
    """A bar for work whose extent is known; yields `update(completed, count)`.

    Args:
        what: the first word of the line.
        total: what `completed` will be at the end (bytes, rows, pictures: any measure of the way).
        unit: what `count` counts; the line shows it and its rate.
        shown: False draws nothing.
        before: of `total`, what an earlier run has done; `completed` begins there, and no time was spent on it.
    """
    console = Console(stderr=True)
    start = last = perf_counter()
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not shown or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, completed=before, speed="")

        def update(completed: float, count: int) -> None:
            nonlocal last
            now = perf_counter()
            rate = count / max(now - start, 1e-9)
            if console.is_terminal:
                bar.update(task, completed=completed, speed=f"{count} {unit}, {rate:.1f}/s")
            elif shown and now - last >= _SECONDS_BETWEEN_LINES:
                last = now
                left = (now - start) * (total - completed) / max(completed - before, 1)
                share = completed / max(total, 1)
                console.print(f"{what}: {share:.1%}, {count} {unit}, {rate:.1f}/s, {left / 60:.0f} min left")

        yield update


def size_text(count: float) -> str:
    """A number of bytes for people: 1.2 GB."""
    return decimal(int(count))
