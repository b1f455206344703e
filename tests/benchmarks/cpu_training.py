"""The sections of cpu.py on training: updates of pre-training, fine-tuning and self-critical training, matching."""

import statistics
from time import perf_counter

import torch
from cpu_bench import CPU, Bench
from live_bytes import LiveBytes
from scst_reward import SelfCriticalUpdate
from training_step import (
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
    scipy_targets_by_group,
    tag_batch,
    tag_loss,
    text_loss,
    useful_flops,
)

from vivo.losses import _matched_targets
from vivo.modeling import VivoForCaptioning, VivoForTagPretraining


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
            for name, step, given in (("ours", ours, batch), ("rival", rival, told)):
                # weights and the optimizer's two moments
                held = [*step.trained, *(v for state in step.optimizer.state.values() for v in state.values())]
                with LiveBytes(held) as live:
                    step(given)
                peaks[name] = [(sum(t.nbytes for t in held) + live.peak) / 2**30, live.peak / 2**30]
        del ours, rival
    what = f"pre-training step, {shape.name}, {pictures} pictures"
    for kind, against, goal in (("fp32", "fp32", 1.6), ("bf16", "fp32", 4.0), ("bf16", "bf16", 2.0)):
        limit = pictures * bench.rates[kind] / flops
        name = f"{what}, {kind} against {against}"
        bench.row(name, seconds[f"ours {kind}"], seconds[f"rival {against}"], pictures, "pictures/s", goal, limit)
    both = zip(peaks["ours"], peaks["rival"], strict=True)
    for part, goal, (mine, theirs) in zip((", all", ", made in the step"), (1 / 0.6, None), both, strict=True):
        bench.results.row(f"{what}, fp32: peak memory{part}", mine, theirs, "GiB", goal, less_is_better=True)
    log_p = torch.randn(len(batch["target_ids"]), shape.vocabulary).log_softmax(dim=-1)
    asked = [batch[name] for name in ("target_ids", "group_slots", "group_size")]
    matched = statistics.median(bench.by_turns(matching=lambda: _matched_targets(log_p, *asked))["matching"])
    share = matched / statistics.median(seconds["ours fp32"])
    bench.results.row("set matching: share of that step", share, 0.01, "of its time", 1.0, less_is_better=True)


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
    found = bench.by_turns(
        ours=lambda: _matched_targets(*arguments),
        each=lambda: scipy_targets_by_group(log_p, batch),
        once=lambda: scipy_targets(log_p, batch),
    )
    what = f"set matching, {pictures} pictures, M up to 8"
    bench.row(what, found["ours"], found["each"], pictures, "pictures/s", 10.0, None)
    what = f"{what}, against SciPy whose costs are gathered for all at once"
    bench.row(what, found["ours"], found["once"], pictures, "pictures/s", None, None)


def scst(bench: Bench) -> None:
    """The reward's part of a self-critical update; nothing that a rival does."""
    pictures, samples = (4, 2) if bench.tiny else (16, 5)
    update = SelfCriticalUpdate(bench.shape, pictures, samples, CPU)
    shares = []
    for turn in range(bench.repeats + 1):
        begun = perf_counter()
        spent = update()["reward"]
        if turn:
            shares.append(spent / (perf_counter() - begun))
    what = f"self-critical step, {bench.shape.name}, {pictures} x {samples} samples: share of the reward"
    bench.results.row(what, statistics.median(shares), 0.05, "of its time", 1.0, less_is_better=True)
    bench.results.note(f"spread/{what}", [0.05 / share for share in shares])
