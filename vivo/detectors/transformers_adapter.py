"""Detectors of `transformers` with object queries: RT-DETR (v1, v2), D-FINE, DETR, Conditional and Deformable DETR, ...

    detector = load_detector("transformers:models/rtdetr_r50vd")       # a folder of save_pretrained, or a hub id
    detector = load_detector("transformers:facebook/detr-resnet-50,threshold=0.2,max_regions=36")

A region's feature is the decoder's last hidden state of its query (`last_hidden_state`), from which the model reads
class and box by one small head each. Which queries count and what they are called is left to the library's own
`post_process_object_detection`, which differs from family to family.

Notation: B pictures, Q queries, D hidden size = F feature size, N detections.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForObjectDetection, PreTrainedModel

from vivo.data.types import Regions
from vivo.detectors.adapting import (
    DetectionSettings,
    choose,
    clip_to,
    computing_in,
    device_of,
    parse_specification,
    regions_from,
    same_size_batches,
    settings_fingerprint,
    settings_of,
    weights_sha256,
    write_detector,
)
from vivo.detectors.base import CONFIG_FILE
from vivo.detectors.pictures import to_rgb
from vivo.errors import UserError
from vivo.files import atomic_folder

MODEL_FOLDER = "model"


@dataclass(frozen=True)
class TransformersSettings(DetectionSettings):
    """As `DetectionSettings`, and:

    Attributes:
        one_label_per_query: focal-loss families rank (query, class) pairs, so that one query may come several
            times under several names; with this the best name stays, and no two regions are the same.
    """

    one_label_per_query: bool = True


class TransformersDetector:
    """See `vivo.detectors.base.Detector` for the attributes and methods that all detectors have.

    The whole picture, where it is wanted or nothing was found, is described by the mean over all queries.

    Args:
        settings: thresholds, dtype, device.
        model: a `...ForObjectDetection` whose output has `logits`, `pred_boxes` and `last_hidden_state`.
        processor: its image processor.
    """

    name = "transformers"
    batch_size = 8

    def __init__(self, settings: TransformersSettings, model: PreTrainedModel, processor: Any) -> None:
        if not hasattr(processor, "post_process_object_detection"):
            raise UserError(
                f"transformers: {type(processor).__name__} has no post_process_object_detection, so that"
                f" {type(model).__name__} cannot be used; take a model of the DETR family"
            )
        self.settings = settings
        self._device = device_of(settings.device)
        self._weights_sha256 = ""
        self.model = model.eval().requires_grad_(False).to(self._device)
        self.processor = processor
        config = model.config
        self.feature_size: int = getattr(config, "d_model", None) or config.hidden_size
        self.class_names = [config.id2label[k] for k in sorted(config.id2label)]

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """Regions of each picture by falling score; pictures of one size share a pass, so nothing is padded."""
        found: list[Regions | None] = [None] * len(pictures)
        for places in same_size_batches(pictures, self.batch_size):
            batch = [to_rgb(pictures[place]) for place in places]
            with torch.inference_mode():
                for place, regions in zip(places, self._detect_batch(batch), strict=True):
                    found[place] = regions
        return found

    def _detect_batch(self, pictures: list[Image.Image]) -> list[Regions]:
        inputs = self.processor(images=pictures, return_tensors="pt")
        inputs = {key: value.to(self._device) for key, value in inputs.items() if isinstance(value, Tensor)}
        with computing_in(self.settings.dtype, self._device):
            outputs = self.model(**inputs)
        hidden = self._query_states(outputs)  # [B, Q, D]
        corners = _corners(outputs.pred_boxes.float())  # [B, Q, 4] in 0..1
        result = []
        for picture, states, boxes, said in zip(pictures, hidden, corners, self._ranked(outputs), strict=True):
            scores, labels, queries = said
            boxes = clip_to(boxes * boxes.new_tensor([picture.width, picture.height] * 2), picture)[queries]
            if self.settings.one_label_per_query:
                scores = torch.where(_first_of_query(queries, scores), scores, -1)
            kept = choose(boxes, scores, self.settings)
            features = states[queries[kept]]
            if self.settings.whole_picture or not len(kept):
                features = torch.cat([features, states.mean(0, keepdim=True)])
            names = [self.model.config.id2label[k] for k in labels[kept].tolist()]
            result.append(
                regions_from(picture, boxes[kept], features, names, scores[kept], self.settings.label_threshold)
            )
        return result

    def _query_states(self, outputs: Any) -> Tensor:
        """`last_hidden_state` [B, Q, D]; YOLOS has its queries at the end of a longer sequence."""
        states, count = outputs.last_hidden_state.float(), outputs.logits.shape[1]
        if self.model.config.model_type == "yolos":
            states = states[:, -count:]
        if states.shape[1:] != (count, self.feature_size):
            raise UserError(
                f"transformers: {type(self.model).__name__} has hidden states {list(states.shape[1:])} for {count}"
                f" queries of size {self.feature_size}: not a model of the DETR family"
            )
        return states

    def _ranked(self, outputs: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Scores, labels and queries (each [N]) of all detections of each picture, as the library ranks them.

        The library gives boxes, not the queries that they came from. So it gets points instead of boxes, whose
        x is the query's number: exact, and true for every family.
        """
        logits = outputs.logits.float()
        numbers = torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32)
        points = torch.zeros(*logits.shape[:2], 4, device=logits.device)
        points[:, :, 0] = numbers
        post_process = self.processor.post_process_object_detection
        arguments: dict[str, Any] = {"threshold": -1.0}
        known = inspect.signature(post_process).parameters
        if "top_k" in known:
            arguments["top_k"] = logits.shape[1]
        if "use_focal_loss" in known:
            arguments["use_focal_loss"] = getattr(self.model.config, "use_focal_loss", True)
        said = post_process(SimpleNamespace(logits=logits, pred_boxes=points), **arguments)
        return [(one["scores"], one["labels"], one["boxes"][:, 0].round().long()) for one in said]

    # ---------------------------------------------------------------- identity, saving, loading

    def fingerprint(self) -> dict[str, str | int | float]:
        """Name, model type, SHA-256 of the weights, preparation of the pictures, thresholds, feature size."""
        self._weights_sha256 = self._weights_sha256 or weights_sha256(self.model.state_dict())
        return {
            "name": self.name,
            "model_type": self.model.config.model_type,
            "weights_sha256": self._weights_sha256,
            "feature_size": self.feature_size,
            "preparation": json.dumps(self._preparation(), sort_keys=True),
            **settings_fingerprint(self.settings),
        }

    def _preparation(self) -> dict[str, Any]:
        """What the processor does to pixels: of its settings those that decide it."""
        keys = (
            "do_resize",
            "size",
            "resample",
            "do_rescale",
            "rescale_factor",
            "do_normalize",
            "image_mean",
            "image_std",
        )
        said = json.loads(self.processor.to_json_string())
        return {key: said.get(key) for key in keys}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model/` (weights as safetensors, configuration, processor) and `detector.json`."""
        with atomic_folder(Path(folder) / MODEL_FOLDER) as temporary:
            self.model.save_pretrained(temporary)
            self.processor.save_pretrained(temporary)
        settings = {key: value for key, value in asdict(self.settings).items() if key != "device"}
        write_detector(folder, CONFIG_FILE, {"detector": self.name, "settings": settings}, None)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TransformersDetector":
        """From a folder that `save_pretrained` wrote."""
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return cls(TransformersSettings(**config["settings"]), *_load(str(folder / MODEL_FOLDER)))

    @classmethod
    def from_specification(cls, specification: str) -> "TransformersDetector":
        """`transformers:FOLDER_OR_HUB_ID[,threshold=...][,label_threshold=...][,max_regions=...]...`."""
        _, source, options = parse_specification(specification)
        if not source:
            raise UserError("transformers: name a model folder or hub id, as in transformers:models/rtdetr")
        settings = settings_of(TransformersSettings, options, "transformers")
        return cls(settings, *_load(source))


def _load(source: str) -> tuple[PreTrainedModel, Any]:
    """Model and processor; safetensors alone, so that no pickle is opened, and no weight left random."""
    try:
        model, report = AutoModelForObjectDetection.from_pretrained(
            source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        raise UserError(
            f"transformers: {source} cannot be loaded ({reason}); give a folder with config.json, model.safetensors and"
            " preprocessor_config.json, or the hub id of an object detector"
        ) from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise UserError(
            f"transformers: {source} lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}; it is"
            " not this model's checkpoint"
        )
    return model, processor


def _corners(boxes: Tensor) -> Tensor:
    """[..., 4]: centre x, centre y, width, height -> x1 y1 x2 y2."""
    centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
    return torch.cat([centre - half, centre + half], -1)


def _first_of_query(queries: Tensor, scores: Tensor) -> Tensor:
    """[N] bool: the best-scored entry of each query."""
    first = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    seen: set[int] = set()
    for place in scores.argsort(descending=True, stable=True).tolist():
        query = int(queries[place])
        first[place] = query not in seen
        seen.add(query)
    return first
