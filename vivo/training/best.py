"""`out`/best: the model of the best validation so far, best.json, which says which that is, and the rule to stop."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vivo.errors import UserError
from vivo.files import atomic_folder


def lower_is_better(metric: str) -> bool:
    """Whether the lowest value of a metric of the log is the best: losses and repetition; of all others the highest."""
    return metric.endswith(("loss", "repetition"))


class Best:
    """Which validation was the best, remembered by every process; one of them keeps its model.

    Args:
        folder: `out`/best. metric: "" keeps none.
        stop_after: validations in a row without a new best after which the run is over; 0: never.
        state: as the checkpoint of this run has it that the run goes on from. None without one: what the folder holds
            is then of another run.
    """

    def __init__(self, folder: Path, metric: str, stop_after: int = 0, state: dict[str, Any] | None = None) -> None:
        self.folder, self.metric, self.stop_after = folder, metric, stop_after
        self._sign = -1.0 if lower_is_better(metric) else 1.0
        state = state if state and state["metric"] == metric else {}
        self._value: float | None = state.get("value")
        self._step, self._without = state.get("step"), state.get("without", 0)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the best value, the updates done then, and how many validations came after it."""
        return {"metric": self.metric, "value": self._value, "step": self._step, "without": self._without}

    def take(self, done: int, record: dict[str, Any]) -> bool:
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
        before = -math.inf if self._value is None else self._sign * self._value
        better = self._sign * value > before
        if better:
            self._value, self._step = value, done
        self._without = 0 if better else self._without + 1
        return better

    def over(self) -> str:
        """Why the run is to end, if it is."""
        if not self.stop_after or self._without < self.stop_after:
            return ""
        risen = "fallen below" if lower_is_better(self.metric) else "risen above"
        return (
            f"{self.metric} has not {risen} {self._value:.4g}, that of update {self._step}, in {self._without} "
            f"validations (tracking.stop_after); the best model is in {self.folder}"
        )

    def keep(self, done: int, write: Callable[[Path], None]) -> None:
        """Replace what is kept (by one process)."""
        with atomic_folder(self.folder) as temporary:
            write(temporary)
            (temporary / "best.json").write_text(json.dumps({"step": done, self.metric: self._value}))
