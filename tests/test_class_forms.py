"""Word forms of classes: the hard ones by hand, all of Open Images' by what must hold, and how general classes are."""

import json
from pathlib import Path

import pytest

from vivo.data.class_forms import ClassWords, class_forms, heights_of, read_class_words, read_exceptions
from vivo.data.open_images import read_class_descriptions
from vivo.data.text import TagPieces, load_tokenizer
from vivo.errors import UserError
from vivo.metrics.tokenizer import ptb_tokenize
from vivo.metrics.word_forms import ClassFinder
from vivo.weights import bert_folder

VOCAB = Path(__file__).resolve().parents[2] / "shared" / "data" / "vocab"
CLASSES, HIERARCHY = VOCAB / "class-descriptions-boxable.csv", VOCAB / "bbox_labels_600_hierarchy.json"


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The boxable classes of Open Images, as the file writes them."""
    if not CLASSES.is_file():
        pytest.skip(f"no {CLASSES.name} in {VOCAB}")
    return list(read_class_descriptions(CLASSES).values())


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("Dog", "dog, dogs"),
        ("Mouse", "mouse, mice"),
        ("Computer mouse", "computer mouse, computer mice, mouse, mice"),
        ("Knife", "knife, knives"),
        ("Kitchen knife", "kitchen knife, kitchen knives, knife, knives"),
        ("Scissors", "scissors"),
        ("Man", "man, men"),
        ("Woman", "woman, women"),
        ("Person", "person, people, persons"),
        ("Snowman", "snowman, snowmen"),
        ("Human face", "human face, human faces, face, faces"),
        ("Human foot", "human foot, human feet, foot, feet"),
        ("Human hair", "human hair, hair"),
        ("Goose", "goose, geese"),
        ("Sheep", "sheep"),
        ("Fish", "fish, fishes"),
        ("Goldfish", "goldfish"),
        ("Cattle", "cattle, cow, cows"),
        ("Glasses", "glasses, eyeglasses"),
        ("Sunglasses", "sunglasses"),
        ("Wine glass", "wine glass, wine glasses, wineglass, wineglasses"),
        ("Chopsticks", "chopsticks, chopstick"),
        ("French fries", "french fries, fries"),
        ("Bookcase", "bookcase, bookcases, bookshelf, bookshelves"),
        ("Shelf", "shelf, shelves"),
        ("Scarf", "scarf, scarves"),
        ("Strawberry", "strawberry, strawberries"),
        ("Ostrich", "ostrich, ostriches"),
        ("Tomato", "tomato, tomatoes"),
        ("Mango", "mango, mangos, mangoes"),
        ("Hippopotamus", "hippopotamus, hippopotamuses, hippopotami, hippo, hippos"),
        ("Axe", "axe, axes, ax"),
        ("Bow and arrow", "bow and arrow, bows and arrows"),
        ("Chest of drawers", "chest of drawers, chests of drawers, dresser, dressers"),
        ("Kitchen & dining room table", "table, tables"),
        ("Band-aid", "band-aid, band-aids, bandaid, bandaids"),
        ("Wood-burning stove", "wood-burning stove, wood-burning stoves, wood burning stove, wood burning stoves, wood stove, wood stoves"),  # noqa: E501
        ("Tin can", "tin can, tin cans"),
        ("Television", "television, televisions, tv, tvs, television set, television sets"),
        ("unheard  Of thing", "unheard of thing, unheard of things"),
    ],
)  # fmt: skip
def test_hard_names(name: str, forms: str):
    assert class_forms(name) == forms.split(", ")


def test_every_boxable_class_has_forms_that_can_be_written(names: list[str]):
    tokenizer = load_tokenizer(bert_folder("minilm"))
    pieces = TagPieces(tokenizer)
    assert len(names) == 601
    for name in names:
        forms = class_forms(name)
        assert forms and len(set(forms)) == len(forms)
        for form in forms:
            assert form == " ".join(form.lower().split()) and ptb_tokenize(form), form
            assert not form.endswith(("seses", "sss", "mens")), form
            assert tokenizer.unk_token_id not in pieces(form) and 1 <= len(pieces(form)) <= 12, form
            assert not tokenizer.convert_ids_to_tokens(pieces(form)[0]).startswith("##"), form


def test_exceptions_are_of_boxable_classes_and_needed(names: list[str]):
    known = {name.lower() for name in names}
    exceptions = read_exceptions()
    assert exceptions.keys() <= known and len(exceptions) < len(known) / 3
    for name, (exact, others) in exceptions.items():
        assert bool(exact) != bool(others), name
        assert name not in others, name
        # "kitchen & dining room table" is called by no one what it is called there
        assert not exact or exact[0] == name or name == "kitchen & dining room table"


def test_names_that_are_plural_have_no_second_plural(names: list[str]):
    plural = [n.lower() for n in names if n.endswith("s") and not n.endswith(("ss", "us", "ros"))]
    assert len(plural) > 25
    for name in plural:
        assert f"{name}es" not in class_forms(name) and f"{name}s" not in class_forms(name), name


def test_heights_are_the_longest_way_down():
    parents = {"dog": ["carnivore", "pet"], "wolf": ["carnivore"], "carnivore": ["animal"], "pet": ["animal"]}
    assert heights_of(parents) == {"dog": 0, "wolf": 0, "carnivore": 1, "pet": 1, "animal": 2}
    assert heights_of({"a": ["b"], "b": ["a"]})["a"] in (1, 2)  # a circle has an end


def test_open_images_classes_by_name(names: list[str]):
    words = read_class_words(str(CLASSES), str(HIERARCHY))
    heights = {name: words.height(name) for name in ("brown bear", "bear", "carnivore", "mammal", "animal")}
    assert list(heights.values()) == [0, 1, 2, 3, 4]
    assert words.height("taxi") == 0 < words.height("car") < words.height("land vehicle") < words.height("vehicle")
    assert words.forms("mouse") == ["mouse", "mice"] and words.height("mouse") == 0
    assert words.height("no such class") == 0


def classes_json(folder: Path) -> Path:
    def entry(name: str, plural: str, forms: list[str], parents: list[str]) -> dict:
        return {
            "name": name, "plural": plural, "forms": forms, "mid": f"/m/{name}", "role": "novel", "detector": True,
            "parents": parents,
        }  # fmt: skip

    path = folder / "classes.json"
    entries = [
        entry("Teddy Bear", "teddy bears", ["teddy bears", "teddy"], ["toy"]),
        entry("wolf", "wolves", ["wolf", "wolves"], ["mammal", "animal"]),
        entry("mammal", "mammals", ["mammal", "mammals"], ["animal"]),
    ]
    path.write_text(json.dumps(entries))
    return path


def test_a_world_says_its_forms_and_heights_itself(tmp_path: Path):
    path = classes_json(tmp_path)
    words = read_class_words(str(path))
    assert words.forms("teddy bear") == ["Teddy Bear", "teddy bears", "teddy"]  # no rule adds to it
    assert [words.height(name) for name in ("wolf", "mammal", "animal", "toy")] == [0, 1, 2, 1]
    assert words.forms("goose") == ["goose", "geese"]  # what the file does not know


def test_constraints_and_f1_read_the_same_forms(tmp_path: Path):
    """Each word that satisfies a constraint counts as naming the class, and no other does."""
    from vivo.data.nocaps import read_classes

    path = classes_json(tmp_path)
    classes, words = read_classes(path), read_class_words(str(path))
    finder = ClassFinder(classes)
    for number, entry in enumerate(classes):
        for form in words.forms(entry.name.lower()):
            assert finder.find(ptb_tokenize(f"there is a {form} here")) == {number}


def test_nothing_given_is_the_rule():
    assert read_class_words("") == ClassWords() and ClassWords().forms("knife") == ["knife", "knives"]


def test_refusals(tmp_path: Path, names: list[str]):
    path = classes_json(tmp_path)
    for classes in ("", str(path)):
        with pytest.raises(UserError, match=r"has ids and no names; give the class descriptions \(CSV\) with it"):
            read_class_words(classes, str(HIERARCHY))
    other = tmp_path / "other.json"
    other.write_text('{"LabelName": "x", "Subcategory": [{"LabelName": "y"}]}')
    with pytest.raises(UserError, match="other.json: has none of the classes of .*; give the two files of one data"):
        read_class_words(str(CLASSES), str(other))
