"""From captions to results.json, the printed table and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vivo.data.nocaps import WorldClass
from vivo.data.regions import RegionStore
from vivo.data.types import CaptionExample
from vivo.experiment.benchmark import Benchmark, Goals
from vivo.experiment.plan import Plan, Row
from vivo.files import atomic_write_json
from vivo.metrics.bootstrap import Interval
from vivo.metrics.comparison import compare_systems, system_intervals
from vivo.metrics.nocaps import Scores, SplitScorer
from vivo.report.demo_page import write_report
from vivo.report.records import Curve, GalleryPicture, RowResult
from vivo.self_tagging import open_tag_source
from vivo.training.runtime import environment
from vivo.training.tracking import read_records

PARTS = ("in", "near", "out", "overall")
BASELINES = ("none", "none_unfrozen")


@dataclass
class RowScores:
    """A row's captions, scores and seconds, one of each per seed."""

    row: Row
    seeds: list[int]
    captions: list[dict[str, str]]
    scores: list[Scores]
    seconds: list[float]


def write_results(
    out: Path,
    rows: Sequence[RowScores],
    scorer: SplitScorer,
    goals: Goals,
    stage_seconds: Mapping[str, float],
    extra: Mapping[str, str],
    inputs: Mapping[str, Any],
) -> None:
    """results.json: one record per row and seed, summaries with intervals, differences to the baselines, claims.

    Args:
        inputs: see `vivo.experiment.inputs`.
    """
    records = [
        {"name": r.row.name, "seed": seed, **scores.table, "seconds": round(seconds, 1)}
        for r in rows
        for seed, scores, seconds in zip(r.seeds, r.scores, r.seconds, strict=True)
    ]
    summary = {r.row.name: _plain(system_intervals(scorer, r.scores)) for r in rows}
    differences = {
        f"{a.row.name} - {b.row.name}": _plain(compare_systems(scorer, a.scores, b.scores))
        for a in rows
        for b in rows
        if a.row.name == "vivo" and b.row.name != "vivo"
    }
    atomic_write_json(
        out / "results.json",
        {
            "rows": records,
            "summary": summary,
            "differences": differences,
            "claims": [{"claim": c, "shown": ok, "figure": f} for c, ok, f in claims(rows, scorer, goals)],
            "stage_seconds": {k: round(v, 1) for k, v in stage_seconds.items()},
            **extra,
            "inputs": inputs,
            "environment": environment(),
        },
    )


def claims(rows: Sequence[RowScores], scorer: SplitScorer, goals: Goals) -> list[tuple[str, bool, str]]:
    """The paper's claims, computed from these rows: (claim, shown here, figure)."""
    by_name = {r.row.name: r for r in rows}
    means = {name: system_intervals(scorer, r.scores) for name, r in by_name.items()}
    baselines = [name for name in BASELINES if name in by_name]

    def best(part: str, metric: str) -> tuple[str, float]:
        return max(((b, means[b][part][metric].value) for b in baselines), key=lambda pair: pair[1])

    def gain(part: str, metric: str, name: str) -> Interval:
        return compare_systems(scorer, by_name["vivo"].scores, by_name[name].scores)[part][metric]

    vivo = means["vivo"]
    f1, (f1_name, f1_none) = vivo["out"]["F1"].value, best("out", "F1")
    named = gain("out", "F1", f1_name)
    part = "out" if goals.cider is None and "CIDEr" in vivo["out"] else "overall"  # a split may have no out-domain
    cider, (c_name, c_none) = vivo[part]["CIDEr"].value, best(part, "CIDEr")
    figure = f"{cider:.1f} against {c_none:.1f} ({c_name}): {cider - c_none:+.1f}"
    if goals.cider is None:
        rises = gain(part, "CIDEr", c_name)
        name = "out-of-domain CIDEr" if part == "out" else "overall CIDEr"
        cider_claim = (f"{name} rises", rises.low > 0, f"{figure} [{rises.low:.1f}, {rises.high:.1f}]")
    else:
        cider_claim = (f"overall CIDEr rises by at least {goals.cider}", cider - c_none >= goals.cider, figure)
    found = [
        (
            f"novel objects are named at least twice as often as without pre-training, F1 at least {goals.f1}",
            f1 >= goals.f1 and f1 >= 2 * f1_none and named.low > 0,
            f"out-of-domain F1 {f1:.3f} against {f1_none:.3f} ({f1_name}): "
            f"{named.value:+.3f} [{named.low:.3f}, {named.high:.3f}]",
        ),
        cider_claim,
    ]
    if "in" in vivo and "CIDEr" in vivo["in"]:
        i_name, _ = best("in", "CIDEr")
        inside = gain("in", "CIDEr", i_name)
        found.append(
            (
                "in-domain CIDEr is not lower beyond the interval",
                inside.high >= 0,
                f"{inside.value:+.1f} [{inside.low:.1f}, {inside.high:.1f}] against {i_name}",
            )
        )
    if "F1_unknown" in vivo["out"]:
        unknown, (_, unknown_none) = vivo["out"]["F1_unknown"].value, best("out", "F1_unknown")
        found.append(
            (
                "objects unknown to the detector are named too: F1 at least 0.1, more than without pre-training",
                unknown >= 0.1 and unknown > unknown_none,
                f"F1 {unknown:.3f} against {unknown_none:.3f}",
            )
        )
    if "vivo, other picture" in means:
        other = means["vivo, other picture"]["out"]["F1"].value
        found.append(
            (
                f"with another picture's regions and tags VIVO keeps at most {goals.other_picture:.0%} of its F1",
                other <= goals.other_picture * f1,
                f"F1 {f1:.3f} -> {other:.3f}",
            )
        )
    if "Show and Tell" in means:
        said = means["Show and Tell"]["out"]["F1"].value
        found.append(
            (
                "Show and Tell, which learns from captions alone, names no novel object: F1 at most a tenth of VIVO's",
                said <= 0.1 * f1,
                f"F1 {said:.3f} against {f1:.3f}",
            )
        )
    if "no_hungarian" in means:
        gap = compare_systems(scorer, by_name["vivo"].scores, by_name["no_hungarian"].scores)
        c, f = gap["overall"]["CIDEr"], gap["out"]["F1"]
        found.append(
            (
                "Hungarian matching helps (paper: +2.0 CIDEr)",
                c.low > 0,
                f"CIDEr {c.value:+.1f} [{c.low:.1f}, {c.high:.1f}], F1 {f.value:+.3f} [{f.low:.3f}, {f.high:.3f}]",
            )
        )
    return found


def print_table(bench: Benchmark, rows: Sequence[RowScores], scorer: SplitScorer) -> None:
    """The table, to stdout."""
    table = Table(title=f"{bench.title}: CIDEr by domain, F1 of named objects")
    for column in ("row", "in", "near", "out", "overall", "F1 base", "F1 novel", "F1 unknown"):
        table.add_column(column, justify="left" if column == "row" else "right")
    with_interval = {("out", "CIDEr"), ("out", "F1")} if bench.goals.cider is None else set()
    cells = [*((part, "CIDEr") for part in PARTS), ("in", "F1"), ("out", "F1"), ("out", "F1_unknown")]
    for r in rows:
        found = system_intervals(scorer, r.scores, n=1000 if with_interval else 2)
        table.add_row(
            r.row.name,
            *(_cell(found.get(p, {}).get(m), 1 if m == "CIDEr" else 3, (p, m) in with_interval) for p, m in cells),
        )
    console = Console()
    console.print(table)
    for claim, ok, figure in claims(rows, scorer, bench.goals):
        console.print(f"[{'green' if ok else 'red'}]{'yes' if ok else 'NO '}[/] {claim}: {figure}", highlight=False)


def _cell(found: Interval | None, digits: int, with_interval: bool) -> str:
    """A number of the printed table, its interval under it where asked for; "-" where there is none."""
    if found is None:
        return "-"
    interval = f"\n[{found.low:.{digits}f}, {found.high:.{digits}f}]" if with_interval else ""
    return f"{found.value:.{digits}f}{interval}"


def write_page(
    out: Path,
    bench: Benchmark,
    plan: Plan,
    rows: Sequence[RowScores],
    scorer: SplitScorer,
    examples: Sequence[CaptionExample],
    classes: Sequence[WorldClass],
    extra: Mapping[str, str],
) -> None:
    """report.html."""
    results = []
    for r in rows:
        table = system_intervals(scorer, r.scores)
        results.append(
            RowResult(
                r.row.name,
                r.row.description,
                r.seeds,
                {p: {m: i.value for m, i in metrics.items()} for p, metrics in table.items()},
                {p: {m: (i.low, i.high) for m, i in metrics.items()} for p, metrics in table.items()},
                sum(r.seconds) / len(r.seconds),
            )
        )
    facts = environment()
    seeds = sorted({seed for r in rows for seed in r.seeds})
    write_report(
        out / "report.html",
        f"VIVO on {bench.title}",
        results,
        _gallery(bench, rows, scorer, examples, classes),
        _curves(out, plan, seeds),
        claims(rows, scorer, bench.goals),
        {
            "config": ", ".join(f"configs/{name}" for name in bench.configs[:2]),
            **extra,
            "seeds": ", ".join(map(str, seeds)),
            **facts,
        },
        word_forms={c.name: list(c.forms) for c in classes},
        attribution=bench.attribution,
    )


def _gallery(
    bench: Benchmark,
    rows: Sequence[RowScores],
    scorer: SplitScorer,
    examples: Sequence[CaptionExample],
    classes: Sequence[WorldClass],
) -> list[GalleryPicture]:
    """Every evaluation picture with the first seed's captions."""
    store = RegionStore(bench.evaluation_regions)
    novel = [i for i, c in enumerate(classes) if c.role == "novel"]
    ids = [example.image_id for example in examples]
    told = open_tag_source("file", store, ids, bench.tag_file) if bench.tags == "file" else None
    pictures = []
    for place, example in enumerate(examples):
        regions = store[example.image_id]
        truth = [i for i in novel if scorer.truth[place, i]]
        pictures.append(
            GalleryPicture(
                example.image_id,
                bench.pictures / example.file_name,
                example.domain,
                regions.boxes.tolist(),
                list(regions.labels),
                regions.scores.tolist(),
                regions.width,
                regions.height,
                example.captions,
                {r.row.name: r.captions[0][example.image_id] for r in rows},
                [classes[i].name for i in truth],
                [classes[i].name for i in truth if not classes[i].detector],
                {r.row.name: [classes[i].name for i in truth if r.scores[0].named[place, i]] for r in rows},
                told(example.image_id, [], regions) if told else None,
            )
        )
    return pictures


def _curves(out: Path, plan: Plan, seeds: Sequence[int]) -> list[Curve]:
    """Loss curves of all trainings."""
    curves = []
    for name in [*(model.name for model in plan.models), *plan.recurrent]:
        for seed in seeds:
            for stage, label in (
                ("pretrain", "pre-training"),
                ("frozen", "fine-tuning, frozen encoder"),
                ("finetune", "fine-tuning"),
            ):
                path = out / "rows" / name / f"seed{seed}" / stage / "metrics.jsonl"
                records = [r for r in read_records(path) if "loss" in r]
                if records:
                    curves.append(Curve(name, [r["step"] for r in records], [r["loss"] for r in records], label))
    return curves


def _plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, list[float]]]:
    """Intervals as [value, low, high]."""
    return {
        part: {metric: [round(x, 4) for x in (i.value, i.low, i.high)] for metric, i in metrics.items()}
        for part, metrics in table.items()
    }
