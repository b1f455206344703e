"""Several trainings at once, each in a process of its own with its part of the cores.

One small model hardly fills two cores: while one thread prepares a batch, the others wait. Two trainings with a
thread each did 13 % more pre-training a second than one with both. Each goes on from its own checkpoints, so
any of them may be killed.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from vivo.errors import UserError

Task = tuple[str, Callable[..., object], tuple]
"""Name, function of a module, its arguments (both travel to another process)."""


def run_side_by_side(tasks: Sequence[Task], jobs: int, done: Callable[[str, float], None]) -> None:
    """All tasks, `jobs` at a time, begun in the given order.

    Args:
        done: called here with name and seconds of each task that has ended.

    Raises:
        UserError: what a task raised, or a process that died; tasks that have not begun are given up.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit locked OpenMP threads
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=(threads,)) as pool:
        waiting: set[Future] = {pool.submit(_timed, *task) for task in tasks}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    done(*future.result())
        except BrokenProcessPool:
            raise UserError("a training's process died; run the same command again to go on where it was") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _timed(name: str, work: Callable[..., object], arguments: tuple) -> tuple[str, float]:
    began = time.monotonic()
    work(*arguments)
    return name, time.monotonic() - began


def _begin(threads: int) -> None:
    """Of each process: its threads, and no life beyond its parent's (two would write into one folder)."""
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is told by the parent, once
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    sys.stdout.reconfigure(line_buffering=True)  # lines of two trainings do not mix
