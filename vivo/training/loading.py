"""The micro-batches of one process, from `data.workers` loader processes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vivo.data.collate import Batch
from vivo.data.sampler import StepBatches
from vivo.training.interruption import SIGNALS
from vivo.training.sending import Sending


def micro_batches(
    data: Dataset, sampler: StepBatches, collator: Callable[[Sequence[Any]], Batch], workers: int
) -> Iterator[Batch]:
    """Batches in the order of `sampler`."""
    # not prepared by accelerate: the sampler already gives each process its part, in an order that does not
    # depend on their number (accelerate's own sharding pads and re-orders)
    return iter(
        DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=Sending(collator),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
            worker_init_fn=_leave_signals_to_training,
        )
    )


def _leave_signals_to_training(worker: int) -> None:
    """Schedulers, launchers and terminals signal a whole group of processes. A loader process that died of it would
    take the training process with it before that has saved; as it is, it ends when the training process does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
