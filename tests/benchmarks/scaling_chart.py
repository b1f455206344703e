"""The picture of docs/scaling.md as SVG text: what each part of a node delivers against what its GPUs need, and what
a step takes. Drawn by hand, for no plotting library is among the requirements; letters keep their size in the page."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, ROW = 900, 250, 165, 34
STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 15px; fill: #222 }
.title { font-size: 18px; font-weight: 600 } .small { font-size: 13px; fill: #555 } .value { font-weight: 600 }
.grid { stroke: #ddd } .need { stroke: #222; stroke-width: 2 }
.below { fill: #c0392b } .above { fill: #2e86ab }
.matmul { fill: #2e86ab } .reduce { fill: #e0a030 } .data { fill: #6a9a5b }
"""
STEP_PARTS = {"compute": ("matmul", "matmul"), "reduce": ("reduce", "all-reduce"), "data": ("data", "data path")}
"""Part of `scaling.scenario` -> (its CSS class, its name)."""


def chart(parts: Sequence[tuple[str, float]], needed: float, scenarios: Sequence[Mapping[str, float | str]]) -> str:
    """Both panels.

    Args:
        parts: of a node's data path, with the pictures a second that they deliver. needed: by its GPUs.
        scenarios: {"label", "compute", "reduce", "data"}, seconds of a step.
    """
    first = _delivery(parts, needed, 72)
    top = 72 + ROW * len(parts) + 100
    second = _steps(scenarios, top)
    height = top + (3 * 18 + 22) * len(scenarios) + 50
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="What a node of 8 H100 needs and what its data path delivers; time of a step">\n'
        f'<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        + "\n".join([*first, *second])
        + "\n</svg>\n"
    )


def _delivery(parts: Sequence[tuple[str, float]], needed: float, top: int) -> list[str]:
    """Bars from the need to what a part delivers, over a logarithmic axis of pictures a second."""
    rates = [rate for _, rate in parts]
    low, high = math.log10(min([*rates, needed]) / 1.6), math.log10(max([*rates, needed]) * 1.1)

    def x(rate: float) -> float:
        return LEFT + (math.log10(rate) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    bottom = top + ROW * len(parts)
    lines = [text(20, 28, "Pictures a second that each part of a node of 8 H100 delivers", "title")]
    lines.append(text(20, 47, "computed from measured cores and published rates; no such node was used", "small"))
    for power in range(math.floor(low), math.ceil(high) + 1):
        for tick in (10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            if low <= math.log10(tick) <= high:
                lines.append(line(x(tick), top, x(tick), bottom, "grid"))
                lines.append(text(x(tick), bottom + 18, f"{tick:,.0f}", "small", "middle"))
    for row, (name, rate) in enumerate(parts):
        middle = top + ROW * row + ROW / 2
        left, right = sorted((x(rate), x(needed)))
        lines.append(text(LEFT - 12, middle + 5, name, "", "end"))
        lines.append(bar(left, middle - 9, max(right - left, 2), 18, "above" if rate >= needed else "below"))
        lines.append(text(right + 8, middle + 5, f"{rate:,.0f} ({rate / needed:.2f}x)", "value"))
    lines.append(line(x(needed), top - 6, x(needed), bottom, "need"))
    lines.append(text(x(needed), bottom + 40, f"needed: {needed:,.0f}", "value", "middle"))
    return lines


def _steps(scenarios: Sequence[Mapping[str, float | str]], top: int) -> list[str]:
    """Three bars for each scenario over a common axis of milliseconds from 0."""
    longest = max(float(row[part]) for row in scenarios for part in STEP_PARTS) * 1e3
    end = longest * 1.05

    def x(milliseconds: float) -> float:
        return LEFT + milliseconds / end * (WIDTH - LEFT - RIGHT)

    group = 3 * 18 + 22
    bottom = top + group * len(scenarios)
    lines = [text(20, top - 14, "Milliseconds of a step, by part (the longest is the step, if they overlap)", "title")]
    step = 5 if end > 12 else 2 if end > 5 else 1
    for tick in range(0, math.floor(end) + 1, step):
        lines.append(line(x(tick), top, x(tick), bottom, "grid"))
        lines.append(text(x(tick), bottom + 18, str(tick), "small", "middle"))
    for number, row in enumerate(scenarios):
        begin = top + group * number + 11
        head, _, tail = str(row["label"]).partition("\n")
        lines.append(text(LEFT - 110, begin + 24, head, "", "end"))
        lines.append(text(LEFT - 110, begin + 43, tail, "small", "end"))
        for place, (part, (css, name)) in enumerate(STEP_PARTS.items()):
            y = begin + 18 * place
            milliseconds = float(row[part]) * 1e3
            lines.append(text(LEFT - 12, y + 13, name, "small", "end"))
            lines.append(bar(LEFT, y + 2, max(x(milliseconds) - LEFT, 1), 14, css))
            lines.append(text(x(milliseconds) + 8, y + 14, f"{milliseconds:.1f}", "value"))
    return lines


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def bar(x: float, y: float, width: float, height: float, css: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" class="{css}"/>'
