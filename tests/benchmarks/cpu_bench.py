"""What the sections of cpu.py share: sizes, what the machine can do, and how work is timed."""

import statistics
from collections.abc import Callable
from time import perf_counter

import torch
from results import Results
from torch.utils.flop_counter import FlopCounterMode
from training_step import BASE, TINY, Shape

CPU = torch.device("cpu")
Work = Callable[[], object]


class Bench:
    """Sizes, what the machine can do, and how work is timed."""

    def __init__(self, results: Results, repeats: int, tiny: bool):
        self.results, self.repeats, self.tiny = results, repeats, tiny
        self.shape: Shape = TINY if tiny else BASE
        self.rates = {"fp32": 0.0, "bf16": 0.0}  # FLOP/s, see `limits`
        self.copies = 0.0  # bytes/s that are read and written

    def by_turns(self, unwarmed: tuple[str, ...] = (), **works: Work) -> dict[str, list[float]]:
        """Seconds of each work, turn by turn; one turn before them, without the long ones, is not counted."""
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(self.repeats + 1):
            for name, work in works.items():
                if not turn and name in unwarmed:
                    continue
                begun = perf_counter()
                work()
                if turn:
                    seconds[name].append(perf_counter() - begun)
        return seconds

    def row(
        self,
        name: str,
        ours: list[float],
        rival: list[float],
        amount: float,
        unit: str,
        goal: float | None,
        limit: float | None,
    ) -> None:
        """Rates of `amount` in these seconds; the ratio of the medians, and that of each turn."""
        rates = [amount / statistics.median(each) for each in (ours, rival)]
        self.results.row(name, *rates, unit, goal, limit)
        self.results.note(f"spread/{name}", [b / a for a, b in zip(ours, rival, strict=True)])


def flops_of(work: Work) -> float:
    """Floating-point operations of the matrix products and convolutions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def limits(bench: Bench) -> None:
    """Square products in both precisions, and copies: the best so far; a machine that others use has slow minutes."""
    size = 256 if bench.tiny else 2048
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = torch.randn(size, size, dtype=kind), torch.randn(size, size, dtype=kind)
        seconds = bench.by_turns(product=lambda a=left, b=right: a @ b)["product"]
        bench.rates[name] = max(bench.rates[name], 2.0 * size**3 / min(seconds))
        bench.results.note(f"limits/{name} GFLOP/s", bench.rates[name] / 1e9)
    source = torch.randn(2**20 if bench.tiny else 2**27)
    target = torch.empty_like(source)
    copied = bench.by_turns(copy=lambda: target.copy_(source))["copy"]
    bench.copies = max(bench.copies, 2.0 * source.nbytes / min(copied))
    bench.results.note("limits/copy GB/s", bench.copies / 1e9)
