"""Two sets of captions side by side, with what their differences show; `eval/compare.py --html` writes it.

    write_comparison(
        Path("out/compare.html"), ("a.json", "b.json"), captions, scorer, (a, b), tables, differences, examples
    )

The page itself is that of an evaluation (`vivo.report.evaluation_page`) with two captions a picture, ordered by the
difference of their CIDEr.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vivo.data.nocaps import WorldClass
from vivo.data.types import CaptionExample
from vivo.metrics.bootstrap import Interval
from vivo.metrics.nocaps import Scores, SplitScorer
from vivo.report.charts import Difference, difference_chart
from vivo.report.highlight import ClassFinder
from vivo.report.page import plain_text, write_atomically
from vivo.report.pictures import ShownRow, find_files, images_beside, make_pictures
from vivo.report.pictures_page import PART_NAMES, Tile, render_pictures_page
from vivo.report.records import EvaluatedPicture

Scored = Mapping[str, Mapping[str, float]]
ROLES = {"A": "ours", "B": "baseline"}
VERDICTS = {"ours": "A is better", "worse": "B is better", "noise": "within noise"}
F1_NAMES = {
    ("in", "F1"): "base classes",
    ("out", "F1"): "novel classes",
    ("out", "F1_unknown"): "novel classes unknown to the detector",
    ("overall", "F1"): "all classes",
}
OUTCOMES = [("", "all"), ("first", "A better"), ("second", "B better"), ("equal", "equal")]
ORDERS = [
    ("", "A furthest ahead first"),
    ("reverse", "B furthest ahead first"),
    ("unlike", "largest difference first"),
    ("file", "as in the file"),
]


@dataclass
class TableRow:
    """One domain and metric as printed."""

    part: str
    metric: str
    a: str
    b: str
    difference: str
    interval: str
    role: str
    human: str


def write_comparison(
    path: Path,
    names: tuple[str, str],
    captions: tuple[Mapping[str, str], Mapping[str, str]],
    scorer: SplitScorer,
    scores: tuple[Scores, Scores],
    tables: tuple[Scored, Scored],
    differences: Mapping[str, Mapping[str, Interval]],
    examples: Sequence[CaptionExample],
    pictures: Path | None = None,
    notes: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
    human: Scored | None = None,
) -> None:
    """Write the page, whole or not at all, and small copies of the pictures into the folder beside it.

    Args:
        names: what A and B are, such as their files. captions, scores: of A and B.
        tables: part -> metric -> score of A and B, for the table; means where they have several seeds.
        differences: A minus B, of `vivo.metrics.comparison.compare_systems`.
        examples: the pictures that `scorer` has the references of, in its order.
        pictures: folder of the picture files; None: a page without pixels.
        notes: what must be known beside the table. provenance: the footer, beside the names.
        human: part -> metric -> the reference captions' own score.

    Raises:
        UserError: none of the pictures is there, one cannot be read, or `path` cannot be written.
    """
    classes: Sequence[WorldClass] = scorer.classes or ()  # type: ignore[assignment]
    rows = {
        name: ShownRow(of, score.per_picture(), score.named)
        for name, of, score in zip(ROLES, captions, scores, strict=True)
    }
    files = find_files(examples, pictures, "--pictures") if pictures else {}
    shown = make_pictures(examples, rows, files, classes, scorer.truth)
    images = images_beside(files, path)
    finder = ClassFinder([c.name for c in classes], {c.name: c.forms for c in classes})
    text = render_pictures_page(
        "comparison_page.html.j2",
        " against ".join(short_names(*names)),
        f"A is {names[0]}, B is {names[1]}: two captions of each of {len(shown):,} pictures.",
        ROLES,
        shown,
        images,
        finder,
        wins_first(shown),
        who_is_ahead,
        OUTCOMES,
        ORDERS,
        [],
        {"A": names[0], "B": names[1], **(provenance or {})},
        tiles=make_tiles(shown),
        sentences=make_sentences(tables, differences),
        verdicts=VERDICTS,
        table=make_table(tables, differences, human or {}),
        charts=make_charts(differences),
        with_human=bool(human),
        notes=[plain_text(note) for note in notes],
        novel_known=bool(classes),
    )
    write_atomically(path, text)


def short_names(a: str, b: str) -> tuple[str, str]:
    """Two paths without what they have in common: "runs/vivo/seed0/p.json" and "runs/none/seed1/p.json" are
    "vivo/seed0" and "none/seed1"."""
    of_a, of_b = Path(a).parts, Path(b).parts
    while len(of_a) > 1 and len(of_b) > 1 and of_a[0] == of_b[0]:
        of_a, of_b = of_a[1:], of_b[1:]
    while len(of_a) > 1 and len(of_b) > 1 and of_a[-1] == of_b[-1]:
        of_a, of_b = of_a[:-1], of_b[:-1]
    return "/".join(of_a), "/".join(of_b)


def ahead(picture: EvaluatedPicture) -> float:
    """By how much A's caption is better, CIDEr times 100."""
    return picture.metrics["A"]["CIDEr"] - picture.metrics["B"]["CIDEr"]


def who_is_ahead(picture: EvaluatedPicture) -> str:
    """The same in words."""
    lead = ahead(picture)
    return f"{'A' if lead > 0 else 'B'} ahead by {abs(lead):.1f}" if lead else "equal"


def wins_first(pictures: Sequence[EvaluatedPicture]) -> list[int]:
    """Places of the pictures by the difference of CIDEr, A's greatest lead first; equal ones in their order."""
    return sorted(range(len(pictures)), key=lambda n: -ahead(pictures[n]))


def role_of(difference: Interval) -> str:
    """Key of `VERDICTS`."""
    if difference.within_noise:
        return "noise"
    return "ours" if difference.value > 0 else "worse"


def make_tiles(pictures: Sequence[EvaluatedPicture]) -> list[Tile]:
    """On how many pictures each is ahead."""
    leads = [ahead(picture) for picture in pictures]
    counts = (sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads), sum(lead == 0 for lead in leads))
    labels = ("pictures with a better caption by A", "with a better one by B", "with equal scores")
    return [
        Tile(label, f"{count:,}", f"{count / max(len(pictures), 1):.0%}")
        for label, count in zip(labels, counts, strict=True)
    ]


def make_sentences(
    tables: tuple[Scored, Scored], differences: Mapping[str, Mapping[str, Interval]]
) -> list[tuple[str, str]]:
    """(what the difference of CIDEr is and says, its role) of each domain, overall first."""
    found = []
    for part in sorted(differences, key=lambda part: part != "overall"):
        if "CIDEr" not in differences[part]:
            continue
        change = differences[part]["CIDEr"]
        a, b = (table[part]["CIDEr"] for table in tables)
        text = (
            f"CIDEr {PART_NAMES[part]}: A {a:.1f}, B {b:.1f}, difference {_signed(change.value)} "
            f"[{_minus(change.low)}, {_minus(change.high)}]"
        )
        if change.within_noise:
            text += ": these pictures do not show which is better"
        found.append((f"{text}.", role_of(change)))
    return found


def make_table(
    tables: tuple[Scored, Scored], differences: Mapping[str, Mapping[str, Interval]], human: Scored
) -> list[TableRow]:
    """Everything that was compared; F1 of objects, which is over all pictures, at the end."""
    rows, of_objects = [], []
    for part, metrics in differences.items():
        for metric, change in metrics.items():
            is_f1 = metric.startswith("F1")
            digits = 3 if is_f1 else 1
            a, b = (f"{table[part][metric]:.{digits}f}" for table in tables)
            name = F1_NAMES.get((part, metric), metric) if is_f1 else metric.replace("_", "-")
            (of_objects if is_f1 else rows).append(
                TableRow(
                    "all pictures" if is_f1 else PART_NAMES[part],
                    f"F1 of {name}" if is_f1 else name,
                    a,
                    b,
                    _signed(change.value, digits),
                    f"{_minus(change.low, digits)} … {_minus(change.high, digits)}",
                    role_of(change),
                    f"{human[part][metric]:.{digits}f}" if metric in human.get(part, {}) else "",
                )
            )
    return rows + of_objects


def make_charts(differences: Mapping[str, Mapping[str, Interval]]) -> list[tuple[str, object]]:
    """(metric, chart) of CIDEr by domain, and of F1 where there are classes."""
    charts: list[tuple[str, object]] = []
    cider = {part: metrics["CIDEr"] for part, metrics in differences.items() if "CIDEr" in metrics}
    f1 = {name: differences[part][key] for (part, key), name in F1_NAMES.items() if key in differences.get(part, {})}
    for title, found, digits in (
        ("CIDEr", {PART_NAMES[part]: change for part, change in cider.items()}, 1),
        ("F1 of named objects", f1, 3),
    ):
        if found:
            rows = [Difference(name, *change, role=role_of(change)) for name, change in found.items()]
            told = "; ".join(f"{name} {change.value:+.{digits}f}" for name, change in found.items())
            charts.append((title, difference_chart(rows, f"{title}, A minus B: {told}", digits)))
    return charts


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _minus(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
