"""What the project does on one GPU, each figure beside a rival's in the same run: `make bench-gpu`.

    python tests/benchmarks/gpu.py [--out runs/bench/gpu.json] [--only NAME ...] [--seconds 230]
    python tests/benchmarks/gpu.py --tiny        small shapes, on the CPU too: does everything run?

Makes its own data. Sections, in this order; each has its time, and an error in one leaves the others:

    limits        bf16 matrix products and device-to-device copies: what the card can do
    attention     kernels and layouts for the attention of a layer, forward and backward
    parity        numbers of the compiled layers against those of the plain ones
    base, large   a pre-training update of 1,024 pictures: ways to run it, the best against transformers
    fine          a fine-tuning update, five captions a picture
    matching      masked tags of 1,024 pictures against SciPy, and how often the CPU waits for the GPU
    beam, cbs     captions a second
    scst          a self-critical update, and the reward's part of it
    extraction    pictures a second into a store

MFU: floating-point operations of the unpadded elements alone (`training_step.useful_flops`), over the measured rate of
bf16 products. The results are rows as tests/benchmarks/results.py says.
"""

import argparse
import gc
import os
import statistics
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

# ruff: noqa: E402
# isort: split
import torch
import torch.nn.functional as F
from results import Results
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_step import (
    BASE,
    LARGE,
    TINY,
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
    tag_batch,
    tag_loss,
    text_loss,
    useful_flops,
)

from vivo.data.collate import Batch
from vivo.losses import _matched_targets
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.packing import in_windows

torch._dynamo.config.recompile_limit = 64  # one function, layers of several models
STEPS, BATCHES, PAPER_STEPS = 8, 4, 160_000
WAYS = ("rows", "windows", "windows layers", "windows compiled")
"""Layout of the batch (vivo/packing.py), and layers compiled as `engine.compile` has them; "layers": each by itself."""
BEST = "windows compiled"


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


def prepared(model: nn.Module, way: str) -> nn.Module:
    """The model with the layers of this way to run it."""
    if "compiled" in way or "layers" in way:
        model.vivo.compile_layers("compiled" in way, backend="inductor" if torch.cuda.is_available() else "eager")
    return model


def made(kind: type[nn.Module], shape: Shape, card: Card) -> nn.Module:
    """A new model on the device."""
    torch.manual_seed(0)
    with torch.device(card.device):
        return kind(shape.config())


def limits(results: Results, card: Card) -> None:
    """Matrix products on random data: a large square, and the shapes of a layer; copies."""
    size = 256 if card.tiny else 8192
    rates = {}
    tokens = 512 if card.tiny else 39424
    for m, n, k in [(size, size, size), (tokens, 2304, 768), (tokens, 3072, 768), (tokens, 768, 3072)]:
        left, right = (torch.randn(s, device=card.device, dtype=torch.bfloat16) for s in ((m, k), (k, n)))
        rates[f"{m}x{n}x{k}"] = 2.0 * m * n * k / card.seconds(lambda _, a=left, b=right: a @ b, 10)
    card.flops = next(iter(rates.values()))
    source = torch.randn(2**20 if card.tiny else 2**30, device=card.device)
    target = torch.empty_like(source)
    card.bytes = 2.0 * source.nbytes / card.seconds(lambda _: target.copy_(source), 10)
    results.note("limits/matmul TFLOP/s", {k: v / 1e12 for k, v in rates.items()})
    results.note("limits/copy TB/s", card.bytes / 1e12)
    if card.cuda:
        results.note("limits/device", torch.cuda.get_device_name())
        pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        away = torch.empty_like(pinned, device=card.device)
        rate = pinned.nbytes / card.seconds(lambda _: away.copy_(pinned, non_blocking=True), 5)
        results.note("limits/host to device GB/s", rate / 1e9)
    results.note("limits/torch", torch.__version__)


def attention(results: Results, card: Card) -> None:
    """Milliseconds of one layer's attention, forward and backward, in each layout and kernel (no projections)."""
    pictures, shape = (8, TINY) if card.tiny else (1024, BASE)
    batch = tag_batch(pictures, shape, 0)
    laid = in_windows(batch["tag_mask"], batch["region_mask"])
    rows = laid["window_rows"].to(card.device)
    mask = torch.cat([batch["tag_mask"], batch["region_mask"]], dim=1).to(card.device)
    text, seen = (8, 16) if card.tiny else (200, 270)
    some = 2 if card.tiny else 256
    written = torch.rand(some, 1, text, seen, device=card.device) < 0.5
    written[..., 0] = True
    dtype = torch.bfloat16
    heads, width = shape.heads, shape.width // shape.heads

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=card.device, dtype=dtype, requires_grad=True)

    def timed(name: str, call: Callable[..., Tensor], sizes: Sequence[Sequence[int]]) -> None:
        if results.left() < 8:
            return
        try:
            inputs = [random(*size) for size in sizes]
            down = torch.randn_like(call(*inputs))

            def both(_: int) -> None:
                torch.autograd.grad(call(*inputs), inputs, down)

            whole = card.seconds(both, 5, 2)
            with torch.no_grad():
                forward = card.seconds(lambda _: call(*inputs), 5, 2)
            card.attention[name] = whole
            results.note(f"attention/{name} ms", {"both": 1e3 * whole, "forward": 1e3 * forward})
        except Exception as error:  # a kernel that refuses these shapes
            results.note(f"attention/{name}", f"{type(error).__name__}: {error}"[:200])

    def sdpa(backend: SDPBackend, seen_by: Tensor | None, dropout: float) -> Callable[..., Tensor]:
        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=seen_by, dropout_p=dropout)

        return call

    of_rows = [(pictures, heads, mask.shape[1], width)] * 3
    of_windows = [(rows.shape[0], heads, rows.shape[1], width)] * 3
    of_text = [(some, heads, text, width), *[(some, heads, seen, width)] * 2]
    pairs = (rows[:, :, None] == rows[:, None, :])[:, None]
    kernels = {
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    for name, backend in kernels.items():
        if name != "cudnn":
            timed(f"rows {name}", sdpa(backend, mask[:, None, None, :], 0.1), of_rows)
        timed(f"windows {name}", sdpa(backend, pairs, 0.1), of_windows)
        timed(f"text {name}", sdpa(backend, written, 0.1), of_text)
    # of what is real in a picture, its elements neighbours
    lengths = mask.sum(dim=1)
    ends = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    total = int(lengths.sum())

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._flash_attention_forward(q, k, v, ends, ends, 128, 128, 0.1, False, False)[0]

    timed("varlen flash", flash, [(total, heads, width)] * 3)
    if card.cuda:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        flex = torch.compile(flex_attention, dynamic=False)
        n = rows.numel()
        place = rows.flatten()
        block = create_block_mask(lambda b, h, q, k: place[q] == place[k], None, None, n, n, card.device)
        timed("windows flex (no dropout)", lambda q, k, v: flex(q, k, v, block_mask=block), [(1, heads, n, width)] * 3)


def pretraining(results: Results, card: Card, shape: Shape, ways: Sequence[str]) -> None:
    """An update of 1,024 pictures in several ways; the best against the rival."""
    pictures = 16 if card.tiny else 1024
    shape = TINY if card.tiny else shape
    name = shape.name
    card.best = None
    cpu = [tag_batch(pictures, shape, seed) for seed in range(BATCHES)]
    flops = statistics.mean(useful_flops(shape, batch) for batch in cpu)
    plain = on_device(cpu, shape, card.device)
    laid = [in_windows(b["tag_mask"], b["region_mask"]) for b in cpu]
    windows = [b | {k: v.to(card.device) for k, v in w.items()} for b, w in zip(plain, laid, strict=True)]
    elements = sum(w["window_places"].shape[0] for w in laid)
    results.note(f"{name}/windows filled", elements / sum(w["window_rows"].numel() for w in laid))
    results.note(f"{name}/GFLOP of a picture", flops / pictures / 1e9)
    for way in ways:
        if results.left() < (30 if way in ("windows layers", "windows compiled") else 20) and card.best:
            results.note(f"{name}/{way}", "no time left")
            continue
        try:
            card.fresh_memory()
            held, begun = card.held_gib(), perf_counter()
            batches = windows if "windows" in way else plain
            step = Ours(prepared(made(VivoForTagPretraining, shape, card), way), tag_loss, "bf16", card.device)
            for batch in batches:
                step(batch)
            card.wait()
            ready = perf_counter() - begun
            card.fresh_memory()
            seconds = card.seconds(lambda turn, s=step, b=batches: s(b[turn % BATCHES]))
            own = card.peak_gib() - held
            mfu = flops / seconds / card.flops
            told = {"ms": 1e3 * seconds, "pictures/s": pictures / seconds, "MFU": mfu, "GiB": own, "ready s": ready}
            results.note(f"{name}/{way}", told)
            if card.best is None or seconds < card.best.seconds:
                card.best = Best(name, way, step, batches, seconds, own)
        except Exception as error:
            traceback.print_exc()
            results.note(f"{name}/{way}/error", f"{type(error).__name__}: {error}"[:500])
        finally:
            step = None
    best = card.best
    extra(results, card, shape, pictures)
    profile(results, card, name, lambda turn: best.step(best.batches[turn]))
    parts = 2 if name == "large" else 1  # its activations of 1,024 pictures fill a card
    theirs, memory = None, 0.0
    try:
        card.fresh_memory()
        held = card.held_gib()
        rival = Rival(shape, True, rival_tag_loss, card.device)
        told = [rival_tag_input(b) for b in plain]
        if parts > 1:
            halves = on_device([tag_batch(pictures // parts, shape, 20 + n) for n in range(parts)], shape, card.device)
            told = [[rival_tag_input(b) for b in halves]] * BATCHES
        else:
            told = [[one] for one in told]
        theirs = card.seconds(lambda turn: rival(*told[turn % BATCHES]), max(2, STEPS // 2), 2)
        memory = card.peak_gib() - held
    except Exception as error:
        traceback.print_exc()
        results.note(f"{name}/rival/error", f"{type(error).__name__}: {error}"[:500])
    rival = None
    rate, limit = pictures / best.seconds, pictures * card.flops / flops
    what = f"pre-training, {name}, {pictures} pictures, bf16"
    results.note(f"{what}: way", best.way)
    results.row(what, rate, theirs and pictures / theirs, "pictures/s", 1.6, limit)
    if memory and parts == 1:
        # of weights, optimizer and one update; the batches that wait on the card are in neither
        results.row(f"{what}: peak memory", best.memory, memory, "GiB", 1 / 0.6, less_is_better=True)
    goal = 0.6 if name == "large" else 0.5
    results.row(f"{what}: MFU", flops / best.seconds / card.flops, 1.0, "of matmul rate", goal, 1.0)
    hours = PAPER_STEPS * best.seconds / 3600
    slow = theirs and PAPER_STEPS * theirs / 3600
    results.row(f"{what}: 160,000 updates on 1 GPU", hours, slow, "hours", None, less_is_better=True)
    results.note(f"{name}/hours on 8 GPUs (divided by 8, not measured)", hours / 8)
    if card.matching and name != "large":
        share = card.matching / best.seconds
        results.row("set matching: share of an update", share, 0.01, "of its time", 1.0, less_is_better=True)


def extra(results: Results, card: Card, shape: Shape, pictures: int) -> None:
    """Of the best way: without looking at the loss, with the copy from pinned memory, with an eighth of the batch."""
    step, batches = card.best.step, card.best.batches
    for checked in (False, True):
        step.checked = checked
        seconds = card.seconds(lambda turn: step(batches[turn % BATCHES]))
        results.note(f"{shape.name}/ms, loss checked {checked}", 1e3 * seconds)
    if not card.cuda:
        return
    host = {k: v.cpu().pin_memory() if isinstance(v, Tensor) else v for k, v in batches[0].items()}
    away = {}

    def with_copy(_: int) -> None:
        away.update({k: v.to("cuda", non_blocking=True) if isinstance(v, Tensor) else v for k, v in host.items()})
        step(away)

    results.note(f"{shape.name}/ms with copies in the same stream", 1e3 * card.seconds(with_copy))
    few = pictures // 8
    cpu = tag_batch(few, shape, 9)
    laid = in_windows(cpu["tag_mask"], cpu["region_mask"])
    small = on_device([cpu | laid], shape, card.device)[0]
    seconds = card.seconds(lambda _: step(small))
    mfu = useful_flops(shape, cpu) / seconds / card.flops
    results.note(f"{shape.name}/{few} pictures", {"ms": 1e3 * seconds, "MFU": mfu})
    with waits() as counted:
        step(batches[0])
    results.note(f"{shape.name}/waits in an update", counted())


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


def parity(results: Results, card: Card) -> None:
    """The whole rows against the layers one by one: logits and gradients of a batch, losses of 200 updates."""
    shape = TINY if card.tiny else BASE
    pictures, steps = (8, 5) if card.tiny else (128, 200)
    cpu = [tag_batch(pictures, shape, seed) for seed in range(16)]
    batches = [
        given | {k: v.to(card.device) for k, v in in_windows(b["tag_mask"], b["region_mask"]).items()}
        for given, b in zip(on_device(cpu, shape, card.device), cpu, strict=True)
    ]
    text = on_device([caption_batch(max(2, pictures // 8), 5, shape, 1)], shape, card.device)[0]
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ways = {"fp32": "windows", "bf16": "windows", "compiled": "windows compiled"}
    for kind, batch, loss in ((VivoForTagPretraining, batches[0], tag_loss), (VivoForCaptioning, text, text_loss)):
        found = {}
        for name, way in ways.items():
            torch.manual_seed(0)
            with torch.device(card.device):
                model = prepared(kind(shape.config(**still)), way).train()
            with torch.no_grad():  # attention that is not even
                for layer in model.vivo.layers:
                    layer.qkv.weight.mul_(4.0)
            with torch.autocast(card.device.type, torch.bfloat16, enabled=name != "fp32"):
                logits = model(batch)["logits"]
            given = batch | {"group_size": torch.ones_like(batch["group_size"])} if "group_size" in batch else batch
            (loss({"logits": logits}, given)["loss"] / len(batch["target_ids"])).backward()
            found[name] = [logits.detach().float()] + [p.grad.float() for p in model.parameters() if p.grad is not None]
        for name in list(ways)[1:]:
            apart = [
                (a - b).norm() / b.norm().clamp(min=1e-12) for a, b in zip(found[name], found["fp32"], strict=True)
            ]
            told = {"logits": apart[0].item(), "worst gradient": max(apart[1:]).item()}
            results.note(f"parity/{kind.__name__} {name} against fp32, relative", told)
    curves = {}
    for name, way in (*ways.items(), ("bf16 again", "windows")):
        if results.left() < 12:
            break
        model = prepared(made(VivoForTagPretraining, shape, card), way)
        step = Ours(model, tag_loss, "no" if name == "fp32" else "bf16", card.device, False)
        torch.manual_seed(len(curves))  # the same weights, other dropout
        for group in step.optimizer.param_groups:
            group["lr"] = 1e-4
        sums = [step(batches[n % len(batches)]) for n in range(steps)]
        curves[name] = torch.stack([s["loss"] / s["count"] for s in sums]).cpu()
    for name, curve in curves.items():
        means = [round(part.mean().item(), 4) for part in curve.split(max(1, steps // 5))]
        apart = (curve - curves["fp32"]).abs()
        results.note(f"parity/losses of {steps} updates, {name}: means", means)
        results.note(
            f"parity/{name} from fp32: mean, most", [round(apart.mean().item(), 5), round(apart.max().item(), 5)]
        )


def fine_rival(results: Results, card: Card, shape: Shape, pictures: int) -> tuple[float | None, float | None]:
    """The rival's seconds for an update of five rows a picture, and its supervised tokens/s."""
    try:
        halves = [caption_batch(5 * pictures // 2, 1, shape, seed, "masked") for seed in range(2)]
        halves = on_device(halves, shape, card.device)
        rival = Rival(shape, True, rival_caption_loss, card.device)
        told = [rival_caption_input(half) for half in halves]
        seconds = card.seconds(lambda _: rival(*told), 4, 2)
        return seconds, sum(half["target_ids"].shape[0] for half in halves) / seconds
    except Exception as error:
        traceback.print_exc()
        results.note("fine/rival/error", f"{type(error).__name__}: {error}"[:500])
        return None, None


def fine(results: Results, card: Card) -> None:
    """50 regions, 20 tags, 20 caption tokens: five captions that share a context pass; rivals: five rows."""
    shape = TINY if card.tiny else BASE
    sizes = (4,) if card.tiny else (256, 512)
    first = sizes[0]

    def measured(batch: Batch, way: str, label: str, pictures: int) -> float | None:
        try:
            card.fresh_memory()
            step = Ours(prepared(made(VivoForCaptioning, shape, card), way), text_loss, "bf16", card.device)
            seconds = card.seconds(lambda _: step(batch), 5)
            mfu = useful_flops(shape, batch) / seconds / card.flops
            results.note(
                f"fine/{label}",
                {"ms": 1e3 * seconds, "pictures/s": pictures / seconds, "MFU": mfu, "GiB": card.peak_gib()},
            )
            if pictures == first and "compiled" in way:
                profile(results, card, "fine", lambda _: step(batch))
            return seconds
        except Exception as error:
            results.note(f"fine/{label}/error", f"{type(error).__name__}: {error}"[:300])
            return None

    cpu = caption_batch(first, 5, shape, 0)
    shared = on_device([cpu], shape, card.device)[0]
    plain = measured(shared, "rows", f"five share a context, {first} pictures, plain", first)
    rows = on_device([caption_batch(5 * first, 1, shape, 0)], shape, card.device)[0]
    apart = measured(rows, "rows", f"five rows, {first} pictures, plain", first)
    del rows
    card.fresh_memory()
    theirs, supervised = fine_rival(results, card, shape, first)
    found = [plain, measured(shared, "compiled", f"five share a context, {first} pictures, compiled", first)]
    for pictures in sizes[1:]:
        if results.left() > 20:
            more = on_device([caption_batch(pictures, 5, shape, 0)], shape, card.device)[0]
            measured(more, "compiled", f"five share a context, {pictures} pictures, compiled", pictures)
            del more
    best = min(s for s in found if s is not None)
    flops = useful_flops(shape, cpu)
    what = f"fine-tuning, {shape.name}, {first} pictures x 5 captions, bf16"
    results.row(what, first / best, theirs and first / theirs, "pictures/s", 1.5, first * card.flops / flops)
    tokens = shared["target_ids"].shape[0] / best
    results.row(f"{what}: supervised tokens", tokens, supervised, "tokens/s", 8.0)
    results.row(f"{what}: MFU", flops / best / card.flops, 1.0, "of matmul rate", 0.5, 1.0)
    if apart and plain:
        results.row(f"{what}: shared against five rows of ours", first / plain, first / apart, "pictures/s", None)


def _gained(log_p: Tensor, targets: Tensor, batch: Batch) -> Tensor:
    """Probability that matched targets have in each group, float64 [G]: SciPy's costs are 1 - p in float32, which is
    rounded to 6e-8, so that it is not always the best."""
    slots = batch["group_slots"]
    inside = slots.clamp(min=0)
    return torch.where(slots >= 0, log_p.double()[inside, targets[inside]].exp(), 0.0).sum(dim=(1, 2))


def matching(results: Results, card: Card) -> None:
    """Matched targets of 1,024 pictures from the probabilities, M up to 8 and M up to 6."""
    shape = TINY if card.tiny else BASE
    pictures = 16 if card.tiny else 1024
    for tags, most in ((12, 8), (8, 6)):
        batch = tag_batch(pictures, shape, 3, tags=(tags, tags), share=0.99)
        keep = batch["group_size"] <= most  # larger groups: left out of both
        batch = batch | {"group_slots": batch["group_slots"][keep][:, :most], "group_size": batch["group_size"][keep]}
        batch = {k: v.to(card.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        slots = batch["target_ids"].shape[0]
        log_p = torch.randn(slots, shape.vocabulary, device=card.device).log_softmax(dim=-1)
        arguments = (log_p, batch["target_ids"], batch["group_slots"], batch["group_size"])
        ours = card.seconds(lambda _, a=arguments: _matched_targets(*a), 20)
        theirs = card.seconds(lambda _, p=log_p, b=batch: scipy_targets(p, b), 3, 1)
        gained = [
            _gained(log_p, found, batch) for found in (_matched_targets(*arguments)[0], scipy_targets(log_p, batch))
        ]
        worse, same = (gained[1] - gained[0]).max().item(), torch.equal(*gained)
        with waits() as counted:
            _matched_targets(*arguments)
        where = counted()
        told = {"groups": int(keep.sum()), "same as SciPy": same, "worse than SciPy by": worse, "waits": where}
        results.note(f"matching/M up to {most}", told)
        what = f"set matching, {pictures} pictures, M up to {int(batch['group_size'].max())}"
        results.row(what, 1e3 * ours, 1e3 * theirs, "ms", 10.0, less_is_better=True)
    typical = tag_batch(pictures, shape, 0)
    typical = {k: v.to(card.device) if isinstance(v, Tensor) else v for k, v in typical.items()}
    log_p = torch.randn(typical["target_ids"].shape[0], shape.vocabulary, device=card.device).log_softmax(dim=-1)
    arguments = (log_p, *(typical[k] for k in ("target_ids", "group_slots", "group_size")))
    card.matching = card.seconds(lambda _: _matched_targets(*arguments), 20)


def main() -> None:
    """Run the sections, write the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu.json"))
    parser.add_argument("--only", nargs="*", default=[], help="sections")
    parser.add_argument("--without", nargs="*", default=[], help="sections to leave out")
    parser.add_argument("--seconds", type=float, default=215.0, help="for all of them")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    card = Card(arguments.tiny)
    if not (card.cuda or card.tiny):
        raise SystemExit("error: no GPU here; --tiny runs small shapes on the CPU")
    results = Results(arguments.out, arguments.seconds)
    import gpu_inference as inference

    sections: dict[str, tuple[Callable[[Results], None], float]] = {
        "limits": (lambda r: limits(r, card), 10),
        "attention": (lambda r: attention(r, card), 25),
        "matching": (lambda r: matching(r, card), 8),
        "beam": (lambda r: inference.beam(r, card), 20),
        "extraction": (lambda r: inference.extraction(r, card), 18),
        "scst": (lambda r: inference.scst(r, card), 10),
        "base": (lambda r: pretraining(r, card, BASE, WAYS), 80),
        "fine": (lambda r: fine(r, card), 45),
        "parity": (lambda r: parity(r, card), 45),
        "large": (lambda r: pretraining(r, card, LARGE, (BEST,)), 40),
        "cbs": (lambda r: inference.cbs(r, card), 15),
    }
    for name, (section, seconds) in sections.items():
        if (not arguments.only or name in arguments.only) and name not in arguments.without:
            results.run(name, section, seconds)
            if name not in ("base", "large"):  # the profile is of what they leave
                card.best = None
                card.fresh_memory()
    print("\n" + results.table())
    results.write()


if __name__ == "__main__":
    main()
