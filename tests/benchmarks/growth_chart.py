"""The picture of docs/benchmarks.md on how cost grows, as SVG text: small panels with logarithmic axes, the measured
points, the fitted line with its slope, and FLOPs where they were counted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scaling_chart import line, text

COLUMNS, WIDTH, HEIGHT, TOP = 3, 300, 250, 76
LEFT, RIGHT, ABOVE, BELOW = 58, 14, 34, 52
"""Of a panel: room for its y axis, behind, for its title, for its x axis."""
STYLE = """
text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; fill: #222 }
.head { font-size: 18px; font-weight: 600 } .title { font-size: 14px; font-weight: 600 } .small { fill: #555 }
.grid { stroke: #e2e2e2 } .fit { stroke: #2e86ab; stroke-width: 2 } .point { fill: #2e86ab }
.flops { stroke: #e0a030; stroke-width: 2; stroke-dasharray: 5 4; fill: none }
.slope { fill: #1f6a8a; font-weight: 600 } .flopslope { fill: #9a6a10 }
"""


def fitted(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and value at x = 1 of the line through the logarithms (least squares)."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    spread = sum((v - mean_a) ** 2 for v in a)
    slope = sum((v - mean_a) * (w - mean_b) for v, w in zip(a, b, strict=True)) / spread
    return slope, math.exp(mean_b - slope * mean_a)


def chart(panels: Sequence[Mapping[str, Any]]) -> str:
    """Panels row by row.

    Args:
        panels: {"title", "axis", "x", "seconds", "flops": one for each x, or None}.
    """
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH + 20, TOP + rows * HEIGHT + 10
    parts = [text(20, 28, "How cost grows: CPU time of one thread", "head")]
    parts.append(line(20, 50, 48, 50, "fit") + text(56, 54, "measured points and the line fitted to them", "small"))
    parts.append(line(380, 50, 408, 50, "flops") + text(416, 54, "FLOPs, moved to the same mean", "small"))
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        parts += _panel(panel, 10 + column * WIDTH, TOP + row * HEIGHT)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="How the cost of training, data and decoding grows, with fitted slopes">\n'
        f'<style>{STYLE}</style>\n<rect width="{width}" height="{height}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(panel: Mapping[str, Any], left: float, top: float) -> list[str]:
    x, seconds, flops = panel["x"], panel["seconds"], panel["flops"]
    slope, start = fitted(x, seconds)
    low_x, high_x = math.log10(x[0]), math.log10(x[-1])
    shift = math.exp(sum(math.log(s / f) for s, f in zip(seconds, flops, strict=True)) / len(x)) if flops else 0.0
    shown = [*seconds, *(shift * f for f in flops or ())]
    low_y, high_y = math.log10(min(shown)), math.log10(max(shown))
    # at least a decade and a half, so that noise on a flat line looks flat
    middle, half = (low_y + high_y) / 2, max(high_y - low_y, 1.4) / 2 + 0.1
    low_y, high_y = middle - half, middle + half
    begin, end, bottom, up = left + LEFT, left + WIDTH - RIGHT, top + HEIGHT - BELOW, top + ABOVE

    def at_x(value: float) -> float:
        return begin + 8 + (math.log10(value) - low_x) / (high_x - low_x) * (end - begin - 16)

    def at_y(value: float) -> float:
        return bottom - (math.log10(value) - low_y) / (high_y - low_y) * (bottom - up)

    parts = [text(left + 8, top + 18, panel["title"], "title")]
    for power in range(math.floor(low_y), math.ceil(high_y) + 1):
        if low_y <= power <= high_y:
            parts.append(line(begin, at_y(10.0**power), end, at_y(10.0**power), "grid"))
            parts.append(text(begin - 6, at_y(10.0**power) + 4, _time(10.0**power), "small", "end"))
    for value in x if len(x) <= 6 else x[:: -(-len(x) // 5)]:
        parts.append(line(at_x(value), up, at_x(value), bottom, "grid"))
        parts.append(text(at_x(value), bottom + 16, _number(value), "small", "middle"))
    parts.append(text((begin + end) / 2, bottom + 36, panel["axis"], "small", "middle"))
    if flops:
        places = " ".join(f"{at_x(v):.1f},{at_y(f * shift):.1f}" for v, f in zip(x, flops, strict=True))
        parts.append(f'<polyline points="{places}" class="flops"/>')
    ends = [(v, start * v**slope) for v in (x[0], x[-1])]
    parts.append(line(*(c for v, s in ends for c in (at_x(v), at_y(s))), "fit"))
    for value, took in zip(x, seconds, strict=True):
        parts.append(f'<circle cx="{at_x(value):.1f}" cy="{at_y(took):.1f}" r="4" class="point"/>')
    parts.append(text(begin + 8, up + 14, f"slope {slope:.2f}", "slope"))
    if flops:
        parts.append(text(begin + 8, up + 31, f"of FLOPs {fitted(x, flops)[0]:.2f}", "flopslope"))
    return parts


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit * 0.999:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds * 1e9:.0f} ns"


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if 1000 <= value < 1e6 else f"{value / 1e6:g}M" if value >= 1e6 else f"{value:g}"
