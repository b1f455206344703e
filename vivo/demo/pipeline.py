"""`vivo demo`: world -> regions -> pre-train -> fine-tune -> caption -> score -> table and report.

Each stage leaves its result under DIR and is skipped when that is there: an interrupted demo, started
again, goes on where it was (trainings from their last checkpoint).
"""

from pathlib import Path

from vivo.captioner import Captioner
from vivo.data.text import load_tokenizer
from vivo.demo import prepare
from vivo.demo.sizes import SIZES, Size
from vivo.detectors.base import load_detector
from vivo.experiment.ablation_text import write_ablations
from vivo.experiment.ablations import make_ablations
from vivo.experiment.benchmark import Benchmark
from vivo.experiment.plan import VIVO, world_plan
from vivo.experiment.run import run_comparison
from vivo.experiment.run_folders import read_runs
from vivo.experiment.stages import NOTICE, Clock, console
from vivo.files import atomic_folder
from vivo.metrics.nocaps import SplitScorer
from vivo.modeling import VivoForCaptioning
from vivo.weights import load_model
from vivo.world.glyphs import attribution

LICENCE = "https://creativecommons.org/licenses/by-sa/4.0/"


def run_demo(
    out: Path,
    size: str,
    seeds: int | None = None,
    ablations: bool = False,
    held_out: tuple[tuple[str, ...], ...] = (),
    jobs: int = 1,
) -> None:
    """The whole demo in the folder `out`.

    Args:
        size: a key of vivo.demo.sizes.SIZES.
        seeds: trainings of each model with seeds 0 .. seeds - 1; None is the size's default.
        ablations: all rows, whatever the size.
        held_out: combinations that no training caption says, see vivo.world.plan.WorldConfig.
        jobs: trainings at a time, each with its part of the cores.
    """
    extent = SIZES[size]
    prepare.check_same_world(out, extent, held_out)
    clock = Clock(out / "seconds.json")
    extra = {"size": size, "jobs": str(jobs)}
    try:
        clock.run("world", lambda: prepare.make_world(out, extent, held_out))
        clock.run("examples", lambda: prepare.make_examples(out))
        clock.run("regions", lambda: prepare.make_regions(out))
        plan = world_plan(ablations or extent.all_rows)
        bench = world_benchmark(out, extent)
        run_comparison(out, bench, plan, seeds or extent.seeds, clock, extra, jobs)
        clock.run("captioner", lambda: save_captioner(out))
        if ablations or extent.all_rows:
            clock.run("ablation tables", lambda: save_ablations(out, bench))
    finally:
        clock.lap()
    console.print(f"results {out / 'results.json'}, page {out / 'report.html'}, captioner {out / 'vivo'}")


def world_benchmark(out: Path, size: Size) -> Benchmark:
    """The benchmark in a demo's folder."""

    def length(steps: int) -> tuple[str, ...]:
        batch = [f"optim.batch_size={size.batch_size}"] if size.batch_size else []
        pieces = f"model.vocabulary={examples / 'vocabulary.txt'}"
        return (pieces, *updates(steps), *batch)

    def updates(steps: int) -> tuple[str, str]:
        return f"optim.duration={steps} steps", f"optim.warmup={max(1, steps // 20)} steps"

    world, regions, examples = out / "world", out / "regions", out / "examples"
    return Benchmark(
        title="OpenMoji nocaps",
        configs=("world.yaml", "finetune/world.yaml", "eval/world.yaml"),
        pair_regions=regions / "open_images",
        pair_examples=examples / "tags.jsonl",
        caption_regions=regions / "coco",
        caption_examples=examples / "captions.jsonl",
        validation_references=world / "coco" / "captions_val.json",
        evaluation_regions=regions / "nocaps",
        evaluation_references=world / "nocaps" / "nocaps_val_captions.json",
        pictures=world / "nocaps" / "images",
        classes=world / "classes.json",
        attribution=f"{attribution()} ({LICENCE}). The pictures on this page are made from them and stand under the "
        "same licence.",
        notice=weights_notice(),
        pretrain=length(size.pretrain_steps),
        finetune=length(size.finetune_steps),
        caption_pictures=world / "coco" / "images",
        recurrent=(updates(size.recurrent_steps[0]), updates(size.recurrent_steps[1])),
    )


def save_ablations(out: Path, bench: Benchmark) -> None:
    """DIR/ablations.md and .json: the paper's Tables 4 to 6, as eval/ablation_table.py makes them of DIR."""
    trained, left_out = read_runs([out])
    scorer = SplitScorer(*bench.evaluation_set())
    write_ablations(out, make_ablations(trained, left_out, VIVO.name, scorer))


def weights_notice() -> str:
    """What stands beside weights that the demo trains."""
    return (
        f"{attribution()}\n\n"
        f"These weights were trained on pictures made of them and are shared under the same license: {LICENCE}\n"
        "They started from the text weights of all-MiniLM-L6-v2 and from features of EfficientNet-Lite0's ImageNet\n"
        "weights, both under the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
    )


def save_captioner(out: Path) -> None:
    """DIR/vivo: the first seed's VIVO model with tokenizer and detector, ready for `vivo caption`."""
    model = out / "rows" / "vivo" / "seed0" / "finetune" / "model"
    captioner = Captioner(
        load_model(VivoForCaptioning, model),
        load_tokenizer(model),
        load_detector("embedded"),
    )
    with atomic_folder(out / "vivo") as folder:
        captioner.save_pretrained(folder, license="cc-by-sa-4.0")
        (folder / NOTICE).write_text(weights_notice(), encoding="utf-8")
