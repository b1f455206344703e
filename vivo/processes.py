"""The processes that do one job together, as `accelerate launch`, `torchrun` or mpirun started them.

They talk little: the first tells the others what there is to do, what they have found is gathered, and at the end each
waits until the others are done. All of it goes over gloo, whatever the models run on, so no folder in common is needed
for it. A process that dies closes its connections, and the others notice at once when they wait for it.
"""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from vivo.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long a process waits for the others where nothing else is said: an extraction takes days."""
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Processes:
    """One process alone: rank 0 of 1, nobody to tell and nobody to wait for."""

    rank = 0
    count = 1

    @property
    def is_main(self) -> bool:
        """Whether this process plans, reports and finishes the job."""
        return self.rank == 0

    def on_main(self, work: Callable[[], T]) -> T | None:
        """What `work` gives, done by the main process alone; the others get None.

        Raises:
            UserError: in the main process, that of `work`. The others then leave with status 2, silently: the main
                process has said it.
        """
        return work()

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` gives, done by the main process and told to all (small and picklable); errors as `on_main`."""
        return work()

    def everywhere(self, work: Callable[[], T]) -> T:
        """What `work` gives in this process, once all have done theirs.

        Raises:
            UserError: in the main process, that of the first process in which `work` failed; the others then leave
                silently, as with `on_main`.
        """
        return work()

    def all_gather(self, value: T) -> list[T]:
        """What all processes have brought (picklable), by rank."""
        return [value]

    def wait(self, meanwhile: Callable[[], None]) -> None:
        """Until all processes are here, call `meanwhile` now and then.

        Raises:
            UserError: another process ended before.
        """


class _Joined(Processes):
    """Processes that torch.distributed has joined."""

    def __init__(self) -> None:
        import torch.distributed

        self._distributed = torch.distributed
        self.rank = torch.distributed.get_rank()
        self.count = torch.distributed.get_world_size()

    def on_main(self, work: Callable[[], T]) -> T | None:
        kept: list[T] = []
        self.from_main(lambda: kept.append(work()))
        return kept[0] if self.is_main else None

    def from_main(self, work: Callable[[], T]) -> T:
        told: list[T | UserError | None] = [None]
        if self.is_main:
            try:
                told[0] = work()
            except UserError as error:
                told[0] = error
        try:
            self._distributed.broadcast_object_list(told, src=0)
        except RuntimeError as error:
            raise self._lost() from error
        if isinstance(told[0], UserError):
            raise told[0] if self.is_main else SystemExit(2)
        return told[0]

    def everywhere(self, work: Callable[[], T]) -> T:
        found: list[T] = []
        problem = ""
        try:
            found.append(work())
        except UserError as error:
            problem = str(error)
        problems = self.all_gather((problem, socket.gethostname()))
        for rank, (text, host) in enumerate(problems):
            if text:
                same = all(other == text for other, _ in problems)
                told = UserError(text if same or rank == 0 else f"process {rank} on {host}: {text}")
                raise told if self.is_main else SystemExit(2)
        return found[0]

    def all_gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.count
        try:
            self._distributed.all_gather_object(found, value)
        except RuntimeError as error:
            raise self._lost() from error
        return found

    def wait(self, meanwhile: Callable[[], None]) -> None:
        try:
            arrival = self._distributed.barrier(async_op=True)
            while not arrival.is_completed():
                meanwhile()
                time.sleep(0.2)
            arrival.wait()
        except RuntimeError as error:
            raise self._lost() from error

    def _lost(self) -> UserError:
        return UserError(
            f"process {self.rank} of {self.count}: another process ended before its work was done, or did not answer;"
            " run the same command again, it goes on where it was"
        )


ALONE = Processes()


def join_processes(program: str, patience: timedelta = PATIENCE) -> Processes:
    """The processes that a launcher started together with this one; `ALONE` without a launcher.

    A process with GPUs at hand takes the one of its place on its machine as its "cuda" device.

    Args:
        program: whose head shows how it is started, for errors.
        patience: after how long a process that waits for another one gives up.

    Raises:
        UserError: a launcher started more processes than could be joined.
    """
    launched = next((int(os.environ[name]) for name in _WORLD_SIZES if os.environ.get(name)), 1)
    if launched == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    # cpu=True: gloo between the processes also where each has a GPU; they exchange a few hundred bytes
    state = PartialState(cpu=True, timeout=patience)
    if state.num_processes != launched:
        raise UserError(
            f"the launcher started {launched} processes, but accelerate joined {state.num_processes}; start it as the"
            f" head of {program} shows"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(state.local_process_index % torch.cuda.device_count())
    return _Joined()
