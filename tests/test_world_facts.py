"""What captions of the world say, by hand; and that the world's own captions say nothing but the truth."""

from pathlib import Path

import pytest

from vivo.data.coco import read_caption_file
from vivo.world.facts import accuracy, facts_said, judged, shown, shown_in
from vivo.world.write import WorldConfig, scenes_of, write_world


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        ("a red car to the left of two dogs .", [("red", "car"), ("car", "left of", "dog")]),
        ("A black teddy bear on top of a bed.", [("black", "teddy bear"), ("teddy bear", "on", "bed")]),
        ("a dog, a blue cat and a car", [("blue", "cat")]),
        ("there are three purple sheep next to a pair of yellow kites on the grass.",
         [("purple", "sheep"), ("sheep", "next to", "kite"), ("yellow", "kite")]),
        ("a dog behind a cat with a red bus", [("dog", "behind", "cat"), ("red", "bus")]),
        ("on the road, there is an orange bed", [("orange", "bed")]),
        ("red and blue", []),
        ("a dog on the grass under a tree that is left of", []),
    ],
)  # fmt: skip
def test_facts_of_captions_by_hand(caption: str, facts: list):
    assert facts_said(caption) == facts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts") / "world"
    write_world(folder, WorldConfig(open_images=1, coco=60, coco_val=1, nocaps=40, workers=1), False)
    return folder


def test_the_worlds_own_captions_are_true(world: Path):
    """Every colour and relation that its captions say is in their scene, and most of what scenes show is said."""
    for split, file in (("coco_train", "coco/captions_train.json"), ("nocaps", "nocaps/nocaps_val_captions.json")):
        scenes = scenes_of(world, split)
        found = {i: captions for i, _, captions in read_caption_file(world / file)}
        assert scenes.keys() == found.keys()
        said = [one for i, captions in found.items() for caption in captions for one in judged(caption, scenes[i])]
        assert [one for one in said if not one.right] == [] and len(said) > 100
        colours = {(i, fact) for i, s in scenes.items() for fact in shown(s) if len(fact) == 2}
        told = {
            (i, fact) for i, captions in found.items() for c in captions for fact in facts_said(c) if len(fact) == 2
        }
        assert len(colours & told) > 0.9 * len(colours)
        assert not [c for captions in found.values() for c in captions if len(facts_said(c)) > 7]


def test_lies_are_found(world: Path):
    scenes = scenes_of(world, "coco_train")
    image_id, scene = next((i, s) for i, s in scenes.items() if any(u.colour for u in s.units))
    unit = next(u for u in scene.units if u.colour)
    other = "red" if unit.colour != "red" else "blue"
    right, wrong = judged(f"a {unit.colour} {unit.name}", scene), judged(f"a {other} {unit.name}", scene)
    assert accuracy(right) == (1, 1) and accuracy(wrong) == (0, 1)
    assert wrong[0].truth == ((unit.colour, unit.name),)
    absent = next(name for name in ("dog", "cat", "bus") if name not in {u.name for u in scene.units})
    assert judged(f"a red {absent}", scene) == []
    assert (unit.colour, unit.name) in shown_in(scenes.values())
