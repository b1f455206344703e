"""The card that gpu.py measures: how work on it is timed, looked into and waited for."""

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from results import Results
from training_step import (
    Ours,
)

from vivo.data.collate import Batch

STEPS = 8
"""Calls that are timed together."""


@dataclass
class Best:
    """The fastest way that a pre-training update was run."""

    name: str
    way: str
    step: Ours
    batches: list[Batch]
    seconds: float
    memory: float


class Card:
    """The device, what it can do, and how its work is timed."""

    def __init__(self, tiny: bool):
        self.tiny = tiny
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.flops, self.bytes = 1e12, 1e11  # until they are measured
        self.best: Best | None = None
        self.matching = 0.0  # seconds for the masked tags of an update
        self.attention: dict[str, float] = {}

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[int], object], turns: int = STEPS, warm: int = 3) -> float:
        """Mean of `turns` calls that follow one another, work(0), work(1), ..."""
        for turn in range(warm):
            work(turn)
        self.wait()
        begun = perf_counter()
        for turn in range(turns):
            work(turn)
        self.wait()
        return (perf_counter() - begun) / turns

    def fresh_memory(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def held_gib(self) -> float:
        return torch.cuda.memory_allocated() / 2**30 if self.cuda else 0.0

    def peak_gib(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0


class waits:  # noqa: N801
    """How often PyTorch made the CPU wait for the GPU in the block, and where: `torch.cuda.set_sync_debug_mode`."""

    def __enter__(self) -> Callable[[], list[str]]:
        self._caught = warnings.catch_warnings(record=True)
        self._seen = self._caught.__enter__()
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("warn")
        return lambda: [f"{w.filename.split('/')[-1]}:{w.lineno}" for w in self._seen if "synchroniz" in str(w.message)]

    def __exit__(self, *error: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(*error)


def profile(results: Results, card: Card, name: str, work: Callable[[int], object]) -> None:
    """Kernels of an update, work(0) and work(1): a table in a file, what they are for, and the longest."""
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if card.cuda else [])]
    work(0)
    card.wait()
    with torch.profiler.profile(activities=activities) as seen:
        work(0)
        work(1)
        card.wait()
    averages = seen.key_averages()
    clock = "self_device_time_total" if card.cuda else "self_cpu_time_total"
    text = averages.table(sort_by=clock, row_limit=70, max_name_column_width=110)
    results.file.with_suffix(f".{name}.profile.txt").write_text(text)
    kernels = [e for e in averages if not card.cuda or "CUDA" in str(e.device_type)]
    kernels = [e for e in kernels if not e.key.startswith(("Optimizer.", "Profiler"))]  # spans, not kernels
    parts = {"GEMM": 0.0, "attention": 0.0, "triton": 0.0, "optimizer, norm": 0.0, "softmax, loss": 0.0, "rest": 0.0}
    for event in kernels:
        parts[part_of(event.key.lower())] += getattr(event, clock) / 2e3
    whole, count = sum(parts.values()), sum(event.count for event in kernels) / 2
    results.note(f"profile/{name} ms of an update", {k: v for k, v in parts.items()} | {"all": whole, "kernels": count})
    for event in sorted(kernels, key=lambda e: -getattr(e, clock))[:26]:
        print(f"        {getattr(event, clock) / 2e3:8.3f} ms {event.count // 2:5d} x  {event.key[:120]}")


def part_of(kernel: str) -> str:
    """What a kernel is for, by its name."""
    named = {
        "attention": ("flash", "fmha", "attention", "cudnn", "flex"),
        "GEMM": ("gemm", "nvjet", "cutlass", "xmma", "wgmma", "addmm", "aten::mm"),
        "triton": ("triton",),
        "optimizer, norm": ("multi_tensor", "adam", "lpnorm"),
        "softmax, loss": ("softmax", "argmax", "reduce_kernel"),
    }
    return next((part for part, names in named.items() if any(n in kernel for n in names)), "rest")
