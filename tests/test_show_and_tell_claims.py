"""The claims about Show and Tell: measures by hand, and the program that trains, captions and writes the page."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from eval.show_and_tell_claims import BEGIN, END
from eval.show_and_tell_claims import main as claims
from vivo.data.coco import read_caption_file
from vivo.data.predictions import write_predictions
from vivo.demo.sizes import SIZES
from vivo.errors import UserError
from vivo.experiment.recurrent_claims import photograph_tables
from vivo.experiment.recurrent_photographs import BEAMS, BY_NAME, Photographs, captions_file, config_of, prepare
from vivo.experiment.recurrent_tables import chart
from vivo.experiment.recurrent_world import held_out_colours, rows_of_demo
from vivo.experiment.recurrent_world_claims import (
    WorldCaptions,
    colours_of_undyed,
    colours_right,
    colours_told,
    combinations,
    world_tables,
)
from vivo.metrics.bootstrap import Statistic
from vivo.world.classes import BASE_CLASSES
from vivo.world.facts import shown, shown_in
from vivo.world.relations import relations_of
from vivo.world.scenes import Scene, SceneObject
from vivo.world.write import WorldConfig, scenes_of, write_world


def scene(*objects: tuple[str, str, tuple[int, int, int, int]]) -> Scene:
    """(class, colour, box) each."""
    found = tuple(SceneObject(name, "", box, colour, 0.8, False, 0, n) for n, (name, colour, box) in enumerate(objects))
    boxes = [box for *_, box in objects]
    return Scene(224, 224, "grass", found, tuple(relations_of(boxes, range(len(boxes)))), "test", 0.0, 0)


SCENES = {
    "0": scene(("dog", "red", (0, 100, 60, 160)), ("cat", "blue", (150, 100, 210, 160))),
    "1": scene(("car", "green", (0, 100, 60, 160))),
    "2": scene(("bus", "", (0, 100, 60, 160))),
}


PREDICTED = [{"image_id": "1", "caption": "a dog", "score": 0.0}]


def value(statistic: Statistic) -> float:
    return float(statistic(np.ones((1, 3), dtype=np.int64))[0])


def share(counts: list[list[tuple[int, int]]]) -> float:
    """Percent right of what is said, all seeds and pictures together."""
    right, said = np.sum([pair for seed in counts for pair in seed], axis=0)
    return 100 * right / said if said else np.nan


def test_colours_and_combinations_by_hand():
    assert ("dog", "left of", "cat") in shown(SCENES["0"])
    texts = {"0": "a red dog to the left of a pink cat", "1": "a green car and a blue kite", "2": "a red bus"}
    seen = frozenset({("red", "dog"), ("cat", "right of", "dog"), ("dog", "left of", "cat")})
    found = WorldCaptions({"row": [texts]}, SCENES, seen, frozenset({"dog", "cat", "car", "bus"}))
    # said of what is there: red dog, pink cat, green car, red bus; the bus is not dyed
    assert value(colours_right(found, "row")) == pytest.approx(100 * 2 / 3)
    assert value(colours_of_undyed(found, "row")) == pytest.approx(100 * 1 / 4)
    # dyed: dog, cat, car
    assert value(colours_told(found, "row")) == pytest.approx(100 * 2 / 3)
    # of dyed ones: the red dog was seen, the blue cat and the green car were not; the bus has no colour
    assert share(combinations(found, "row", True, True)) == 100.0
    assert share(combinations(found, "row", True, False)) == 50.0
    assert share(combinations(found, "row", False, True)) == 100.0
    assert np.isnan(share(combinations(found, "row", False, False)))
    others = WorldCaptions(found.rows, SCENES, frozenset(), found.base, {"row": seen})  # the row's own captions decide
    assert share(combinations(others, "row", True, False)) == 50.0
    assert share(combinations(others, "row", True, True)) == 100.0
    tables = world_tables(found)
    assert [t.title[:3] for t in tables] == ["(d)", "(f)"] and "| row | 66.7 [" in tables[0].markdown()
    # 1 of 1 captioned, 1 of 2 not: the difference is of all pictures
    assert "(1 of 1) | 50.0 [" in tables[1].markdown() and "(1 of 2) | +50.0 [" in tables[1].markdown()


def test_held_out_colours_are_in_no_training_picture(tmp_path: Path):
    held_out = held_out_colours()
    assert len(held_out) > 0.9 * len(BASE_CLASSES) and len({colour for colour, _ in held_out}) == 9
    config = WorldConfig(open_images=1, coco=80, coco_val=1, nocaps=60, workers=1, held_out_pairs=held_out)
    write_world(tmp_path / "world", config, False)
    training = shown_in(scenes_of(tmp_path / "world", "coco_train").values())
    assert not training & set(held_out) and len([f for f in training if len(f) == 2]) > 30
    assert shown_in(scenes_of(tmp_path / "world", "nocaps").values()) & set(held_out)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """captions.json with splits, and images/: pictures of the world, as photographs would lie there."""
    folder = tmp_path_factory.mktemp("source")
    write_world(folder / "world", WorldConfig(open_images=1, coco=24, coco_val=1, nocaps=1, workers=1), False)
    (folder / "world" / "coco" / "images").rename(folder / "images")
    content = json.loads((folder / "world" / "coco" / "captions_train.json").read_text())
    for number, image in enumerate(content["images"]):
        image["split"] = "train" if number < 14 else "val" if number < 18 else "test"
    (folder / "captions.json").write_text(json.dumps(content))
    return folder


def test_every_variant_is_configured(source: Path, tmp_path: Path):
    of = Photographs(source, tmp_path)
    found = {name: config_of(of, variant, 1) for name, variant in BY_NAME.items()}
    trained = {name for name, c in found.items() if not c.show_and_tell.freeze_encoder}
    assert trained == {"joint", "from_start", "gently_from_start", "joint_fast"}
    rates = {name: found[name].optim.lr * found[name].optim.encoder_rate for name in trained}
    assert rates["gently_from_start"] == pytest.approx(rates["joint"]) and rates["joint_fast"] == rates["from_start"]
    assert found["joint"].init == found["longer"].init == str(tmp_path / "frozen" / "seed1" / "best")
    assert {found[name].init for name in ("frozen", "gently_from_start", "from_start", "random_encoder")} == {"random"}
    assert (
        found["longer"].optim.lr == found["joint"].optim.lr
        and found["longer"].optim.duration == found["joint"].optim.duration
    )
    assert all(c.seed == 1 and c.tracking.best == "validation_CIDEr" for c in found.values())
    stores = [c.data.regions for c in found.values()]
    assert len(set(stores)) == 3 and found["random_encoder"].data.regions.endswith("random1")


def test_rows_of_a_demo_are_of_the_same_evaluation_pictures(tmp_path: Path):
    for name, text in (("ours", "[1]"), ("demo", "[1]"), ("other", "[2]")):
        folder = tmp_path / name / "world" / "nocaps"
        folder.mkdir(parents=True)
        (folder / "nocaps_val_captions.json").write_text(text)
        for row in ("vivo", "Show_and_Tell"):
            (tmp_path / name / "rows" / row / "seed0").mkdir(parents=True)
            write_predictions(tmp_path / name / "rows" / row / "seed0" / "predictions.json", PREDICTED, {})
    assert rows_of_demo(tmp_path / "ours", tmp_path / "demo", 2) == {"vivo": [{"1": "a dog"}]}
    with pytest.raises(UserError, match="its evaluation pictures are not those of"):
        rows_of_demo(tmp_path / "ours", tmp_path / "other", 2)


def test_tables_and_picture_of_captions_that_came_back_without_weights(source: Path, tmp_path: Path):
    """Two seeds of one variant, one of another; nothing is trained, nothing captioned."""
    of = Photographs(source, tmp_path / "out")
    prepare(of)
    truth = {e.image_id: e.captions for e in of.split("test")}
    copied = of.training_captions()[0]
    for name, seed, number in (("frozen", 0, 0), ("frozen", 1, 1), ("half_encoder", 1, 2)):
        rows = [{"image_id": i, "caption": texts[number], "score": 0.0} for i, texts in truth.items()]
        of.run(name, seed).mkdir(parents=True)
        write_predictions(captions_file(of, name, [seed]), rows, {})
    for beam in BEAMS:  # of seed 1 alone: the curve is of seeds that have all widths
        if beam != 3:
            rows = [{"image_id": i, "caption": copied, "score": 0.0} for i in truth]
            write_predictions(captions_file(of, "frozen", [1], beam), rows, {})
    tables = {table.title: table for table in photograph_tables(of, range(3), meteor=False)}
    by_start = {title[:3]: table for title, table in tables.items()}
    assert set(by_start) == {"Pho", "(c)", "(e)", "Wid"}  # no difference: joint is not there
    assert [row[:2] for row in by_start["Pho"].rows] == [
        ("frozen encoder (phase 1)", "2"),
        ("frozen encoder cut after 8 of its 16 blocks", "1"),
    ]
    strength, width = by_start["(e)"], by_start["Wid"]
    assert strength.labels == ("half", "whole") and width.title.endswith("seeds 1")
    assert [row[0] for row in width.rows] == list("1234567")
    assert width.values[2][1].value > width.values[0][1].value  # a true caption, and always the same one
    drawn = ElementTree.fromstring(chart([strength, width]))
    circles = [e for e in drawn.iter() if e.tag.endswith("circle")]
    assert len(circles) == 2 * 2 + 2 * 7
    heights = [float(e.get("cy", "")) for e in circles[4:11]]  # BLEU-4 by width: higher is further up
    assert heights.index(min(heights)) == 2


@pytest.mark.slow
def test_the_program_trains_captions_and_writes_the_page(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vivo.experiment.recurrent_photographs.BEAMS", (2, 3))  # each width is a captioning
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    command = [
        "--out",
        str(tmp_path / "out"),
        "--photographs",
        str(source),
        "--quick",
        "3",
        "--no-meteor",
        "--seeds",
        "2",
    ]
    assert claims([*command, "--only", "frozen", "joint", "half_encoder", "--docs", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Page\n") and text.endswith(f"{END}\n\nafter\n") and "old" not in text
    for words in ("| frozen encoder (phase 1) | 2 |", "(a) phase 2 minus phase 1", "ensemble of 2 minus one",
                  "(c) Captions that are not", "(e) A better encoder", "| 3 | ", "(f) Copied captions"):  # fmt: skip
        assert words in text, words
    assert "from the start" not in text  # not trained
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")}
    assert len(times) > 10
    assert claims([*command, "--only", "frozen", "joint", "half_encoder"]) == 0  # nothing is trained again
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.safetensors")}
    test = {i for i, *_ in read_caption_file(tmp_path / "out" / "photographs" / "data" / "test.json")}
    told = json.loads((tmp_path / "out" / "photographs" / "joint" / "seed1" / "predictions.json").read_text())
    assert {row["image_id"] for row in told} == test and len(test) == 6
    assert claims([*command, "--only", "nothing"]) == 2
    assert claims(["--out", str(tmp_path / "x")]) == 2
    with pytest.raises(UserError, match="is of split 'dev', not train, val, test"):
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "captions.json").write_text((source / "captions.json").read_text().replace('"val"', '"dev"'))
        prepare(Photographs(broken, tmp_path / "y"))


@pytest.mark.slow
def test_show_and_tell_is_a_row_of_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tiny: none, VIVO and Show and Tell on one world, in one table; then the tables of the claims."""
    size = replace(SIZES["tiny"], open_images=60, coco=32, coco_val=4, nocaps=24, pretrain_steps=2, finetune_steps=2)
    monkeypatch.setitem(SIZES, "tiny", size)
    out = tmp_path / "out"
    assert claims(["--out", str(out), "--world", "--quick", "1", "--seeds", "1"]) == 0
    results = json.loads((out / "world" / "results.json").read_text())
    names = ["none", "vivo", "Show and Tell", "Show and Tell, frozen encoder"]
    assert [row["name"] for row in results["rows"]] == names
    assert "vivo - Show and Tell" in results["differences"]
    assert any("names no novel object" in claim["claim"] for claim in results["claims"])
    assert "Show and Tell" in (out / "world" / "report.html").read_text()
    text = (out / "claims.md").read_text()
    assert "(d) Colours on the world" in text and "| Show and Tell, frozen encoder | " in text
    run = out / "world" / "rows" / "Show_and_Tell" / "seed0"
    assert (run / "frozen" / "model").is_dir() and (run / "finetune" / "model" / "ATTRIBUTION.txt").is_file()
