"""The page that `vivo demo` leaves behind: `DIR/report.html`, one file that needs nothing else.

    write_report(DIR / "report.html", "VIVO on OpenMoji nocaps", rows, pictures, curves, claims, provenance)

What makes it safe to open stands in `vivo.report.page`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from vivo.errors import UserError
from vivo.report.charts import CURVE_STYLES, Bar, Line, bar_chart, line_chart
from vivo.report.gallery import Card, Group, make_groups
from vivo.report.images import SIZES, jpeg_data_uri
from vivo.report.page import Page, write_atomically
from vivo.report.records import Curve, GalleryPicture, Interval, RowResult

__all__ = ["Curve", "GalleryPicture", "RowResult", "write_report"]

SIZE_LIMIT = 6_000_000
LEAD = (
    "VIVO first learns a visual vocabulary from pictures with tags and no sentences; then it learns to write "
    "sentences from captions that mention only a few kinds of objects.",
    "At test time it combines the two and names objects that no caption in its training data names.",
)


@dataclass(frozen=True)
class Column:
    """One column of the results table: where its number is, how it is headed and printed."""

    part: str
    key: str
    head: str
    digits: int


COLUMNS = (
    Column("in", "CIDEr", "in", 1),
    Column("near", "CIDEr", "near", 1),
    Column("out", "CIDEr", "out", 1),
    Column("overall", "CIDEr", "overall", 1),
    Column("in", "F1", "base", 3),
    Column("out", "F1", "novel", 3),
    Column("out", "F1_unknown", "novel, unknown to the detector", 3),
)


@dataclass
class Cell:
    """One number of the table as printed; `best` marks the highest of its column."""

    text: str
    interval: str
    best: bool


@dataclass
class TableRow:
    """One row of the table as printed."""

    row: RowResult
    role: str
    cells: list[Cell]
    seconds: str


@dataclass
class Tile:
    """One headline figure: VIVO's number against the best row without pre-training."""

    label: str
    value: str
    against: str
    row: str
    change: str
    worse: bool


@dataclass
class CurvePanel:
    """The training curves of one stage."""

    stage: str
    svg: Markup
    legend: list[tuple[str, int]]


def number(row: RowResult, part: str, key: str) -> float | None:
    """A metric of a row, or None where it is absent or not finite."""
    value = row.metrics.get(part, {}).get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def interval(row: RowResult, part: str, key: str) -> Interval:
    """The 95 % interval of a metric, or None."""
    pair = (row.intervals or {}).get(part, {}).get(key)
    return None if pair is None or not all(map(math.isfinite, pair)) else (float(pair[0]), float(pair[1]))


def make_table(rows: Sequence[RowResult], roles: Mapping[str, str]) -> list[TableRow]:
    """The results table, in the order of `rows`."""
    values = {column: [number(row, column.part, column.key) for row in rows] for column in COLUMNS}
    best = {column: max((value for value in of if value is not None), default=None) for column, of in values.items()}
    table = []
    for row in rows:
        cells = []
        for column in COLUMNS:
            value, pair = number(row, column.part, column.key), interval(row, column.part, column.key)
            text = "–" if value is None else f"{value:.{column.digits}f}"
            between = "" if pair is None else f"{pair[0]:.{column.digits}f} – {pair[1]:.{column.digits}f}"
            cells.append(Cell(text, between, value is not None and value == best[column]))
        seconds = "–" if row.seconds is None or not math.isfinite(row.seconds) else f"{row.seconds:.0f}"
        table.append(TableRow(row, roles.get(row.name, "other"), cells, seconds))
    return table


def make_tiles(rows: Sequence[RowResult], ours: str, baselines: Sequence[str]) -> list[Tile]:
    """The headline figures. Each is set against the better of the baselines in that figure, never the worse."""
    by_name = {row.name: row for row in rows}
    tiles = []
    for part, key, digits, label in (
        ("out", "F1", 3, "F1 of novel objects"),
        ("out", "F1_unknown", 3, "F1 of novel objects that the detector cannot name"),
        ("overall", "CIDEr", 1, "CIDEr, all pictures"),
    ):
        numbers = {name: number(by_name[name], part, key) for name in (ours, *baselines) if name in by_name}
        value = numbers.pop(ours, None)
        found = [(against, name) for name, against in numbers.items() if against is not None]
        if value is None or not found:
            continue
        against, row = max(found, key=lambda pair: pair[0])
        change = f"{value - against:+.{digits}f}".replace("-", "−")
        # A ratio says more than a difference, unless its denominator is next to nothing.
        if key != "CIDEr" and against >= 0.02 and value / against >= 1.5:
            change = f"× {value / against:.1f}"
        tiles.append(Tile(label, f"{value:.{digits}f}", f"{against:.{digits}f}", row, change, value < against))
    return tiles


def make_bars(rows: Sequence[RowResult], roles: Mapping[str, str]) -> Markup:
    """The chart of out-domain F1 of every row, novel classes unknown to the detector below."""
    bars = [
        Bar(
            row.name,
            number(row, "out", "F1"),
            interval(row, "out", "F1"),
            number(row, "out", "F1_unknown"),
            interval(row, "out", "F1_unknown"),
            roles.get(row.name, "other"),
        )
        for row in rows
    ]
    values = "; ".join(f"{bar.label} {'–' if bar.value is None else format(bar.value, '.3f')}" for bar in bars)
    return bar_chart(bars, f"F1 of novel objects by row: {values}")


def make_curves(curves: Sequence[Curve], ours: str, baseline: str) -> list[CurvePanel]:
    """One panel for each stage; a row keeps its colour in all of them, seeds of a row share it."""
    names = list(dict.fromkeys(curve.row for curve in curves))
    others = [name for name in names if name not in (ours, baseline)]
    # Styles 0 and 1 are the colours that ours and the baseline have all over the page.
    styles = {name: 2 + index % (CURVE_STYLES - 2) for index, name in enumerate(others)} | {ours: 0, baseline: 1}
    panels = []
    for stage in dict.fromkeys(curve.stage for curve in curves):
        members = [curve for curve in curves if curve.stage == stage]
        lines = [Line(curve.row, curve.step, curve.loss, styles[curve.row]) for curve in members]
        # Ours is drawn last, above the others.
        lines.sort(key=lambda line: line.label == ours)
        legend = [(name, styles[name]) for name in names if any(curve.row == name for curve in members)]
        panels.append(CurvePanel(stage, line_chart(lines, f"Loss against step, {stage or 'training'}"), legend))
    return panels


def write_report(
    path: Path,
    title: str,
    rows: Sequence[RowResult],
    pictures: Sequence[GalleryPicture],
    curves: Sequence[Curve],
    claims: Sequence[tuple[str, bool, str]],
    provenance: Mapping[str, str],
    max_pictures: int = 1000,
    *,
    summary: str = "",
    ours: str = "vivo",
    baseline: str = "none",
    other_baselines: Sequence[str] = ("none_unfrozen",),
    word_forms: Mapping[str, Sequence[str]] | None = None,
    attribution: str = "",
    size_limit: int = SIZE_LIMIT,
) -> None:
    """Write the page of a demo run to `path`, whole or not at all, smaller than `size_limit` bytes.

    Args:
        path: where to; the folder is made. An older page is replaced by a rename.
        title: headline and title of the page.
        rows: the results table, top to bottom.
        pictures: all evaluation pictures; the gallery chooses at most `max_pictures` of them and counts them all.
        curves: training losses, thinned here.
        claims: (claim, whether this run shows it, the figure); failures are shown like successes.
        provenance: config, seeds, commit, machine, versions, ...: the footer.
        summary: what this page shows, one or two sentences; made from the counts where empty.
        ours, baseline: names of the rows whose captions stand first and whose difference sorts the gallery.
        other_baselines: rows that the headline figures are compared to as well; the better one counts.
        word_forms: class name -> its singular and plural forms, for all classes; marks words in captions.
            Without it only novel classes and region labels are known, with regular plurals.
        attribution: whose pictures these are and under which licence; printed in the footer.

    Raises:
        UserError: a picture cannot be read, `path` cannot be written.
    """
    roles = {ours: "ours", baseline: "baseline"} | dict.fromkeys(other_baselines, "baseline")
    template = Page("demo_page.html.j2", ["base.css", "demo_page.css"], ["address.js", "demo_page.js"])
    seeds = sorted({seed for row in rows for seed in row.seeds})
    constants = {
        "title": title,
        "lead": LEAD,
        "summary": summary or describe(pictures, seeds, ours, baseline),
        "ours": ours,
        "baseline": baseline,
        "columns": COLUMNS,
        "table": make_table(rows, roles),
        "with_intervals": any(interval(row, column.part, column.key) for row in rows for column in COLUMNS),
        "tiles": make_tiles(rows, ours, (baseline, *other_baselines)),
        "bars": make_bars(rows, roles),
        "panels": make_curves(curves, ours, baseline),
        "claims": claims,
        "provenance": provenance,
        "attribution": attribution,
    }

    def render(groups: list[Group], longest: int, quality: int) -> str:
        for group in groups:
            for card in group.cards:
                card.image = jpeg_data_uri(card.picture.picture_path, longest, quality)
        return template.render(groups=groups, hero=example_of(groups), **constants)

    # Smaller pictures first, fewer pictures only when the smallest do not fit either.
    most = min(max_pictures, len(pictures))
    while True:
        groups = make_groups(pictures, rows, most, ours, baseline, word_forms)
        for longest, quality in SIZES:
            page = render(groups, longest, quality)
            if len(page.encode("utf-8")) < size_limit:
                write_atomically(path, page)
                return
        if most == 0:
            raise UserError(f"{path}: the report without pictures is larger than {size_limit} bytes; pass fewer rows")
        most //= 2


def example_of(groups: Sequence[Group]) -> Card | None:
    """The picture beside the headline: of those that ours wins, the first one with the fewest faults in its caption."""
    wins = [card for group in groups if group.key == "ours" for card in group.cards]

    def faults(card: Card) -> int:
        marked = card.first[0].marked if card.first else None
        return 99 if marked is None else len(marked.missed) + sum(part.kind == "wrong" for part in marked.segments)

    return min(wins, key=faults, default=None)


def describe(pictures: Sequence[GalleryPicture], seeds: Sequence[int], ours: str, baseline: str) -> str:
    """What this page shows, from the counts."""
    novel = {name for picture in pictures for name in picture.novel_objects}
    unknown = {name for picture in pictures for name in picture.unknown_objects}
    runs = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    text = f"This page: one comparison ({runs}) on {len(pictures)} test pictures with {len(novel)} novel classes"
    if unknown:
        text += f", {len(unknown)} of which even the detector cannot name"
    return f"{text}. Rows {ours} and {baseline} differ in nothing but the starting checkpoint."
