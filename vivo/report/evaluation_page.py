"""The page of one evaluation: scores, plots, every picture; `eval/report.py` writes it.

write_evaluation(Path("out/report.html"), evaluation, pictures, images, "Evaluation of seed0", {"commit": "..."})
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from vivo.metrics.nocaps import F1_PLACES, JAVA_METRICS, METRICS, PARTS
from vivo.report.caption_plots import caption_plots
from vivo.report.charts import Bar, Column, bar_chart, column_chart
from vivo.report.evaluation import Evaluation, worst_first
from vivo.report.highlight import ClassFinder
from vivo.report.page import plain_text, write_atomically
from vivo.report.pictures_page import PART_NAMES, Choices, Tile, render_pictures_page
from vivo.report.records import EvaluatedPicture

ROW = "captions"
BINS = (0.0, 10.0, 25.0, 50.0, 100.0, 150.0, 200.0)
"""Lower edges of the spread of CIDEr."""
# Metrics that papers print, in their order; those that no file has are shown as missing.
USUAL = (METRICS[0], *JAVA_METRICS, *METRICS[1:])
OUTCOMES = [
    ("", "all"),
    ("named", "names a novel object"),
    ("missed", "leaves out a novel object"),
    ("wrong", "names what no reference names"),
]
ORDERS = [
    ("", "worst CIDEr first"),
    ("reverse", "best CIDEr first"),
    ("file", "as in the file"),
    ("long", "longest first"),
    ("short", "shortest first"),
]


@dataclass
class Cell:
    """One number as printed, its interval, and what the references themselves reach."""

    text: str
    interval: str
    human: str


@dataclass
class TableRow:
    """One domain."""

    part: str
    name: str
    pictures: str
    cells: list[Cell]


def write_evaluation(
    path: Path,
    evaluation: Evaluation,
    pictures: Sequence[EvaluatedPicture],
    images: Mapping[str, str],
    title: str,
    provenance: Mapping[str, str],
) -> None:
    """Write the page, whole or not at all.

    Args:
        pictures: those of `vivo.report.pictures.make_pictures` with the one row `ROW`, in the order of the references.
        images: image id -> address of its pixels; see `vivo.report.pictures`.
        provenance: what made the captions and the page: the footer.

    Raises:
        UserError: `path` cannot be written.
    """
    names = {name for picture in pictures for name in picture.labels if name} | {c.name for c in evaluation.classes}
    finder = ClassFinder(names if evaluation.classes else [], {c.name: c.forms for c in evaluation.classes})
    place = {picture.image_id: number for number, picture in enumerate(pictures)}
    metrics = table_metrics(evaluation)
    spread_chart, spread_series = spread(evaluation)
    plots = caption_plots(evaluation.tokens, evaluation.reference_tokens)
    text = render_pictures_page(
        "evaluation_page.html.j2",
        title,
        describe(evaluation),
        {ROW: "ours"},
        pictures,
        images,
        finder,
        [place[image_id] for image_id in worst_first(evaluation)],
        lambda picture: f"CIDEr {picture.metrics[ROW].get('CIDEr', 0):.1f}",
        outcome_choices(evaluation, pictures),
        ORDERS,
        constraint_choices(evaluation),
        provenance,
        tiles=make_tiles(evaluation),
        metrics=metrics,
        table=make_table(evaluation, metrics),
        absent=[
            m for m in metrics if m not in evaluation.missing and not any(m in row for row in evaluation.table.values())
        ],
        missing=evaluation.missing,
        with_human=any(evaluation.human.values()),
        notes=[plain_text(note) for note in evaluation.notes],
        domain_bars=domain_bars(evaluation),
        spread=spread_chart,
        spread_series=spread_series,
        object_bars=object_bars(evaluation),
        constraint_facts=constraint_facts(evaluation),
        plots=plots,
        caption_facts=(
            f"Captions have {plots.mean_words[0]:.1f} words on average, references {plots.mean_words[1]:.1f}. "
            f"{plots.distinct:,} of the {len(evaluation.tokens):,} captions are unlike the others; they use "
            f"{plots.vocabulary[0]:,} words, as many references (the first of each picture) {plots.vocabulary[1]:,}."
        ),
        classes=novel_classes(evaluation),
        novel_known=bool(evaluation.classes),
        explanation=explanation_note(pictures),
    )
    write_atomically(path, text)


def table_metrics(evaluation: Evaluation) -> list[str]:
    """Columns of the table: the usual metrics, then what else the scores have; F1 of classes has a chart of its own."""
    found = [name for row in evaluation.table.values() for name in row]
    others = [name for name in dict.fromkeys(found) if name not in USUAL]
    return [*USUAL, *(name for name in others if name != "pictures" and not name.startswith("F1"))]


def make_table(evaluation: Evaluation, metrics: Sequence[str]) -> list[TableRow]:
    """A row for each domain that has pictures, and one for all of them."""
    rows = []
    for part in PARTS:
        row = evaluation.table.get(part, {})
        if "pictures" not in row and not len(evaluation.members(part)):
            continue
        cells = []
        for metric in metrics:
            pair = evaluation.intervals.get(part, {}).get(metric)
            text = f"{row[metric]:.1f}" if metric in row else "–"
            human = evaluation.human.get(part, {}).get(metric)
            between = f"{pair[0]:.1f} – {pair[1]:.1f}" if pair else ""
            cells.append(Cell(text, between, "" if human is None else f"{human:.1f}"))
        pictures = int(row.get("pictures", len(evaluation.members(part))))
        rows.append(TableRow(part, PART_NAMES[part], f"{pictures:,}", cells))
    return rows


def make_tiles(evaluation: Evaluation) -> list[Tile]:
    """The headline figures."""
    tiles = []
    for part, metric, digits, label in (
        ("overall", "CIDEr", 1, "CIDEr, all pictures"),
        ("out", "CIDEr", 1, "CIDEr, out-domain"),
        ("out", "F1", 3, "F1 of novel objects"),
        ("out", "F1_unknown", 3, "F1 of novel objects that the detector cannot name"),
    ):
        value = evaluation.table.get(part, {}).get(metric)
        if value is not None:
            pair = evaluation.intervals.get(part, {}).get(metric)
            between = f"{pair[0]:.{digits}f} – {pair[1]:.{digits}f}" if pair else ""
            tiles.append(Tile(label, f"{value:.{digits}f}", between))
    return tiles


def describe(evaluation: Evaluation) -> str:
    """What was evaluated, in one sentence."""
    references = sum(len(e.captions) for e in evaluation.examples)
    text = f"{len(evaluation.examples):,} captions against {references:,} references."
    decode = evaluation.header.get("decode") or {}
    if "beam" in decode:
        text += f" Decoded {'greedily' if decode['beam'] == 1 else 'with beam ' + str(decode['beam'])}"
        text += ", with constraints." if decode.get("constraints", "none") != "none" else "."
    if evaluation.header.get("control"):
        text += f" A control: {evaluation.header['control']}."
    return plain_text(text)


def domain_bars(evaluation: Evaluation) -> Markup:
    """CIDEr of each domain."""
    bars = []
    for part in PARTS:
        value = evaluation.table.get(part, {}).get("CIDEr")
        if value is not None:
            pair = evaluation.intervals.get(part, {}).get("CIDEr")
            bars.append(Bar(PART_NAMES[part], value, pair, role="ours" if part == "overall" else part))
    return bar_chart(bars, "CIDEr: " + ", ".join(f"{bar.label} {bar.value:.1f}" for bar in bars), digits=1)


def spread(evaluation: Evaluation) -> tuple[Markup, list[tuple[str, str]]]:
    """(chart, its series) of how the CIDEr of single pictures spreads in each domain."""
    scores = evaluation.scores_of("CIDEr")
    labels = [f"{low:g}–{high:g}" for low, high in zip(BINS, BINS[1:], strict=False)] + [f"{BINS[-1]:g}+"]
    parts = [part for part in ("in", "near", "out") if len(evaluation.members(part))] or ["overall"]
    columns = []
    for part in parts if scores is not None else ():
        places = np.searchsorted(BINS, scores[evaluation.members(part)], side="right") - 1
        shares = 100 * np.bincount(np.maximum(places, 0), minlength=len(BINS)) / len(places)
        columns.append(Column(PART_NAMES[part], shares.tolist(), "ours" if part == "overall" else part))
    told = "; ".join(f"{c.label}: " + ", ".join(f"{value:.0f}" for value in c.values) for c in columns)
    chart = column_chart(labels, columns, f"Percent of pictures with a CIDEr of {', '.join(labels)}. {told}")
    return chart, [(c.label, c.role) for c in columns]


def object_bars(evaluation: Evaluation) -> Markup:
    """F1 of named objects by group of classes; "" without classes."""
    names = {"in": "base", "out": "novel", "out_unknown": "novel, unknown to the detector", "overall": "all"}
    bars = []
    for group, (part, key) in F1_PLACES.items():
        value = evaluation.table.get(part, {}).get(key)
        if value is not None:
            pair = evaluation.intervals.get(part, {}).get(key)
            bars.append(Bar(names[group], value, pair, role="ours" if group == "out" else "other"))
    if not bars:
        return Markup()
    return bar_chart(bars, "F1 of named objects: " + ", ".join(f"{bar.label} {bar.value:.3f}" for bar in bars))


def novel_classes(evaluation: Evaluation) -> list[tuple[str, Mapping]]:
    """(class, its counts) of the novel classes that references name, the most frequent first."""
    found = [(n, e) for n, e in evaluation.per_class.items() if e.get("role") == "novel" and e.get("positives")]
    return sorted(found, key=lambda pair: (-pair[1]["positives"], pair[0]))


def constraint_facts(evaluation: Evaluation) -> dict[str, str]:
    """What became of the constraints of a constrained search; {} without one."""
    traces = list(evaluation.traces.values())
    if not traces:
        return {}
    asked = sum(len(trace["constraints"]) for trace in traces)
    met = sum(trace["satisfied"] for trace in traces)
    left_out = Counter(left["reason"] for trace in traces for left in trace["left_out"])
    often = "".join(f", most often {reason} ({n:,})" for reason, n in left_out.most_common(1))
    return {
        "constraints": f"{asked:,} on {sum(bool(t['constraints']) for t in traces):,} pictures",
        "satisfied": f"{met:,} ({met / asked:.0%})" if asked else "none to satisfy",
        "captions that fell back to fewer": f"{sum(bool(trace['fell_back']) for trace in traces):,}",
        "detections left out": f"{left_out.total():,}{often}",
    }


def explanation_note(pictures: Sequence[EvaluatedPicture]) -> str:
    """What the page can say of words and regions."""
    explained = sum(bool(picture.evidence) for picture in pictures)
    if not explained:
        return "Which word a region explains is not known here: eval/report.py wants --checkpoint for that."
    which = "" if explained == len(pictures) else f" of {explained:,} pictures (the worst and the best ones)"
    return (
        f"Point at or tap a region or a word{which}: how likely the model found the word, and how likely it is without"
        " the region, which is taken out of the input. Regions that stand in for one another change little each."
    )


def outcome_choices(evaluation: Evaluation, pictures: Sequence[EvaluatedPicture]) -> Choices:
    """The choices that can find something."""
    choices = OUTCOMES if evaluation.classes else OUTCOMES[:1]
    return [*choices, ("explained", "explained by region")] if any(p.evidence for p in pictures) else list(choices)


def constraint_choices(evaluation: Evaluation) -> Choices:
    """For captions of a constrained search."""
    if not evaluation.traces:
        return []
    return [("", "all"), ("satisfied", "satisfied"), ("fell", "fell back"), ("none", "had none")]
