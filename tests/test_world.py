"""The embedded world: its table of classes and its scenes, by numbers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vivo.errors import UserError
from vivo.world.backgrounds import BACKGROUNDS, paint
from vivo.world.glyphs import (
    CLASS_BY_NAME,
    CLASSES,
    DISTRACTORS,
    allowed_tints,
    glyph_image,
    tint,
)
from vivo.world.relations import KINDS, Relation, area, intersection, relations_of
from vivo.world.scenes import STYLES, Scene, render, sample_scene


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=list(key)))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of all classes, both styles."""
    return [sample_scene(generator(1, index), CLASSES, ("train", "test")[index % 2]) for index in range(240)]


# The table


def test_the_table_has_the_classes_of_the_issue():
    roles = Counter((entry.role, entry.detector) for entry in CLASSES)
    assert roles == {("base", True): 60, ("novel", True): 81, ("novel", False): 41}
    for key in ("name", "plural", "codepoint", "mid"):
        assert len({getattr(entry, key) for entry in CLASSES}) == len(CLASSES), key
    two_words = Counter((entry.role, entry.detector) for entry in CLASSES if " " in entry.name)
    assert sum(two_words.values()) >= 25
    assert min(two_words.values()) >= 9 and len(two_words) == 3
    assert all(1 <= len(entry.parents) <= 2 for entry in CLASSES)
    assert {"sheep", "knives", "wolves", "boxes"} & {entry.plural for entry in CLASSES} == {"sheep", "knives", "wolves"}


def pooled(codepoint: str) -> np.ndarray:
    """16 x 16 mean colours and coverage of a glyph on a grey square."""
    glyph = glyph_image(codepoint, 96)
    square = Image.new("RGBA", (96, 96))
    square.paste(glyph, ((96 - glyph.width) // 2, (96 - glyph.height) // 2))
    pixels = np.asarray(square.resize((16, 16), Image.Resampling.BOX), dtype=np.float64) / 255
    alpha = pixels[..., 3:]
    return np.concatenate([pixels[..., :3] * alpha + 0.5 * (1 - alpha), alpha], -1).ravel()


def test_no_two_glyphs_look_alike():
    vectors = np.stack([pooled(entry.codepoint) for entry in CLASSES])
    distances = np.sqrt(((vectors[:, None] - vectors[None]) ** 2).mean(-1)) + 9 * np.eye(len(CLASSES))
    first, second = np.unravel_index(distances.argmin(), distances.shape)
    assert distances.min() > 0.13, (CLASSES[first].name, CLASSES[second].name, distances.min())


def test_distractors_are_many_and_none_is_a_class():
    assert len(DISTRACTORS) == len(set(DISTRACTORS)) >= 1000
    assert not set(DISTRACTORS) & {entry.codepoint for entry in CLASSES}
    classes = np.stack([pooled(entry.codepoint) for entry in CLASSES])
    for codepoint in DISTRACTORS[::37]:
        assert np.sqrt(((classes - pooled(codepoint)) ** 2).mean(-1)).min() > 0.1, codepoint


# Scenes


def test_a_scene_is_a_function_of_its_generator():
    one, two = (sample_scene(generator(3, 5), CLASSES) for _ in range(2))
    assert one == two
    assert render(one).tobytes() == render(two).tobytes()
    assert sample_scene(generator(3, 6), CLASSES) != one


def test_boxes_lie_within_the_picture_and_fit_the_ink():
    for index in range(24):
        scene = sample_scene(generator(4, index), CLASSES, "train", n_objects=1, group_share=0)
        (item,) = scene.objects
        plain = replace(scene, objects=(), blur=0)
        drawn = np.asarray(render(replace(scene, blur=0)), dtype=int)
        changed = (np.abs(drawn - np.asarray(render(plain), dtype=int)).sum(-1) > 60).nonzero()
        ink = (changed[1].min(), changed[0].min(), changed[1].max() + 1, changed[0].max() + 1)
        assert 0 <= item.box[0] < item.box[2] <= 224 and 0 <= item.box[1] < item.box[3] <= 224
        assert max(abs(a - b) for a, b in zip(ink, item.box, strict=True)) <= 4, (item, ink)


def test_scenes_have_the_sizes_counts_and_ranges_of_their_style(scenes):
    units, counts = Counter(), Counter()
    for scene in scenes:
        style = STYLES[scene.style]
        units[len(scene.units)] += 1
        counts.update(unit.count for unit in scene.units)
        assert len({unit.name for unit in scene.units}) == len(scene.units)
        for item in scene.objects:
            assert 38 <= max(item.box[2] - item.box[0], item.box[3] - item.box[1]) <= 165
            assert style.turn[0] <= abs(item.turn) <= style.turn[1]
            assert bool(item.colour) == (item.tint > 0)
            assert not item.colour or style.tint[0] <= item.tint <= style.tint[1]
        assert style.blur[0] <= scene.blur <= style.blur[1]
    assert set(units) == {1, 2, 3, 4} and min(units.values()) > 15
    assert set(counts) == {1, 2, 3, 4}
    train, test = STYLES["train"], STYLES["test"]
    assert test.tint[1] < train.tint[0], "no tint of a test scene occurs in training"
    assert test.turn[1] > 2 * train.turn[1] and test.blur[1] > 2 * train.blur[1] and test.behind[1] > train.behind[1]


def test_no_object_is_hidden(scenes):
    for scene in scenes:
        for place, item in enumerate(scene.objects):
            for other in scene.objects[place + 1 :]:
                assert intersection(item.box, other.box) <= 0.6 * area(item.box)


def test_relations_by_hand():
    boxes = [(10, 100, 60, 150), (68, 105, 118, 155), (12, 52, 58, 102)]
    found = relations_of(boxes, order=[0, 1, 2])
    assert Relation(0, "left of", 1) in found and Relation(1, "right of", 0) in found
    assert Relation(2, "on", 0) in found and Relation(0, "under", 2) in found
    assert not [r for r in found if {r.subject, r.object} == {1, 2}], "a diagonal neighbour has no clear relation"
    near = relations_of([(0, 0, 50, 50), (55, 0, 105, 50)], order=[0, 1])
    assert {r.kind for r in near if r.subject == 0} == {"left of", "next to"}
    over = relations_of([(0, 0, 50, 50), (30, 30, 80, 80)], order=[1, 0])
    assert over == [Relation(0, "in front of", 1), Relation(1, "behind", 0)]
    tall = relations_of([(0, 0, 40, 40), (0, 120, 40, 160)], order=[0, 1])
    assert tall == [Relation(0, "above", 1), Relation(1, "below", 0)]


def test_relations_come_in_pairs_and_all_kinds_occur(scenes):
    inverse = {"left of": "right of", "above": "below", "on": "under", "behind": "in front of", "next to": "next to"}
    inverse |= {value: key for key, value in inverse.items()}
    kinds = Counter()
    for scene in scenes:
        for relation in scene.relations:
            assert Relation(relation.object, inverse[relation.kind], relation.subject) in scene.relations
            kinds[relation.kind] += 1
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 10


def test_scenes_of_unnamed_glyphs_and_refusals():
    scene = sample_scene(generator(5, 0), [("", DISTRACTORS[0]), ("dog", "1F415")], n_objects=2, size=160)
    assert {item.name for item in scene.objects} == {"", "dog"}
    assert render(scene).size == (160, 160)
    with pytest.raises(UserError, match="at least one"):
        sample_scene(generator(5, 0), [])
    with pytest.raises(UserError, match="choose one of train, test"):
        sample_scene(generator(5, 0), CLASSES, style="tests")


def test_a_tint_is_seen_and_leaves_outlines_dark():
    glyph = glyph_image("1F404", 64)
    dyed = np.asarray(tint(glyph, "blue", 0.9), dtype=int)
    natural = np.asarray(glyph, dtype=int)
    inside = (natural[..., 3] > 250) & (natural[..., :3].sum(-1) > 300)
    assert (dyed[inside][:, 2] > dyed[inside][:, 0] + 60).mean() > 0.95
    outline = (natural[..., 3] > 250) & (natural[..., :3].sum(-1) < 12)
    assert dyed[outline][:, :3].max() < 40
    assert "yellow" not in allowed_tints(CLASS_BY_NAME["banana"].codepoint), "that is its own colour"


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_are_textured_varied_and_not_too_dark(name: str):
    one, two = (paint(name, generator(6, seed), 200, 120) for seed in range(2))
    assert one.shape == (120, 200, 3) and one.dtype == np.uint8
    assert np.abs(one.astype(int) - two).mean() > 1
    assert one.std() > 4
    assert one.mean() > 55, "black outlines would drown"
