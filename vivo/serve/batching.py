"""Micro-batching: requests that wait for the model are read by it together.

One thread runs the model. It takes the first picture that waits, then for `batch_seconds` at most what else comes, up
to `batch` pictures: while it works, others gather by themselves, so the wait counts only when little is going on. The
queue is bounded; what finds it full is refused at once (429), because an answer after minutes helps nobody.

A batch that fails is done again one picture at a time, so that only the request which is to blame gets an error.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from vivo.serve.describer import Description, Wanted
from vivo.serve.pictures import Picture
from vivo.serve.problems import Problem, busy

logger = logging.getLogger("vivo.serve")

Describe = Callable[[Sequence[Picture], Sequence[Wanted]], list[Description]]
BROKEN = 8
"""Failures in a row, of single pictures, after which the model is taken for broken (a lost GPU, say)."""
TRIAL = 30.0
"""Seconds without a failure after which it may be tried again: what is asked nothing cannot succeed."""


@dataclass(eq=False)
class Job:
    """One picture on its way to the model and back.

    Attributes:
        picture: None as soon as nobody waits for the answer: a client that is gone costs neither work nor memory.
        waited, worked: seconds in the queue and in the model.
        together: pictures in its batch.
    """

    picture: Picture | None
    wanted: Wanted
    answer: asyncio.Future
    loop: asyncio.AbstractEventLoop
    born: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    worked: float = 0.0
    together: int = 0


class Batcher:
    """See the module.

    Args:
        describe: the model's work. batch, batch_seconds, size: see `Settings.batch`, `batch_seconds`, `queue`.
        trial: see `TRIAL`.
        seen: called with (pictures, seconds, failed) after each batch, for metrics.
    """

    def __init__(
        self,
        describe: Describe,
        batch: int,
        batch_seconds: float,
        size: int,
        seen: Callable[[int, float, int], None] = lambda pictures, seconds, failed: None,
        trial: float = TRIAL,
    ) -> None:
        self._describe, self._batch, self._batch_seconds, self._seen = describe, batch, batch_seconds, seen
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._size = size
        self._pace = 0.2  # seconds a picture, a moving mean
        self._failures = 0  # in a row
        self._failed, self._trial = 0.0, trial  # when the last of them was
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, then end; blocks until then."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    @property
    def healthy(self) -> bool:
        """Whether the model's thread lives and its work succeeds, or may be tried again."""
        over = time.monotonic() - self._failed >= self._trial
        return self._thread.is_alive() and (self._failures < BROKEN or over)

    def check_room(self, extra: int = 0) -> None:
        """Raises: Problem, 429, where the queue is full; to be asked before work is put into a request."""
        if self.waiting >= self._size + extra:
            raise busy("too many requests are waiting", self._retry_after())

    async def describe(
        self, picture: Picture, wanted: Wanted, seconds: float, extra: int = 0
    ) -> tuple[Description, Job]:
        """The description of a picture, when its turn has come.

        Args:
            extra: places beyond the queue's size: what took long to decode must not find it full of what did not.

        Raises:
            Problem: 429 where the queue is full, 503 after `seconds`, 500 where the model failed with this picture.
        """
        self.check_room(extra)
        loop = asyncio.get_running_loop()
        job = Job(picture, wanted, loop.create_future(), loop)
        self._jobs.put(job)
        try:
            async with asyncio.timeout(seconds):
                return await job.answer, job
        except TimeoutError:
            raise Problem(
                503, "ServiceUnavailable", "The model did not come to this request in time.", "Timeout", retry_after=5
            ) from None
        finally:
            job.picture = None
            with self._jobs.mutex, suppress(ValueError):  # which says that the model's thread has it, or had
                self._jobs.queue.remove(job)

    def _retry_after(self) -> int:
        """Seconds after which the queue has moved on, going by the last batches."""
        return max(1, min(60, math.ceil(self._size * self._pace)))

    # ---------------------------------------------------------------- the model's thread

    def _run(self) -> None:
        while (jobs := self._gather()) is not None:
            self._work(jobs)

    def _gather(self) -> list[Job] | None:
        """The next batch; None: the end."""
        first = self._jobs.get()
        if first is None:
            return None
        jobs, end = [first], time.monotonic() + self._batch_seconds
        while len(jobs) < self._batch:
            try:
                job = self._jobs.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # the end comes after this batch
                break
            jobs.append(job)
        return jobs

    def _work(self, gathered: list[Job]) -> None:
        live = [(job, picture) for job in gathered if (picture := job.picture) is not None]
        if not live:
            return
        begun = time.monotonic()
        failed = 0
        jobs, pictures = zip(*live, strict=True)
        answers: list[Description | Exception]
        try:
            answers = list(self._describe(pictures, [job.wanted for job in jobs]))
        except Exception:
            logger.exception("a batch of %d failed; each picture is tried alone", len(jobs))
            answers = [self._alone(picture, job.wanted) for job, picture in live]
            failed = sum(isinstance(answer, Exception) for answer in answers)
        self._failed = time.monotonic() if failed else self._failed
        self._failures = 0 if failed < len(jobs) else self._failures + failed
        seconds = time.monotonic() - begun
        self._pace = 0.8 * self._pace + 0.2 * seconds / len(jobs)
        self._seen(len(jobs), seconds, failed)
        for job, answer in zip(jobs, answers, strict=True):
            job.waited, job.worked, job.together = begun - job.born, seconds, len(jobs)
            try:
                job.loop.call_soon_threadsafe(_settle, job.answer, answer)
            except RuntimeError:  # its event loop is closed: nobody waits any more
                pass

    def _alone(self, picture: Picture, wanted: Wanted) -> Description | Exception:
        try:
            return self._describe([picture], [wanted])[0]
        except Exception as error:
            logger.exception("the model failed with a picture of %d x %d", *picture.image.size)
            return error


def _settle(answer: asyncio.Future, found: Description | Exception) -> None:
    if answer.done():  # cancelled meanwhile
        return
    if isinstance(found, Exception):
        answer.set_exception(
            Problem(500, "InternalServerError", "The image could not be processed.", "FailedToProcess")
        )
    else:
        answer.set_result(found)
