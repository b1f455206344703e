"""What `vivo.metrics.measures` finds, as tables for a terminal and as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from vivo.metrics.bootstrap import Interval
from vivo.metrics.measures import VERIFIED, Intervals
from vivo.metrics.novelty import NGRAMS

GROUPS = {"in": "in-domain", "out": "out-of-domain", "out_unknown": "unknown to detector", "overall": "entire"}
F1S = {"F1": "mean of classes", "micro F1": "micro"}


def measure_tables(
    results: Mapping[str, Intervals], numbers: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]
) -> Iterator[Table]:
    """All tables.

    Args:
        results: by system ("captions", "against", "difference", "people"); "captions" must be there.
        numbers: `Measured.numbers` by system. facts: of `CaptionSplit.facts`.
    """
    ours = results["captions"]
    yield _table(
        "F1 of named objects, % [95 % interval], as the paper's Table 2",
        ("truth", "F1 is", "captions", *GROUPS.values()),
        (
            (truth, kind, system, *(cell(found[f"objects by {truth}"].get(group, {}).get(metric)) for group in GROUPS))
            for truth in facts["classes"]
            for metric, kind in F1S.items()
            for system, found in results.items()
        ),
    )
    columns = list(next(iter(ours["hallucination"].values())))
    yield _table(
        "objects that are named and not there, %",
        ("truth", "captions", *columns),
        (
            (truth, system, *(cell(found["hallucination"].get(truth, {}).get(column)) for column in columns))
            for truth in ours["hallucination"]
            for system, found in results.items()
        ),
    )
    parts = ours["novelty"]
    yield _table(
        "captions that no training picture has, %, and words a caption",
        ("", "captions", *parts),
        (
            (metric, system, *(cell(found["novelty"][part][metric], scale) for part in parts))
            for metric, scale in (("new", 100), ("words", 1))
            if metric in parts["overall"]
            for system, found in results.items()
        ),
    )
    yield _diversity(numbers)
    for axis, bins in facts["bins"].items():
        counts = [("", "classes", *(f"{count:,}" for count in bins.values()))]
        recalls = [
            (
                truth,
                system,
                *(cell(found[f"recall by {axis} and {truth}"].get(name, {}).get("recall")) for name in bins),
            )
            for truth in facts["classes"]
            if truth != VERIFIED  # recall asks for what is there alone
            for system, found in results.items()
        ]
        yield _table(f"recall of objects, %, by {axis} of their class", ("truth", "captions", *bins), counts + recalls)
    if "table3" in facts:
        yield _table(
            "classes by mentions in training captions, as the paper's Table 3",
            ("mentions at most", "classes", "% of training mentions", "% of reference mentions"),
            (
                (
                    f"{row['at most']:,}",
                    f"{row['classes']:,}",
                    _percent(row["share of training mentions"]),
                    _percent(row["share of evaluation mentions"]),
                )
                for row in facts["table3"]
            ),
        )


def _diversity(numbers: Mapping[str, Mapping[str, Any]]) -> Table:
    whole = ("most repeated", "vocabulary")
    keys = ("distinct captions", *whole, *(f"distinct-{n}" for n in NGRAMS))

    def row(system: str, seeds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        yield from (system, f"{seeds[0]['captions']:,}")
        for key in keys:
            mean = sum(seed[key] or 0 for seed in seeds) / len(seeds)
            yield f"{mean:,.0f}" if key in whole else f"{mean:.3f}"

    return _table(
        "how captions differ, mean over seeds",
        ("captions", "number", *keys),
        (row(system, of["diversity"]) for system, of in numbers.items()),
    )


def as_json(found: Intervals) -> dict[str, Any]:
    """{"value", "low", "high"} in place of each interval; None for what is undefined."""
    return {
        section: {row: {column: _record(interval) for column, interval in line.items()} for row, line in rows.items()}
        for section, rows in found.items()
    }


def _record(interval: Interval) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in interval._asdict().items()}


def _table(title: str, columns: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Table:
    view = Table(title=title, title_justify="left")
    rows = [list(row) for row in rows]
    for place, column in enumerate(columns):
        texts = any(row[place][:1].isalpha() for row in rows)
        view.add_column(column, justify="left" if texts else "right", no_wrap=not texts)
    for row in rows:
        view.add_row(*row)
    return view


def cell(interval: Interval | None, scale: float = 100, digits: int = 1) -> str:
    """A value with its interval where it has one; "-" for what is undefined."""
    if interval is None or math.isnan(interval.value):
        return "-"
    value, low, high = (f"{scale * number:.{digits}f}" for number in interval)
    return value if math.isnan(interval.low) else f"{value} [{low}, {high}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
