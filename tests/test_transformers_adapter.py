"""The transformers adapter against the library's own outputs: random weights, made here."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detector_checks import (
    assert_is_detector,
    photographs,
)

from vivo.data.region_format import problem_with
from vivo.detectors.base import load_detector
from vivo.errors import UserError


def resnet_config(kind: type):
    return kind(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def rt_detr(config_class: type, model_class: type, **more):
    from transformers import RTDetrResNetConfig

    sizes = dict(d_model=32, encoder_hidden_dim=32, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=20)
    sizes |= dict(decoder_layers=2, encoder_in_channels=[8, 16, 16], decoder_in_channels=[32, 32, 32], num_labels=7)
    sizes |= dict(encoder_attention_heads=2, decoder_attention_heads=2, num_denoising=0)
    return model_class(config_class(backbone_config=resnet_config(RTDetrResNetConfig), **sizes, **more))


def make_rt_detr():
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor

    return rt_detr(RTDetrConfig, RTDetrForObjectDetection), RTDetrImageProcessor(size={"height": 128, "width": 128})


def make_rt_detr_v2():
    from transformers import RTDetrImageProcessor, RTDetrV2Config, RTDetrV2ForObjectDetection

    return rt_detr(RTDetrV2Config, RTDetrV2ForObjectDetection), RTDetrImageProcessor(size={"height": 128, "width": 128})


def make_d_fine():
    from transformers import DFineConfig, DFineForObjectDetection, RTDetrImageProcessor

    model = rt_detr(DFineConfig, DFineForObjectDetection)
    return model, RTDetrImageProcessor(size={"height": 128, "width": 128})


def detr_family(config_class: type, model_class: type, processor_class: type):
    from transformers import ResNetConfig

    sizes = dict(d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=20)
    sizes |= dict(encoder_attention_heads=2, decoder_attention_heads=2, num_labels=7)
    backbone = resnet_config(ResNetConfig)
    config = config_class(use_timm_backbone=False, backbone=None, backbone_config=backbone, **sizes)
    return model_class(config), processor_class(size={"shortest_edge": 96, "longest_edge": 160})


def make_detr():
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

    return detr_family(DetrConfig, DetrForObjectDetection, DetrImageProcessor)


def make_conditional_detr():
    from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ConditionalDetrImageProcessor

    return detr_family(ConditionalDetrConfig, ConditionalDetrForObjectDetection, ConditionalDetrImageProcessor)


def make_deformable_detr():
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, DeformableDetrImageProcessor

    return detr_family(DeformableDetrConfig, DeformableDetrForObjectDetection, DeformableDetrImageProcessor)


FAMILIES = [make_rt_detr, make_rt_detr_v2, make_d_fine, make_detr, make_conditional_detr, make_deformable_detr]


def random_model(make: Callable):
    """Model and processor with random weights, spread so that queries differ in scores, classes and boxes."""
    torch.manual_seed(3)
    model, processor = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("class_embed", "class_labels_classifier", "bbox")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "query" in name:
                parameter.add_(torch.randn_like(parameter))
            elif "decoder.layers" in name and parameter.ndim > 1:
                parameter.mul_(10)
    return model.eval(), processor


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__.removeprefix("make_"))
def test_transformers_equals_the_library(make: Callable):
    from vivo.detectors.transformers_adapter import TransformersDetector, TransformersSettings

    model, processor = random_model(make)
    for picture in photographs((150, 100), (90, 120)):
        with torch.inference_mode():
            outputs = model(**processor(images=[picture], return_tensors="pt"))
        sizes = [(picture.height, picture.width)]
        everything = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)[0]
        threshold = float(everything["scores"].sort(descending=True).values[12])  # some are kept, some are not
        (own,) = processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=sizes)
        assert len(own["scores"]) == 12
        order = own["scores"].argsort(descending=True, stable=True)
        limits = np.array([picture.width, picture.height] * 2)
        boxes = own["boxes"][order].numpy().clip(0, limits)
        names = [model.config.id2label[k] for k in own["labels"][order].tolist()]

        settings = TransformersSettings(
            threshold=threshold, label_threshold=0, max_regions=100, one_label_per_query=False, device="cpu"
        )
        (found,) = TransformersDetector(settings, model, processor).detect([picture])
        assert found.labels == names
        np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, own["scores"][order].numpy(), atol=1e-6)

        # Features: the hidden state of the query whose box the library gave, found again through that box.
        w, h = picture.size
        cx, cy, bw, bh = (outputs.pred_boxes[0] * torch.tensor([w, h, w, h])).unbind(-1)
        corners = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
        distance = (corners[None] - own["boxes"][order][:, None]).abs().amax(-1)
        assert distance.min(1).values.max() < 1e-2
        best = distance.argmin(1)
        assert (distance.topk(2, largest=False).values[:, 1] > 1e-3).all()  # no second query has this box
        expected = outputs.last_hidden_state[0][best].half().numpy()
        np.testing.assert_allclose(found.features.astype(float), expected.astype(float), atol=2e-3)

        single = TransformersDetector(
            TransformersSettings(threshold=threshold, label_threshold=0, max_regions=5, device="cpu"), model, processor
        )
        first = [i for i, query in enumerate(best.tolist()) if query not in best.tolist()[:i]][:5]
        (once,) = single.detect([picture])
        assert once.labels == [names[i] for i in first]
        np.testing.assert_allclose(once.boxes, boxes[first], atol=1e-3)


@pytest.mark.parametrize("make", [make_rt_detr, make_detr], ids=["rt_detr", "detr"])
def test_transformers_detector(make: Callable, tmp_path: Path):
    model, processor = random_model(make)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    detector = load_detector(f"transformers:{tmp_path / 'model'},threshold=0.05,label_threshold=0.2,device=cpu")
    pictures = photographs((150, 100), (90, 120), (150, 100), (64, 64))
    assert_is_detector(detector, pictures, tmp_path)

    (nothing,) = load_detector(f"transformers:{tmp_path / 'model'},threshold=0.9999,device=cpu").detect(pictures[:1])
    assert nothing.labels == [""] and nothing.boxes.tolist() == [[0, 0, 150, 100]] and nothing.scores.tolist() == [0]
    whole = load_detector(f"transformers:{tmp_path / 'model'},whole_picture=yes,max_regions=3,device=cpu")
    assert whole.detect(pictures[:1])[0].boxes[-1].tolist() == [0, 0, 150, 100]
    half = load_detector(f"transformers:{tmp_path / 'model'},threshold=0,dtype=bfloat16,device=cpu")
    assert problem_with(half.detect(pictures[:1])[0], half.feature_size) is None
    assert half.fingerprint() != detector.fingerprint()


def test_transformers_refuses_other_checkpoints(tmp_path: Path):
    model, processor = random_model(make_rt_detr)
    processor.save_pretrained(tmp_path)
    state = model.state_dict()
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in state.items() if "enc_score_head" not in k})
    with pytest.raises(UserError, match="lacks"):
        load_detector(f"transformers:{tmp_path},device=cpu")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")  # a pickle alone: not opened
    with pytest.raises(UserError, match="safetensors"):
        load_detector(f"transformers:{tmp_path},device=cpu")


def test_namespace_is_enough_for_post_processing():
    """The trick of the transformers adapter: points instead of boxes come back as exact numbers of queries."""
    from transformers import RTDetrImageProcessor

    logits = torch.full((1, 300, 2), -9.0)
    logits[0, 299, 1], logits[0, 17, 0] = 5.0, 4.0
    points = torch.zeros(1, 300, 4)
    points[0, :, 0] = torch.arange(300)
    (said,) = RTDetrImageProcessor().post_process_object_detection(
        SimpleNamespace(logits=logits, pred_boxes=points), threshold=0.5
    )
    assert said["boxes"][:, 0].tolist() == [299, 17] and said["labels"].tolist() == [1, 0]
