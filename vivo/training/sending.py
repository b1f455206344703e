"""A batch on its way from a loader process to the training process: one file in memory instead of one for each tensor.

torch sends every tensor by itself: a file in /dev/shm, its descriptor over a socket, a mapping on both sides. Here all
tensors of a batch are written behind one another into one anonymous file (memfd), which costs the loader process no
page fault and the training process one descriptor and one mapping, and takes no room in /dev/shm, which a container
has 64 MB of. Where the system has no such files (all but Linux), torch sends them.
"""

import mmap
import os
from collections.abc import Callable, Sequence
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_ALIGNED = 64


class Sending:
    """A collator whose batches travel so where a loader process makes them; in the training process nothing changes."""

    def __init__(self, collator: Callable[[Sequence[Any]], dict[str, Any]]):
        self.collator = collator

    def __call__(self, examples: Sequence[Any]) -> "dict[str, Any] | Sent":
        batch = self.collator(examples)
        if get_worker_info() is None or not hasattr(os, "memfd_create"):
            return batch
        try:
            return Sent(batch)
        except OSError:  # the system forbids it
            return batch


class _Place(NamedTuple):
    """Where a tensor lies in the file: from the byte `start` on."""

    dtype: torch.dtype
    shape: torch.Size
    start: int

    def of(self, memory: mmap.mmap) -> Tensor:
        """The tensor, over the file's memory; each has a storage of its own, as `torch.save` wants it."""
        count = self.shape.numel()
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.start).view(self.shape)


class Sent:
    """Pickled here once, it is unpickled there as the batch: the same keys in the same order, tensors as views."""

    def __init__(self, batch: dict[str, Any]):
        self._parts: dict[str, Any] = {}  # what is no tensor as it is
        self._file = os.memfd_create("batch")
        try:
            self._write(batch)
        except OSError:
            self.close()
            raise

    def _write(self, batch: dict[str, Any]) -> None:
        with open(self._file, "wb", closefd=False) as out:
            for key, value in batch.items():
                if isinstance(value, Tensor):
                    self._parts[key] = _Place(value.dtype, value.shape, out.tell())
                    out.write(value.contiguous().flatten().view(torch.uint8).numpy())
                    out.seek(-out.tell() % _ALIGNED, os.SEEK_CUR)
                else:
                    self._parts[key] = value
            out.truncate(max(out.tell(), _ALIGNED))  # nothing at all cannot be mapped

    def close(self) -> None:
        """Let the file go; one that is on its way stays."""
        os.close(self._file)

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple]:
        handle = DupFd(self._file)
        self.close()
        return _received, (handle, self._parts)


def _received(handle: Any, parts: dict[str, Any]) -> dict[str, Any]:
    file = handle.detach()
    memory = mmap.mmap(file, 0)
    os.close(file)
    return {key: part.of(memory) if isinstance(part, _Place) else part for key, part in parts.items()}
