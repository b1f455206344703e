"""Which examples stand in which step: a pure function, so that resuming needs only the step.

The training set is an endless stream of epochs, each in the order `epoch_permutation(seed, epoch)`;
global batch `step` is the stretch [step * batch, (step + 1) * batch) of that stream, across the
border of epochs too. Process `rank` of `world` takes its contiguous part, cut into micro-batches:
the global order, and with it every mask and caption choice, is the same on any number of processes.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from vivo.randomness import epoch_permutation


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, example index) for `torch.utils.data.DataLoader(batch_sampler=...)`.

    Yields the micro-batches of this process for steps `start` .. `stop` - 1, `micro_batches` of
    them a step.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        micro_batch_size: int = 0,
    ):
        if batch_size % world:
            raise ValueError(f"global batch {batch_size} does not divide by {world} processes")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.stop = start, stop
        self.rank, self.per_process = rank, batch_size // world
        self.micro_batch_size = micro_batch_size or self.per_process
        if self.per_process % self.micro_batch_size:
            raise ValueError(f"{self.per_process} pictures a process do not divide by micro batch {micro_batch_size}")
        self.micro_batches = self.per_process // self.micro_batch_size
        self._permutation = lru_cache(maxsize=2)(lambda epoch: epoch_permutation(seed, epoch, size))

    def global_batch(self, step: int) -> list[tuple[int, int]]:
        """[(epoch, index)] * batch_size."""
        stream = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return [(int(e), int(self._permutation(int(e))[i])) for e, i in zip(*np.divmod(stream, self.size), strict=True)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            mine = self.global_batch(step)[self.rank * self.per_process : (self.rank + 1) * self.per_process]
            for first in range(0, self.per_process, self.micro_batch_size):
                yield mine[first : first + self.micro_batch_size]

    def __len__(self) -> int:
        return (self.stop - self.start) * self.micro_batches

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k != "_permutation"}
