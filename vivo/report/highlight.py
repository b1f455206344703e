"""Which words of a caption name which class, and how the page marks them.

The numbers come from `vivo.metrics`; this module only decides what is green and what is red, and
where the two could differ the metric's word (`named`) stands.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass
class Segment:
    """A stretch of a caption: `kind` is "" (plain), "hit" (right novel object) or "wrong" (no reference names it)."""

    text: str
    kind: str = ""


@dataclass
class MarkedCaption:
    """A caption ready for the page.

    Attributes:
        segments: the caption's text, in order, nothing lost.
        missed: novel objects of the references that the caption does not name.
        named_elsewhere: novel objects that the metric found and the word forms given here do not.
    """

    segments: list[Segment]
    missed: list[str]
    named_elsewhere: list[str]


def default_forms(name: str) -> list[str]:
    """The singular and the regular plural of a class name, for callers that have no table of word forms."""
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return [name, name + "es"]
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return [name, name[:-1] + "ies"]
    return [name, name + "s"]


class ClassFinder:
    """Finds class names in text by word forms; the longest match wins ("fire engine" is no "engine")."""

    def __init__(self, names: Iterable[str], word_forms: Mapping[str, Sequence[str]] | None = None) -> None:
        """Know `names` and all of `word_forms`; a class without forms gets `default_forms`."""
        word_forms = word_forms or {}
        self._forms: dict[tuple[str, ...], str] = {}
        for name in sorted({*names, *word_forms}):
            for form in (name, *(word_forms.get(name) or default_forms(name))):
                words = tuple(WORD.findall(form.lower()))
                if words:
                    self._forms.setdefault(words, name)
        self._longest = max((len(words) for words in self._forms), default=0)

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Non-overlapping (start, end, class) of every class word in `text`, from left to right."""
        words = list(WORD.finditer(text))
        found = []
        first = 0
        while first < len(words):
            for length in range(min(self._longest, len(words) - first), 0, -1):
                span = words[first : first + length]
                name = self._forms.get(tuple(word.group().lower() for word in span))
                if name is not None:
                    found.append((span[0].start(), span[-1].end(), name))
                    first += length
                    break
            else:
                first += 1
        return found

    def classes(self, texts: Iterable[str]) -> set[str]:
        """All classes that any of `texts` names."""
        return {name for text in texts for _, _, name in self.find(text)}


def mark_caption(
    caption: str,
    novel_objects: Sequence[str],
    named: Sequence[str],
    in_references: set[str],
    finder: ClassFinder,
) -> MarkedCaption:
    """Cut a caption into segments: right novel objects, words for things that no reference names, and the rest."""
    segments: list[Segment] = []
    shown: set[str] = set()
    position = 0
    for start, end, name in finder.find(caption):
        if name in named:
            kind = "hit"
            shown.add(name)
        elif name in in_references or name in novel_objects:
            continue
        else:
            kind = "wrong"
        if start > position:
            segments.append(Segment(caption[position:start]))
        segments.append(Segment(caption[start:end], kind))
        position = end
    if position < len(caption) or not segments:
        segments.append(Segment(caption[position:]))
    return MarkedCaption(
        segments,
        missed=[name for name in novel_objects if name not in named],
        named_elsewhere=[name for name in named if name not in shown],
    )
