"""The sections of cpu.py without training: captions, constrained captions, extraction."""

import itertools
import tempfile
from pathlib import Path

from constrained import constrained, plain
from cpu_bench import Bench, flops_of
from decoding import Hidden, Whole, made_up, searched
from extraction import bare_backbone, noise_pictures, one_by_one, random_grid

from vivo.config import DecodeConfig
from vivo.detectors.base import load_detector
from vivo.detectors.extract import extract_regions
from vivo.detectors.pictures import open_picture
from vivo.prediction import caption_batch


def beam(bench: Bench) -> None:
    """The search against recomputing everything, and against keeping hidden states, for each hypothesis."""
    pictures = 2 if bench.tiny else 8
    model, batch = made_up(pictures, bench.tiny)
    decode = DecodeConfig(beam=5, max_tokens=20)
    works = {
        "ours": lambda: caption_batch(model, batch, decode),
        "whole": lambda: searched(lambda: Whole(model, batch, 5), pictures, 5),
        "hidden": lambda: searched(lambda: Hidden(model, batch, 5), pictures, 5),
    }
    limit = pictures * bench.rates["fp32"] / flops_of(works["ours"])
    found = bench.by_turns(unwarmed=("whole",), **works)
    what = f"beam 5, {pictures} pictures, fp32, against"
    rivals = (("whole", "recomputing everything", 15.0), ("hidden", "kept hidden states", 4.0))
    for name, rival, goal in rivals:
        bench.row(f"{what} {rival}", found["ours"], found[name], pictures, "captions/s", goal, limit)


def cbs(bench: Bench) -> None:
    """Constrained beam search against plain beam search of as many hypotheses."""
    pictures = 2 if bench.tiny else 4
    model, batch = made_up(pictures, bench.tiny)
    widths = constrained(model, batch, 3, 5)
    width = round(sum(widths) / len(widths))
    limit = pictures * bench.rates["fp32"] / flops_of(lambda: constrained(model, batch, 3, 5))
    found = bench.by_turns(ours=lambda: constrained(model, batch, 3, 5), rival=lambda: plain(model, batch, width))
    what = f"constrained beam search, {pictures} pictures, 3 constraints"
    bench.row(what, found["ours"], found["rival"], pictures, "captions/s", 1 / 1.3, limit)


def extraction(bench: Bench) -> None:
    """JPEG files of 640 x 480 into a store, against a loop over them; the limit is of the network's FLOPs alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        paths = noise_pictures(folder / "pictures", 4 if bench.tiny else 128, 640, 480)
        if bench.tiny:
            detectors = {"grid lite0 64x2": load_detector("grid:scales=64x2")}
        else:
            detectors = {
                "grid lite0 448x7": load_detector("grid"),
                "grid resnet50 448x7": random_grid("resnet50", "448x7"),
            }
        for number, (what, detector) in enumerate(detectors.items()):
            some = paths[:24] if "resnet50" in what else paths
            turns = itertools.count()

            def ours(d=detector, p=some, n=number, turns=turns) -> None:
                extract_regions(p, folder / f"{n} store {next(turns)}", d, progress=False)

            def rival(d=detector, p=some, n=number, turns=turns) -> None:
                one_by_one(p, folder / f"{n} loop {next(turns)}", d)

            detector.detect([open_picture(some[0])])
            limit = len(some) * bench.rates["fp32"] / flops_of(bare_backbone(detector, some))
            found = bench.by_turns(ours=ours, rival=rival)
            bench.row(f"extraction, {what}, fp32", found["ours"], found["rival"], len(some), "pictures/s", 1.3, limit)
