"""The torchvision adapter against the library's own outputs: random weights, made here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detector_checks import (
    assert_is_detector,
    photographs,
    unit_activations,
)
from safetensors.torch import save_file

from vivo.data.region_format import problem_with
from vivo.detectors.base import load_detector
from vivo.errors import UserError


def random_torchvision(builder: str, classes: int = 6) -> torch.nn.Module:
    """The builder's model with random weights that neither die nor explode, and detections that differ."""
    from torchvision.models import get_model

    torch.manual_seed(5)
    model = get_model(builder, weights=None, weights_backbone=None, num_classes=classes).eval()
    model.transform.min_size, model.transform.max_size = (96,), 160
    return unit_activations(
        model, lambda: model([torch.rand(3, 5, 6).repeat_interleave(20, 1).repeat_interleave(20, 2)])
    )


@pytest.mark.parametrize("builder", ["fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"])
def test_torchvision_equals_the_library(builder: str):
    from vivo.detectors.torchvision_adapter import TorchvisionDetector, TorchvisionSettings

    names = ["__background__", *"abcde"]
    settings = TorchvisionSettings(
        builder=builder, threshold=0.2, label_threshold=0, max_regions=9, min_size=96, max_size=160, device="cpu"
    )
    detector = TorchvisionDetector(settings, random_torchvision(builder), names)
    model = random_torchvision(builder)
    heads = getattr(model, "roi_heads", model)
    heads.score_thresh, heads.detections_per_img = 0.2, 9
    model.transform.min_size, model.transform.max_size = (96,), 160
    pooled: list[torch.Tensor] = []
    for picture in photographs((150, 100), (80, 120)):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        with torch.inference_mode():
            (own,) = model([pixels])
            assert len(own["boxes"]) == 9
            # Features by hand: the pyramid of the prepared picture, pooled at the library's boxes.
            images, _ = model.transform([pixels])
            maps = model.backbone(images.tensors)
            (h, w), scale = images.image_sizes[0], own["boxes"].new_tensor([*picture.size] * 2)
            boxes = own["boxes"] / scale * own["boxes"].new_tensor([w, h] * 2)
            if builder.startswith("fasterrcnn"):
                features = model.roi_heads.box_head(model.roi_heads.box_roi_pool(maps, [boxes], [(h, w)]))
                assert features.shape == (9, 1024)
            else:
                from torchvision.ops import MultiScaleRoIAlign

                pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
                features = pool(maps, [boxes], [(h, w)]).mean((2, 3))
                assert features.shape == (9, 256)
            pooled.append(features)
        (found,) = detector.detect([picture])
        assert found.labels == [names[k] for k in own["labels"].tolist()]
        np.testing.assert_allclose(found.boxes, own["boxes"].numpy(), atol=1e-3)
        np.testing.assert_allclose(found.scores, own["scores"].numpy(), atol=1e-6)
        np.testing.assert_allclose(found.features.astype(float), features.numpy(), atol=5e-3, rtol=5e-3)
    assert (pooled[0][0] - pooled[0][-1]).abs().max() > 0.01  # the features do differ between boxes


def test_torchvision_c4_like_head_is_pooled():
    from torchvision.models import resnet18
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.rpn import AnchorGenerator

    from vivo.detectors.torchvision_adapter import TorchvisionDetector, TorchvisionSettings

    class Predictor(FastRCNNPredictor):
        def forward(self, x: torch.Tensor):
            return super().forward(x.mean((2, 3)))

    torch.manual_seed(0)
    layers = list(resnet18(weights=None).children())
    backbone, res5 = torch.nn.Sequential(*layers[:7]), layers[7]
    backbone.out_channels = 256
    anchors = AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),))
    pool = torch.nn.Module()
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    model = FasterRCNN(
        backbone, rpn_anchor_generator=anchors, box_roi_pool=pool, box_head=res5, box_predictor=Predictor(512, 4)
    )
    settings = TorchvisionSettings(threshold=0.0, max_regions=6, min_size=96, max_size=160, device="cpu")
    detector = TorchvisionDetector(settings, model, ["background", "a", "b", "c"])
    assert detector.feature_size == 512
    (found,) = detector.detect(photographs((120, 90)))
    assert found.features.shape == (6, 512) and problem_with(found, 512) is None


def test_torchvision_detector(tmp_path: Path):
    builder = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = random_torchvision(builder)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\nfive\n", encoding="utf-8")
    base = f"torchvision:{builder},weights={tmp_path / 'w.safetensors'},classes={tmp_path / 'names.txt'},device=cpu"
    base += ",min_size=96,max_size=160"
    detector = load_detector(base + ",threshold=0.15,label_threshold=0.25,max_regions=8")
    assert detector.class_names == ["one", "two", "three", "four", "five"]
    pictures = photographs((150, 100), (80, 120), (150, 100))
    (tmp_path / "w.safetensors").rename(tmp_path / "away.safetensors")
    assert_is_detector(detector, pictures, tmp_path / "check")
    (tmp_path / "away.safetensors").rename(tmp_path / "w.safetensors")

    (nothing,) = load_detector(base + ",threshold=0.9999").detect(pictures[:1])
    assert nothing.labels == [""] and nothing.boxes.tolist() == [[0, 0, 150, 100]]
    half = load_detector(base + ",threshold=0.15,dtype=bfloat16")
    assert problem_with(half.detect(pictures[:1])[0], 1024) is None
    (tmp_path / "names.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(UserError, match="number of classes"):
        load_detector(base)
