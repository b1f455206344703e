"""Captions of a scene: a small grammar whose references differ and agree as people's do.

A caption picks which units to speak of (bigger ones first, mostly all of them), says each with or without its
colour and count, ties two of them by a true relation or a plain "and", and names the place or
not. Common forms are common: a model that writes the usual sentence agrees with most references.

Plain lower-case ASCII words, commas and a final full stop. Objects without a name are not spoken of.
"""

from collections.abc import Sequence

import numpy as np

from vivo.errors import UserError
from vivo.world.classes import CLASS_BY_NAME
from vivo.world.relations import KINDS
from vivo.world.scenes import Scene, Unit

# How a place is said; the first phrase is the usual one.
PLACES: dict[str, tuple[str, ...]] = {
    "grass": ("on the grass", "in the grass", "on a grass field"),
    "beach": ("on the beach", "at the beach", "on a sandy beach"),
    "sky": ("in the sky", "up in the sky", "high in the sky"),
    "snow": ("in the snow", "on snow", "on fresh snow"),
    "night": ("at night", "in the dark night", "under the stars at night"),
    "kitchen": ("on a kitchen floor", "in the kitchen", "on the tiles of a kitchen"),
    "wall": ("in front of a brick wall", "by a brick wall", "against a wall"),
    "sea": ("in the sea", "in the waves of the sea", "out at sea"),
    "desert": ("in the desert", "in a hot desert", "on desert sand"),
    "forest": ("in the forest", "in a dark forest", "among the trunks of a forest"),
    "road": ("on the road", "on a road", "in the middle of a road"),
    "table": ("on a wooden table", "on the table", "on a table"),
    "curtain": ("in front of a curtain", "by a curtain", "before a curtain"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "beneath"),
    "next to": ("next to", "beside"),
    "on": ("on top of", "on"),
    "under": ("under", "underneath"),
    "behind": ("behind",),
    "in front of": ("in front of",),
}
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_USUAL = 0.65  # how often the usual word is taken where there are synonyms

COLOUR_SHARE = 0.85  # how often a caption says the colour of a tinted object
PLACE_SHARE = 0.72
RELATION_SHARE = 0.62
ALL_UNITS_SHARE = (1.0, 0.9, 0.75, 0.6)  # of captions that speak of every unit, by number of units


def captions(scene: Scene, rng: np.random.Generator, count: int) -> list[str]:
    """`count` different captions of a scene; `UserError` if none of its objects has a name."""
    units = [(index, unit) for index, unit in enumerate(scene.units) if unit.name]
    if not units:
        raise UserError("a scene without named objects has no captions; give its objects class names")
    found: dict[str, None] = {}
    for attempt in range(60 * count):
        # Where few sentences are left to find (one plain object), forms that are rare otherwise come in.
        found[_caption(scene, units, rng, loose=attempt > 20 * count)] = None
        if len(found) == count:
            return list(found)
    raise UserError(f"the grammar knows only {len(found)} captions of this scene; ask for fewer than {count}")


def noun_phrase(unit: Unit, rng: np.random.Generator, colour_share: float = COLOUR_SHARE) -> str:
    """ "a red apple", "an owl", "two dogs", "several sheep"."""
    colour = unit.colour if unit.colour and rng.random() < colour_share else ""
    if unit.count == 1:
        words = f"{colour} {unit.name}".strip()
        return f"{article(words)} {words}"
    number = _NUMBERS[unit.count]
    if rng.random() > 0.8:
        number = "a pair of" if unit.count == 2 else ("several", "some")[int(rng.integers(2))]
    return " ".join(word for word in (number, colour, CLASS_BY_NAME[unit.name].plural) if word)


def article(words: str) -> str:
    """ "a" or "an" before these words, by sound ("a unicorn", "an umbrella")."""
    return "an" if words[0] in "aeio" or words.startswith("um") else "a"


def held_out(scene: Scene, pairs: Sequence[Sequence[str]]) -> bool:
    """Whether a scene shows one of the combinations (colour, object) or (object, relation, object)."""
    units = scene.units
    true = {(unit.colour, unit.name) for unit in units if unit.colour}
    true |= {(units[r.subject].name, r.kind, units[r.object].name) for r in scene.relations}
    return any(tuple(pair) in true for pair in pairs)


def check_held_out(pairs: Sequence[Sequence[str]], colours: Sequence[str]) -> None:
    """`UserError` for a combination that no scene could show."""
    for pair in pairs:
        shape = len(pair)
        words = {"colour": pair[:1], "object": pair[1:]} if shape == 2 else {"object": pair[::2], "relation": pair[1:2]}
        known = {"colour": colours, "object": CLASS_BY_NAME, "relation": KINDS}
        if shape not in (2, 3):
            raise UserError(
                f"held-out combination {tuple(pair)} is neither (colour, object) nor (object, relation, object)"
            )
        for kind, values in words.items():
            for value in values:
                if value not in known[kind]:
                    choices = ", ".join(list(known[kind])[:9])
                    raise UserError(
                        f"held-out combination {tuple(pair)}: '{value}' is no {kind} of the world; e.g. {choices}"
                    )


def _caption(scene: Scene, units: list[tuple[int, Unit]], rng: np.random.Generator, loose: bool) -> str:
    spoken = _spoken(units, rng)
    colour_share = 0.5 if loose else COLOUR_SHARE
    phrases = [noun_phrase(unit, rng, colour_share) for _, unit in spoken]
    body = _join(scene, spoken, phrases, rng)
    place = _usual(PLACES[scene.background], rng, 0.34 if loose else _USUAL)
    if rng.random() > PLACE_SHARE:
        place = ""
    return _frame(body, place, many=spoken[0][1].count > 1, alone=len(spoken) == 1, rng=rng, loose=loose)


def _spoken(units: list[tuple[int, Unit]], rng: np.random.Generator) -> list[tuple[int, Unit]]:
    """The units that a caption names, in the order of telling: big ones first, with some chance."""

    def size(unit: Unit) -> float:
        return (unit.box[2] - unit.box[0]) * (unit.box[3] - unit.box[1]) * rng.uniform(0.6, 1.6)

    ranked = [pair for _, pair in sorted(((-size(pair[1]), pair) for pair in units), key=lambda entry: entry[0])]
    if rng.random() < ALL_UNITS_SHARE[len(units) - 1]:
        return ranked
    return ranked[: int(rng.integers(1, len(units)))]


def _join(scene: Scene, spoken: list[tuple[int, Unit]], phrases: list[str], rng: np.random.Generator) -> str:
    """The noun phrases as one: "x next to y", "x, y and z", "x on top of y with z"."""
    if len(phrases) == 1:
        return phrases[0]
    if rng.random() < RELATION_SHARE:
        first, second = spoken[0][0], spoken[1][0]
        kinds = [r.kind for r in scene.relations if (r.subject, r.object) == (first, second)]
        if kinds:
            words = _usual(RELATION_WORDS[kinds[int(rng.integers(len(kinds)))]], rng)
            tied = f"{phrases[0]} {words} {phrases[1]}"
            if len(phrases) == 2:
                return tied
            return f"{tied} {_usual(('with', 'and'), rng)} {_list(phrases[2:])}"
    if len(phrases) == 2 and rng.random() < 0.2:
        return f"{phrases[0]} with {phrases[1]}"
    return _list(phrases)


def _list(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _frame(body: str, place: str, many: bool, alone: bool, rng: np.random.Generator, loose: bool) -> str:
    """The sentence around the noun phrases; `many`: the first of them is a count, `alone`: it is the only one."""
    end = f" {place}" if place else ""
    form = rng.random() if loose else rng.random() ** 1.6  # the first forms are the common ones
    if form < 0.60:
        return f"{body}{end}."
    if form < 0.74:
        return f"there {'are' if many else 'is'} {body}{end}."
    if form < 0.84:
        return f"{('a photo', 'a picture', 'an image')[int(rng.integers(3))]} of {body}{end}."
    if form < 0.92:
        return f"{place}, there {'are' if many else 'is'} {body}." if place else f"we see {body}."
    if alone and rng.random() < 0.5:
        return f"{body} {'are' if many else 'is'} shown{end}."
    return f"{body} can be seen{end}."


def _usual(choices: Sequence[str], rng: np.random.Generator, share: float = _USUAL) -> str:
    """The first choice with probability `share`, else one of the others."""
    if len(choices) == 1 or rng.random() < share:
        return choices[0]
    return choices[1 + int(rng.integers(len(choices) - 1))]
