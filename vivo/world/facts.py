"""What a caption of the world says of colours and relations, and whether it is true: for measuring captions.

    "a red car to the left of two dogs"  ->  (red, car), (car, left of, dog)

A colour is said of the class whose name follows it; a relation of two classes that are named one after the other, with
nothing but the words of the relation, articles, numbers and colours between. Only what is said of classes that are in
the picture is judged: whether an object is there at all is the business of other measures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vivo.metrics.tokenizer import ptb_tokenize
from vivo.world.classes import CLASSES
from vivo.world.glyphs import TINTS
from vivo.world.grammar import RELATION_WORDS
from vivo.world.scenes import Scene

Fact = tuple[str, ...]
"""(colour, class) or (class, relation, class)."""
# Words before a noun that say nothing of where it is.
_BEFORE_NOUN = {"a", "an", "the", "one", "two", "three", "four", "several", "some"}
_PAIR = ("a", "pair", "of")


@dataclass(frozen=True)
class Said:
    """One fact that a caption says.

    Attributes:
        fact: see `Fact`. right: whether the scene shows it. truth: what the scene shows instead: the colour of that
            object ("" for its natural one) with the class, or all relations between the two.
    """

    fact: Fact
    right: bool
    truth: tuple[Fact, ...]


def shown(scene: Scene) -> set[Fact]:
    """All facts of a scene: the colours of its tinted objects, and its relations."""
    units = scene.units
    colours = {(unit.colour, unit.name) for unit in units if unit.colour and unit.name}
    relations = {(units[r.subject].name, r.kind, units[r.object].name) for r in scene.relations}
    return colours | {fact for fact in relations if fact[0] and fact[2]}


def shown_in(scenes: Iterable[Scene]) -> set[Fact]:
    """All facts of some scenes: the combinations that can be learned from their captions."""
    return set().union(*map(shown, scenes))


def facts_said(caption: str) -> list[Fact]:
    """The facts that a caption says, in its order."""
    tokens = ptb_tokenize(caption)
    nouns = _nouns(tokens)
    found: list[Fact] = []
    for place, (first, end, name) in enumerate(nouns):
        if first and tokens[first - 1] in TINTS:
            found.append((tokens[first - 1], name))
        if place + 1 < len(nouns):
            next_first, _, other = nouns[place + 1]
            kind = _relation(tokens[end:next_first])
            if kind:
                found.append((name, kind, other))
    return found


def judged(caption: str, scene: Scene) -> list[Said]:
    """The facts that a caption says of classes that are in the scene."""
    true, names = shown(scene), {unit.name for unit in scene.units if unit.name}
    colours = {unit.name: unit.colour for unit in scene.units}
    found = []
    for fact in facts_said(caption):
        ends = {fact[1]} if len(fact) == 2 else {fact[0], fact[2]}
        if ends <= names:
            if len(fact) == 2:
                truth: tuple[Fact, ...] = ((colours[fact[1]], fact[1]),)
            else:
                truth = tuple(sorted(t for t in true if len(t) == 3 and (t[0], t[2]) == (fact[0], fact[2])))
            found.append(Said(fact, fact in true, truth))
    return found


def accuracy(said: Iterable[Said]) -> tuple[int, int]:
    """(right, said)."""
    kept = list(said)
    return sum(one.right for one in kept), len(kept)


def _nouns(tokens: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first token, behind the last, class) of each class that is named, the longest match first; a colour word before
    a name is a colour ("an orange cat" names no orange)."""
    found, place = [], 0
    while place < len(tokens):
        length, name = _named_at(tokens, place)
        if length and not (tokens[place] in TINTS and _named_at(tokens, place + 1)[0]):
            found.append((place, place + length, name))
            place += length
        else:
            place += 1
    return found


def _named_at(tokens: Sequence[str], place: int) -> tuple[int, str]:
    """Length and class of the longest name that begins here; (0, "") where none does."""
    for length in range(min(_LONGEST, len(tokens) - place), 0, -1):
        name = _NAMES.get(tuple(tokens[place : place + length]))
        if name:
            return length, name
    return 0, ""


def _relation(between: Sequence[str]) -> str:
    """The relation that the tokens between two nouns say, "" if they say none."""
    words = list(between)
    while words and (words[-1] in _BEFORE_NOUN or words[-1] in TINTS or tuple(words[-3:]) == _PAIR):
        del words[-3 if tuple(words[-3:]) == _PAIR else -1 :]
    return _KINDS.get(" ".join(words), "")


_NAMES = {tuple(ptb_tokenize(form)): c.name for c in CLASSES for form in (c.name, c.plural, *c.forms)}
_LONGEST = max(map(len, _NAMES))
_KINDS = {words: kind for kind, choices in RELATION_WORDS.items() for words in choices}
