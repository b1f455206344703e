"""The places of the world: a dozen procedural backgrounds that captions and tags can name.

Each is a function (generator, width, height) -> uint8 [height, width, 3]: gradients, a coarse texture that is
interpolated from a small grid of noise, a fine grain, and what makes the place recognisable (waves,
bricks, tiles, trunks). None is dark enough to swallow the black outlines of the glyphs.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

Painter = Callable[[np.random.Generator, int, int], np.ndarray]


def _coarse(rng: np.random.Generator, width: int, height: int, cell_x: int, cell_y: int) -> np.ndarray:
    """Smooth noise in -1..1, float32 [height, width], features of about cell_x x cell_y pixels."""
    grid = rng.random((height // cell_y + 2, width // cell_x + 2), dtype=np.float32) * 2 - 1
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _grain(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Fine noise in -1..1, float32 [height, width]."""
    raw = np.frombuffer(rng.bytes(width * height), dtype=np.uint8).reshape(height, width)
    return raw.astype(np.float32) / 127.5 - 1


def _colour(rng: np.random.Generator, base: tuple[int, int, int], spread: float = 12.0) -> np.ndarray:
    """A colour near `base`, float32 [3]: no two pictures share one exactly."""
    return np.asarray(base, dtype=np.float32) + rng.uniform(-spread, spread, 3).astype(np.float32)


def _vertical(top: np.ndarray, bottom: np.ndarray, height: int) -> np.ndarray:
    """Gradient from top to bottom, float32 [height, 1, 3]."""
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return top * (1 - share) + bottom * share


def _finish(picture: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Add a grey texture [height, width] to a float picture [height, width or 1, 3] and round."""
    return np.clip(picture + texture[..., None], 0, 255).astype(np.uint8)


def _sky_strip(rng: np.random.Generator, height: int) -> np.ndarray:
    return _vertical(_colour(rng, (120, 180, 235)), _colour(rng, (205, 228, 245)), height)


def grass(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    ground = _vertical(_colour(rng, (150, 205, 105)), _colour(rng, (88, 158, 62)), height)
    blades = 22 * _coarse(rng, width, height, 3, 14) + 10 * _coarse(rng, width, height, 40, 30)
    return _finish(np.broadcast_to(ground, (height, width, 3)), blades)


def beach(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    sand = _vertical(_colour(rng, (238, 218, 165)), _colour(rng, (222, 192, 130)), height)
    picture = np.broadcast_to(sand, (height, width, 3)).copy()
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    horizon = int(height * rng.uniform(0.12, 0.28))
    shore = height * rng.uniform(0.36, 0.46) + 5 * np.sin(columns / rng.uniform(14, 26) + rng.uniform(0, 6))
    picture[rows < shore] = _colour(rng, (70, 165, 205))
    picture[(rows >= shore) & (rows < shore + 4)] = (245, 250, 250)
    picture[:horizon] = _sky_strip(rng, horizon)
    return _finish(picture, 9 * _grain(rng, width, height) + 6 * _coarse(rng, width, height, 30, 8))


def sky(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    picture = np.broadcast_to(
        _vertical(_colour(rng, (88, 158, 232)), _colour(rng, (178, 214, 246)), height), (height, width, 3)
    )
    clouds = np.clip(_coarse(rng, width, height, 64, 34) + 0.4 * _coarse(rng, width, height, 20, 12) - 0.15, 0, 0.6)
    mix = (clouds / 0.6)[..., None]
    return _finish(picture * (1 - mix) + np.float32(250) * mix, np.zeros((height, width), np.float32))


def snow(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    ground = _vertical(_colour(rng, (228, 236, 246), 6), _colour(rng, (248, 250, 253), 3), height)
    picture = np.broadcast_to(ground, (height, width, 3)).copy()
    hill = height * rng.uniform(0.2, 0.4) + 14 * np.sin(np.arange(width) / rng.uniform(30, 60) + rng.uniform(0, 6))
    above = np.arange(height)[:, None] < hill[None]
    picture[above] = _colour(rng, (168, 190, 218))
    for x, y in zip(rng.integers(0, width - 4, 70), rng.integers(0, height - 4, 70), strict=True):
        side = 2 + int(x + y) % 2
        picture[y : y + side, x : x + side] = 255
    return _finish(picture, 6 * _coarse(rng, width, height, 26, 14))


def night(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    tone = _vertical(_colour(rng, (44, 52, 104), 8), _colour(rng, (88, 92, 152), 8), height)
    picture = np.broadcast_to(tone, (height, width, 3)).copy()
    for x, y in zip(rng.integers(0, width - 3, 60), rng.integers(0, height - 3, 60), strict=True):
        side = 1 + int(x * y) % 2
        picture[y : y + side, x : x + side] = (240, 240, 205)
    return _finish(picture, 5 * _coarse(rng, width, height, 50, 40))


def kitchen(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    tile = int(rng.integers(24, 40))
    shift_x, shift_y = rng.integers(0, tile, 2)
    rows, columns = (np.arange(height) + shift_y)[:, None], (np.arange(width) + shift_x)[None]
    checker = ((rows // tile + columns // tile) % 2)[..., None].astype(np.float32)
    light, dark = _colour(rng, (240, 238, 228), 8), _colour(rng, (160, 190, 196), 14)
    picture = light * (1 - checker) + dark * checker
    picture[((rows % tile < 2) | (columns % tile < 2))] = (205, 205, 200)
    return _finish(picture, 5 * _coarse(rng, width, height, 50, 50))


def wall(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    brick_h, brick_w = int(rng.integers(15, 22)), int(rng.integers(36, 50))
    rows = (np.arange(height) + rng.integers(0, brick_h))[:, None]
    columns = (np.arange(width) + rng.integers(0, brick_w))[None] + (rows // brick_h % 2) * (brick_w // 2)
    shade = rng.uniform(-16, 16, 997).astype(np.float32)[(rows // brick_h * 31 + columns // brick_w * 7) % 997]
    picture = np.broadcast_to(_colour(rng, (186, 104, 82)), (height, width, 3)).copy() + shade[..., None]
    picture[((rows % brick_h < 3) | (columns % brick_w < 3))] = _colour(rng, (214, 204, 192), 8)
    return _finish(picture, 7 * _grain(rng, width, height))


def sea(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    water = _vertical(_colour(rng, (92, 178, 212)), _colour(rng, (28, 104, 166)), height)
    rows = np.arange(height, dtype=np.float32)[:, None]
    bend = 1.6 * _coarse(rng, width, height, 44, 30)
    waves = 15 * np.sin(rows / rng.uniform(2.4, 3.6) + 3 * bend) + 8 * _coarse(rng, width, height, 24, 5)
    return _finish(np.broadcast_to(water, (height, width, 3)), waves)


def desert(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    sand = _vertical(_colour(rng, (240, 190, 112)), _colour(rng, (222, 146, 74)), height)
    picture = np.broadcast_to(sand, (height, width, 3)).copy()
    columns = np.arange(width, dtype=np.float32)
    dune = height * rng.uniform(0.26, 0.4) + 16 * np.sin(columns / rng.uniform(26, 48) + rng.uniform(0, 6))
    above = np.arange(height)[:, None] < dune[None]
    picture[above] = _colour(rng, (250, 226, 186), 8)
    rows = np.arange(height, dtype=np.float32)[:, None]
    ripples = np.where(above, 0, 8 * np.sin(rows / 3.2 + 2.5 * _coarse(rng, width, height, 60, 40)))
    return _finish(picture, ripples + 5 * _grain(rng, width, height))


def forest(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    leaves = _vertical(_colour(rng, (74, 128, 78)), _colour(rng, (46, 88, 52)), height)
    picture = np.broadcast_to(leaves, (height, width, 3)).copy()
    picture += 26 * _coarse(rng, width, height, 9, 9)[..., None]
    bark = _colour(rng, (104, 78, 54))
    for left in rng.integers(0, width - 12, int(rng.integers(5, 9))):
        trunk = int(rng.integers(7, 15))
        picture[:, left : left + trunk] = bark + 10 * _coarse(rng, trunk, height, 3, 20)[:, : width - left, None]
    return _finish(picture, 5 * _grain(rng, width, height))


def road(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    picture = np.broadcast_to(_colour(rng, (134, 136, 140)), (height, width, 3)).copy()
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    middle = height * rng.uniform(0.4, 0.6)
    edge = height * rng.uniform(0.3, 0.38)
    dash = int(rng.integers(26, 40))
    picture[(np.abs(rows - middle) < 4) & ((columns + rng.integers(0, dash)) % dash < dash * 0.6)] = (244, 240, 226)
    kerb = np.broadcast_to((np.abs(np.abs(rows - middle) - edge) < 3), (height, width))
    picture[kerb] = (236, 196, 74)
    return _finish(picture, 12 * _grain(rng, width, height))


def table(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    plank = int(rng.integers(30, 48))
    rows = (np.arange(height) + rng.integers(0, plank))[:, None]
    shade = rng.uniform(-14, 14, 64).astype(np.float32)[(rows // plank) % 64]
    picture = np.broadcast_to(_colour(rng, (198, 150, 98)), (height, width, 3)) + shade[..., None]
    picture[np.broadcast_to(rows % plank < 2, (height, width))] = (112, 78, 46)
    return _finish(picture, 12 * _coarse(rng, width, height, 70, 3))


def curtain(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    columns = np.arange(width, dtype=np.float32)[None]
    bend = columns + 5 * _coarse(rng, width, height, 60, 90)
    folds = 26 * np.sin(bend / rng.uniform(5.5, 8.5))
    cloth = _vertical(_colour(rng, (214, 178, 206), 16), _colour(rng, (184, 140, 178), 16), height)
    return _finish(np.broadcast_to(cloth, (height, width, 3)), folds)


PAINTERS: dict[str, Painter] = {
    "grass": grass,
    "beach": beach,
    "sky": sky,
    "snow": snow,
    "night": night,
    "kitchen": kitchen,
    "wall": wall,
    "sea": sea,
    "desert": desert,
    "forest": forest,
    "road": road,
    "table": table,
    "curtain": curtain,
}
BACKGROUNDS: tuple[str, ...] = tuple(PAINTERS)


def paint(name: str, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """The background `name` as uint8 [height, width, 3], fully determined by the generator."""
    return PAINTERS[name](rng, width, height)
