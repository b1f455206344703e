"""The tables of `ablations.py` as Markdown and as JSON."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivo.experiment.ablations import TABLES, Ablations, Result
from vivo.files import atomic_write_json, atomic_write_text
from vivo.metrics.bootstrap import Interval

COLUMNS = {
    ("in", "CIDEr"): "CIDEr in",
    ("near", "CIDEr"): "near",
    ("out", "CIDEr"): "out",
    ("overall", "CIDEr"): "overall",
    ("validation", "CIDEr"): "CIDEr of validation",
    ("in", "F1"): "F1 base",
    ("out", "F1"): "F1 novel",
    ("out", "F1_unknown"): "F1 unknown to the detector",
}


def to_markdown(found: Ablations) -> str:
    """A section for each table, and below what is in none of them."""
    shown = {place: head for place, head in COLUMNS.items() if any(_at(r, place) for r in found.results.values())}
    compared = any(r.minus_base for r in found.results.values())
    head = ["", "row", "seeds", *shown.values(), *([f"overall minus {found.base}"] if compared else [])]
    tail = [f"differs from {found.base} in", "commit"]
    lines = [f"CIDEr times 100, F1 from 0 to 1: mean over seeds, {found.intervals}.", ""]
    for table in TABLES:
        lines += [f"## {table.title}", "", f"The paper's CIDEr: {table.setting}.", ""]
        heads = [*head, "paper's CIDEr", *tail]
        lines += _head(heads)
        for arm in table.arms:
            rows = found.of(arm)
            paper = "" if arm.paper is None else f"{arm.paper:.1f}"
            for r in rows:
                lines.append(_line([arm.label, *_cells(r, shown, compared), paper, *_facts(r)]))
            if not rows:
                lines.append(_line([arm.label, "no runs", *[""] * (len(heads) - 5), paper, "", ""]))
        lines.append("")
    if found.others:
        lines += ["## Rows that are in none of the paper's tables", "", *_head([*head, *tail])]
        lines += [_line(["", *_cells(r, shown, compared), *_facts(r)]) for r in found.others] + [""]
    notes = [
        f"{r.row} lacks seed{'s' if len(r.lacks) > 1 else ''} {', '.join(map(str, r.lacks))}"
        for r in found.results.values()
        if r.lacks
    ]
    notes += [
        f"{why}: {', '.join(_together([run.where for run in found.left_out if run.why == why]))}"
        for why in dict.fromkeys(run.why for run in found.left_out)
    ]
    commits = {commit for r in found.results.values() for commit in r.commits}
    if len(commits) > 1:
        notes.append(f"trainings of {len(commits)} commits: {', '.join(sorted(commits))}")
    if notes:
        lines += ["Not in the tables, or in part:", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def write_ablations(folder: Path, found: Ablations) -> None:
    """ablations.md and ablations.json in `folder`."""
    atomic_write_json(folder / "ablations.json", to_json(found))
    atomic_write_text(folder / "ablations.md", to_markdown(found))


def to_json(found: Ablations) -> dict[str, Any]:
    """All results; intervals as [value, low, high], null where there is none."""
    return {
        "base": found.base,
        "intervals": found.intervals,
        "tables": {
            table.title: {arm.label: {"rows": [r.row for r in found.of(arm)], "paper": arm.paper} for arm in table.arms}
            for table in TABLES
        },
        "rows": {
            name: {
                "seeds": r.seeds,
                "lacks": r.lacks,
                "scores": _plain(r.scores),
                "minus_base": _plain(r.minus_base) if r.minus_base else None,
                "differences": {key: list(pair) for key, pair in r.different.items()},
                "commits": r.commits,
                "last": {str(seed): stages for seed, stages in r.last.items()},
            }
            for name, r in found.results.items()
        },
        "left_out": [{"where": run.where, "why": run.why} for run in found.left_out],
    }


def _together(places: Sequence[str]) -> list[str]:
    """Run folders, the seeds of a row as one: "runs/rows/vivo (seed0, seed1)"."""
    seeds: dict[str, list[str]] = {}
    for place in places:
        folder, _, name = place.rpartition("/")
        seeds.setdefault(folder if name.startswith("seed") else place, []).append(name)
    return [f"{folder} ({', '.join(of)})" if of[0].startswith("seed") else folder for folder, of in seeds.items()]


def _at(result: Result, place: tuple[str, str]) -> Interval | None:
    return result.scores.get(place[0], {}).get(place[1])


def _cells(result: Result, shown: Mapping[tuple[str, str], str], compared: bool) -> list[str]:
    """Row, seeds, scores, difference to the base."""
    seeds = f"{len(result.seeds)} ({', '.join(map(str, result.seeds))})"
    cells = [_shown(_at(result, place), 1 if place[1] == "CIDEr" else 3) for place in shown]
    gap = (result.minus_base or {}).get("overall", {}).get("CIDEr")
    return [result.row, seeds, *cells, *([_shown(gap, 1) if gap else ""] if compared else [])]


def _facts(result: Result) -> list[str]:
    """Differences and commits."""
    told = [f"{key}: {_value(one)} -> {_value(other)}" for key, (one, other) in result.different.items()]
    return ["; ".join(told) or "nothing", ", ".join(result.commits) or "unknown"]


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _shown(found: Interval | None, digits: int) -> str:
    if found is None:
        return "-"
    value, low, high = (f"{number:.{digits}f}" for number in found)
    return value if math.isnan(found.low) else f"{value} [{low}, {high}]"


def _plain(table: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, list[float | None]]]:
    return {
        part: {m: [None if math.isnan(x) else round(x, 4) for x in interval] for m, interval in metrics.items()}
        for part, metrics in table.items()
    }


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
