"""Lists of object words: names with their word forms, read from a file or found in captions.

A list is a text file with one object a line, its other names behind it (the layout of the Visual Genome
lists): `bicycle,bike`. Plurals are added to every name. A classes.json (`vivo.data.nocaps.read_classes`)
does as well. Without a list, `find_object_words` takes the nouns that the captions themselves show: words
that stand behind "a", have a plural in these captions too, and mostly end what they belong to ("a red X
on ..."). No tagger, no download; `tests/test_novel_split.py` has what it finds and misses on photographs.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vivo.data.nocaps import WorldClass, read_classes
from vivo.errors import UserError

_IRREGULAR = {
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "die": "dice",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "calf": "calves",
    "half": "halves",
    "wolf": "wolves",
    "knife": "knives",
    "wife": "wives",
    "scarf": "scarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "bus": "buses",
    "human": "humans",
    "german": "germans",
}
_NO_PLURAL = frozenset(
    "sheep deer fish moose bison salmon aircraft scissors jeans shorts pants trousers glasses sunglasses goggles"
    " binoculars clothes clothing grass water snow sand".split()
)
_ARTICLES = frozenset("a an".split())
_BEFORE = frozenset(
    "a an the one two three four five six several some many his her their its another each every".split()
)
_BEHIND = frozenset(
    "in on at with is are and of to through while by near from for into as down up over next off behind around has"
    " have along across under that who which during between above below against out or".split()
)
# Nouns of captions that name no thing one could point at or detect.
_NO_OBJECTS = frozenset(
    "air area back background base bend bit body bottom break camera center close couple corner crowd dance day"
    " direction display distance drink edge end event face fall flip foreground front game group half head inside item"
    " jump kind left line look lot member middle mouth name night open pair part patch performance photo photograph"
    " picture piece place position pose race rest ride right row run scene set shade shadow shape shot show side size"
    " slide smile sport spot step stunt style swing team time top trick turn type variety view walk way wear work"
    " image room bunch".split()
)
SCENERY = frozenset(
    "beach city cliff court dirt field floor forest garden grass ground hill lake land mountain ocean park path pond"
    " pool river road room sand sea sky snow street track trail water wave woods yard".split()
)
"""Words that say where a picture was taken: tags like others, but they do not make a picture near-domain."""


def plural_of(name: str) -> str:
    """The English plural of a name, by its last word: "traffic light" -> "traffic lights"; itself if it has none."""
    first, space, word = name.rpartition(" ")
    if word in _NO_PLURAL:
        plural = word
    elif word in _IRREGULAR:
        plural = _IRREGULAR[word]
    elif word.endswith("man"):
        plural = word[:-3] + "men"
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        plural = word + "es"
    elif word.endswith("y") and word[-2:-1] not in ("a", "e", "i", "o", "u", ""):
        plural = word[:-1] + "ies"
    else:
        plural = word + "s"
    return first + space + plural


def object_word(names: Sequence[str], role: str = "base") -> WorldClass:
    """An object from its name and other names; every name gets its plural.

    Raises:
        UserError: an empty name.
    """
    clean = list(dict.fromkeys(" ".join(name.lower().split()) for name in names))
    if not clean or "" in clean:
        raise UserError(f"object words {', '.join(names)!r}: a name is empty; write `name` or `name,other name`")
    forms = list(dict.fromkeys(form for name in clean for form in (name, plural_of(name))))
    return WorldClass(clean[0], plural_of(clean[0]), forms, "", role, True, [])


def read_object_words(path: str | Path) -> list[WorldClass]:
    """Objects of a list file, all of role "base"; see the module's text.

    Raises:
        UserError: naming file and line: an empty name, a name twice, no names.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return [as_role(entry, "base") for entry in read_classes(path)]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of object words cannot be read ({error}); check the path") from error
    found: dict[str, WorldClass] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        entry = object_word(line.split(","))
        if entry.name in found:
            raise UserError(f"{path}, line {number}: {entry.name!r} is listed twice; keep one line")
        found[entry.name] = entry
    if not found:
        raise UserError(f"{path}: the list is empty; write one object a line")
    return list(found.values())


def as_role(entry: WorldClass, role: str) -> WorldClass:
    """The same object in another role."""
    return WorldClass(entry.name, entry.plural, entry.forms, entry.mid, role, entry.detector, entry.parents)


def find_object_words(captions: Iterable[Sequence[str]], min_captions: int = 10) -> list[WorldClass]:
    """Nouns of the captions that name things, the most frequent first; see the module's text.

    Args:
        captions: tokens of each caption (`vivo.metrics.tokenizer`).
        min_captions: times that the word and its plural occur, at least.
    """
    total: Counter[str] = Counter()
    behind_article: Counter[str] = Counter()
    behind_determiner: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for tokens in captions:
        for place, word in enumerate(tokens):
            following = tokens[place + 1] if place + 1 < len(tokens) else ""
            previous = tokens[place - 1] if place else ""
            total[word] += 1
            behind_article[word] += previous in _ARTICLES
            behind_determiner[word] += previous in _BEFORE
            ends[word] += not following or following in _BEHIND or following.endswith("ing")
    found = []
    for word, count in total.items():
        if not word.isalpha() or len(word) < 3 or word in _BEFORE | _BEHIND | _NO_OBJECTS:
            continue
        plural = plural_of(word)
        both = count + (total[plural] if plural != word else 0)
        has_plural = plural != word and total[plural] >= 2
        gerunds = total[word + "ing"] + total[word.removesuffix("e") + "ing"] * word.endswith("e")
        if (
            both >= min_captions
            and (has_plural or word in _NO_PLURAL)
            and (behind_article[word] >= 3 or word in _NO_PLURAL)
            and ends[word] >= count / 2
            and behind_determiner[word] >= count / 10
            and gerunds <= both  # "a jump": a verb more often than a thing
        ):
            found.append((-both, word))
    plurals = {plural_of(word) for _, word in found if word not in _NO_PLURAL}
    return [object_word([word]) for _, word in sorted(found) if word not in plurals]
