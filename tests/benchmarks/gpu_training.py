"""The sections of gpu.py on training: updates of pre-training and fine-tuning, beside transformers'."""

import statistics
import traceback
from collections.abc import Sequence
from time import perf_counter

import torch
from gpu_card import STEPS, Best, Card, profile, waits
from results import Results
from torch import Tensor, nn
from training_step import (
    BASE,
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
    tag_batch,
    tag_loss,
    text_loss,
    useful_flops,
)

from vivo.data.collate import Batch
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining
from vivo.packing import in_windows

BATCHES, PAPER_STEPS = 4, 160_000
WAYS = ("rows", "windows", "windows layers", "windows compiled")
"""Layout of the batch (vivo/packing.py), and layers compiled as `engine.compile` has them; "layers": each by itself."""
BEST = "windows compiled"


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
