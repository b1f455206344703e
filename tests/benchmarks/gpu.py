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
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

# ruff: noqa: E402
# isort: split
import torch
import torch.nn.functional as F
from gpu_card import Card, waits
from gpu_training import BEST, WAYS, fine, parity, pretraining
from results import Results
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_step import (
    BASE,
    LARGE,
    TINY,
    scipy_targets,
    tag_batch,
)

from vivo.data.collate import Batch
from vivo.losses import _matched_targets
from vivo.packing import in_windows

torch._dynamo.config.recompile_limit = 64  # one function, layers of several models


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
