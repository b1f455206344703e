"""Tables of docs/show_and_tell.md as Markdown, and the picture that is drawn of some of them (SVG text, by hand)."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from vivo.metrics.bootstrap import Interval
from vivo.report.charts import nice_ticks

WIDTH, COLUMNS, PANEL, GAP, LEFT = 900, 2, 190, 84, 52
STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 14px; fill: #222 }
.title { font-weight: 600 } .small { font-size: 12px; fill: #555 } .value { font-size: 13px; font-weight: 600 }
.grid { stroke: #ddd } .line { stroke: #2e86ab; stroke-width: 2; fill: none } .whisker { stroke: #2e86ab }
.point { fill: #2e86ab }
"""


@dataclass(frozen=True)
class Table:
    """One table of the page: title, head, rows, and what to read out of it.

    Attributes:
        values: [row][column behind the first]; of a table that is drawn, too.
        labels: of the rows in the picture; default: their first cells. axis: what the rows are, in the picture.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    values: tuple[tuple[Interval, ...], ...] = ()
    labels: tuple[str, ...] = ()
    axis: str = ""

    def markdown(self, behind: str = "") -> str:
        """As it stands in docs/show_and_tell.md. behind: what follows the title."""
        lines = [f"### {self.title}{behind}", "", f"| {' | '.join(self.head)} |", f"|{'---|' * len(self.head)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"- {note}" for note in self.notes)]) + "\n"


def shown_interval(found: Interval, digits: int = 1, plus: bool = False) -> str:
    """ "12.3 [11.0, 13.6]"; a difference has its sign."""
    sign = "+" if plus else ""
    return f"{found.value:{sign}.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def chart(tables: Sequence[Table]) -> str:
    """One panel for each column of the tables that have `values`, two beside each other."""
    panels = [(t, column) for t in tables if t.values for column in range(len(t.values[0]))]
    height = 24 + (PANEL + GAP) * -(-len(panels) // COLUMNS)
    wide = WIDTH / COLUMNS
    parts = []
    for number, (table, column) in enumerate(panels):
        row, place = divmod(number, COLUMNS)
        parts += _panel(table, column, place * wide, 24 + row * (PANEL + GAP), wide)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape("; ".join(dict.fromkeys(t.title for t, _ in panels)))}">\n'
        f'<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(table: Table, column: int, left: float, top: float, wide: float) -> list[str]:
    """Points with their intervals over the rows of the table."""
    values = [row[column] for row in table.values]
    low, high = min(v.low for v in values), max(v.high for v in values)
    margin = 0.12 * (high - low) or 1.0
    low, high = low - margin, high + margin
    begin, bottom = left + LEFT, top + 26 + PANEL
    slot = (wide - LEFT - 16) / len(values)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * PANEL

    xs = [begin + slot * (n + 0.5) for n in range(len(values))]
    lines = [_text(left + 12, top + 8, f"{table.head[column + 1]} by {table.axis}", "title")]
    for tick in nice_ticks(low, high, 4):
        lines.append(_line(begin, y(tick), left + wide - 16, y(tick), "grid"))
        lines.append(_text(begin - 6, y(tick) + 4, f"{tick:g}", "small", "end"))
    path = " ".join(f"{a:.1f},{y(v.value):.1f}" for a, v in zip(xs, values, strict=True))
    lines.append(f'<polyline class="line" points="{path}"/>')
    before = values[0].value
    for a, v, name in zip(xs, values, table.labels or [row[0] for row in table.rows], strict=True):
        lines.append(_line(a, y(v.low), a, y(v.high), "whisker"))
        lines.append(f'<circle class="point" cx="{a:.1f}" cy="{y(v.value):.1f}" r="4"/>')
        # where the line is not: on the left above, if it comes from below; of the first point on the right below
        if v is not values[0] and y(before) - y(v.value) > 8:
            lines.append(_text(a - 7, y(v.value) - 7, f"{v.value:.1f}", "value", "end"))
        else:
            lines.append(_text(a + 7, y(v.value) + (17 if v is values[0] else -7), f"{v.value:.1f}", "value"))
        before = v.value
        for number, part in enumerate(name.split("\n")):
            lines.append(_text(a, bottom + 18 + 15 * number, part, "small", "middle"))
    return lines


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'
