"""How cost grows: the section of that name in docs/benchmarks.md, with its picture.

    python tests/benchmarks/growth.py              table and picture, from docs/growth.json
    python tests/benchmarks/growth.py --measure    measure the points on this machine first (some minutes)
    options: --only NAME ...: measure these panels, keep the others; --tiny: two points each, written nowhere

CPU time of one thread, best of three after one that is not counted; a model of 4 layers and 256 dimensions with BERT's
30,522 words. The store's part is `region_store.py`'s. Slopes are of straight lines through the logarithms.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import process_time
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1)]

# ruff: noqa: E402
# isort: split
from vivo.program import set_cpu_defaults

set_cpu_defaults()  # as the programs do: PyTorch reads them when it is loaded

# isort: split
import torch
from constrained import constrained
from cpu_bench import CPU, Work, flops_of
from decoding import made_up
from growth_chart import chart, fitted
from region_store import make_large, read_costs
from scaling import written
from training_step import Ours, Shape, on_device, tag_batch, tag_loss, useful_flops

from vivo.config import DecodeConfig
from vivo.losses import _matched_targets
from vivo.modeling import VivoConfig, VivoForTagPretraining
from vivo.prediction import caption_batch
from vivo.training.runtime import environment

DOCS = Path(__file__).resolve().parents[2] / "docs"
POINTS, PAGE, CHART = DOCS / "growth.json", DOCS / "benchmarks.md", DOCS / "growth.svg"
TURNS = 3


@dataclass(frozen=True)
class Roomy(Shape):
    """Takes more regions and tags than the paper has."""

    def config(self, **more: object) -> VivoConfig:
        """See `Shape`."""
        return super().config(max_regions=400, max_tag_tokens=100, **more)


SMALL = Roomy("small", 256, 4, 4, 1024)
Point = tuple[float, float | None]
"""CPU seconds, and FLOPs where they say something."""


def seconds(work: Work) -> float:
    """Best of some turns."""
    work()
    found = []
    for _ in range(TURNS):
        begun = process_time()
        work()
        found.append(process_time() - begun)
    return min(found)


def step(pictures: int = 16, regions: int = 30, tags: int = 8, vocabulary: int = 30522) -> Point:
    """An update of pre-training."""
    shape = Roomy("small", 256, 4, 4, 1024, vocabulary)
    cpu = tag_batch(pictures, shape, 0, (regions, regions), (tags, tags))
    batch = on_device([cpu], shape, CPU)[0]
    torch.manual_seed(0)
    update = Ours(VivoForTagPretraining(shape.config()), tag_loss, "no", CPU)
    return seconds(lambda: update(batch)), useful_flops(shape, cpu)


def matching(most: int) -> Point:
    """1,024 groups of `most` tags of one piece."""
    groups, words = 1024, 2000
    slots = torch.arange(groups * most).view(groups, most, 1)
    log_p = torch.randn(groups * most, words).log_softmax(dim=-1)
    target, size = torch.randint(words, (groups * most,)), torch.full((groups,), most)
    return seconds(lambda: _matched_targets(log_p, target, slots, size)), None


def decoding(beam: int = 5, tokens: int = 20) -> Point:
    """Beam search of eight pictures that writes `tokens` tokens."""
    model, batch = made_up(8, False, config=SMALL.config(training_stage="captions"))
    decode = DecodeConfig(beam=beam, max_tokens=tokens)
    return seconds(lambda: caption_batch(model, batch, decode)), flops_of(lambda: caption_batch(model, batch, decode))


def constraining(sets: int) -> Point:
    """Constrained beam search of four pictures, five beams for each set of satisfied constraints."""
    model, batch = made_up(4, False, config=SMALL.config(training_stage="captions"))
    work = lambda: constrained(model, batch, sets.bit_length() - 1, 5)  # noqa: E731
    return seconds(work), flops_of(work)


def storing(sizes: Iterable[int]) -> list[Point]:
    """Reading a random picture."""
    with tempfile.TemporaryDirectory() as name:
        paths = {size: Path(name) / str(size) for size in sizes}
        for size, path in paths.items():
            make_large(path, size)
        return [(cost["read"], None) for cost in read_costs(paths).values()]


@dataclass(frozen=True)
class Panel:
    """What is measured, and why it grows as it does.

    Attributes:
        points: of all x, or `point` of each.
    """

    name: str
    title: str
    axis: str
    x: tuple[int, ...]
    why: str
    point: Callable[[int], Point] | None = None
    points: Callable[[Iterable[int]], list[Point]] | None = None


PANELS = (
    Panel("regions", "pre-training step: regions", "regions of a picture (8 tag tokens)",
          (10, 20, 40, 80, 160, 320),
          "layers are linear in elements, attention is quadratic (160 to 320); at 10 the optimizer is a third",
          lambda n: step(regions=n)),
    Panel("tags", "pre-training step: tags", "tag tokens of a picture (30 regions)",
          (5, 10, 20, 40, 80),
          "the 30 regions are there whatever the tags",
          lambda n: step(tags=n)),
    Panel("batch", "pre-training step: batch", "pictures (30 regions, 8 tag tokens)",
          (4, 8, 16, 32, 64, 128),
          "linear, and some 60 ms that do not grow (the line through seconds, not logarithms): optimizer, clipping",
          lambda n: step(pictures=n)),
    Panel("vocabulary", "pre-training step: vocabulary", "words (16 pictures)",
          (2000, 8000, 32_000, 128_000),
          "logits are computed at masked tags alone; what grows is AdamW on the words' embeddings",
          lambda n: step(vocabulary=n)),
    Panel("matching", "matching: M", "masked tags of a group (1,024 groups)",
          (2, 3, 4, 5, 6, 7, 8, 12, 16),
          "M^2 probabilities are read, each a wait for memory; halves up to 6, SciPy beyond, which grows little",
          matching),
    Panel("store", "store: reading a picture", "pictures in the store",
          (1000, 10_000, 100_000, 1_000_000),
          "the search for an id grows with its logarithm; the rest of it is memory that no cache holds",
          points=storing),
    Panel("beams", "beam search: beams", "beams (8 pictures, 20 tokens)",
          (1, 2, 4, 8, 16, 32),
          "the context is encoded once and shared by all beams; from 16 on the beams are the cost",
          lambda n: decoding(beam=n)),
    Panel("constraints", "constrained search: constraints", "sets of 1 to 5 satisfied constraints",
          (2, 4, 8, 16, 32),
          "five beams for each of 2 to 64 states; each looks, under a mask, through the kept tokens of all: quadratic",
          constraining),
    Panel("length", "beam search: length", "tokens of a caption (8 pictures, 5 beams)",
          (5, 10, 20, 39),
          "one step a token; each looks through the kept tokens of all beams",
          lambda n: decoding(tokens=n)),
)  # fmt: skip


def measured(panel: Panel, x: tuple[int, ...]) -> dict[str, Any]:
    """{"x", "seconds", "flops"} of a panel."""
    found = panel.points(x) if panel.points else [panel.point(n) for n in x]
    flops = None if found[0][1] is None else [each[1] for each in found]
    told = {"x": list(x), "seconds": [each[0] for each in found], "flops": flops}
    print(f"{panel.name:<12}", " ".join(f"{n}: {1e3 * s:.3g} ms" for n, s in zip(x, told["seconds"], strict=True)))
    print(
        f"{'':<12} slope {fitted(x, told['seconds'])[0]:.2f}",
        *([f"of FLOPs {fitted(x, flops)[0]:.2f}"] if flops else []),
    )
    return told


def table(points: dict[str, Any]) -> str:
    """The slopes and what explains them, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in points["versions"].items())
    lines = [
        f"{points['machine']}, {versions}, {points['date'][:10]}, commit {points['commit']}.",
        "",
        "| cost against | from | to | seconds: slope | FLOPs: slope | why |",
        "|---|---|---|---|---|---|",
    ]
    for panel in PANELS:
        found = points["panels"][panel.name]
        x = found["x"]
        slopes = [f"{fitted(x, found[key])[0]:.2f}" if found[key] else "-" for key in ("seconds", "flops")]
        ends = [f"{n:,}: {1e3 * s:,.3g} ms" for n, s in ((x[i], found["seconds"][i]) for i in (0, -1))]
        lines.append("| " + " | ".join([panel.title, *ends, *slopes, panel.why]) + " |")
    return "\n".join(lines)


def drawn(points: dict[str, Any]) -> str:
    """docs/growth.svg."""
    return chart([{"title": p.title, "axis": p.axis} | points["panels"][p.name] for p in PANELS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the points on this machine first")
    parser.add_argument("--only", nargs="*", default=[], help="panels to measure")
    parser.add_argument("--tiny", action="store_true", help="does everything run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    panels = [panel for panel in PANELS if not arguments.only or panel.name in arguments.only]
    if arguments.tiny:
        for panel in panels:
            measured(panel, panel.x[:2])
        return
    points = json.loads(POINTS.read_text()) if POINTS.exists() else {"panels": {}}
    if arguments.measure:
        about = environment()
        points |= {
            "machine": f"one thread of {about['device']}",
            "commit": about["commit"],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"torch": about["torch"]},
        }
        points["panels"] |= {panel.name: measured(panel, panel.x) for panel in panels}
        POINTS.write_text(json.dumps(points, indent=1) + "\n")
    CHART.write_text(drawn(points))
    PAGE.write_text(written(PAGE.read_text(), table(points), "growth.py"))


if __name__ == "__main__":
    main()
