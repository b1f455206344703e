"""Scenes of the world: which objects stand where, and how they become a picture.

`sample_scene` draws classes and composes them, `compose_scene` places given things, `render` paints. A
`Scene` is plain data in pixels; what it says (boxes, colours, counts, relations) is what the captions
and tags are made of. Everything hangs on the generator: same seed, same bytes.

    rng = np.random.Generator(np.random.Philox(key=[0, 7]))
    scene = sample_scene(rng, [("dog", "1F415"), ("", "1F63A")], style="train")
    picture = render(scene)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from vivo.errors import UserError
from vivo.world.backgrounds import BACKGROUNDS, paint
from vivo.world.glyphs import ObjectClass, allowed_tints, glyph_image, tint
from vivo.world.relations import Relation, area, intersection, relations_of

Box = tuple[int, int, int, int]
Thing = tuple[str, str]  # (name, code point); the name is "" for an object that nobody names


@dataclass(frozen=True)
class Style:
    """Ranges that a scene is drawn from; test scenes leave those of training scenes."""

    turn: tuple[int, int]  # degrees either way
    tint: tuple[float, float]  # strength of the dye
    blur: tuple[float, float]  # radius of a Gaussian, pixels
    overlap: float  # largest share of the smaller box that chance may cover
    behind: tuple[float, float]  # share covered where one object stands behind another


STYLES: dict[str, Style] = {
    "train": Style(turn=(0, 14), tint=(0.74, 0.95), blur=(0.0, 0.45), overlap=0.10, behind=(0.12, 0.22)),
    "test": Style(turn=(8, 34), tint=(0.60, 0.72), blur=(0.4, 1.0), overlap=0.20, behind=(0.20, 0.36)),
}
COUNT_SHARES = (0.24, 0.36, 0.26, 0.14)  # of scenes with 1, 2, 3, 4 units
SIZES = ((72, 120), (62, 112), (52, 94), (46, 78))  # longest side in pixels at 224, by number of units
GROUP_SIZES = (45, 68)


@dataclass(frozen=True)
class SceneObject:
    """One drawn glyph.

    Attributes:
        name: class name; "" for a distractor.
        codepoint: its glyph.
        box: x1, y1, x2, y2 in pixels, tight around the turned glyph, within the picture.
        colour: colour word if the object is tinted, else "".
        tint: strength of the dye, 0..1.
        mirrored, turn: left-right flip, then degrees counter-clockwise.
        unit: which unit of the scene it belongs to; the objects of one unit are a count ("three apples").
    """

    name: str
    codepoint: str
    box: Box
    colour: str
    tint: float
    mirrored: bool
    turn: int
    unit: int


@dataclass(frozen=True)
class Unit:
    """What a caption speaks of: one object, or 2-4 of a kind. `box` is the union, in pixels."""

    name: str
    codepoint: str
    colour: str
    count: int
    box: Box


@dataclass(frozen=True)
class Scene:
    """A picture before it is painted; `objects` in painting order, the last one in front."""

    width: int
    height: int
    background: str
    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...]
    style: str
    blur: float
    seed: int

    @property
    def units(self) -> list[Unit]:
        """The units in order of their index."""
        found: dict[int, list[SceneObject]] = {}
        for item in self.objects:
            found.setdefault(item.unit, []).append(item)
        return [_unit(found[index]) for index in sorted(found)]


def _unit(items: list[SceneObject]) -> Unit:
    first = items[0]
    return Unit(first.name, first.codepoint, first.colour, len(items), _union([item.box for item in items]))


def _union(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


@lru_cache(maxsize=256)
def _turned(codepoint: str, mirrored: bool, turn: int) -> Image.Image:
    """The big glyph, flipped and turned, cropped to its ink again (read-only, shared by layout and painting)."""
    glyph = glyph_image(codepoint)
    if mirrored:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if turn:
        glyph = glyph.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    # Faint alpha at the rim of a turned glyph is no ink: a box around it would be loose.
    ink = glyph.getchannel("A").point(lambda alpha: 255 if alpha > 40 else 0).getbbox()
    return glyph.crop(ink)


def sample_scene(
    rng: np.random.Generator,
    pool: Sequence[ObjectClass | Thing],
    style: str = "train",
    n_objects: int | None = None,
    size: int = 224,
    group_share: float = 0.2,
    tint_share: float = 0.45,
) -> Scene:
    """A scene of `n_objects` (default: 1-4) different things of the pool.

    Args:
        rng: the only source of chance.
        pool: classes, or (name, code point) pairs of any glyphs ("" for objects that nobody names).
        style: "train" or "test", a key of STYLES.
        size: side of the square picture in pixels.
        group_share: share of scenes in which one thing comes as a count of 2-4.
        tint_share: share of units that are dyed.
    """
    if not pool:
        raise UserError("a scene needs at least one class or glyph in its pool")
    wanted = n_objects or int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) + 1
    chosen = rng.choice(len(pool), size=min(wanted, len(pool)), replace=False)
    things = [pool[int(index)] for index in chosen]
    return compose_scene(rng, things, style, size, group_share=group_share, tint_share=tint_share)


def compose_scene(
    rng: np.random.Generator,
    things: Sequence[ObjectClass | Thing],
    style: str = "train",
    size: int = 224,
    group_share: float = 0.2,
    tint_share: float = 0.45,
    background: str | None = None,
) -> Scene:
    """A scene of exactly these things, one unit each, in a place of chance; arguments as in `sample_scene`."""
    if style not in STYLES:
        raise UserError(f"unknown scene style '{style}'; choose one of {', '.join(STYLES)}")
    limits = STYLES[style]
    pairs = [(thing.name, thing.codepoint) if isinstance(thing, ObjectClass) else thing for thing in things]
    counts = [1] * len(pairs)
    if len(pairs) <= 3 and rng.random() < group_share:
        counts[int(rng.integers(len(pairs)))] = int(rng.integers(2, 5))
    place = background or BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]

    placed: list[list[SceneObject]] = []  # one list per unit
    order: list[int] = []  # units in painting order
    for index, (name, codepoint) in enumerate(pairs):
        smallest, largest = GROUP_SIZES if counts[index] > 1 else SIZES[min(len(pairs), 4) - 1]
        side = rng.uniform(smallest, largest) * size / 224
        colour, strength = _dye(rng, codepoint, limits, tint_share)
        block = [
            _loose_object(rng, name, codepoint, colour, strength, side, limits, index) for _ in range(counts[index])
        ]
        unit, behind = _place(rng, _block(rng, block), placed, limits, size)
        placed.append(unit)
        order.insert(0, index) if behind else order.append(index)

    objects = tuple(item for index in order for item in placed[index])
    boxes = [_union([item.box for item in unit]) for unit in placed]
    return Scene(
        width=size,
        height=size,
        background=place,
        objects=objects,
        relations=tuple(relations_of(boxes, order)),
        style=style,
        blur=float(rng.uniform(*limits.blur)),
        seed=int(rng.integers(2**63)),
    )


def _dye(rng: np.random.Generator, codepoint: str, limits: Style, share: float) -> tuple[str, float]:
    """(colour word, strength), or ("", 0.0) for an object in its natural colours."""
    if rng.random() >= share:
        return "", 0.0
    colours = allowed_tints(codepoint)
    if not colours:
        return "", 0.0
    return colours[int(rng.integers(len(colours)))], float(rng.uniform(*limits.tint))


def _loose_object(
    rng: np.random.Generator,
    name: str,
    codepoint: str,
    colour: str,
    strength: float,
    side: float,
    limits: Style,
    unit: int,
) -> SceneObject:
    """An object turned and sized, with its box still at the origin."""
    mirrored = bool(rng.random() < 0.5)
    low, high = limits.turn
    turn = int(rng.integers(low, high + 1)) * (1 if rng.random() < 0.5 else -1)
    width, height = _turned(codepoint, mirrored, turn).size
    side *= min(1.35, max(1.0, 0.38 * max(width, height) / min(width, height)))  # thin things need length
    scale = side / max(width, height)
    box = (0, 0, max(4, round(width * scale)), max(4, round(height * scale)))
    return SceneObject(name, codepoint, box, colour, strength, mirrored, turn, unit)


def _moved(item: SceneObject, dx: int, dy: int) -> SceneObject:
    x1, y1, x2, y2 = item.box
    return replace(item, box=(x1 + dx, y1 + dy, x2 + dx, y2 + dy))


def _block(rng: np.random.Generator, items: list[SceneObject]) -> list[SceneObject]:
    """The objects of one unit, side by side: a row of up to three, else rows of two."""
    per_row = len(items) if len(items) <= 2 or (len(items) == 3 and rng.random() < 0.5) else 2
    cell_w = max(item.box[2] for item in items) + int(rng.integers(1, 7))
    cell_h = max(item.box[3] for item in items) + int(rng.integers(1, 7))
    moved = []
    for index, item in enumerate(items):
        row, column = divmod(index, per_row)
        half = cell_w // 2 if row * per_row + per_row > len(items) else 0  # centre a last row of one
        slack_x, slack_y = cell_w - item.box[2], cell_h - item.box[3]
        dx = half + column * cell_w + int(rng.integers(0, slack_x + 1))
        dy = row * cell_h + int(rng.integers(0, slack_y + 1))
        moved.append(_moved(item, dx, dy))
    left, top, *_ = _union([item.box for item in moved])
    return [_moved(item, -left, -top) for item in moved]


def _place(
    rng: np.random.Generator,
    block: list[SceneObject],
    placed: list[list[SceneObject]],
    limits: Style,
    size: int,
) -> tuple[list[SceneObject], bool]:
    """Put a block at the origin somewhere in the picture; also says whether it goes behind all others."""
    _, _, width, height = _union([item.box for item in block])
    margin = 2
    room_x, room_y = size - 2 * margin - width, size - 2 * margin - height
    if room_x < 0 or room_y < 0:  # a row of three long things: smaller ones fit
        shrink = (size - 2 * margin) / max(width, height) * 0.98
        block = [replace(item, box=tuple(round(value * shrink) for value in item.box)) for item in block]
        return _place(rng, block, placed, limits, size)
    others = [item.box for unit in placed for item in unit]
    fate = rng.random()
    if placed and fate < 0.36:
        target = placed[int(rng.integers(len(placed)))]
        anchor = _union([item.box for item in target])
        depth = rng.uniform(*limits.behind)
        for _ in range(12):
            spot = _on_top(rng, anchor, width, height) if fate < 0.18 else _beside(rng, anchor, width, height, depth)
            unit = [_moved(item, *spot) for item in block]
            inside = margin <= spot[0] <= margin + room_x and margin <= spot[1] <= margin + room_y
            rest = [item.box for other in placed if other is not target for item in other]
            if inside and _covered(unit, rest) <= limits.overlap and _covered(unit, others) <= limits.behind[1]:
                return unit, fate >= 0.18 and bool(rng.random() < 0.5)
    best: list[SceneObject] = []
    least = float("inf")
    for _ in range(40):
        spot = (margin + int(rng.integers(room_x + 1)), margin + int(rng.integers(room_y + 1)))
        unit = [_moved(item, *spot) for item in block]
        covered = _covered(unit, others)
        if covered < least:
            best, least = unit, covered
        if covered <= limits.overlap * 0.5:
            break
    if least > limits.behind[1] and max(width, height) > size * 0.22:  # crowded: a smaller one finds room
        block = [replace(item, box=tuple(round(value * 0.85) for value in item.box)) for item in block]
        return _place(rng, block, placed, limits, size)
    return best, False


def _covered(unit: list[SceneObject], others: Sequence[Box]) -> float:
    """Largest share of the smaller box that any object of the unit shares with another box."""
    return max(
        (intersection(item.box, box) / min(area(item.box), area(box)) for item in unit for box in others), default=0.0
    )


def _on_top(rng: np.random.Generator, anchor: Box, width: int, height: int) -> tuple[int, int]:
    """Left top corner of something that stands on the upper edge of `anchor`."""
    centre = rng.uniform(0.35, 0.65) * (anchor[2] - anchor[0]) + anchor[0]
    return round(centre - width / 2), anchor[1] - height + int(rng.integers(0, 4))


def _beside(rng: np.random.Generator, anchor: Box, width: int, height: int, depth: float) -> tuple[int, int]:
    """Left top corner such that about `depth` of the smaller thing overlaps `anchor`, at a side or corner."""
    share_x = depth ** rng.uniform(0.2, 0.8)  # of the width; the rest of the overlap comes from the height
    share_y = depth / share_x
    shared_w = min(width, anchor[2] - anchor[0]) * share_x
    shared_h = min(height, anchor[3] - anchor[1]) * share_y
    x = anchor[2] - shared_w if rng.random() < 0.5 else anchor[0] + shared_w - width
    y = anchor[3] - shared_h if rng.random() < 0.5 else anchor[1] + shared_h - height
    return round(x), round(y)


def render(scene: Scene) -> Image.Image:
    """Paint a scene: RGB, `scene.width` x `scene.height`."""
    rng = np.random.Generator(np.random.Philox(key=scene.seed))
    picture = Image.fromarray(paint(scene.background, rng, scene.width, scene.height))
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        sprite = _turned(item.codepoint, item.mirrored, item.turn).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
        if item.colour:
            sprite = tint(sprite, item.colour, item.tint)
        picture.paste(sprite, (x1, y1), sprite)
    return picture.filter(ImageFilter.GaussianBlur(scene.blur)) if scene.blur > 0.2 else picture
