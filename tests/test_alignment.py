"""Which region goes with which tag: hand cases, and models asked in another way."""

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vivo.alignment import (
    Aligner,
    Alignment,
    ObjectBoxes,
    grounding,
    hits_of,
    one_region,
    sums_of,
    tag_spans,
    whole_pictures,
)
from vivo.data.collate import ContextCollator, Limits, TagCollator
from vivo.data.nocaps import read_pictures
from vivo.data.open_images import Box
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.text import TagPieces, load_tokenizer
from vivo.data.types import Regions
from vivo.errors import UserError
from vivo.metrics.grounding import TagSums, cosines, on_object, tag_sums
from vivo.modeling import VivoConfig, VivoForTagPretraining
from vivo.report.alignment_figure import Panel, alignment_svg
from vivo.training.checkpoint import save_model
from vivo.weights import bert_folder

TAGS = ["dog", "teddy bear", "cat", "ice cream cone", "red"]
DETECTOR = {"name": "made for tests"}


def some_regions(count: int, seed: int, size: int = 6) -> Regions:
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.integers(0, 80, (count, 2, 2)), axis=1).reshape(count, 4) + np.array([0, 0, 9, 9])
    features = generator.normal(size=(count, size)).astype(np.float16)
    return Regions(corners.astype(np.float32), features, [""] * count, np.ones(count, np.float32), 100, 90)


def make_model(folder: Path, seed: int, tokenizer, fingerprint: str, size: int, **changes) -> Path:
    """A model of random weights that says it was trained."""
    torch.manual_seed(seed)
    config = VivoConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        feature_size=size, region_fingerprint=fingerprint, max_tag_tokens=12, pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id, **{"training_stage": "tags"} | changes,
    )  # fmt: skip
    model = VivoForTagPretraining(config)
    with torch.no_grad():  # the usual small start makes everything alike
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    save_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(bert_folder("minilm"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RegionStore:
    path = tmp_path_factory.mktemp("alignment") / "store"
    with RegionStoreWriter(path, DETECTOR, 6) as writer:
        for n in range(4):
            writer.write(str(n), some_regions(n + 1, n))
    return RegionStore(path)


@pytest.fixture(scope="module")
def folder(tokenizer, store: RegionStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m", 0, tokenizer, store.fingerprint, 6)


# Numbers by hand


def test_cosines_by_hand():
    found = cosines(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [-3.0, -4.0], [0.0, 2.0]]))
    assert found == pytest.approx(np.array([[24 / 25, -1.0, 0.8], [0.0, 0.0, 0.0]]))


def test_sums_by_hand():
    """Tag 1: best is region 0, on its object. Tag 2: the whole picture is best, and not on it. Tag 3: nothing is."""
    fit = np.array([[0.9, 0.2, 0.3], [0.1, 0.4, 0.5], [0.3, 0.1, 0.2]])
    hits = np.array([[True, True, False], [False, True, False], [False, False, False]])
    sums = tag_sums(fit, hits, np.array([False, False, True]))
    assert (sums.tags, sums.grounded, sums.possible, sums.whole, sums.contrasted) == (3, 1, 2, 1, 2)
    assert sums.chance == pytest.approx(2 / 3 + 1 / 3)
    assert sums.margin == pytest.approx((0.55 - 0.3) + (0.4 - 0.3))
    seeds = [[sums, TagSums()], [TagSums(tags=3), TagSums(tags=1, grounded=1)]]
    found = {name: float(stat(np.ones((1, 2)))[0]) for name, stat in grounding([seeds[0], seeds[0]]).items()}
    assert found["grounded"] == pytest.approx(1 / 3) and found["margin"] == pytest.approx(0.35 / 2)
    assert float(grounding(seeds)["grounded"](np.ones((1, 2)))[0]) == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert sums + sums == TagSums(6, 2, 2.0, 4, 2, 4, pytest.approx(0.7))


def test_regions_on_objects_by_hand():
    """A dog in the left half, a group of dogs in the right half of a picture of 100 x 50."""
    objects = ObjectBoxes.of([Box("1", "d", 0, 0, 0.5, 1, False), Box("1", "d", 0.5, 0, 1, 1, True)], 100, 50)
    assert objects.boxes.tolist() == [[0, 0, 50, 50], [50, 0, 100, 50]]
    boxes = [[0, 0, 50, 25], [0, 0, 50, 24], [60, 0, 65, 5], [0, 0, 10, 10], [0, 0, 100, 50], [40, 0, 60, 50]]
    regions = Regions(np.array(boxes, np.float32), np.zeros((6, 1), np.float16), [""] * 6, np.ones(6), 100, 50)
    # half of the dog; less; one dog of the group; a corner of the dog; everything (IoU 1/2); half on the group
    assert hits_of(regions, objects).tolist() == [True, False, True, False, True, True]
    assert whole_pictures(regions).tolist() == [False, False, False, False, True, False]
    assert on_object(np.array([[0.5, 0.0]]), np.array([[0.0, 0.49]]), np.array([False, True])).tolist() == [True]


def test_the_whole_picture_can_be_left_out():
    boxes = np.array([[0, 0, 50, 50], [50, 0, 100, 50], [0, 0, 100, 50]], np.float32)
    regions = Regions(boxes, np.zeros((3, 1), np.float16), [""] * 3, np.ones(3), 100, 50)
    fit = np.array([[0.5, 0.1, 0.9], [0.9, 0.5, 0.1]])
    found = Alignment("1", ["dog", "sky"], regions, fit, fit)
    objects = {"dog": ObjectBoxes.of([Box("1", "d", 0, 0, 0.4, 1, False)], 100, 50)}
    both = sums_of(found, found.cosine, objects)
    assert (both.tags, both.grounded, both.whole) == (1, 0, 1) and both.chance == pytest.approx(1 / 3)
    parts = sums_of(found, found.cosine, objects, parts=True)
    assert (parts.tags, parts.grounded, parts.whole, parts.chance) == (1, 1, 0, 1 / 2)
    alone = Alignment("1", ["dog"], one_region(regions, 2), fit[:1, 2:], fit[:1, 2:])
    assert sums_of(alone, alone.cosine, objects, parts=True).whole == 1, "nothing else is there"


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_bounds_of_grounding(tags: int, regions: int, seed: int):
    generator = np.random.default_rng(seed)
    fit, hits = generator.normal(size=(tags, regions)), generator.random((tags, regions)) < 0.4
    sums = tag_sums(fit, hits, np.zeros(regions, bool))
    assert sums.grounded <= sums.possible <= sums.tags == tags and sums.contrasted <= sums.possible
    assert sums.chance <= sums.possible
    assert tag_sums(hits * 1.0, hits, np.zeros(regions, bool)).grounded == sums.possible, "a perfect measure"
    if sums.contrasted:
        assert tag_sums(-fit, hits, np.zeros(regions, bool)).margin == pytest.approx(-sums.margin)


# The model, asked in another way


@given(st.lists(st.sampled_from([*TAGS, ""]), max_size=9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_spans_are_where_collation_puts_the_tags(tokenizer, tags: list[str], as_text: bool):
    limits = Limits(50, 12, 40, 40, "tags", as_text)
    pieces = TagPieces(tokenizer)
    row = ContextCollator(tokenizer, limits)([("1", tags, some_regions(2, 0))])["tag_ids"][0].tolist()
    spans = tag_spans(tags, pieces, limits)
    for tag, (start, end) in spans.items():
        assert row[start:end] == list(pieces(tag))
    if sum(len(pieces(tag)) for tag in tags) < 12:
        assert set(spans) == set(tags) - {""}


@contextlib.contextmanager
def layer_inputs(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """What each layer reads in the forward passes of the block, in their order."""
    inputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in model.vivo.layers]
    yield inputs
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_cosines_are_those_of_the_layer(folder: Path, store: RegionStore, layer: int | None):
    """Against one picture at a time, with the layer's input taken by a hook."""
    aligner = Aligner(folder, layer)
    pictures = [("2", ["dog", "ice cream cone"]), ("0", []), ("3", ["red", "teddy bear", "dog"])]
    model, collator = aligner.model, ContextCollator(load_tokenizer(folder), aligner.limits)
    for found, (image_id, tags) in zip(aligner(store, pictures), pictures, strict=True):
        assert found.image_id == image_id and found.tags == tags
        with torch.no_grad(), layer_inputs(model) as inputs:
            last = model.encode_context(collator([("", tags, store[image_id])])).hidden[0]
        vectors = [*inputs, last][3 if layer is None else layer].numpy()  # one picture: nothing is padded
        lengths = [len(aligner.pieces(tag)) for tag in tags]
        ends = np.cumsum(lengths, dtype=int)
        told = [vectors[end - n : end].mean(axis=0) for n, end in zip(lengths, ends, strict=True)]
        seen = vectors[sum(lengths) :]
        assert found.cosine.shape == found.reading.shape == (len(tags), len(store[image_id].labels))
        for t, vector in enumerate(told):
            for r, other in enumerate(seen):
                expected = vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)
                assert found.cosine[t, r] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"tag_slots": "caption"}])
def test_readings_are_what_pretraining_predicts(tokenizer, store: RegionStore, tmp_path: Path, changes: dict):
    """Against the pre-training path: its collator masks the only tag of a picture with one region."""
    folder = make_model(tmp_path / "m", 1, tokenizer, store.fingerprint, 6, **changes)
    aligner = Aligner(folder)
    collator = TagCollator(tokenizer, aligner.limits, 0, 1.0, 1.0, 0)
    found = next(aligner(store, [("3", TAGS)]))
    assert found.tags == TAGS
    for t, tag in enumerate(TAGS):
        for r in range(4):
            batch = collator([(0, "", [tag], [], one_region(store["3"], r))])
            with torch.no_grad():
                log_p = aligner.model.tag_logits(batch).log_softmax(-1)
            expected = float(log_p.gather(1, batch["target_ids"][:, None]).sum())
            assert found.reading[t, r] == pytest.approx(expected, abs=1e-4)


def test_many_regions_are_read_in_parts(folder: Path, store: RegionStore, monkeypatch: pytest.MonkeyPatch):
    pictures = [("3", TAGS), ("1", ["cat"]), ("2", ["teddy bear"])]
    whole = list(Aligner(folder)(store, pictures))
    monkeypatch.setattr("vivo.alignment.ROWS", 2)
    monkeypatch.setattr("vivo.alignment.BATCH_SIZE", 1)
    for one, other in zip(whole, Aligner(folder)(store, pictures), strict=True):
        assert one.reading == pytest.approx(other.reading, abs=1e-4)
        assert one.cosine == pytest.approx(other.cosine, abs=1e-5)


def test_a_reading_hangs_on_its_region_alone(folder: Path, tmp_path: Path):
    first, second = some_regions(3, 5), some_regions(3, 5)
    second.features[1:] *= -3
    with RegionStoreWriter(tmp_path / "s", DETECTOR, 6) as writer:
        writer.write("a", first)
        writer.write("b", second)
    one, other = Aligner(folder)(RegionStore(tmp_path / "s"), [("a", TAGS), ("b", TAGS)])
    assert one.reading[:, 0] == pytest.approx(other.reading[:, 0], abs=1e-4)
    assert (np.abs(one.reading[:, 1:] - other.reading[:, 1:]).max(axis=0) > 0.1).all()
    assert np.abs(one.cosine[:, 0] - other.cosine[:, 0]).max() > 1e-2, "together, regions see each other"


def test_what_is_refused(tokenizer, folder: Path, store: RegionStore, tmp_path: Path):
    with pytest.raises(UserError, match="layer 4: .* has layers 1 to 3"):
        Aligner(folder, 4)
    with pytest.raises(UserError, match="was never trained"):
        Aligner(make_model(tmp_path / "m", 0, tokenizer, store.fingerprint, 6, training_stage=""))
    other = make_model(tmp_path / "o", 0, tokenizer, "0123456789abcdef", 6)
    with pytest.raises(UserError, match="expects features"):
        next(Aligner(other)(store, [("1", ["dog"])]))


# The figure and the program


def test_figure(tmp_path: Path):
    Image.new("RGB", (100, 90), "ivory").save(tmp_path / "p.jpg")
    regions = some_regions(3, 1)
    values = np.array([[0.2, 0.7, 0.5], [0.9, 0.1, 0.3]])
    hits = np.array([[False, True, False], [False, False, False]])
    tags = ["<b>dog & co", "cat"]
    panels = [Panel(name, m, tags, values, hits) for name in ("vivo", "none") for m in ("cosine", "reading")]
    svg = alignment_svg(tmp_path / "p.jpg", regions, panels)
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("<b>dog & co") == 4 and texts.count("vivo") == 2 and texts.count("0.90") == 4
    assert texts.count("cosine of the outputs, 0.10 to 0.90") == 2
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 4, "one region on an object, in four matrices"
    assert len(re.findall('stroke="#111"', svg)) == 8, "the best region of two tags, in four matrices"
    assert len(re.findall('fill="none" stroke="#(?!111)', svg)) == 3, "boxes"
    width, height = int(root.get("width")), int(root.get("height"))
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        x, y = map(float, re.findall(r"[\d.]+", group.get("transform")))
        for cell in group.iter("{http://www.w3.org/2000/svg}rect"):
            assert x + float(cell.get("x")) + float(cell.get("width")) <= width
            assert y + float(cell.get("y")) + float(cell.get("height")) <= height


def program() -> ModuleType:
    """eval/alignment.py as a module; the folder is no package."""
    path = Path(__file__).parents[1] / "eval" / "alignment.py"
    spec = importlib.util.spec_from_file_location("eval_alignment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_program_on_the_tiny_world(tiny_world: Path, tokenizer, tmp_path: Path, capsys):
    """Two models of random weights: what is written adds up, picture by picture."""
    world, store = tiny_world / "world", RegionStore(tiny_world / "regions" / "nocaps")
    models = [make_model(tmp_path / f"m{n}", n, tokenizer, store.fingerprint, store.feature_size) for n in range(3)]
    validation = world / "nocaps" / "validation-annotations"
    given = ["--model", f"a={models[0]}", "--model", f"a={models[1]}", "--model", f"b={models[2]}",
             "--regions", str(store.path), "--references", str(world / "nocaps" / "nocaps_val_captions.json"),
             "--boxes", f"{validation}-bbox.csv", "--labels", f"{validation}-human-imagelabels.csv",
             "--descriptions", str(world / "open_images" / "class-descriptions.csv"), "--resamples", "20"]  # fmt: skip
    drawn = ["--pictures", str(world / "nocaps" / "images"), "--figures", str(tmp_path / "figures"), "--show", "2"]
    out = ["--out", str(tmp_path / "a.json"), "--classes", str(world / "classes.json")]
    assert program().main([*given, *out, *drawn]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    pictures = json.loads((tmp_path / "a.pictures.json").read_text())
    assert list(pictures) == [e.image_id for e in read_pictures(world / "nocaps" / "nocaps_val_captions.json")]
    counts = found["facts"]["boxed tags"]
    assert counts["overall"] == counts["in"] + counts["out"] and 0 < counts["out_unknown"] < counts["out"]
    for measure in ("cosine", "reading"):
        grounded = [row[measure]["grounded"] for of in pictures.values() for row in of["b"]]
        boxed = [value for value in grounded if value is not None]
        assert len(boxed) == counts["overall"] < len(grounded)
        assert found["statistics"][f"b, {measure}"]["overall"]["grounded"]["value"] == pytest.approx(np.mean(boxed))
        values = {key: found["statistics"][key]["overall"]["margin"]["value"]
                  for key in (f"a, {measure}", f"b, {measure}", f"a - b, {measure}")}  # fmt: skip
        assert values[f"a - b, {measure}"] == pytest.approx(values[f"a, {measure}"] - values[f"b, {measure}"])
    drawings = sorted((tmp_path / "figures").iterdir())
    assert len(drawings) == 2 and all(ElementTree.parse(path) for path in drawings)
    assert "unknown to the detector" in capsys.readouterr().out
    detector = ["--tags", "detector", "--labels", "", "--parts", "--layer", "1", "--out", str(tmp_path / "d.json")]
    assert program().main([*given[4:], *detector]) == 0, "one model, no classes, no figures"
    found = json.loads((tmp_path / "d.json").read_text())
    assert list(found["statistics"]) == ["b, cosine", "b, reading"]
    assert found["facts"]["tags"] == "detector" and found["facts"]["layer"] == 1
    assert (
        found["statistics"]["b, reading"]["overall"]["whole"]["value"] == 0.0 < found["facts"]["boxed tags"]["overall"]
    )
    for change, message in (
        (["--tags", "labels", "--labels", ""], "needs --labels"),
        (["--model", "c"], "must be NAME=FOLDER"),
        (["--descriptions", str(world / "nocaps" / "none.csv")], "cannot be read"),
        (["--figures", str(tmp_path)], "needs --pictures"),
    ):
        assert program().main([*given, *out, *change]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
