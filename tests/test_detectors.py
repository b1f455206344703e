"""Detectors in numbers: the Lite0 port, reading of pictures, the measures, and the embedded detector itself."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from vivo.data.types import Regions
from vivo.detectors import evaluation, lite0
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.embedded import EmbeddedConfig, EmbeddedDetector
from vivo.detectors.evaluation import Truth
from vivo.detectors.lite0 import BLOCKS_PER_STAGE, MAP_CHANNELS, Lite0Maps
from vivo.detectors.network import INPUT_SIZE, POOLS, RegionPool
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.world.glyphs import CLASSES, DETECTOR_CLASSES
from vivo.world.scenes import Scene, render, sample_scene


def scenes(count: int, style: str = "test") -> list[Scene]:
    """Scenes of all classes, unknown ones included, from a stream that training never sees."""
    return [
        sample_scene(np.random.Generator(np.random.Philox(key=[987_654_321, i])), CLASSES, style=style)
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def detector() -> EmbeddedDetector:
    return load_detector("embedded")


# -------------------------------------------------------------------- Lite0


def plain_lite0(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Logits by the bare formulas, from the package's own names: no timm, no modules, TensorFlow's padding by hand."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        scale = weight / torch.sqrt(var + 1e-3)
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"]
        groups = x.shape[1] // kernel.shape[1]
        needed = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
        before = needed // 2  # the odd pixel goes right and below: with stride 2 this is not padding=1
        x = F.pad(x, (before, needed - before, before, needed - before))
        return F.conv2d(x, kernel, stride=stride, groups=groups)

    x = F.relu6(norm(conv((pixels.float() - 127) / 128, "_conv_stem", 2), "_bn0"))
    number, strides = 0, (1, 2, 2, 2, 1, 2, 1)
    for stage, repeats in enumerate(BLOCKS_PER_STAGE):
        for place in range(repeats):
            name, start = f"_blocks.{number}", x
            if stage:
                x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = F.relu6(norm(conv(x, f"{name}._depthwise_conv", strides[stage] if place == 0 else 1), f"{name}._bn1"))
            x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + start if place else x
            number += 1
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return x @ weights["_fc.weight"].T + weights["_fc.bias"]


def test_lite0_is_the_package_network():
    spec = importlib.util.find_spec(lite0.WEIGHTS_PACKAGE)
    path = Path(spec.submodule_search_locations[0]) / lite0.WEIGHTS_FILE
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    assert len(lite0.key_map()) == len(theirs) == 296 and set(lite0.key_map().values()) == set(theirs)
    pixels = torch.stack([torch.from_numpy(np.asarray(render(s)).copy()).permute(2, 0, 1) for s in scenes(2)])
    with torch.inference_mode():
        ours = lite0.imagenet_classifier()(lite0.scale_pixels(pixels))
        plain = plain_lite0(theirs, pixels)
        swapped = plain_lite0(theirs, pixels.flip(1))
    assert (ours - plain).abs().max() < 1e-4
    assert (ours - swapped).abs().max() > 0.5  # the comparison does notice blue-green-red order


def test_folded_maps_equal_the_plain_network():
    import timm

    plain = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    lite0.copy_weights(plain, lite0.package_weights())
    pixels = torch.randint(0, 256, (2, 3, INPUT_SIZE, INPUT_SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        maps, expected = Lite0Maps.from_package()(pixels), plain(lite0.scale_pixels(pixels))
    for (stride, ours), theirs in zip(maps.items(), expected, strict=True):
        assert ours.shape == (2, MAP_CHANNELS[stride], INPUT_SIZE // stride, INPUT_SIZE // stride)
        assert (ours - theirs).abs().max() < 2e-4


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(lite0, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="579344248a93"):
        lite0.package_weights()
    monkeypatch.setattr(lite0, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"vivo\[demo\]"):
        lite0.package_weights()


def test_copy_weights_checks_shapes():
    with pytest.raises(AssertionError, match="bias"):
        lite0.copy_weights(torch.nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "bias": torch.zeros(4)})


# -------------------------------------------------------------------- pictures


def test_pictures_are_upright_rgb(tmp_path):
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0)  # red corner, left top
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = open_picture(tmp_path / "turned.png")
    assert upright.size == (4, 6) and upright.mode == "RGB"
    assert upright.getpixel((3, 0)) == (255, 0, 0)  # right top

    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.fromarray(np.full((2, 2), 128 * 256, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("name", ["missing.jpg", "cut.jpg", "cut.png", "text.jpg", "empty.png", "folder"])
def test_bad_pictures_are_one_line(tmp_path, name):
    path = tmp_path / name
    if name.startswith("cut"):
        render(scenes(1)[0]).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name == "folder":
        path.mkdir()
    elif name != "missing.jpg":
        path.write_bytes(b"no picture" if name == "text.jpg" else b"")
    with pytest.raises(UserError, match=name) as caught:
        open_picture(path)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------- measures, by hand


def regions_of(boxes: list, labels: list[str], scores: list[float]) -> Regions:
    """Regions without features."""
    return Regions(
        np.asarray(boxes, np.float32), np.zeros((len(boxes), 1), np.float16), labels, np.asarray(scores), 100, 100
    )


def test_measures_by_hand():
    a, b, c = [0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 70, 80]
    overlap = evaluation.overlaps(np.array([a], float), np.array([[5, 0, 15, 10], [0, 0, 10, 10]], float))
    assert overlap.tolist() == [[pytest.approx(1 / 3), 1.0]]

    truth = Truth(np.asarray([a, b, c], np.float32), ["dog", "cat", "cat"])
    found = regions_of([a, [0, 0, 10, 9], b, [90, 90, 99, 99]], ["dog", "dog", "dog", "cat"], [0.9, 0.8, 0.7, 0.6])
    assert evaluation.matches(found, truth) == [0, 2, -1]  # one region an object, one object a region
    assert evaluation.recall([found], [truth]) == pytest.approx(2 / 3)
    assert evaluation.recall([found], [truth], {"cat"}) == 0.5
    assert evaluation.labelled([found], [truth], {"cat"}) == {"right": 0.0, "wrong": 1.0, "none": 0.0}
    # dog: hit, miss, miss -> AP 1; cat: one miss -> AP 0
    assert evaluation.mean_average_precision([found], [truth], ["dog", "cat", "cow"]) == 0.5
    # hit, miss, hit of 4 positives: precision 1 and 2/3 -> (1 + 2/3) / 4
    assert evaluation._average_precision([(0.9, True), (0.8, False), (0.7, True)], 4) == pytest.approx(5 / 12)


def test_probes_separate_what_is_separable():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = F.one_hot(y, 3) * 4.0 + torch.randn(90, 3, generator=generator) * 0.3
    noise = torch.randn(90, 3, generator=generator)
    assert evaluation.linear_probe((x[:60], y[:60]), (x[60:], y[60:])).all()
    assert evaluation.nearest_mean((x[:60], y[:60]), (x[60:], y[60:])).all()
    assert evaluation.linear_probe((noise[:60], y[:60]), (noise[60:], y[60:])).float().mean() < 0.7


# -------------------------------------------------------------------- the embedded detector


def assert_same(a: Regions, b: Regions, atol: float = 0.0) -> None:
    """Equal regions, numbers within `atol` (relative to 1 for features and scores, pixels for boxes)."""
    assert a.labels == b.labels and (a.width, a.height) == (b.width, b.height)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=max(atol, 0.05 if atol else 0), rtol=0)
    np.testing.assert_allclose(a.scores, b.scores, atol=atol, rtol=0)
    np.testing.assert_allclose(a.features.astype(np.float32), b.features.astype(np.float32), atol=atol, rtol=atol)


def test_contract(detector):
    assert isinstance(detector, Detector)
    assert detector.class_names == [c.name for c in DETECTOR_CLASSES]
    picture = render(scenes(1)[0])
    (regions,) = detector.detect([picture])
    count = len(regions.boxes)
    assert regions.features.shape == (count, detector.feature_size) and regions.features.dtype == np.float16
    assert regions.boxes.dtype == regions.scores.dtype == np.float32
    assert np.isfinite(regions.features).all() and detector.feature_size <= 1024
    assert len(regions.labels) == len(regions.scores) == count
    assert set(regions.labels) <= {"", *detector.class_names}
    assert ((regions.scores >= 0) & (regions.scores <= 1)).all()
    assert regions.labels[-1] == "" and regions.boxes[-1].tolist() == [0, 0, 224, 224]  # the whole picture, last
    assert detector.detect([]) == []


def test_recall_on_fresh_scenes(detector):
    drawn = scenes(40)
    truths = [Truth(np.asarray([o.box for o in s.objects], np.float32), [o.name for o in s.objects]) for s in drawn]
    found = detector.detect([render(s) for s in drawn])
    assert evaluation.recall(found, truths) >= 0.9
    unknown = {c.name for c in CLASSES if not c.detector}
    assert evaluation.recall(found, truths, unknown) >= 0.85  # few objects: 0.9 on the many of the notes
    assert evaluation.labelled(found, truths, {c.name for c in DETECTOR_CLASSES})["right"] >= 0.7
    assert evaluation.labelled(found, truths, unknown)["wrong"] <= 0.3


def test_notes_say_what_was_measured(detector):
    measured = detector.notes["measured"]
    assert measured["recall"] >= 0.9 and measured["recall_unknown"] >= 0.9 and measured["unknown_wrong_label"] <= 0.2
    assert "CC BY-SA" in detector.notes["attribution"]
    assert not {c.name for c in CLASSES if not c.detector} & set(detector.class_names)


def test_batched_equals_single(detector):
    pictures = [render(s) for s in scenes(11)]
    for together, alone in zip(detector.detect(pictures), (detector.detect([p])[0] for p in pictures), strict=True):
        assert_same(together, alone, atol=5e-3)


def test_nothing_found_is_the_whole_picture(detector):
    config = EmbeddedConfig(**{**vars(detector.config), "objectness": 1.1, "whole_picture": False})
    blind = EmbeddedDetector(config, detector.network, detector.backbone)
    (regions,) = blind.detect([Image.new("RGB", (300, 120), "white")])
    assert regions.boxes.tolist() == [[0, 0, 300, 120]] and regions.labels == [""] and regions.scores.tolist() == [0]
    assert regions.features.shape == (1, detector.feature_size)


def test_boxes_are_pixels_of_the_original(detector):
    """A picture stretched to 448 x 112 gives the same regions, twice as wide and half as high."""
    picture = render(scenes(3)[2])
    square, stretched = detector.detect([picture, picture.resize((448, 112), Image.Resampling.BICUBIC)])
    assert (stretched.width, stretched.height) == (448, 112)
    overlap = evaluation.overlaps(square.boxes * np.array([2, 0.5, 2, 0.5], np.float32), stretched.boxes)
    assert len(square.boxes) == len(stretched.boxes) and (overlap.max(1) > 0.85).all()


def test_describe_knows_given_boxes(detector):
    picture = render(scenes(1)[0])
    (found,) = detector.detect([picture])
    (described,) = detector.describe([picture], [found.boxes])
    assert described.labels[:-1] == found.labels[:-1]
    np.testing.assert_allclose(described.features.astype(float), found.features.astype(float), atol=2e-2, rtol=2e-2)


def test_saved_detector_is_the_same(detector, tmp_path):
    detector.save_pretrained(tmp_path / "saved")
    again = load_detector(tmp_path / "saved")
    assert again.fingerprint() == detector.fingerprint() and again.notes == detector.notes
    pictures = [render(s) for s in scenes(4)]
    for a, b in zip(detector.detect(pictures), again.detect(pictures), strict=True):
        assert_same(a, b)

    text = (tmp_path / "saved" / "detector.json").read_text(encoding="utf-8")
    changed = json.loads(text)
    changed["config"]["label_probability"] = 0.123
    (tmp_path / "saved" / "detector.json").write_text(json.dumps(changed), encoding="utf-8")
    assert load_detector(tmp_path / "saved").fingerprint() != detector.fingerprint()  # it is not blind to thresholds


def test_unusable_detectors_are_one_line(detector, tmp_path):
    for name in ("nobody", tmp_path):
        with pytest.raises(UserError, match="embedded"):
            load_detector(name)
    detector.save_pretrained(tmp_path)
    (tmp_path / "detector.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        load_detector(tmp_path)
    (tmp_path / "detector.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a detector"):
        load_detector(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        detector.save_pretrained(tmp_path / "file")


def test_pooled_means_are_means_of_cells():
    maps = {s: torch.randn(1, c, INPUT_SIZE // s, INPUT_SIZE // s) for s, c in MAP_CHANNELS.items()}
    boxes = [torch.tensor([[0.0, 0, INPUT_SIZE, INPUT_SIZE], [30, 40, 120, 150]])]
    pool = RegionPool()
    pooled = pool(maps, boxes)
    cells = pooled[:, : MAP_CHANNELS[8] * POOLS[8] ** 2].reshape(2, MAP_CHANNELS[8], POOLS[8] ** 2)
    assert torch.allclose(pool.means(pooled)[:, : MAP_CHANNELS[8]], cells.mean(2), atol=1e-6)
