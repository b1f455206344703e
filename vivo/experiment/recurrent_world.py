"""The embedded world for the claims about Show and Tell: one colour of each base class is in no training caption."""

from collections.abc import Sequence
from pathlib import Path

from vivo.data.predictions import read_predictions
from vivo.data.region_format import sha256_of
from vivo.demo import prepare
from vivo.demo.pipeline import world_benchmark
from vivo.demo.sizes import SIZES
from vivo.errors import UserError
from vivo.experiment import stages
from vivo.experiment.plan import show_and_tell_plan
from vivo.experiment.run import run_comparison, run_tasks
from vivo.experiment.stages import Clock
from vivo.files import writable_folder
from vivo.world.classes import BASE_CLASSES
from vivo.world.glyphs import allowed_tints


def held_out_colours() -> tuple[tuple[str, str], ...]:
    """(colour, class): one for each base class that can be dyed, all colours in turn."""
    found = []
    for number, entry in enumerate(BASE_CLASSES):
        tints = allowed_tints(entry.codepoint)
        if tints:
            found.append((tints[number % len(tints)], entry.name))
    return tuple(found)


def base_classes() -> list[str]:
    """Names of the classes of the training captions."""
    return [entry.name for entry in BASE_CLASSES]


def caption_recurrent(out: Path, seeds: int, quick: bool = False, jobs: int = 1) -> None:
    """The world, and Show and Tell's trainings and captions alone: what `compare` will find there and not make again.

    No detector and no text model is needed for it. Args: see `compare`.
    """
    size, held_out = SIZES["tiny" if quick else "full"], held_out_colours()
    prepare.check_same_world(writable_folder(out), size, held_out)
    clock, bench, plan = Clock(out / "seconds.json"), world_benchmark(out, size), show_and_tell_plan()
    rows = [row for row in plan.rows if row.model in plan.recurrent]
    try:
        clock.run("world", lambda: prepare.make_world(out, size, held_out))
        prepare.make_caption_examples(out)
        clock.run("encoder outputs", lambda: stages.make_encoder_outputs(bench, out))
        trainings = [(f"train {m}/{s}", stages.train_recurrent, (out, bench, m, s)) for m in plan.recurrent
                     for s in range(seeds)]  # fmt: skip
        run_tasks(trainings, jobs, clock)
        captionings = [(f"caption {r.name}/{s}", stages.caption_row, (out, bench, r, s)) for r in rows
                       for s in range(seeds)]  # fmt: skip
        run_tasks(captionings, jobs, clock)
    finally:
        clock.lap()


def compare(out: Path, seeds: int, quick: bool = False, jobs: int = 1) -> None:
    """World, regions, trainings, captions, scores, report in `out`; what is there is not made again.

    Args:
        quick: the tiny size, to try the whole. jobs: trainings at a time.
    """
    size, held_out = SIZES["tiny" if quick else "full"], held_out_colours()
    prepare.check_same_world(writable_folder(out), size, held_out)
    clock = Clock(out / "seconds.json")
    try:
        clock.run("world", lambda: prepare.make_world(out, size, held_out))
        clock.run("examples", lambda: prepare.make_examples(out))
        clock.run("regions", lambda: prepare.make_regions(out))
        bench, extra = world_benchmark(out, size), {"held out": "colours"}
        run_comparison(out, bench, show_and_tell_plan(), seeds, clock, extra, jobs)
    finally:
        clock.lap()


def row_captions(out: Path, seeds: int, names: Sequence[str] = ()) -> dict[str, list[dict[str, str]]]:
    """Row -> captions of the evaluation pictures, of each seed that has them.

    Args:
        names: of the rows; default: all.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    for row in show_and_tell_plan().rows:
        files = [stages.row_folder(out, row) / f"seed{seed}" / "predictions.json" for seed in range(seeds)]
        found = [read_predictions(file) for file in files if file.is_file()]
        if found and (not names or row.name in names):
            rows[row.name] = found
    return rows


def rows_of_demo(out: Path, demo: Path, seeds: int) -> dict[str, list[dict[str, str]]]:
    """none and vivo of a `vivo demo` on the same evaluation pictures.

    Raises:
        UserError: its evaluation pictures are others.
    """
    ours, theirs = (folder / "world" / "nocaps" / "nocaps_val_captions.json" for folder in (out, demo))
    if sha256_of(ours) != sha256_of(theirs):
        raise UserError(f"{demo}: its evaluation pictures are not those of {out}; make one of the same size")
    return row_captions(demo, seeds, [plan.name for plan in show_and_tell_plan().models])
