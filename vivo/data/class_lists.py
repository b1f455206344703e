"""The classes whose names are looked for in captions: a classes.json, or Open Images' class descriptions.

A classes.json says of each class its word forms, its role and what is more general (`vivo.data.nocaps.read_classes`).
Open Images' list says its name alone: forms then come from `vivo.data.class_forms`, more general classes from the
hierarchy, and the role from training captions: "base" where they name it often enough, else "novel". The paper has 105
in-domain classes (80 of COCO and 25 that are frequent in its captions) and 399 others; which they are, and from how
often on, it does not say.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vivo.data.class_forms import class_forms
from vivo.data.class_hierarchy import read_hierarchy
from vivo.data.nocaps import WorldClass, read_classes
from vivo.data.object_words import plural_of
from vivo.data.open_images import read_class_descriptions
from vivo.data.tag_rules import tag_name
from vivo.errors import UserError


def read_class_list(path: str | Path, hierarchy: str | Path | None = None) -> list[WorldClass]:
    """All classes of a classes.json (as they are) or of class descriptions (all "novel", all known to the detector).

    Args:
        path: JSON or CSV.
        hierarchy: of the class descriptions; None: no class is more general than another.

    Raises:
        UserError: what the readers raise; a hierarchy with a classes.json, which has its own, or one of other classes.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        if hierarchy is not None:
            raise UserError(f"{hierarchy}: {path} says itself what is more general; leave the hierarchy out")
        return read_classes(path)
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(path).items()}
    parents = read_hierarchy(hierarchy) if hierarchy is not None else {}
    if hierarchy is not None and not names.keys() & parents.keys():
        raise UserError(f"{hierarchy}: has none of the classes of {path}; give the two files of one data set")
    above = {mid: _nearest_first(mid, parents) for mid in names}
    seen: dict[str, WorldClass] = {}
    for mid, name in names.items():
        if name in seen:
            raise UserError(f"{path}: two classes are called {name!r} ({seen[name].mid} and {mid}); keep one")
        more_general = [names[parent] for parent in above[mid] if parent in names]
        seen[name] = WorldClass(name, plural_of(name), class_forms(name), mid, "novel", True, more_general)
    return list(seen.values())


def with_roles(classes: Sequence[WorldClass], mentions: np.ndarray, least: int = 1) -> list[WorldClass]:
    """The classes with roles by training captions.

    Args:
        mentions: int [C], how often training captions name each.
        least: from how many mentions on a class is "base".
    """
    return [
        replace(named, role="base" if count >= least else "novel")
        for named, count in zip(classes, mentions, strict=True)
    ]


def _nearest_first(mid: str, parents: dict[str, list[str]]) -> list[str]:
    """All ancestors, breadth first."""
    found: list[str] = []
    todo = list(parents.get(mid, []))
    while todo:
        parent = todo.pop(0)
        if parent not in found and parent != mid:
            found.append(parent)
            todo += parents.get(parent, [])
    return found
