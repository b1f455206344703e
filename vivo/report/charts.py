"""Plain SVG charts for the reports: no plotting library, no script, text that never shrinks.

Charts are drawn in percent of the width they get instead of in a scaled `viewBox`, so that a phone shows the
same letter size as a projector. Colours are CSS classes of the page, so both colour schemes work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

CURVE_STYLES = 8  # the page's CSS defines curve-0 .. curve-7
MOST_POINTS = 160  # of one curve; more than a chart shows, and a long run must not fill the page


@dataclass
class Bar:
    """One row of `bar_chart`: a main value and a thinner second one, each with an optional (low, high) interval."""

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    second: float | None = None
    second_interval: tuple[float, float] | None = None
    role: str = "other"  # "ours" | "baseline" | "other": chooses the colour


@dataclass
class Line:
    """One line of `line_chart`; `style` is its number in the page's CSS."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0


@dataclass
class Column:
    """One series of `column_chart`: a value for each label; `role` chooses its colour in the page's CSS."""

    label: str
    values: list[float]
    role: str = "other"  # "ours" | "base" | "in" | "near" | "out" | "other"


@dataclass
class Difference:
    """One row of `difference_chart`: a value with its interval, and what that says."""

    label: str
    value: float
    low: float
    high: float
    role: str  # "ours" (above 0) | "worse" (below 0) | "noise"


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Multiples of a round step inside low..high, at most `most` + 1 of them."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * index, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """1-2-5 numbers inside low..high; only powers of ten where that would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) <= most else [tick for tick in inside if math.log10(tick) % 1 == 0]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _bar(
    value: float | None,
    interval: tuple[float, float] | None,
    top: int,
    height: int,
    css: str,
    end: float,
    digits: int,
) -> Markup:
    """One bar with whiskers and its number; `end` is the value at the right edge."""
    middle = top + height / 2
    if value is None:
        return Markup('<text class="bar-value" x="0" dx="2" y="{}">–</text>').format(top + height)
    parts = [
        Markup('<rect class="bar {}" x="0" y="{}" width="{}" height="{}" rx="2"/>').format(
            css, top, _percent(max(value, 0.002 * end) / end), height
        )
    ]
    right = value
    if interval is not None:
        low, high = interval
        right = max(value, high)
        parts.append(
            Markup('<line class="whisker" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
                _percent(max(low, 0) / end), _percent(high / end), y=middle
            )
        )
        for edge in (max(low, 0), high):
            parts.append(
                Markup('<line class="whisker" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
                    middle - 3, middle + 3, x=_percent(edge / end)
                )
            )
    parts.append(
        Markup('<text class="bar-value" x="{}" dx="6" y="{}">{}</text>').format(
            _percent(right / end), middle + 4, f"{value:.{digits}f}"
        )
    )
    return Markup("").join(parts)


def bar_chart(bars: Sequence[Bar], label: str, digits: int = 3) -> Markup:
    """Horizontal bars under their labels, with whiskers and a thinner second bar; `label` is read to the blind."""
    has_second = any(bar.second is not None for bar in bars)
    row_height = 54 if has_second else 42
    numbers = [number for bar in bars for number in (bar.value, bar.second) if number is not None]
    numbers += [pair[1] for bar in bars for pair in (bar.interval, bar.second_interval) if pair is not None]
    # The fifth on the right is room for the number behind the longest bar.
    end = max([*numbers, 1e-3]) * 1.25
    bottom = row_height * len(bars) + 4
    parts = []
    for tick in nice_ticks(0, end, 4):
        if tick / end > 0.97:  # its number would be cut off
            continue
        anchor = "start" if tick == 0 else "middle"
        parts.append(
            Markup(
                '<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{}"/>'
                '<text class="tick" x="{x}" y="{}" text-anchor="{}">{:g}</text>'
            ).format(bottom, bottom + 16, anchor, tick, x=_percent(tick / end))
        )
    for index, bar in enumerate(bars):
        top = index * row_height
        parts.append(Markup('<text class="bar-label {}" x="0" y="{}">{}</text>').format(bar.role, top + 15, bar.label))
        parts.append(_bar(bar.value, bar.interval, top + 21, 12, f"bar-{bar.role}", end, digits))
        if bar.second is not None:
            parts.append(_bar(bar.second, bar.second_interval, top + 38, 7, f"bar-{bar.role} bar-second", end, digits))
    return Markup('<svg class="chart" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, bottom + 22, Markup("").join(parts)
    )


def column_chart(labels: Sequence[str], columns: Sequence[Column], label: str, height: int = 210) -> Markup:
    """Upright columns over their labels, the series of a label side by side; numbers stand in each column's title."""
    end = max([value for column in columns for value in column.values] + [1e-9]) * 1.06
    parts, ticks = [], []
    for tick in nice_ticks(0, end, 4):
        y = round(height * (1 - tick / end), 1)
        parts.append(Markup('<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>').format(y=y))
        ticks.append(Markup('<text class="tick" x="100%" y="{}" text-anchor="end">{:g}</text>').format(y - 3, tick))
    slot = 0.94 / max(len(labels), 1)  # the numbers stand in the rest
    wide = 0.8 * slot / max(len(columns), 1)
    for number, name in enumerate(labels):
        for place, column in enumerate(columns):
            value = column.values[number]
            high = round(height * value / end, 1)
            parts.append(
                Markup(
                    '<rect class="column column-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                ).format(
                    column.role,
                    _percent((number + 0.1) * slot + place * wide),
                    round(height - high, 1),
                    _percent(wide * 0.94),
                    high,
                    f"{column.label}, {name}: {value:.1f}",
                )
            )
        # A phone has room for about a dozen short labels.
        if number % math.ceil(len(labels) / 13) == 0:
            parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    _percent((number + 0.5) * slot), height + 16, name
                )
            )
    return Markup('<svg class="chart" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, height + 22, Markup("").join([*parts, *ticks])
    )


def difference_chart(rows: Sequence[Difference], label: str, digits: int = 1) -> Markup:
    """Differences with their intervals around a line at 0: what crosses the line is within noise."""
    low = min([row.low for row in rows] + [0.0])
    high = max([row.high for row in rows] + [0.0])
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin, high + margin
    row_height, bottom = 46, 46 * len(rows) + 4

    def x_at(value: float) -> str:
        return _percent((value - low) / (high - low))

    parts = []
    for tick in nice_ticks(low, high, 4):
        parts.append(
            Markup(
                '<line class="{}" x1="{x}" x2="{x}" y1="0" y2="{}"/>'
                '<text class="tick" x="{x}" y="{}" text-anchor="middle">{}</text>'
            ).format(
                "zero" if tick == 0 else "grid",
                bottom,
                bottom + 16,
                f"{tick:+g}".replace("-", "−") if tick else "0",
                x=x_at(tick),
            )
        )
    for number, row in enumerate(rows):
        top = row_height * number
        numbers = f"{row.value:+.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]".replace("-", "−")
        parts.append(
            Markup(
                '<text class="bar-label" x="0" y="{}">{}</text>'
                '<text class="bar-value" x="100%" y="{}" text-anchor="end">{}</text>'
                '<line class="span span-{role}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
                '<circle class="span-{role}" cx="{}" cy="{y}" r="5"/>'
            ).format(
                top + 15,
                row.label,
                top + 15,
                numbers,
                x_at(row.low),
                x_at(row.high),
                x_at(row.value),
                y=top + 31,
                role=row.role,
            )
        )
    return Markup('<svg class="chart" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, bottom + 22, Markup("").join(parts)
    )


def thin_out(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Means of neighbouring finite points, so that at most `most` are left."""
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return (
        [sum(a for a, _ in group) / len(group) for group in groups],
        [sum(b for _, b in group) / len(group) for group in groups],
    )


def line_chart(lines: Sequence[Line], label: str, height: int = 250) -> Markup:
    """Lines over a common x axis from 0; the y axis is logarithmic where all values are above 0 and span much."""
    thinned = [(line, *thin_out(line.x, line.y)) for line in lines]
    thinned = [entry for entry in thinned if entry[1]]
    if not thinned:
        return Markup('<p class="note">{}</p>').format("No loss was recorded.")
    values = [value for _, _, y in thinned for value in y]
    x_end = max(max(x) for _, x, _ in thinned) or 1.0
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 4
    scale = math.log if logarithmic else float
    margin = (scale(high) - scale(low)) * 0.06 or 0.5
    bottom, top = scale(low) - margin, scale(high) + margin

    def y_at(value: float) -> float:
        return round(height * (top - scale(value)) / (top - bottom), 1)

    parts = []
    for tick in log_ticks(low, high) if logarithmic else nice_ticks(low, high):
        parts.append(
            # Numbers stand on the right: losses fall, so that the upper right corner is empty.
            Markup(
                '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
                '<text class="tick" x="100%" y="{}" text-anchor="end">{:g}</text>'
            ).format(y_at(tick) - 3, tick, y=y_at(tick))
        )
    # Only the lines are stretched (viewBox without aspect ratio); their width is kept by `non-scaling-stroke`.
    parts.append(
        Markup('<svg width="100%" height="{h}" viewBox="0 0 1000 {h}" preserveAspectRatio="none">').format(h=height)
    )
    for line, x, y in thinned:
        points = " ".join(f"{1000 * a / x_end:.1f},{y_at(b)}" for a, b in zip(x, y, strict=True))
        parts.append(
            Markup('<polyline class="curve curve-{}" points="{}"><title>{}</title></polyline>').format(
                line.style % CURVE_STYLES, points, line.label
            )
        )
    parts.append(Markup("</svg>"))
    for tick in nice_ticks(0, x_end, 4):
        share = tick / x_end
        anchor = "start" if tick == 0 else "end" if share > 0.9 else "middle"
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{:g}</text>').format(
                _percent(share), height + 16, anchor, tick
            )
        )
    return Markup('<svg class="chart" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        f"{label}{', logarithmic scale' if logarithmic else ''}", height + 22, Markup("").join(parts)
    )
