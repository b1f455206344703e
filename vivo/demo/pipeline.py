"""`vivo demo`: world -> regions -> pre-train -> fine-tune -> caption -> score -> table and report.

Each stage leaves its result under DIR and is skipped when that is there: an interrupted demo, started
again, goes on where it was (trainings from their last checkpoint).
"""

from pathlib import Path

from vivo.captioner import Captioner
from vivo.data.text import load_tokenizer
from vivo.demo import results, stages
from vivo.demo.plan import SIZES, plan_of
from vivo.detectors.base import load_detector
from vivo.files import atomic_folder
from vivo.metrics.nocaps import SplitScorer
from vivo.modeling import VivoForCaptioning
from vivo.weights import load_model


def run_demo(
    out: Path,
    size: str,
    seeds: int | None = None,
    ablations: bool = False,
    held_out: tuple[tuple[str, ...], ...] = (),
) -> None:
    """The whole demo in the folder `out`.

    Args:
        size: a key of vivo.demo.plan.SIZES.
        seeds: trainings of each model with seeds 0 .. seeds - 1; None is the size's default.
        ablations: all rows, whatever the size.
        held_out: combinations that no training caption says, see vivo.world.plan.WorldConfig.
    """
    extent = SIZES[size]
    plan = plan_of(ablations or extent.all_rows)
    stages.check_same_world(out, extent, held_out)
    clock = stages.Clock(out / "seconds.json")
    clock.run("world", lambda: stages.make_world(out, extent, held_out))
    clock.run("examples", lambda: stages.make_examples(out))
    clock.run("regions", lambda: stages.make_regions(out))

    examples, classes = stages.evaluation_set(out)
    scorer = SplitScorer(examples, classes)
    all_seeds = list(range(seeds or extent.seeds))
    scored = {row.name: results.RowScores(row, [], [], [], []) for row in plan.rows}
    for seed in all_seeds:
        for model in plan.models:
            clock.run(f"train {model.name}/{seed}", lambda m=model, s=seed: stages.train_model(out, m, extent, s))
        for row in plan.rows:
            clock.run(f"caption {row.name}/{seed}", lambda r=row, s=seed: stages.caption_row(out, r, s))
            captions = stages.caption_row(out, row, seed)
            of_row = scored[row.name]
            of_row.seeds.append(seed)
            of_row.captions.append(captions)
            of_row.scores.append(scorer.score(captions))
            trained = clock.seconds.get(f"train {row.model}/{seed}", 0.0)
            of_row.seconds.append(trained + clock.seconds[f"caption {row.name}/{seed}"])

    rows = list(scored.values())
    clock.run("captioner", lambda: save_captioner(out))
    clock.run("report", lambda: results.write_page(out, plan, rows, scorer, examples, classes, size))
    results.write_results(out, rows, scorer, clock.seconds, size)
    results.print_table(rows, scorer)
    stages.console.print(f"results {out / 'results.json'}, page {out / 'report.html'}, captioner {out / 'vivo'}")


def save_captioner(out: Path) -> None:
    """DIR/vivo: the first seed's VIVO model with tokenizer and detector, ready for `vivo caption`."""
    model = out / "rows" / "vivo" / "seed0" / "finetune" / "model"
    captioner = Captioner(
        load_model(VivoForCaptioning, model),
        load_tokenizer(model),
        load_detector("embedded"),
    )
    with atomic_folder(out / "vivo") as folder:
        captioner.save_pretrained(folder)
        (folder / "ATTRIBUTION.txt").write_text((out / "world" / "ATTRIBUTION.txt").read_text())
