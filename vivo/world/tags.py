"""Image-level tags of a scene, and the vocabulary behind them in the manner of Open Images.

A picture has 4-10 tags: its objects, the colours of dyed ones, the place, whether that is outdoor
or indoor, and parents of the objects. Nearly all are one word piece, so that most masked sets
have two or more tags in one group of equal length for the matching to match.
"""

from functools import cache

import numpy as np

from vivo.world.backgrounds import BACKGROUNDS
from vivo.world.classes import CLASS_BY_NAME, CLASSES
from vivo.world.glyphs import TINTS
from vivo.world.scenes import Scene

FEWEST, MOST = 4, 10
ROOT_MID = "/m/0bl9f"  # "Entity", the root of the official hierarchy

_INDOOR = ("kitchen", "table", "curtain", "wall")
SETTINGS: dict[str, str] = {place: "indoor" if place in _INDOOR else "outdoor" for place in BACKGROUNDS}
PARENT_SHARE = 0.8  # how often a verifier named the parent of an object
COLOUR_SHARE = 0.9

# More general parents of parents; all other parents stand under the root.
_GENERAL: dict[str, str] = {
    "mammal": "animal",
    "bird": "animal",
    "reptile": "animal",
    "insect": "animal",
    "fruit": "food",
    "vegetable": "food",
    "dessert": "food",
    "aircraft": "vehicle",
    "watercraft": "vehicle",
    "footwear": "clothing",
    "luggage": "container",
    "flower": "plant",
}


@cache
def tag_mids() -> dict[str, str]:
    """Every tag of the world -> its machine id: classes, parents, colours, places, settings."""
    mids = {entry.name: entry.mid for entry in CLASSES}
    parents = sorted({parent for entry in CLASSES for parent in entry.parents} | set(_GENERAL.values()))
    for letter, names in (("p", parents), ("c", TINTS), ("b", BACKGROUNDS), ("s", ("indoor", "outdoor"))):
        for index, name in enumerate(names):
            mids[name] = f"/m/0o{letter}{index:03d}"
    return mids


def tags(scene: Scene, rng: np.random.Generator) -> list[str]:
    """4-10 different tags of a scene, in no meaningful order.

    Objects always; colours and parents mostly, as people verify labels; at most MOST, parents going first.
    """
    units = [unit for unit in scene.units if unit.name]
    sure = [unit.name for unit in units] + [scene.background, SETTINGS[scene.background]]
    colours = [unit.colour for unit in units if unit.colour]
    parents = [parent for unit in units for parent in CLASS_BY_NAME[unit.name].parents]
    maybe = [tag for tag in colours if rng.random() < COLOUR_SHARE]
    maybe += [tag for tag in parents if rng.random() < PARENT_SHARE]
    found = dict.fromkeys(sure + maybe)
    for tag in colours + parents:
        if len(found) >= FEWEST:
            break
        found[tag] = None
    kept = list(found)[:MOST]
    return [kept[index] for index in rng.permutation(len(kept))]


def absent_tags(present: list[str], rng: np.random.Generator, count: int) -> list[str]:
    """`count` classes that a verifier found absent: no tag, nor a word of one ("palm tree" present, "tree" absent)."""
    words = {word for tag in present for word in (tag, *tag.split())}
    names = [entry.name for entry in CLASSES if entry.name not in words]
    return [names[int(index)] for index in rng.choice(len(names), size=count, replace=False)]


def hierarchy() -> dict:
    """The classes as the official nested {"LabelName", "Subcategory"} tree under Entity."""
    mids = tag_mids()
    children: dict[str, list[dict]] = {}
    for entry in CLASSES:
        for parent in entry.parents:
            # Under mammal, not under animal once more: the tree says that a mammal is an animal.
            if not any(_GENERAL.get(other) == parent for other in entry.parents):
                children.setdefault(parent, []).append({"LabelName": entry.mid})
    for parent, general in _GENERAL.items():
        children.setdefault(general, []).append({"LabelName": mids[parent], "Subcategory": children[parent]})
    top = [parent for parent in children if parent not in _GENERAL]
    return {
        "LabelName": ROOT_MID,
        "Subcategory": [{"LabelName": mids[parent], "Subcategory": children[parent]} for parent in top],
    }
