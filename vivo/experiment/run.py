"""Train, caption and score every row of a plan on a benchmark; table, results.json and report.html."""

from pathlib import Path

from vivo.experiment import results, stages
from vivo.experiment.benchmark import Benchmark
from vivo.experiment.plan import Plan
from vivo.experiment.side_by_side import run_side_by_side
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
        jobs: trainings at a time.
    """
    examples, classes = bench.evaluation_set()
    scorer = SplitScorer(examples, classes)
    scored = {row.name: results.RowScores(row, [], [], [], []) for row in plan.rows}
    if jobs > 1:
        every = [(model, seed) for seed in range(seeds) for model in plan.models]
        tasks = [(f"train {m.name}/{seed}", stages.train_model, (out, bench, m, seed)) for m, seed in every]
        run_side_by_side(tasks, jobs, clock.add)
    for seed in range(seeds):
        for model in plan.models if jobs == 1 else ():
            clock.run(f"train {model.name}/{seed}", lambda m=model, s=seed: stages.train_model(out, bench, m, s))
        for row in plan.rows:
            clock.run(f"caption {row.name}/{seed}", lambda r=row, s=seed: stages.caption_row(out, bench, r, s))
            captions = stages.caption_row(out, bench, row, seed)
            of_row = scored[row.name]
            of_row.seeds.append(seed)
            of_row.captions.append(captions)
            of_row.scores.append(scorer.score(captions))
            trained = clock.seconds.get(f"train {row.model}/{seed}", 0.0)
            of_row.seconds.append(trained + clock.seconds[f"caption {row.name}/{seed}"])
    rows = list(scored.values())
    clock.run("report", lambda: results.write_page(out, bench, plan, rows, scorer, examples, classes, extra))
    results.write_results(out, rows, scorer, bench.goals, clock.seconds, extra)
    results.print_table(bench, rows, scorer)
