"""How fast and how well a run uses its machine, and how far an update moves the weights: the figures of a log record.

The loop shows every micro-batch to a `Meter` (counts only, on the CPU, no waiting for a GPU), lets it watch the update
of a step that is logged, and takes the figures once a record.
"""

import math
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vivo.data.collate import Batch
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.show_and_tell.flops import RecurrentWork
from vivo.show_and_tell.modeling import ShowAndTell
from vivo.training.flops import ModelSize, Work, peak_flops, work_of

GIB = 2.0**30


class Meter:
    """The measures of one process; `record` puts those of all processes together.

    Args:
        model: not wrapped by accelerate.

    Attributes:
        peak, peak_source: FLOPs/s of this process's device, and where the figure comes from.
    """

    def __init__(self, model: VivoForTagPretraining | VivoForCaptioning | ShowAndTell, accelerator: Accelerator):
        self._count = counter_of(model)
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._accelerator = accelerator
        self.peak, self.peak_source = peak_flops(accelerator.device, accelerator.mixed_precision != "no")
        self._work = Work(0.0, 0)
        self._update: tuple[float, float] | None = None

    def saw(self, batch: Batch) -> Batch:
        """Count a micro-batch that is trained on; returns it as it is."""
        self._work += self._count(batch)
        return batch

    @contextmanager
    def watching(self, due: bool) -> Iterator[None]:
        """Around the optimizer's step: where `due`, remember how far the weights moved.

        The weights are copied for those steps alone; the copy goes when the block ends.
        """
        before = [p.detach().clone() for p in self._weights] if due else None
        yield
        if before is not None:
            self._update = (
                norm_of([p.detach() - b for p, b in zip(self._weights, before, strict=True)]),
                norm_of(before),
            )

    def record(self, seconds: float) -> dict[str, float]:
        """The figures since the last call, which lies `seconds` back; called on all processes.

        tokens_per_second: elements through the encoder (tag and caption pieces, regions; no padding), all processes.
        mfu: model FLOPs per second over the peak of all devices. memory_gib: the fullest process's most, of its GPU
        (what PyTorch had allocated) or, without one, of its resident memory. update_norm: ||w' - w|| / ||w|| over all
        trained weights, of the last update.
        """
        device = self._accelerator.device
        mine = torch.tensor(
            [[self._work.flops, self._work.elements, self.peak, memory_gib(device)]], dtype=torch.float32
        )
        flops, elements, peak, memory = self._accelerator.gather(mine.to(device)).cpu().double().unbind(1)
        found = {
            "tokens_per_second": float(elements.sum()) / seconds,
            "flops_per_second": float(flops.sum()) / seconds,
            "mfu": float(flops.sum()) / seconds / float(peak.sum()),
            "memory_gib": float(memory.max()),
        }
        if self._update is not None:
            moved, length = self._update
            found["update_norm"] = moved / length if length else 0.0
        self._work, self._update = Work(0.0, 0), None
        return found


def counter_of(model: VivoForTagPretraining | VivoForCaptioning | ShowAndTell) -> Callable[[Batch], Work]:
    """What counts the work of a model's batches."""
    if isinstance(model, ShowAndTell):
        return RecurrentWork(model)
    size = ModelSize.of(model.config, model.vivo.embeddings.word.weight.requires_grad)
    return lambda batch: work_of(size, batch)


def norm_of(tensors: Sequence[Tensor] | Sequence[nn.Parameter]) -> float:
    """Euclidean norm of all values together, summed in fp32 by tensor and in Python's floats over them."""
    if not tensors:
        return 0.0
    norms = torch.stack([_whole(torch.linalg.vector_norm(t, dtype=torch.float32)) for t in tensors])
    return math.sqrt(math.fsum(n * n for n in norms.tolist()))


def _whole(value: Tensor) -> Tensor:
    """A scalar that FSDP has cut over processes, put together (all of them call it)."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def memory_gib(device: torch.device) -> float:
    """The most memory so far: allocated by PyTorch on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / GIB if sys.platform == "darwin" else most * 1024 / GIB  # kilobytes everywhere but on a Mac
