"""Signals that ask a run to stop: remembered, and answered when the update is done.

SIGTERM and SIGUSR1 come from a scheduler before it takes the machine away (SLURM: `--signal=USR1@120`), SIGINT from
Ctrl-C. The run saves a checkpoint and ends with `STOPPED` (75, "temporary failure"), after Ctrl-C with 130; the same
command goes on. A second signal of the same kind acts at once.
"""

import signal
import threading
from types import FrameType
from typing import Any

STOPPED = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(SystemExit):
    """The run was asked to stop and has saved everything; carries the exit status."""


class Interruption:
    """Remembers the first signal while it is entered as a context; outside the main thread it does nothing.

    Attributes:
        received: the signal's number, 0 while there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        signal.signal(number, self._before[number])  # a second one is not waited for

    @property
    def exit_status(self) -> int:
        """What the process ends with."""
        return 130 if self.received == signal.SIGINT else STOPPED
