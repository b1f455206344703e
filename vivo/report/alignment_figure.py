"""The paper's Figure 3 for one picture: its regions, and how well each goes with each tag, model by model.

A self-contained SVG: the photograph with numbered boxes, and matrices of tags and regions: a column for each model, a
row for each measure. The darker a cell, the better the fit: cosines from the lowest to the highest of the matrix, for
models differ in level; probabilities of a tag as shares over the regions, for some tags are hardly ever probable. A
frame marks the best region of a tag, a dot a region that lies on the tag's object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from vivo.data.types import Regions
from vivo.report.images import jpeg_data_uri

COLORS = ("#d1495b", "#00798c", "#b36b00", "#5b5ea6", "#2a7d34", "#9b2f8f", "#7a5230", "#3d5a80")
_CELL_W, _CELL_H, _GAP, _LINE = 40, 24, 26, 16
_LETTER = 7.4  # width of a letter of 12 px, for the room that tags need
_HEAD = 3 * _LINE + 6
_CSS = (
    "text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#222}.title{font-weight:600;font-size:13px}"
    ".dim{fill:#666;font-size:11px}.number{text-anchor:middle;font-size:11px}.white{fill:#fff}"
)
_TITLES = {"cosine": "cosine of the outputs", "reading": "probability from a region alone, shares"}


@dataclass
class Panel:
    """One model's matrix.

    Attributes:
        name: of the model. measure: "cosine", or "reading" as shares of each tag's probabilities.
        tags: T tags. values: [T, R].
        hits: bool [T, R], which regions lie on an object of the tag; all False for tags without boxes.
    """

    name: str
    measure: str
    tags: Sequence[str]
    values: np.ndarray
    hits: np.ndarray


def alignment_svg(photograph: Path, regions: Regions, panels: Sequence[Panel], side: int = 330) -> str:
    """The figure.

    Args:
        photograph: file of the picture. regions: of it.
        panels: all of these regions.
        side: longest side of the photograph in the figure, pixels.
    """
    scale = side / max(regions.width, regions.height)
    width, height = round(regions.width * scale), round(regions.height * scale)
    parts = [_photograph(photograph, regions, scale, width, height)]
    measures = list(dict.fromkeys(panel.measure for panel in panels))
    names = list(dict.fromkeys(panel.name for panel in panels))
    column_w = max((_room(p.tags) + _CELL_W * p.values.shape[1] for p in panels), default=0) + _GAP
    row_h = max((_HEAD + _CELL_H * len(p.tags) for p in panels), default=0) + _GAP
    for panel in panels:
        x = width + 2 * _GAP + names.index(panel.name) * column_w
        y = _GAP + measures.index(panel.measure) * row_h
        parts.append(Markup('<g transform="translate({:.1f},{:.1f})">{}</g>').format(x, y, _matrix(panel)))
    total_w = round(width + 2 * _GAP + len(names) * column_w)
    total_h = round(max(height + 2 * _GAP, len(measures) * row_h + _GAP))
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{w}"'
            ' height="{h}" viewBox="0 0 {w} {h}"><style>{css}</style>'
            '<rect width="{w}" height="{h}" fill="#fff"/>{parts}</svg>\n'
        ).format(w=total_w, h=total_h, css=Markup(_CSS), parts=Markup("").join(parts))
    )


def _room(tags: Sequence[str]) -> float:
    """Pixels for the names of tags."""
    return _LETTER * max(map(len, tags), default=0) + 12


def _photograph(path: Path, regions: Regions, scale: float, width: int, height: int) -> Markup:
    parts = [
        Markup('<image x="{g}" y="{g}" width="{}" height="{}" xlink:href="{}"/>').format(
            width, height, jpeg_data_uri(path, 2 * max(width, height), 85), g=_GAP
        )
    ]
    corners: list[tuple[float, float]] = []
    for number, box in enumerate(regions.boxes.tolist()):
        x1, y1, x2, y2 = (scale * value + _GAP for value in box)
        color = COLORS[number % len(COLORS)]
        label_x = x1
        while any(abs(label_x - x) < 18 and abs(y1 - y) < 15 for x, y in corners):
            label_x += 19  # two boxes with one corner: their numbers stand side by side
        corners.append((label_x, y1))
        parts.append(
            Markup(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="none" stroke="{c}" stroke-width="2"/>'
            ).format(x1, y1, x2 - x1, y2 - y1, c=color)
        )
        parts.append(_number(label_x, y1, number))
    return Markup("").join(parts)


def _number(x: float, y: float, region: int) -> Markup:
    """The number of a region in its colour."""
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="18" height="15" fill="{}"/>'
        '<text class="number white" x="{:.1f}" y="{:.1f}">{}</text>'
    ).format(x, y, COLORS[region % len(COLORS)], x + 9, y + 11.5, region + 1)


def _matrix(panel: Panel) -> Markup:
    """One model's values."""
    left = _room(panel.tags)
    low, high = 0.0, 1.0
    title = _TITLES[panel.measure]
    if panel.measure == "cosine" and panel.values.size:
        low, high = float(panel.values.min()), float(panel.values.max())
        title += f", {low:.2f} to {high:.2f}"
    parts = [Markup('<text class="title" x="0" y="12">{}</text>').format(panel.name)]
    parts.append(Markup('<text class="dim" x="0" y="28">{}</text>').format(title))
    parts += [_number(left + r * _CELL_W + 10.5, _HEAD - 19, r) for r in range(panel.values.shape[1])]
    for t, tag in enumerate(panel.tags):
        y = _HEAD + t * _CELL_H
        parts.append(Markup('<text x="{:.1f}" y="{}" text-anchor="end">{}</text>').format(left - 8, y + 16, tag))
        for r, value in enumerate(panel.values[t].tolist()):
            share = min(max((value - low) / max(high - low, 1e-9), 0.0), 1.0)
            parts.append(_cell(left + r * _CELL_W, y, value, share, bool(panel.hits[t, r])))
        best = left + int(np.argmax(panel.values[t])) * _CELL_W
        parts.append(
            Markup(
                '<rect x="{:.1f}" y="{}" width="{}" height="{}" fill="none" stroke="#111" stroke-width="2.5"/>'
            ).format(best + 1, y + 1, _CELL_W - 3, _CELL_H - 3)
        )
    return Markup("").join(parts)


def _cell(x: float, y: float, value: float, share: float, hit: bool) -> Markup:
    """A cell, its shade from white (share 0) to dark (1)."""
    red, green, blue = (round(255 - share * (255 - dark)) for dark in (20, 60, 120))
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="#ff8c1a" stroke="#fff" stroke-width="0.8"/>').format(
        x + _CELL_W - 7, y + 6.5
    )
    return Markup(
        '<rect x="{:.1f}" y="{}" width="{}" height="{}" fill="rgb({},{},{})"/>'
        '<text class="number{}" x="{:.1f}" y="{}">{:.2f}</text>{}'
    ).format(
        *(x, y, _CELL_W - 1, _CELL_H - 1, red, green, blue),
        *(" white" if share > 0.55 else "", x + _CELL_W / 2 - 2, y + 16, value, dot if hit else ""),
    )
