"""The detectron2 adapter against the library's own outputs, where it can be imported: random weights."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_checks import (
    assert_is_detector,
    photographs,
    sha256,
    unit_activations,
)

from vivo.data.region_format import problem_with
from vivo.detectors.base import load_detector
from vivo.errors import UserError

needs_detectron2 = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None, reason="detectron2 is not installed (docs/detectors.md says how)"
)


def small_detectron2(kind: str):
    """A config of that head with few classes and a small input; its weights are drawn by `seeded_detectron2`."""
    from detectron2 import model_zoo

    cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml")
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "", "cpu", 5
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 12
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    return cfg


def calm(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights whose activations stay finite and whose detections differ."""
    torch.manual_seed(11)
    picture = (torch.rand(3, 5, 6) * 255).repeat_interleave(20, 1).repeat_interleave(20, 2)
    return unit_activations(model.eval(), lambda: model([{"image": picture}]))


@needs_detectron2
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("C4", 2048), ("FPN", 1024)])
def test_detectron2_equals_the_library(kind: str, size: int, tmp_path: Path):
    from detectron2.engine.defaults import DefaultPredictor
    from detectron2.structures import Boxes

    from vivo.detectors.detectron2_adapter import Detectron2Detector, Detectron2Settings

    cfg = small_detectron2(kind)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.1, 7
    predictor = DefaultPredictor(cfg)
    calm(predictor.model)
    settings = Detectron2Settings(threshold=0.1, label_threshold=0, max_regions=7, device="cpu")
    detector = Detectron2Detector(settings, cfg, list("abcde"))
    detector.model.load_state_dict(predictor.model.state_dict())
    assert detector.feature_size == size
    pictures = photographs((150, 100), (80, 120), (150, 100))
    for picture in pictures[:2]:
        bgr = np.asarray(picture)[:, :, ::-1]
        own = predictor(bgr)["instances"]
        assert len(own) == 7
        (found,) = detector.detect([picture])
        assert found.labels == ["abcde"[k] for k in own.pred_classes.tolist()]
        np.testing.assert_allclose(found.boxes, own.pred_boxes.tensor.numpy(), atol=1e-3)
        np.testing.assert_allclose(found.scores, own.scores.numpy(), atol=1e-6)

        # Features by the library's parts, at its boxes, in the pixels that the network sees.
        model, heads = predictor.model, predictor.model.roi_heads
        resized = predictor.aug.get_transform(bgr).apply_image(bgr)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).float()
            images = model.preprocess_image([{"image": pixels}])
            maps = model.backbone(images.tensor)
            boxes = own.pred_boxes.clone()
            boxes.scale(resized.shape[1] / picture.width, resized.shape[0] / picture.height)
            boxes = [Boxes(boxes.tensor)]
            if kind == "C4":
                features = heads.res5(heads.pooler([maps["res4"]], boxes)).mean((2, 3))
            else:
                features = heads.box_head(heads.box_pooler([maps[f] for f in heads.box_in_features], boxes))
        assert features.shape == (7, size) and (features[0] - features[-1]).abs().max() > 1e-3
        scale = features.abs().max().item()
        np.testing.assert_allclose(found.features.astype(float), features.numpy(), atol=2e-3 * scale, rtol=5e-3)
    assert_is_detector(detector, pictures, tmp_path)


@needs_detectron2
@pytest.mark.slow
def test_detectron2_from_files(tmp_path: Path):
    from detectron2.modeling import build_model

    cfg = small_detectron2("C4")
    model = calm(build_model(cfg))
    (tmp_path / "c4.yaml").write_text(cfg.dump(), encoding="utf-8")
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    arrays["roi_heads.box_predictor.attr_score.weight"] = np.zeros(3, np.float32)  # as Visual Genome models have it
    weights = tmp_path / "zoo.pkl"
    weights.write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}))
    base = f"detectron2:{tmp_path / 'c4.yaml'},device=cpu,threshold=0.1,max_regions=5"
    with pytest.raises(UserError, match="sha256="):
        load_detector(f"{base},weights={weights},classes={names}")
    detector = load_detector(f"{base},weights={weights},sha256={sha256(weights)},classes={names}")
    (found,) = detector.detect(photographs((120, 90)))
    assert found.features.shape == (5, 2048) and problem_with(found, 2048) is None

    with pytest.raises(UserError, match="80 class names for a network of 5"):  # COCO's own, from the config's data set
        load_detector(f"{base},weights={weights},sha256={sha256(weights)}")
    with pytest.raises(UserError, match="cannot be read as a configuration"):
        load_detector(f"detectron2:{tmp_path / 'none.yaml'},weights={weights},sha256={sha256(weights)}")
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"A: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'victim'}]\n", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as a configuration"):
        load_detector(f"detectron2:{evil},weights={weights},sha256={sha256(weights)}")
    assert not (tmp_path / "victim").exists()
    retina = tmp_path / "retina.yaml"
    backbone = "  BACKBONE:\n    NAME: build_retinanet_resnet_fpn_backbone\n"
    outputs = "  RESNETS:\n    OUT_FEATURES: [res3, res4, res5]\n  FPN:\n    IN_FEATURES: [res3, res4, res5]\n"
    inputs = "  RETINANET:\n    IN_FEATURES: [p3, p4, p5, p6, p7]\n    NUM_CLASSES: 5\n"
    retina.write_text("MODEL:\n  META_ARCHITECTURE: RetinaNet\n" + backbone + outputs + inputs, encoding="utf-8")
    with pytest.raises(UserError, match="C4 or FPN"):
        load_detector(f"detectron2:{retina},weights={weights},sha256={sha256(weights)},classes={names}")
