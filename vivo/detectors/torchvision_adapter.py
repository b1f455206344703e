"""Detection models of torchvision: Faster R-CNN (FPN, C4-like or any other box head), RetinaNet, FCOS.

    detector = load_detector("torchvision:fasterrcnn_resnet50_fpn_v2,weights=DEFAULT")     # downloads COCO weights
    detector = load_detector("torchvision:fasterrcnn_resnet50_fpn,weights=mine.safetensors,classes=names.txt")

Boxes, names and scores are the library's own detections. The feature of a region is taken at its final box: for
two-stage models what the box head makes of it (1024 numbers of the FPN heads; the mean over the cells of a
convolutional head such as res5, 2048), for one-stage models, which have no such head, the mean over
7 x 7 cells of the feature pyramid (256).

Notation: B pictures, N detections, F feature size.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.models.detection as detection
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import MultiScaleRoIAlign

from vivo.data.types import Regions
from vivo.detectors.adapting import (
    WEIGHTS_FILE,
    DetectionSettings,
    choose,
    clip_to,
    computing_in,
    device_of,
    parse_specification,
    read_class_names,
    regions_from,
    same_size_batches,
    settings_fingerprint,
    settings_of,
    weights_sha256,
    write_detector,
)
from vivo.detectors.base import CONFIG_FILE
from vivo.detectors.pictures import to_rgb
from vivo.detectors.weight_files import fill, read_weights
from vivo.errors import UserError


@dataclass(frozen=True)
class TorchvisionSettings(DetectionSettings):
    """As `DetectionSettings`, and:

    Attributes:
        builder: name of torchvision's model builder.
        min_size: pixels of the shorter side that the network sees; its longer side is at most max_size.
    """

    builder: str = "fasterrcnn_resnet50_fpn"
    min_size: int = 800
    max_size: int = 1333


class TorchvisionDetector:
    """See `vivo.detectors.base.Detector` for the attributes and methods that all detectors have.

    Args:
        settings: thresholds, sizes, dtype, device.
        model: a `GeneralizedRCNN` (Faster, Mask or Keypoint R-CNN), `RetinaNet` or `FCOS`. Its own score threshold and
            number of detections are set from the settings.
        class_names: a name for each output of the network; output 0 is the background.
    """

    name = "torchvision"
    batch_size = 4

    def __init__(self, settings: TorchvisionSettings, model: nn.Module, class_names: Sequence[str]) -> None:
        self.settings = settings
        self._names = list(class_names)
        self.class_names = list(dict.fromkeys(self._names[1:]))
        self._device = device_of(settings.device)
        self._weights_sha256 = ""
        self.model = model.eval().requires_grad_(False).to(self._device)
        heads = model.roi_heads if isinstance(model, detection.faster_rcnn.GeneralizedRCNN) else model
        heads.score_thresh, heads.detections_per_img = settings.threshold, settings.max_regions
        model.transform.min_size, model.transform.max_size = (settings.min_size,), settings.max_size
        self._pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2)
        with torch.inference_mode():
            self.feature_size: int = self._describe_zeros().shape[1]

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """Regions of each picture by falling score; pictures of one size share a pass, so nothing is padded."""
        found: list[Regions | None] = [None] * len(pictures)
        for places in same_size_batches(pictures, self.batch_size):
            batch = [to_rgb(pictures[place]) for place in places]
            with torch.inference_mode(), computing_in(self.settings.dtype, self._device):
                for place, regions in zip(places, self._detect_batch(batch), strict=True):
                    found[place] = regions
        return found

    def _detect_batch(self, pictures: list[Image.Image]) -> list[Regions]:
        pixels = [self._pixels(picture) for picture in pictures]
        caught: dict[str, Any] = {}
        hook = self.model.backbone.register_forward_hook(lambda module, args, output: caught.update(maps=output))
        try:
            said = self.model(pixels)
        finally:
            hook.remove()
        seen = self.model.transform(pixels)[0].image_sizes  # (height, width) that the network saw
        maps = caught["maps"] if isinstance(caught["maps"], Mapping) else OrderedDict([("0", caught["maps"])])

        kept, pooled_boxes = [], []
        for picture, one, size in zip(pictures, said, seen, strict=True):
            one["boxes"] = clip_to(one["boxes"].float(), picture)
            places = choose(one["boxes"], one["scores"].float(), self.settings)
            kept.append(places)
            boxes = one["boxes"][places]
            if self.settings.whole_picture or not len(places):
                boxes = torch.cat([boxes, boxes.new_tensor([[0, 0, picture.width, picture.height]])])
            pooled_boxes.append(resize_boxes(boxes, (picture.height, picture.width), size))
        features = self._describe(maps, pooled_boxes, seen).float().split([len(boxes) for boxes in pooled_boxes])
        return [
            regions_from(
                picture,
                one["boxes"][places],
                rows,
                [self._names[k] for k in one["labels"][places].tolist()],
                one["scores"][places],
                self.settings.label_threshold,
            )
            for picture, one, places, rows in zip(pictures, said, kept, features, strict=True)
        ]

    def _pixels(self, picture: Image.Image) -> Tensor:
        """[3, H, W] in 0..1, as all of torchvision's detectors take it."""
        array = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return array.to(self._device).float().div_(255)

    def _describe(self, maps: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Features [sum of N, F] of boxes in pixels of what the network saw."""
        if isinstance(self.model, detection.faster_rcnn.GeneralizedRCNN):
            heads = self.model.roi_heads
            pooled = heads.box_head(heads.box_roi_pool(maps, boxes, sizes))
        else:
            levels = OrderedDict(zip(self._pool.featmap_names, maps.values(), strict=False))
            pooled = self._pool(levels, boxes, sizes)
        return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled

    def _describe_zeros(self) -> Tensor:
        """The feature of an empty picture, for its size."""
        side = 64
        maps = self.model.backbone(torch.zeros(1, 3, side, side, device=self._device))
        maps = maps if isinstance(maps, Mapping) else OrderedDict([("0", maps)])
        box = torch.tensor([[0.0, 0, side, side]], device=self._device)
        return self._describe(maps, [box], [(side, side)])

    # ---------------------------------------------------------------- identity, saving, loading

    def fingerprint(self) -> dict[str, str | int | float]:
        """Name, builder, SHA-256 of the weights, thresholds, sizes of the input, feature size."""
        self._weights_sha256 = self._weights_sha256 or weights_sha256(self.model.state_dict())
        return {
            "name": self.name,
            "weights_sha256": self._weights_sha256,
            "feature_size": self.feature_size,
            **settings_fingerprint(self.settings),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `detector.json` and `detector.safetensors`; for models that torchvision's builder can make again."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "device"}
        config = {"detector": self.name, "settings": settings, "class_names": self._names}
        write_detector(folder, CONFIG_FILE, config, self.model.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TorchvisionDetector":
        """From a folder that `save_pretrained` wrote."""
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        settings = TorchvisionSettings(**config["settings"])
        model = _untrained(settings.builder, len(config["class_names"]))
        try:
            fill(model, load_file(folder / WEIGHTS_FILE), str(folder))
        except (OSError, SafetensorError) as error:
            raise UserError(f"detector in {folder} cannot be read ({error}): save it again") from None
        return cls(settings, model, config["class_names"])

    @classmethod
    def from_specification(cls, specification: str) -> "TorchvisionDetector":
        """`torchvision:BUILDER,weights=FILE|DEFAULT[,sha256=...][,classes=FILE][,threshold=...]...`."""
        _, source, options = parse_specification(specification)
        weights, sha256, classes = (options.pop(key, "") for key in ("weights", "sha256", "classes"))
        if not source or not weights:
            raise UserError(
                "torchvision: name a builder and its weights, as in torchvision:fasterrcnn_resnet50_fpn,"
                "weights=FILE.safetensors (or weights=DEFAULT to download torchvision's)"
            )
        known = list_models(module=detection)
        if source not in known:
            raise UserError(f"torchvision has no detector {source!r}; it has {', '.join(known)}")
        settings = settings_of(TorchvisionSettings, options, "torchvision", builder=source)
        published = get_model_weights(source)
        names = published.DEFAULT.meta["categories"]
        if classes:
            names = ["__background__", *read_class_names(classes)]
        model = _untrained(source, len(names))
        if weights in published.__members__:
            try:
                tensors = published[weights].get_state_dict(progress=True, check_hash=True)
            except OSError as error:
                raise UserError(
                    f"torchvision: {weights} cannot be downloaded ({error}); bring the file by weights=FILE"
                ) from None
            fill(model, dict(tensors), weights)
        else:
            fill(model, read_weights(weights, sha256), weights)
        return cls(settings, model, names)


def _untrained(builder: str, outputs: int) -> nn.Module:
    """The builder's model with that many outputs (background included), without any download."""
    return get_model(builder, weights=None, weights_backbone=None, num_classes=outputs)
