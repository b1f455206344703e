"""The sections of gpu.py without training: captions, constrained captions, self-critical updates, extraction."""

import copy
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from results import Results
from training_step import BASE, TINY

if TYPE_CHECKING:
    from gpu import Card


def beam(results: Results, card: "Card") -> None:
    """Captions a second at beam 5: bf16 against fp32, and against computing everything anew for each token."""
    from decoding import Whole, made_up, searched

    from vivo.config import DecodeConfig
    from vivo.prediction import caption_batch

    decode, device = DecodeConfig(beam=5, max_tokens=20), str(card.device)
    model, batch = made_up(4 if card.tiny else 256, card.tiny, device)
    half = copy.deepcopy(model).to(torch.bfloat16)
    pictures = batch["tag_ids"].shape[0]
    turns = 1 if card.tiny else 3
    rates: dict[str, float] = {}
    rates_of_few: dict[str, float] = {}
    for size in (pictures // 4, pictures):
        part = {name: value[:size] for name, value in batch.items()}
        for name, kind in (("bf16", half), ("fp32", model)):
            seconds = card.seconds(lambda _, m=kind, b=part: caption_batch(m, b, decode), turns, 1)
            rates[name] = size / seconds
            results.note(f"beam/{name}, {size} pictures captions/s", rates[name])
            rates_of_few.setdefault(name, rates[name])
    card.fresh_memory()
    caption_batch(half, batch, decode)
    results.note("beam/GiB", card.peak_gib())
    few = max(1, pictures // 4)
    if card.cuda:
        some = {name: value[:few] for name, value in batch.items()}
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            caption_batch(half, some, decode)
            card.wait()
        kernels = [e for e in seen.key_averages() if "CUDA" in str(e.device_type)]
        busy = sum(e.self_device_time_total for e in kernels) / 1e3
        wall = 1e3 * few / rates_of_few["bf16"]
        told = {"kernels": sum(e.count for e in kernels), "GPU ms": busy, "ms without the profiler": wall}
        results.note(f"beam/{few} pictures, bf16", told)
    part = {name: value[:few] for name, value in batch.items()}
    theirs = card.seconds(lambda _: searched(lambda: Whole(half, part, 5), few, 5, device), 1, 1)
    ours = card.seconds(lambda _: caption_batch(half, part, decode), turns, 1)
    same = [
        a[0].tokens == b[0].tokens
        for a, b in zip(
            searched(lambda: Whole(model, part, 5), few, 5, device), caption_batch(model, part, decode), strict=True
        )
    ]
    results.note("beam/same captions as the whole sequence, fp32", f"{sum(same)} of {len(same)}")
    results.row(f"beam 5, {few} pictures, bf16, against recomputing", few / ours, few / theirs, "captions/s", 15.0)
    theirs = card.seconds(lambda _: searched(lambda: Whole(half, batch, 5), pictures, 5, device), 1, 0)
    what = f"beam 5, {pictures} pictures, bf16, against recomputing"
    results.row(what, rates["bf16"], pictures / theirs, "captions/s", 15.0)
    results.row(f"beam 5, {pictures} pictures, bf16 against fp32", rates["bf16"], rates["fp32"], "captions/s", 2.0)


def cbs(results: Results, card: "Card") -> None:
    """Constrained beam search against plain beam search of as many hypotheses."""
    from constrained import constrained, plain
    from decoding import made_up

    model, batch = made_up(2 if card.tiny else 64, card.tiny, str(card.device))
    pictures = batch["tag_ids"].shape[0]
    widths = constrained(model, batch, 3, 5)
    width = round(sum(widths) / len(widths))
    turns = 1 if card.tiny else 3
    ours = card.seconds(lambda _: constrained(model, batch, 3, 5), turns, 1)
    theirs = card.seconds(lambda _: plain(model, batch, width), turns, 1)
    what = f"constrained beam search, {pictures} pictures, 3 constraints"
    results.row(what, 1e3 * ours, 1e3 * theirs, "ms", 1 / 1.3, less_is_better=True)


def scst(results: Results, card: "Card") -> None:
    """A self-critical update of 64 pictures x 5 samples: its parts."""
    from scst_reward import SelfCriticalUpdate

    pictures, samples = (4, 2) if card.tiny else (64, 5)
    update = SelfCriticalUpdate(TINY if card.tiny else BASE, pictures, samples, card.device, half=True)
    told = []
    update()
    seconds = card.seconds(lambda _: told.append(update()), 4, 0)
    spent = {part: sum(each[part] for each in told) / len(told) for part in told[0]}
    results.note("scst/tokens of a sample", spent.pop("tokens"))
    results.note("scst/ms of an update", {"all": 1e3 * seconds, **{k: 1e3 * v for k, v in spent.items()}})
    what = f"self-critical update, {pictures} x {samples} samples: share of the reward"
    results.row(what, spent["reward"] / seconds, 0.05, "of its time", 1.0, less_is_better=True)


def extraction(results: Results, card: "Card") -> None:
    """JPEG files into a store: batches, decoded ahead, against one picture after the other. Random weights."""
    from extraction import noise_pictures, one_by_one, random_grid

    from vivo.detectors.extract import extract_regions
    from vivo.detectors.pictures import open_picture

    network, scales = ("resnet18", "64x2") if card.tiny else ("resnet50", "448x7")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        paths = noise_pictures(folder / "pictures", 8 if card.tiny else 512, 640, 480)
        detector = random_grid(network, scales, device=str(card.device))
        some = paths[: max(4, len(paths) // 4)]
        detector.detect([open_picture(some[0])])
        begun = perf_counter()
        one_by_one(some, folder / "loop", detector)
        theirs = len(some) / (perf_counter() - begun)
        rates = {}
        for dtype in ("float32", "bfloat16"):
            detector = random_grid(network, scales, dtype, str(card.device))
            size = detector.batch_size
            detector.detect([open_picture(path) for path in paths[:size]])
            found = extract_regions(
                paths, folder / dtype, detector, batch_size=size, workers=2 if card.tiny else 14, progress=False
            )
            rates[dtype] = found.written / found.seconds
            ready = [open_picture(path) for path in paths[:size]]
            seconds = card.seconds(lambda _, d=detector, p=ready: d.detect(p), 3, 1)
            results.note(f"extraction/{network} {scales} {dtype} pictures/s", rates[dtype])
            results.note(f"extraction/{dtype} decoded pictures in memory/s", size / seconds)
        results.row(f"extraction, grid {network} {scales}, fp32", rates["float32"], theirs, "pictures/s", 3.0)
        results.note("extraction/embedded detector", "runs on the CPU alone: not measured here")
