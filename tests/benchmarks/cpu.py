"""Trainings and searches on a CPU, each beside a rival's in the same run: `make bench`.

    python tests/benchmarks/cpu.py [--out runs/bench/results.json] [--repeats 3] [--only NAME ...]
    python tests/benchmarks/cpu.py --tiny        small shapes: does everything run?

Makes its own data; ours and rival's by turns, `--repeats` times, the ratio is the median's. Sections:

    limits          fp32 and bf16 matrix products, copies: what the machine can do
    pretraining     32 pictures, BERT-base, regions uniform 10-50, tag tokens uniform 1-15: fp32, bf16, peak memory
    tolerance       losses of 200 updates, bf16 against fp32 (a small model)
    fine            50 regions, 20 tags, five captions of 20 tokens a picture
    matching        masked tags of 1,024 pictures against SciPy
    beam, cbs       8 and 4 pictures, beam 5
    collation       batches a second against dictionaries, example by example

No other work may run meanwhile. On two cores it takes some 20 minutes (reckoned from FLOPs).
Results: tests/benchmarks/results.py.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1)]

# ruff: noqa: E402
# isort: split
from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# isort: split
import numpy as np
import torch
from live_bytes import LiveBytes
from results import Results
from torch import Tensor
from training_step import (
    BASE,
    TINY,
    Numbers,
    Ours,
    Rival,
    Shape,
    caption_batch,
    on_device,
    rival_caption_input,
    rival_caption_loss,
    rival_tag_input,
    rival_tag_loss,
    scipy_targets,
    some_regions,
    some_tags,
    tag_batch,
    tag_loss,
    text_loss,
    useful_flops,
)

from vivo.data.collate import Limits, TagCollator, box_positions
from vivo.data.types import Regions
from vivo.losses import _matched_targets
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.training.runtime import environment

CPU = torch.device("cpu")
Work = Callable[[], object]


class Bench:
    """Sizes, what the machine can do, and how work is timed."""

    def __init__(self, results: Results, repeats: int, tiny: bool):
        self.results, self.repeats, self.tiny = results, repeats, tiny
        self.shape: Shape = TINY if tiny else BASE
        self.rates = {"fp32": 1e11, "bf16": 1e11}  # FLOP/s, until they are measured

    def by_turns(self, **works: Work) -> dict[str, list[float]]:
        """Seconds of each work, turn by turn; one turn before them is not counted."""
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(self.repeats + 1):
            for name, work in works.items():
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
        goal: float,
        limit: float | None,
    ) -> None:
        """Rates of `amount` in these seconds; the ratio of the medians, and that of each turn."""
        rates = [amount / statistics.median(each) for each in (ours, rival)]
        self.results.row(name, *rates, unit, goal, limit)
        self.results.note(f"spread/{name}", [b / a for a, b in zip(ours, rival, strict=True)])


def limits(bench: Bench) -> None:
    """Square products in both precisions, and copies."""
    size = 256 if bench.tiny else 2048
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = torch.randn(size, size, dtype=kind), torch.randn(size, size, dtype=kind)
        seconds = bench.by_turns(product=lambda a=left, b=right: a @ b)["product"]
        bench.rates[name] = 2.0 * size**3 / min(seconds)
        bench.results.note(f"limits/{name} GFLOP/s", bench.rates[name] / 1e9)
    source = torch.randn(2**20 if bench.tiny else 2**27)
    target = torch.empty_like(source)
    copied = bench.by_turns(copy=lambda: target.copy_(source))["copy"]
    bench.results.note("limits/copy GB/s", 2.0 * source.nbytes / min(copied) / 1e9)


def pretraining(bench: Bench) -> None:
    """An update of 32 pictures in fp32 and bf16 against the rival in both."""
    pictures, shape = (4 if bench.tiny else 32), bench.shape
    cpu = tag_batch(pictures, shape, 0)
    batch = on_device([cpu], shape, CPU)[0]
    told = rival_tag_input(batch)
    flops = useful_flops(shape, cpu)
    seconds, peaks = {}, {}
    for kind in ("fp32", "bf16"):
        half = kind == "bf16"
        torch.manual_seed(0)
        ours = Ours(VivoForTagPretraining(shape.config()), tag_loss, "bf16" if half else "no", CPU)
        rival = Rival(shape, half, rival_tag_loss, CPU)
        found = bench.by_turns(ours=lambda o=ours: o(batch), rival=lambda r=rival: r(told))
        seconds |= {f"{name} {kind}": each for name, each in found.items()}
        if not half:
            for name, work in (("ours", lambda o=ours: o(batch)), ("rival", lambda r=rival: r(told))):
                with LiveBytes() as live:
                    work()
                # weights and the optimizer's two moments, which were there before, are the same for both
                held = sum(p.nbytes for p in ours.trained) * 3
                peaks[name] = (held + live.peak) / 2**30
        del ours, rival
    what = f"pre-training step, {shape.name}, {pictures} pictures"
    for kind, against, goal in (("fp32", "fp32", 1.6), ("bf16", "fp32", 4.0), ("bf16", "bf16", 2.0)):
        limit = pictures * bench.rates[kind] / flops
        name = f"{what}, {kind} against {against}"
        bench.row(name, seconds[f"ours {kind}"], seconds[f"rival {against}"], pictures, "pictures/s", goal, limit)
    bench.results.row(f"{what}, fp32: peak memory", peaks["ours"], peaks["rival"], "GiB", 1 / 0.6, less_is_better=True)


def tolerance(bench: Bench) -> None:
    """The same updates in both precisions, dropout off; row: the goal is that they are 2 % apart at most."""
    steps, shape = (4 if bench.tiny else 200), Shape("small", 256, 4, 4, 1024, 4000, 256)
    batches = on_device([tag_batch(32, shape, seed) for seed in range(8)], shape, CPU)
    curves = []
    for precision in ("no", "bf16"):
        torch.manual_seed(0)
        model = VivoForTagPretraining(shape.config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        step = Ours(model, tag_loss, precision, CPU)
        for group in step.optimizer.param_groups:
            group["lr"] = 3e-4
        told = [step(batches[n % len(batches)]) for n in range(steps)]
        curves.append([float(t["loss"] / t["count"]) for t in told])
    apart = [abs(a - b) / a for a, b in zip(*curves, strict=True)]
    bench.results.note(f"tolerance/losses of {steps} updates", {"first": curves[0][0], "last": curves[0][-1]})
    name = f"losses of {steps} updates, bf16 from fp32, mean"
    bench.results.row(name, statistics.mean(apart), 0.02, "relative", 1.0, less_is_better=True)


def fine(bench: Bench) -> None:
    """An update of five captions a picture that share its context, against five rows; dense against masked."""
    pictures, shape = (2 if bench.tiny else 8), bench.shape
    cpu = caption_batch(pictures, 5, shape, 0)
    shared = on_device([cpu], shape, CPU)[0]
    masked = on_device([caption_batch(5 * pictures, 1, shape, 0, "masked")], shape, CPU)[0]
    told = rival_caption_input(masked)
    torch.manual_seed(0)
    ours, rival = (
        Ours(VivoForCaptioning(shape.config()), text_loss, "no", CPU),
        Rival(shape, False, rival_caption_loss, CPU),
    )
    found = bench.by_turns(ours=lambda: ours(shared), rival=lambda: rival(told))
    what = f"fine-tuning step, {shape.name}, {pictures} pictures x 5 captions, fp32"
    limit = pictures * bench.rates["fp32"] / useful_flops(shape, cpu)
    bench.row(what, found["ours"], found["rival"], pictures, "pictures/s", 1.5, limit)
    tokens = [
        len(b["target_ids"]) / statistics.median(s) for b, s in ((shared, found["ours"]), (masked, found["rival"]))
    ]
    bench.results.row(f"{what}: supervised tokens", *tokens, "tokens/s", 8.0)


def matching(bench: Bench) -> None:
    """Matched targets from the probabilities, groups of up to 8 tags of one to three pieces."""
    pictures, shape = (16 if bench.tiny else 1024), bench.shape
    batch = tag_batch(pictures, shape, 3, tags=(12, 12), share=0.99)
    kept = batch["group_size"] <= 8
    batch |= {"group_slots": batch["group_slots"][kept][:, :8], "group_size": batch["group_size"][kept]}
    log_p = torch.randn(len(batch["target_ids"]), shape.vocabulary).log_softmax(dim=-1)
    arguments = (log_p, batch["target_ids"], batch["group_slots"], batch["group_size"])
    found = bench.by_turns(ours=lambda: _matched_targets(*arguments), rival=lambda: scipy_targets(log_p, batch))
    what = f"set matching, {pictures} pictures, M up to 8"
    bench.row(what, found["ours"], found["rival"], pictures, "pictures/s", 10.0, None)


def beam(bench: Bench) -> None:
    """The search against recomputing the whole sequence for each hypothesis."""
    from decoding import Whole, made_up, searched

    from vivo.config import DecodeConfig
    from vivo.prediction import caption_batch as captions

    pictures = 2 if bench.tiny else 8
    model, batch = made_up(pictures, bench.tiny)
    decode = DecodeConfig(beam=5, max_tokens=20)
    found = bench.by_turns(
        ours=lambda: captions(model, batch, decode), rival=lambda: searched(lambda: Whole(model, batch, 5), pictures, 5)
    )
    bench.row(f"beam 5, {pictures} pictures, fp32", found["ours"], found["rival"], pictures, "captions/s", 15.0, None)


def cbs(bench: Bench) -> None:
    """Constrained beam search against plain beam search of as many hypotheses."""
    from constrained import constrained, plain
    from decoding import made_up

    pictures = 2 if bench.tiny else 4
    model, batch = made_up(pictures, bench.tiny)
    widths = constrained(model, batch, 3, 5)
    width = round(sum(widths) / len(widths))
    found = bench.by_turns(ours=lambda: constrained(model, batch, 3, 5), rival=lambda: plain(model, batch, width))
    what = f"constrained beam search, {pictures} pictures, 3 constraints"
    bench.row(what, found["ours"], found["rival"], pictures, "captions/s", 1 / 1.3, None)


def by_example(given: list[tuple[list[str], Regions]], tokenizer: Numbers) -> dict[str, Tensor]:
    """What one writes first: a dictionary of tensors for each example, padded and stacked; no masking."""
    examples = []
    for tags, regions in given:
        ids = torch.tensor([piece for tag in tags for piece in tokenizer(tag)["input_ids"]])
        features = torch.tensor(regions.features.astype(np.float32))
        boxes = torch.tensor(box_positions(regions.boxes, regions.width, regions.height))
        examples.append({"ids": ids, "features": features, "boxes": boxes, "seen": torch.ones(len(boxes))})
    return {
        key: torch.nn.utils.rnn.pad_sequence([example[key] for example in examples], batch_first=True)
        for key in examples[0]
    }


def collation(bench: Bench) -> None:
    """256 pictures into a batch, features of 2,048 numbers; ours masks and groups its tags, too."""
    pictures, rng = (8 if bench.tiny else 256), np.random.default_rng(0)
    regions = some_regions(rng.integers(10, 51, pictures), rng)
    for each in regions:
        each.features = rng.standard_normal((len(each.labels), 2048)).astype(np.float16)
    tags = [some_tags(int(n), bench.shape.vocabulary, rng) for n in rng.integers(1, 16, pictures)]
    collator = TagCollator(Numbers(), Limits.of(bench.shape.config()), 0, 0.15, 0.15, 0)
    examples = [(0, str(n), t, [], r) for n, (t, r) in enumerate(zip(tags, regions, strict=True))]
    given = list(zip(tags, regions, strict=True))
    found = bench.by_turns(ours=lambda: collator(examples), rival=lambda: by_example(given, Numbers()))
    what = f"collation, {pictures} pictures"
    bench.row(what, found["ours"], found["rival"], pictures, "pictures/s", 1.0, None)


SECTIONS = (limits, pretraining, tolerance, fine, matching, beam, cbs, collation)


def main() -> None:
    """Run the sections, write the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/results.json"))
    parser.add_argument("--only", nargs="*", default=[], help="sections")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    about = environment()
    results.notes |= {
        "machine": f"{about['device']} ({len(os.sched_getaffinity(0))} used)",
        "commit": about["commit"],
        "versions": {"torch": about["torch"], "transformers": about["transformers"], "scipy": version("scipy")},
        "repeats": f"medians of {arguments.repeats} turns",
    }
    bench = Bench(results, arguments.repeats, arguments.tiny)
    for section in SECTIONS:
        if not arguments.only or section.__name__ in arguments.only:
            results.run(section.__name__, lambda _, s=section: s(bench), 3600)
    print("\n" + results.table())
    results.write()


if __name__ == "__main__":
    main()
