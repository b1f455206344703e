"""Grid features against hand-computed cells, timm's own maps and each other."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from vivo.data.region_format import fingerprint_of, problem_with
from vivo.detectors import lite0
from vivo.detectors.adapting import weights_sha256
from vivo.detectors.backbone import map_of
from vivo.detectors.base import Detector, load_detector
from vivo.detectors.grid import GridDetector, GridSettings, cell_boxes, parse_scales, squares
from vivo.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT.parent / "shared" / "data" / "coco_mini_159" / "images"


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))


@pytest.fixture(scope="module")
def detector() -> GridDetector:
    return load_detector("grid:scales=224x3+96x2,device=cpu")


def test_cells_by_hand():
    assert cell_boxes(4, 2).tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    thirds = cell_boxes(4, 3)[:3] * 4  # 4 positions over 3 cells overlap: 0-2, 1-3, 2-4
    assert thirds.tolist() == [[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2]]
    assert parse_scales("448x7+224x3") == [(448, 7), (224, 3)]
    for bad in ("", "448", "448x0", "16x1", "448x7+", "axb"):
        with pytest.raises(UserError, match="PIXELSxCELLS"):
            parse_scales(bad)


@given(side=st.integers(1, 20), data=st.data())
@settings(max_examples=40, deadline=None)
def test_boxes_are_what_the_pooling_averages(side: int, data: st.DataObject):
    cells = data.draw(st.integers(1, side))
    values = torch.rand(1, 1, side, side)
    pooled = torch.nn.functional.adaptive_avg_pool2d(values, cells).flatten()
    for box, mean in zip(cell_boxes(side, cells) * side, pooled, strict=True):
        x1, y1, x2, y2 = box.round().astype(int)
        assert np.allclose(box, [x1, y1, x2, y2], atol=1e-4)
        assert abs(values[0, 0, y1:y2, x1:x2].mean() - mean) < 1e-5


def test_lite0_grid_is_the_mean_of_timm_maps(detector: GridDetector):
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    lite0.copy_weights(plain, lite0.package_weights())
    image = picture(150, 100)
    (found,) = detector.detect([image])
    assert isinstance(detector, Detector) and detector.feature_size == 1280 and detector.class_names == []
    assert found.features.shape == (9 + 4 + 1, 1280) and problem_with(found, 1280) is None
    assert found.boxes[-1].tolist() == [0, 0, 150, 100] and found.boxes[0].tolist() != found.boxes[-1].tolist()
    assert set(found.labels) == {""} and (found.scores == 0).all()
    with torch.inference_mode():
        big = plain.forward_features(lite0.scale_pixels(squares([image], 224)))[0]  # [1280, 7, 7]
        small = plain.forward_features(lite0.scale_pixels(squares([image], 96)))[0]  # [1280, 3, 3]
    rows = found.features.astype(np.float32)
    for number, (box, row) in enumerate(zip(found.boxes, rows, strict=True)):
        source = small if 9 <= number < 13 else big
        x1, y1, x2, y2 = (box / np.array([150, 100] * 2) * source.shape[-1]).round().astype(int)
        np.testing.assert_allclose(row, source[:, y1:y2, x1:x2].mean((1, 2)).numpy(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inputs_are_scaled_by_channel(dtype: str):
    network = timm.create_model("resnet10t", num_classes=0)
    grid_settings = GridSettings("resnet10t", scales="64x2", dtype=dtype, device="cpu")
    grid = GridDetector(grid_settings, network, [123.7, 116.3, 103.5], [58.4, 57.1, 57.4])
    mean, std = (torch.tensor(values)[:, None, None] for values in (grid.mean, grid.std))
    for count in (1, 3):
        pixels = squares([picture(90, 60, seed) for seed in range(count)], 64)
        for source in (pixels, pixels.contiguous()):
            before = source.clone()
            inputs = grid._inputs(source)
            assert torch.equal(inputs, ((pixels.float() - mean) / std).to(inputs.dtype)) and torch.equal(source, before)
            assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_batched_equals_single(detector: GridDetector):
    pictures = [picture(150 - i, 100 + 7 * i, seed=i) for i in range(detector.batch_size + 1)]
    for image, together in zip(pictures, detector.detect(pictures), strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_array_equal(together.boxes, alone.boxes)
        np.testing.assert_allclose(together.features.astype(float), alone.features.astype(float), atol=2e-3, rtol=2e-3)
    assert np.abs(together.features.astype(float) - detector.detect(pictures[:1])[0].features.astype(float)).max() > 0.5


def test_bfloat16_is_close(detector: GridDetector):
    image = picture(150, 100)
    half = load_detector("grid:scales=224x3+96x2,dtype=bfloat16,device=cpu")
    a, b = (d.detect([image])[0].features.astype(np.float64).ravel() for d in (detector, half))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    assert fingerprint_of(half.fingerprint()) != fingerprint_of(detector.fingerprint())


def test_saved_grid_is_the_same(detector: GridDetector, tmp_path: Path):
    detector.save_pretrained(tmp_path)
    again = load_detector(tmp_path)
    assert fingerprint_of(again.fingerprint()) == fingerprint_of(detector.fingerprint())
    image = picture(90, 120)
    np.testing.assert_array_equal(again.detect([image])[0].features, detector.detect([image])[0].features)
    config = json.loads((tmp_path / "detector.json").read_text(encoding="utf-8"))
    config["settings"]["scales"] = "224x3"
    (tmp_path / "detector.json").write_text(json.dumps(config), encoding="utf-8")
    other = load_detector(tmp_path)
    assert fingerprint_of(other.fingerprint()) != fingerprint_of(detector.fingerprint())
    (tmp_path / "detector.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be read"):
        load_detector(tmp_path)


@pytest.mark.parametrize("backbone", ["resnet10t", "test_vit", "test_efficientnet", "swin_tiny_patch4_window7_224"])
def test_any_timm_backbone(backbone: str, tmp_path: Path):
    torch.manual_seed(1)
    full = timm.create_model(backbone, pretrained=False)  # with its classifier, as weights are published
    save_file({k: v.contiguous() for k, v in full.state_dict().items()}, tmp_path / "w.safetensors")
    size = full.pretrained_cfg["input_size"][1]
    grid = load_detector(f"grid:{backbone},weights={tmp_path / 'w.safetensors'},scales={size}x2,device=cpu")
    image = picture(120, 80)
    (found,) = grid.detect([image])
    assert problem_with(found, full.num_features) is None and len(found.boxes) == 5
    pixels = timm.data.resolve_data_config({}, model=full)
    mean, std = (torch.tensor(pixels[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        out = full.eval().forward_features((squares([image], size).float() / 255 - mean) / std)
    if out.ndim == 3:
        out = out[:, full.num_prefix_tokens :]
    whole = out.mean((2, 3)) if out.ndim == 4 and out.shape[1] == full.num_features else out.flatten(1, -2).mean(1)
    np.testing.assert_allclose(found.features[-1].astype(float), whole[0].numpy(), atol=5e-3, rtol=5e-3)


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def scatter_norms(network: nn.Module) -> None:
    """Give the batch norms statistics and factors that no folding may lose."""
    for norm in norms_of(network):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)


@pytest.mark.parametrize(
    ("backbone", "scales", "left"),
    [
        ("resnet50", "64x2", 0),
        ("resnet10t", "64x2", 1),  # the norm behind a stem of three convolutions is no neighbour of the last one
        ("tf_mobilenetv3_small_minimal_100", "64x2+96x2", 0),
        ("tf_mobilenetv3_small_minimal_100", "64x2+100x2", None),  # SAME padding of odd maps cannot be folded
        ("test_vit", "160x2", 0),
        ("test_convnext", "160x2", 0),
    ],
)
def test_a_folded_network_has_the_maps_and_the_fingerprint_of_the_plain_one(
    backbone: str, scales: str, left: int | None
):
    torch.manual_seed(0)
    network = timm.create_model(backbone, num_classes=0)
    scatter_norms(network)
    plain = copy.deepcopy(network).eval()
    grid = GridDetector(GridSettings(backbone, scales, device="cpu"), network, [123.7, 116.3, 103.5], [58.4] * 3)
    assert len(norms_of(grid._network)) == (len(norms_of(plain)) if left is None else left)
    assert grid.fingerprint()["weights_sha256"] == weights_sha256(plain.state_dict())
    for size, _ in grid.scales:
        pixels = squares([picture(90, 60), picture(60, 90, 1)], size)
        with torch.inference_mode():
            found, expected = grid._map(pixels), map_of(plain, grid._inputs(pixels).contiguous())
        assert expected.std() > 0.01 and (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("channels", [3, 8])
def test_a_network_that_cannot_be_folded_is_used_as_it_is(channels: int):
    class NormFirst(nn.Module):
        num_features = channels

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, channels, 32, stride=32), nn.BatchNorm2d(3)
            scatter_norms(self)

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(x))

    network = NormFirst()
    plain = copy.deepcopy(network).eval()
    grid = GridDetector(GridSettings("norm_first", "64x2", device="cpu"), network, [127] * 3, [128] * 3)
    pixels = squares([picture(90, 60)], 64)
    with torch.inference_mode():
        assert norms_of(grid._network)
        torch.testing.assert_close(grid._map(pixels), plain.forward_features(grid._inputs(pixels)))


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ("grid:no_such_net,weights=x.safetensors", "has no model"),
        ("grid:resnet10t", "weights=FILE"),
        ("grid:scales=96x7", "fewer cells"),
        ("grid:scale=448x7", "is scales meant"),
        ("grid:scales=448", "PIXELSxCELLS"),
        ("grid:dtype=int8", "bfloat16"),
    ],
)
def test_bad_grids_are_one_line(specification: str, words: str):
    with pytest.raises(UserError, match=words) as caught:
        load_detector(specification)
    assert "\n" not in str(caught.value)


def test_size_that_a_backbone_cannot_take():
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    with pytest.raises(UserError, match="give another scale"):
        GridDetector(
            GridSettings("swin_tiny_patch4_window7_224", scales="160x2", device="cpu"), network, [0] * 3, [1] * 3
        )


def test_photographs_differ_and_fit_their_store_format():
    files = sorted(MINI.glob("*.jpg"))[:3] if MINI.is_dir() else []
    if not files:
        pytest.skip("the shared data folder is not here")
    pictures = [Image.open(file).convert("RGB") for file in files]
    found = load_detector("grid:scales=224x3,device=cpu").detect(pictures)
    for image, regions in zip(pictures, found, strict=True):
        assert problem_with(regions, 1280) is None and regions.boxes[-1].tolist() == [0, 0, *image.size]
    wholes = np.stack([r.features[-1].astype(np.float64) for r in found])
    wholes /= np.linalg.norm(wholes, axis=1, keepdims=True)
    assert (wholes @ wholes.T)[np.triu_indices(3, 1)].max() < 0.95
