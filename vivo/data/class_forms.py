"""By which words a caption names a class, and how general a class is: what constraints of decoding need to know.

forms      the class's name and its plural by rule (`vivo.data.object_words.plural_of`); "human face" is also
           called "face"; class_forms.txt has what the rule cannot know, reviewed for all of Open Images'
           boxable classes. A classes.json says its forms itself (as the F1 of vivo/metrics reads them).
height     0 for a class with no classes below it, else one more than the highest of those: "dog" 0, "carnivore" 1
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from vivo.data.class_hierarchy import read_hierarchy
from vivo.data.nocaps import read_classes
from vivo.data.object_words import plural_of
from vivo.data.open_images import read_class_descriptions
from vivo.data.tag_rules import tag_name
from vivo.errors import UserError

EXCEPTIONS = Path(__file__).with_name("class_forms.txt")


def class_forms(name: str) -> list[str]:
    """The words by which a caption names the class `name` of Open Images or of any detector, each once."""
    name = tag_name(name)
    exact, others = read_exceptions().get(name, ([], []))
    if exact:
        return list(exact)
    names = [name, *others]
    if name.startswith("human "):
        names.append(name.removeprefix("human "))
    return list(dict.fromkeys(form for word in names for form in (word, plural_of(word))))


@cache
def read_exceptions(path: Path = EXCEPTIONS) -> dict[str, tuple[list[str], list[str]]]:
    """Class name -> (all its forms, or none; its other names): see the text at the top of class_forms.txt."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        sign = " = " if " = " in line else " + "
        name, _, words = line.partition(sign)
        listed = words.split(", ")
        assert words and name not in found, f"{path.name}: {line}"
        found[name] = (listed, []) if sign == " = " else ([], listed)
    return found


@dataclass(frozen=True)
class ClassWords:
    """Forms and heights of the classes that a detector names.

    Attributes:
        known: class -> forms; others have those of `class_forms`.
        heights: class -> height; others have 0.
    """

    known: Mapping[str, Sequence[str]] = field(default_factory=dict)
    heights: Mapping[str, int] = field(default_factory=dict)

    def forms(self, name: str) -> Sequence[str]:
        """All forms of a class, by its name in lower case."""
        return self.known.get(name) or class_forms(name)

    def height(self, name: str) -> int:
        """How general it is."""
        return self.heights.get(name, 0)


def read_class_words(classes: str, hierarchy: str = "") -> ClassWords:
    """What is known of classes.

    Args:
        classes: a classes.json, which has forms and hierarchy; or Open Images' class descriptions (CSV), which name
            the classes of `hierarchy`; "": the rule alone.
        hierarchy: Open Images' hierarchy (JSON); "": all classes are equally fine.

    Raises:
        UserError: a file that cannot be read; a hierarchy without class descriptions; one that has none of them.
    """
    if hierarchy and (not classes or classes.endswith(".json")):
        raise UserError(f"{hierarchy}: has ids and no names; give the class descriptions (CSV) with it")
    if classes.endswith(".json"):
        entries = read_classes(classes)
        parents = {tag_name(entry.name): [tag_name(p) for p in entry.parents[:1]] for entry in entries}
        for entry in entries:  # nearest first: each is below the next
            chain = [tag_name(parent) for parent in entry.parents]
            for below, above in zip(chain, chain[1:], strict=False):
                parents.setdefault(below, []).append(above)
        forms = {tag_name(e.name): list(dict.fromkeys([e.name, *e.forms])) for e in entries}
        return ClassWords(forms, heights_of(parents))
    if not classes:
        return ClassWords()
    names = {mid: tag_name(name) for mid, name in read_class_descriptions(classes).items()}
    heights = heights_of(read_hierarchy(hierarchy)) if hierarchy else {}
    if heights and not names.keys() & heights.keys():
        raise UserError(f"{hierarchy}: has none of the classes of {classes}; give the two files of one data set")
    return ClassWords({}, {names[mid]: height for mid, height in heights.items() if mid in names})


def heights_of(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Class -> length of the longest way down from it, from class -> its direct parents. A circle ends its way."""
    below: dict[str, list[str]] = {}
    for name, above in parents.items():
        below.setdefault(name, [])
        for parent in above:
            below.setdefault(parent, []).append(name)
    heights: dict[str, int] = {}

    def height(name: str, way: frozenset[str]) -> int:
        if name not in heights:
            lower = [height(child, way | {name}) for child in below[name] if child not in way | {name}]
            heights[name] = 1 + max(lower) if lower else 0
        return heights[name]

    for name in below:
        height(name, frozenset())
    return heights
