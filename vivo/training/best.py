"""`out`/best: the model of the best validation so far, and best.json, which says which one that is."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vivo.errors import UserError
from vivo.files import atomic_folder

FILE = "best.json"


def lower_is_better(metric: str) -> bool:
    """Whether the lowest value of a metric of the log is the best: losses and repetition; of all others the highest."""
    return metric.endswith(("loss", "repetition"))


class Best:
    """Which validation was the best, remembered by every process; one of them keeps its model.

    Args:
        folder: `out`/best. metric: "" keeps none.
        start: updates done before. What a folder says of later ones is of another run, or of updates that are done
            again.
    """

    def __init__(self, folder: Path, metric: str, start: int) -> None:
        self.folder, self.metric = folder, metric
        self._sign = -1.0 if lower_is_better(metric) else 1.0
        known = _read(folder / FILE) if metric and start else {}
        earlier = metric in known and known.get("step", math.inf) <= start
        self._value = self._sign * float(known[metric]) if earlier else -math.inf

    def take(self, record: dict[str, Any]) -> bool:
        """Whether this validation is the best so far; remembered if so.

        Raises:
            UserError: the validation has no number of that name.
        """
        if not self.metric:
            return False
        value = record.get(self.metric)
        if not isinstance(value, int | float):
            numbers = ", ".join(name for name, value in record.items() if isinstance(value, int | float))
            raise UserError(f"tracking.best: a validation has no number {self.metric}, but {numbers}")
        better = self._sign * value > self._value
        self._value = max(self._value, self._sign * value)
        return better

    def keep(self, done: int, write: Callable[[Path], None]) -> None:
        """Replace what is kept (by one process)."""
        with atomic_folder(self.folder) as temporary:
            write(temporary)
            (temporary / FILE).write_text(json.dumps({"step": done, self.metric: self._sign * self._value}))


def _read(path: Path) -> dict[str, Any]:
    """What the file says; nothing where it is missing or damaged, so that the next validation replaces it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    good = isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())
    return found if good else {}
