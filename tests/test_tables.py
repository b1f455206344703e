"""Tables of validations: what is in the file, what W&B is shown, and the boxes on the pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_training import config_for
from wandb_records import stretches

from vivo.cli import main
from vivo.config import load_config
from vivo.data.examples import read_tag_examples, write_caption_examples
from vivo.data.held_out import hold_out
from vivo.data.region_format import sha256_of
from vivo.data.region_tools import subset_store
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.types import CaptionExample, Regions, TagExample
from vivo.errors import UserError
from vivo.training.checkpoint import newest_checkpoint
from vivo.training.runs import finetune, pretrain
from vivo.training.tables import TableWriter, cut_tables, draw_boxes, list_tables, read_table, table_path
from vivo.training.tracking import read_records


def regions_of(boxes: list[list[float]], labels: list[str], scores: list[float]) -> Regions:
    features = np.zeros((len(labels), 4), np.float16)
    return Regions(np.array(boxes, np.float32), features, labels, np.array(scores, np.float32), 960, 480)


def test_boxes_are_drawn_where_they_are():
    """A white picture of 960 x 480, drawn at half the size: lines at half the coordinates, nothing elsewhere."""
    white = Image.new("RGB", (960, 480), "white")
    drawn = draw_boxes(white, regions_of([[200, 200, 600, 400], [0, 0, 960, 480]], ["dog", ""], [0.9, 0.0]))
    assert drawn.size == (480, 240) and white.getpixel((200, 300)) == (255, 255, 255)
    pixels = np.asarray(drawn).astype(int)
    red, grey = np.array([0xE6, 0x19, 0x4B]), np.array([0x80] * 3)
    assert (pixels[150, [100, 101, 298, 299]] == red).all() and (pixels[[198, 199], 200] == red).all()
    assert (pixels[120, [0, 479]] == grey).all()
    assert (pixels[110:190, 110:290] == 255).all() and (pixels[210:235, 5:470] == 255).all()
    assert (pixels[88:100, 100:130] == red).all(axis=2).mean() > 0.3  # the name above the box


def test_a_table_says_what_it_was_given(tmp_path: Path):
    with RegionStoreWriter(tmp_path / "store", {"name": "d"}, 4) as writer:
        writer.write("a/1", regions_of([[0, 0, 100.04, 100]], ["dog"], [0.5]))
        writer.write("a:1", regions_of([[0, 0, 10, 10]], [""], [0.0]))
    store = RegionStore(tmp_path / "store")
    (tmp_path / "pictures").mkdir()
    for name in ("one.png", "two.png"):
        Image.new("RGB", (960, 480)).save(tmp_path / "pictures" / name)
    table = TableWriter(tmp_path, store, {"a/1": "one.png", "a:1": "two.png"}, str(tmp_path / "pictures"))
    tags, captions = {"a/1": ["dog"], "a:1": []}, {"a/1": "a dog", "a:1": ""}
    path = table.write(75, ["a/1", "a:1"], tags, captions, {"a/1": ["a dog.", "one dog"], "a:1": ["grass"]})
    rows, pictures = read_table(path)
    assert path == table_path(tmp_path, 75) and [r["image_id"] for r in rows] == ["a/1", "a:1"]
    assert rows[0] | {"picture": ""} == {
        "image_id": "a/1", "picture": "", "width": 960, "height": 480, "tags": ["dog"], "predicted_tags": [],
        "boxes": [{"box": [0.0, 0.0, 100.0, 100.0], "label": "dog", "score": 0.5}],
        "caption": "a dog", "references": ["a dog.", "one dog"],
    }  # fmt: skip
    assert len({r["picture"] for r in rows}) == 2  # ids that would have the same file name
    assert all((pictures / r["picture"]).is_file() for r in rows)

    table.write(150, ["a/1"], tags)
    assert [step for step, _ in list_tables(tmp_path)] == [75, 150]
    cut_tables(tmp_path, 75)
    assert [step for step, _ in list_tables(tmp_path)] == [75]
    with pytest.raises(UserError, match=r"data.validation_pictures: there is no three.png in .*\(picture a/1\)"):
        TableWriter(tmp_path, store, {"a/1": "three.png"}, str(tmp_path / "pictures"))


def test_pictures_are_held_out_by_their_id():
    examples = [TagExample(f"{n:04d}", []) for n in range(2000)]
    kept, out = hold_out(examples, 0.1)
    assert len(kept) + len(out) == 2000 and 150 < len(out) < 250
    assert [e.image_id for e in out] == [out[n].image_id for n in range(len(out))]
    assert {e.image_id for e in out} == {e.image_id for e in hold_out(examples[::-1], 0.1)[1]}
    assert {e.image_id for e in out} < {e.image_id for e in hold_out(examples, 0.2)[1]}
    assert hold_out(examples, 0.0) == (examples, [])


def test_validation_wants_something_to_validate(tmp_path: Path):
    base = ["init=random", "data.regions=r", "data.examples=e", "optim.duration=1step"]
    (tmp_path / "c.yaml").write_text("seed: 0\n")
    load_config(tmp_path / "c.yaml", [*base, "tracking.validate_every=1step", "data.validation_share=0.1"])
    captions, pairs = "objective=captions", ["data.pairs=p", "objective=pairs"]
    for changes, message in (
        ([], 'needs data.validation_share with objective "tags"'),
        (["data.validation_regions=r"], "needs data.validation_share"),  # would be read by nobody
        (["objective=both", "data.pairs=p"], 'needs data.validation_share with objective "both"'),
        ([captions, "data.validation_regions=r"], "needs data.validation_regions and data.validation_references"),
        (pairs, 'objective "pairs" has no validation; leave it out'),
    ):
        with pytest.raises(UserError, match=f"tracking.validate_every: .*{message}"):
            load_config(tmp_path / "c.yaml", [*base, "tracking.validate_every=1step", *changes])
    with pytest.raises(UserError, match='"tags" and "both"; leave it out'):
        load_config(tmp_path / "c.yaml", [*base, *pairs, "data.validation_share=0.1"])
    with pytest.raises(UserError, match="give data.validation_references"):
        load_config(tmp_path / "c.yaml", [*base, captions, "data.validation_share=0.1"])


@pytest.mark.slow
def test_pre_training_is_validated_on_held_out_pictures(tiny_world: Path, tmp_path: Path, monkeypatch):
    """The held-out pictures are not trained on; tables come with pixels; what W&B shows is the file's."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    pictures = tiny_world / "world" / "open_images" / "images"
    pretrain(config_for(
        tiny_world, tmp_path, "tags", "optim.duration=4steps", "optim.warmup=1step", "optim.batch_size=16",
        "data.validation_share=0.2", "tracking.validate_every=2steps", f"data.validation_pictures={pictures}",
        "tracking.wandb=offline",
    ))  # fmt: skip
    records = [r for r in read_records(tmp_path / "metrics.jsonl") if "validation_loss" in r]
    assert [r["step"] for r in records] == [2, 4] and records[1]["validation_loss"] < records[0]["validation_loss"]
    assert records[1]["pictures"] == 64.0
    examples = list(read_tag_examples(tiny_world / "examples" / "tags.jsonl"))
    held = hold_out(examples, 0.2)[1]
    rows, folder = read_table(table_path(tmp_path, 4))
    assert [r["image_id"] for r in rows] == [e.image_id for e in held][:32]
    assert all(len(r["predicted_tags"]) <= len(r["tags"]) and r["boxes"] for r in rows)
    assert all((folder / r["picture"]).is_file() for r in rows)

    (stretch,) = stretches(tmp_path)
    assert stretch.rows[4]["validation_table"]["nrows"] == len(rows)
    assert stretch.config["inputs"] == json.loads((tmp_path / "inputs.json").read_text())
    assert stretch.config["inputs"]["examples"]["sha256"] == sha256_of(tiny_world / "examples" / "tags.jsonl")
    (shown,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/validation_table_4_*.table.json")
    table = json.loads(shown.read_text())
    place = {name: n for n, name in enumerate(table["columns"])}
    for row, line in zip(rows, table["data"], strict=True):
        assert line[place["image_id"]] == row["image_id"] and line[place["tags"]] == ", ".join(row["tags"])
        assert line[place["picture"]] == "Image"  # the pixels are in the table's artifact
    last = stretch.artifacts[-1]
    sent = {path.split("/")[-1]: file for path, file in last.items() if path.startswith("media/images/")}
    assert set(sent) == {r["picture"] for r in rows}
    for r in rows:
        assert sent[r["picture"]].read_bytes() == (folder / r["picture"]).read_bytes()


@pytest.mark.slow
def test_held_out_pictures_are_not_among_the_pairs(tiny_world: Path, tmp_path: Path):
    """Objective "both" with captions of the very pictures that have tags: the store of the pairs lacks the held-out
    ones, so a run that wanted one of them would be refused."""
    tags = list(read_tag_examples(tiny_world / "examples" / "tags.jsonl"))
    kept, held = hold_out(tags, 0.2)
    assert len(held) > 5
    pairs = [CaptionExample(e.image_id, "", ["a picture"]) for e in tags]
    write_caption_examples(pairs, tmp_path / "pairs.jsonl")
    regions = tiny_world / "regions" / "open_images"
    subset_store(regions, tmp_path / "without", [e.image_id for e in kept])
    both = [
        "objective=both", f"data.pairs={tmp_path / 'pairs.jsonl'}", f"data.pairs_regions={tmp_path / 'without'}",
        "optim.duration=2steps", "optim.warmup=1step", "optim.batch_size=8",
    ]  # fmt: skip
    with pytest.raises(UserError, match=f"{len(held)} of {len(tags)} examples have none"):
        pretrain(config_for(tiny_world, tmp_path / "all", "tags", *both))
    validated = ["data.validation_share=0.2", "tracking.validate_every=1step", "tracking.save_every=1step"]
    pretrain(config_for(tiny_world, tmp_path / "run", "tags", *both, *validated))
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "validation_loss" in r]
    assert [r["step"] for r in records] == [1, 2]
    shown, _ = read_table(table_path(tmp_path / "run", 2))
    assert [r["image_id"] for r in shown] == [e.image_id for e in held][:32]
    saved = newest_checkpoint(tmp_path / "run" / "checkpoints", print)
    assert saved is not None and saved.run["number of pictures"] == 2 * len(kept)

    write_caption_examples([CaptionExample(e.image_id, "", ["a picture"]) for e in held], tmp_path / "pairs.jsonl")
    with pytest.raises(UserError, match="data.validation_share holds out all of its pictures"):
        pretrain(config_for(tiny_world, tmp_path / "none", "tags", *both, *validated))


@pytest.mark.slow
def test_captions_in_a_table_and_replayed(tiny_world: Path, tmp_path: Path):
    references = tiny_world / "world" / "coco" / "captions_val.json"
    finetune(config_for(
        tiny_world, tmp_path, "captions", "init=minilm", "optim.duration=2steps", "optim.warmup=1step",
        "optim.batch_size=4", "tracking.validate_every=2 steps", f"data.validation_references={references}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
    ))  # fmt: skip
    rows, _ = read_table(table_path(tmp_path, 2))
    assert len(rows) == 8 and all(len(r["references"]) >= 1 and r["picture"] == "" for r in rows)
    assert main(["sync", str(tmp_path), "--offline"]) == 0
    (stretch,) = stretches(tmp_path)
    assert stretch.rows[2]["validation_table"]["nrows"] == 8
    (shown,) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/*.table.json")
    table = json.loads(shown.read_text())
    caption = table["columns"].index("caption")
    assert [line[caption] for line in table["data"]] == [r["caption"] for r in rows]
