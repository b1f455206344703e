"""Train, caption and score every row of a plan on a benchmark; table, results.json and report.html."""

from collections.abc import Sequence
from pathlib import Path

from vivo.experiment import results, stages
from vivo.experiment.benchmark import Benchmark
from vivo.experiment.inputs import check_inputs
from vivo.experiment.plan import VIVO, Plan
from vivo.experiment.side_by_side import Task, run_side_by_side
from vivo.metrics.nocaps import SplitScorer


def run_comparison(
    out: Path,
    bench: Benchmark,
    plan: Plan,
    seeds: int,
    clock: stages.Clock,
    extra: dict[str, str],
    jobs: int = 1,
) -> None:
    """The rows of `plan`, each with seeds 0 .. seeds - 1, in the folder `out`.

    Args:
        clock: the caller's, so that the times of its own stages are in results.json too.
        extra: what else results.json and the page say about the run.
        jobs: trainings, then captionings, at a time.

    Raises:
        UserError: `out` was begun with other inputs (`vivo.experiment.inputs`).
    """
    inputs = check_inputs(out, bench)
    scored = {row.name: results.RowScores(row, [], [], [], []) for row in plan.rows}
    trainings = [(model, seed) for seed in range(seeds) for model in plan.models]
    if bench.tags == "self":  # VIVO's pre-training writes the tags of all rows
        first = [
            (f"train {VIVO.name}/{seed}", stages.pretrain_model, (out, bench, VIVO, seed)) for seed in range(seeds)
        ]
        run_tasks(first, jobs, clock)
    captionings = [(row, seed) for seed in range(seeds) for row in plan.rows]
    tasks = [(f"train {m.name}/{s}", stages.train_model, (out, bench, m, s)) for m, s in trainings]
    if plan.recurrent:  # all seeds read one store of the encoder's outputs, which one of them makes
        clock.run("encoder outputs", lambda: stages.make_encoder_outputs(bench, out))
    for name in plan.recurrent:
        tasks += [(f"train {name}/{seed}", stages.train_recurrent, (out, bench, name, seed)) for seed in range(seeds)]
    run_tasks(tasks, jobs, clock)
    run_tasks([(f"caption {r.name}/{s}", stages.caption_row, (out, bench, r, s)) for r, s in captionings], jobs, clock)
    examples, classes = bench.evaluation_set()  # evaluation captions are opened here, when all is captioned
    scorer = SplitScorer(examples, classes)
    for seed in range(seeds):
        for row in plan.rows:
            captions = stages.caption_row(out, bench, row, seed)
            of_row = scored[row.name]
            of_row.seeds.append(seed)
            of_row.captions.append(captions)
            of_row.scores.append(scorer.score(captions))
            trained = clock.seconds.get(f"train {row.model}/{seed}", 0.0)
            of_row.seconds.append(trained + clock.seconds[f"caption {row.name}/{seed}"])
    rows = list(scored.values())
    clock.run("report", lambda: results.write_page(out, bench, plan, rows, scorer, examples, classes, extra))
    clock.lap()
    results.write_results(out, rows, scorer, bench.goals, clock.seconds, extra, inputs)
    results.print_table(bench, rows, scorer)


def run_tasks(tasks: Sequence[Task], jobs: int, clock: stages.Clock) -> None:
    """One after the other here, or `jobs` at a time in processes of their own."""
    if jobs > 1:
        run_side_by_side(tasks, jobs, clock.add)
        return
    for name, work, arguments in tasks:
        clock.run(name, lambda w=work, a=arguments: w(*a))
