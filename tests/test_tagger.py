"""The tagger: hand-computed scores, training on pairs with a known answer, and the program on real stores."""

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from vivo.data.regions import RegionStore, RegionStoreWriter, fingerprint_of
from vivo.data.tag_source import read_tag_file
from vivo.data.types import Regions
from vivo.detectors.base import load_detector
from vivo.detectors.tagger import LEARNED_FROM, TaggedDetector, Tagger, average_precision, fit_classes, fit_mixing
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FEATURES, NAMES = 6, ["cat", "dog", "tree"]
DESCRIPTION = {"name": "made", "version": 1}


def regions_of(features: np.ndarray) -> Regions:
    count = len(features)
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (count, 1))
    return Regions(boxes, features.astype(np.float16), [""] * count, np.zeros(count, np.float32), 10, 10)


def tagger(**more) -> Tagger:
    """Feature k says class k: logit = 2 * feature - 1."""
    weight = torch.zeros(FEATURES, 3)
    weight[[0, 1, 2], [0, 1, 2]] = 2.0
    values = dict(class_names=NAMES, weight=weight, bias=-torch.ones(3), mixing=torch.tensor([1.0, 0.5, 0.25]))
    return Tagger(**(values | {"fingerprint": fingerprint_of(DESCRIPTION)} | more))


def test_scores_by_hand():
    features = np.zeros((3, FEATURES), np.float32)
    features[0, 1], features[1, 2], features[2, 1] = 3, 1, 1  # cells: dog 5, tree 1; whole: dog 1, others -1
    dog, tree, cat = 1 + 2.5 + 0.25, -1 + 0.5 + 0.25, -1 - 0.5 + 0.25
    expected = 1 / (1 + np.exp(-np.array([cat, dog, tree])))
    found = tagger()
    np.testing.assert_allclose(found.probabilities(torch.from_numpy(features)).numpy(), expected, rtol=1e-5)
    tags = found.tags(regions_of(features))
    assert [name for name, _ in tags] == ["dog", "tree", "cat"]
    np.testing.assert_allclose([score for _, score in tags], sorted(expected, reverse=True), rtol=1e-5)
    assert [name for name, _ in tagger(min_score=0.4).tags(regions_of(features))] == ["dog", "tree"]
    assert [name for name, _ in tagger(max_tags=1).tags(regions_of(features))] == ["dog"]
    labelled = tagger(min_score=0.4).label(regions_of(features))
    assert labelled.labels == ["dog", "tree", ""] and labelled.scores[0] == pytest.approx(expected[1], rel=1e-5)
    everything = tagger(min_score=0.0).label(regions_of(features))
    assert everything.labels == ["dog", "tree", "cat"]  # more tags than cells: the last is at the whole picture
    assert tagger(min_score=0.0).label(regions_of(features[2:])).labels == ["dog"]


def test_average_precision_by_hand():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    targets = torch.tensor([[True, False], [False, False], [True, False]])
    assert average_precision(scores, targets) == pytest.approx((1 + 2 / 3) / 2)  # a class without pictures is left out


def test_regression_is_the_optimum():
    generator = torch.Generator().manual_seed(0)
    wholes = torch.randn(400, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.2]) + 3
    targets = torch.rand(400, 2, generator=generator) < (wholes[:, :2] - 3).sigmoid()
    weight, bias = fit_classes(wholes, targets, decay=0.1, steps=400)
    # The gradient of loss + decay * |standardised weight|^2, by the formula, is zero there.
    mean, spread = wholes.mean(0), wholes.std(0, unbiased=False) + 1e-3
    inputs = (wholes - mean) / spread
    error = (wholes @ weight + bias).sigmoid() - targets.float()
    assert (inputs.T @ error / 400 + 0.2 * weight * spread[:, None]).abs().max() < 2e-3
    assert error.mean(0).abs().max() < 2e-3
    again = fit_classes(wholes, targets, decay=0.1, steps=400)
    assert torch.equal(weight, again[0]) and torch.equal(bias, again[1])


def test_mixing_finds_what_made_the_targets():
    generator = torch.Generator().manual_seed(0)
    whole, cell = (torch.randn(20_000, 2, generator=generator) for _ in range(2))
    targets = torch.rand(20_000, 2, generator=generator) < (1.5 * whole + 0.5 * cell - 1).sigmoid()
    np.testing.assert_allclose(fit_mixing(whole, cell, targets).numpy(), [1.5, 0.5, -1.0], atol=0.06)


def test_saved_tagger_is_the_same(tmp_path: Path):
    first = tagger(notes={"measured": 1})
    first.save(tmp_path)
    again = Tagger.load(tmp_path)
    assert again.class_names == NAMES and again.notes == {"measured": 1} and torch.equal(again.weight, first.weight)
    (tmp_path / "tagger.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="train it again"):
        Tagger.load(tmp_path)
    with pytest.raises(UserError, match="missing"):
        Tagger.load(tmp_path / "none")


def test_tagged_grid(tmp_path: Path):
    grid = load_detector("grid:scales=96x2,device=cpu")
    torch.manual_seed(0)
    made = tagger(
        weight=torch.randn(1280, 3), bias=torch.zeros(3), fingerprint=fingerprint_of(grid.fingerprint()), min_score=0.0
    )
    made.save(tmp_path / "tagger")
    tagged = load_detector(f"grid:scales=96x2,device=cpu,tagger={tmp_path / 'tagger'}")
    assert tagged.class_names == NAMES and tagged.fingerprint() == grid.fingerprint()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    (plain,), (found,) = grid.detect([picture]), tagged.detect([picture])
    np.testing.assert_array_equal(plain.features, found.features)
    assert sorted(filter(None, found.labels)) == NAMES
    tagged.save_pretrained(tmp_path / "saved")
    assert load_detector(tmp_path / "saved").detect([picture])[0].labels == found.labels
    with pytest.raises(UserError, match="probable reason"):
        TaggedDetector(load_detector("grid:scales=64x2,device=cpu"), made)


# -------------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tagger", ROOT / "pretrain" / "train_tagger.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two stores, of 160 training and 20 other pictures; a class shows in the whole picture or in one cell only."""
    rng = np.random.default_rng(3)
    lines = []
    for store, count in (("train", 160), ("other", 20)):
        with RegionStoreWriter(tmp_path / store, DESCRIPTION, FEATURES, 64) as writer:
            for number in range(count):
                shown = rng.random(3) < 0.4
                features = rng.normal(0, 0.3, (5, FEATURES))
                features[rng.integers(4), :3] += 3 * shown
                features[-1] = features[:-1].mean(0)
                writer.write(f"{store}{number}", regions_of(features))
                names = [name.upper() for name, is_there in zip(NAMES, shown, strict=True) if is_there]
                if store == "train":
                    lines.append({"image_id": f"train{number}", "tags": [*names, *(["rare"] if number < 5 else [])]})
                else:
                    with (tmp_path / "truth.jsonl").open("a") as file:
                        file.write(json.dumps({"image_id": f"other{number}", "tags": names}) + "\n")
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return tmp_path


def run(program: ModuleType, data: Path, out: str, *more: str) -> int:
    stores = ["--regions", str(data / "train"), str(data / "other")]
    return program.main([*stores, "--tags", str(data / "tags.jsonl"), "--out", str(data / out), *more])


def test_program_learns_and_writes_tags(program: ModuleType, data: Path, capsys: pytest.CaptureFixture):
    assert run(program, data, "out") == 0
    assert "180 pictures" in capsys.readouterr().out
    full = Tagger.load(data / "out")
    assert sorted(full.class_names) == NAMES  # "rare" is on too few pictures, capitals are one name
    assert full.notes["held-out mean average precision"] > 0.9 and full.fingerprint == fingerprint_of(DESCRIPTION)
    given = read_tag_file(data / "out" / "tags.jsonl")
    given.check([f"train{i}" for i in range(160)] + [f"other{i}" for i in range(20)])
    truth = [json.loads(line) for line in (data / "truth.jsonl").read_text().splitlines()]
    right = sum(set(given(t["image_id"], [], None)) == {tag.lower() for tag in t["tags"]} for t in truth)
    assert right >= 12  # of 20; all three classes right, by chance about 3
    for line in (data / "out" / "tag_scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores = [tag["score"] for tag in row["tags"]]
        assert [tag["name"] for tag in row["tags"]] == given(row["image_id"], [], None)
        assert scores == sorted(scores, reverse=True) and all(0.15 <= score <= 1 for score in scores)
    assert run(program, data, "again") == 0
    for file in ("tags.jsonl", "tag_scores.jsonl", "tagger.json", "tagger.safetensors"):
        assert (data / "again" / file).read_bytes() == (data / "out" / file).read_bytes()


def test_training_pictures_are_tagged_out_of_fold(program: ModuleType, data: Path):
    """Tags drawn by lot can be learned by heart, not foreseen: held-out tags must be no better than chance."""
    rng = np.random.default_rng(0)
    rows = [json.loads(line) for line in (data / "tags.jsonl").read_text().splitlines()]
    for row in rows:
        row["tags"] = [NAMES[int(rng.integers(3))]]
    (data / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert run(program, data, "out", "--min-score", "0", "--max-tags", "1", "--decay", "0") == 0
    given = read_tag_file(data / "out" / "tags.jsonl")
    right = np.mean([given(row["image_id"], [], None) == row["tags"] for row in rows])
    assert right < 0.45  # chance is 1 in 3; the standard error 0.037

    # and a fold's model does not depend on that fold's tags: other tags of one fold leave its pictures' logits alone
    fold = [program.fold_of(row["image_id"], 5, 0) == 2 for row in rows]
    wholes, folds = torch.randn(160, FEATURES), torch.tensor([program.fold_of(r["image_id"], 5, 0) for r in rows])
    targets = program.targets_of([set(row["tags"]) for row in rows], NAMES)
    other = targets.clone()
    other[torch.tensor(fold)] = ~other[torch.tensor(fold)]
    (a, _), (b, _) = (program.train(wholes, t, folds, tagger(), 0.1, 0) for t in (targets, other))
    assert torch.equal(a[2].weight, b[2].weight) and not torch.equal(a[1].weight, b[1].weight)


def test_equal_pictures_are_in_one_fold(program: ModuleType, data: Path):
    """A twin of a training picture under another id is tagged by the model that has seen neither.

    Tags are drawn by lot: no model is sure of any, so that scores of two models differ.
    """
    rng = np.random.default_rng(0)
    lot = [{"image_id": f"train{number}", "tags": [NAMES[int(rng.integers(3))]]} for number in range(160)]
    (data / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lot), encoding="utf-8")
    with RegionStoreWriter(data / "more", DESCRIPTION, FEATURES, 64) as writer:
        writer.write("twin", RegionStore(data / "train")["train0"])
    contents = {f"train{number}": f"content{number}" for number in range(160)} | {"twin": "content0"}
    contents["train1"] = "content0"
    rows = [json.dumps({"image_id": image_id, "sha256": content}) + "\n" for image_id, content in contents.items()]
    more = ("--regions", str(data / "train"), str(data / "more"), "--min-score", "0")
    scores = {}
    for name in ("by_id", "by_content"):
        assert run(program, data, name, *more) == 0
        (data / "pictures.jsonl").write_text("".join(rows), encoding="utf-8")  # beside the tags: found from now on
        lines = (data / name / "tag_scores.jsonl").read_text().splitlines()
        scores[name] = {row["image_id"]: row["tags"] for row in map(json.loads, lines)}
    assert scores["by_content"]["twin"] == scores["by_content"]["train0"]
    assert scores["by_id"]["twin"] != scores["by_id"]["train0"]
    notes = Tagger.load(data / "by_content").notes
    assert notes["folds by"] == "content" and Tagger.load(data / "by_id").notes["folds by"] == "id"
    assert notes[LEARNED_FROM] == hashlib.sha256((data / "tags.jsonl").read_bytes()).hexdigest()
    assert notes["stores"] == [f"{n} pictures of detector {fingerprint_of(DESCRIPTION)}" for n in (160, 1)]


def test_regions_without_the_whole_picture_are_refused(program: ModuleType, data: Path, capsys: pytest.CaptureFixture):
    """Boxes of a detector: the tagger would read the least sure one as the whole picture."""
    store = RegionStore(data / "train")
    with RegionStoreWriter(data / "boxes", DESCRIPTION, FEATURES, 64) as writer:
        for image_id in store:
            boxes = store[image_id].boxes.copy()
            boxes[-1, 2] = 6 if image_id == "train7" else 10
            writer.write(image_id, replace(store[image_id], boxes=boxes))
    arguments = ["--regions", str(data / "boxes"), "--tags", str(data / "tags.jsonl"), "--out", str(data / "out")]
    assert program.main(arguments) == 2
    error = capsys.readouterr().err
    assert "boxes, picture 'train7': the last region is not the whole picture" in error and error.count("\n") == 1
    assert "--detector grid" in error and not (data / "out").exists()


def test_bad_input_is_one_line(program: ModuleType, data: Path, capsys: pytest.CaptureFixture):
    with (data / "tags.jsonl").open("a") as file:
        file.write(json.dumps({"image_id": "nobody", "tags": ["cat"]}) + "\n")
    assert run(program, data, "out") == 2
    message = capsys.readouterr().err
    assert "example 161" in message and "'nobody'" in message and message.count("\n") == 1
    (data / "tags.jsonl").write_text(json.dumps({"image_id": "train0", "tags": ["cat"]}) + "\n", encoding="utf-8")
    assert run(program, data, "out") == 2 and "--min-pictures" in capsys.readouterr().err
    assert run(program, data, "out", "--min-pictures", "1") == 2 and "too few" in capsys.readouterr().err
    assert run(program, data, "out", "--folds", "1") == 2
    with RegionStoreWriter(data / "foreign", {"name": "x"}, FEATURES, 64) as writer:
        writer.write("a", regions_of(np.ones((1, FEATURES))))
    arguments = ["--regions", str(data / "train"), str(data / "foreign"), "--tags", str(data / "tags.jsonl")]
    assert program.main([*arguments, "--out", str(data / "out")]) == 2
    assert "probable reason" in capsys.readouterr().err and not (data / "out").exists()
