"""Faster R-CNN of detectron2: C4 heads (bottom-up attention, Visual Genome) and FPN heads, any config and weights.

    detector = load_detector("detectron2:faster_rcnn_R_101_C4.yaml,weights=vg.safetensors,classes=objects_vocab.txt")

detectron2 is in no package registry; docs/detectors.md says how to build it. The feature of a region is taken at its
final box: C4 heads give the mean over the cells of res5 (2048 numbers, as the paper's features were made), FPN
heads what the box head makes of the pooled pyramid (1024).

Notation: B pictures, N detections, F feature size.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.structures import Boxes
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

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
from vivo.files import atomic_write_text, writable_folder

CFG_FILE = "config.yaml"
IGNORED = ("attr", "mask_head", "keypoint_head")
"""Parts of a checkpoint that a plain box detector has not: attributes of Visual Genome models, other heads."""


@dataclass(frozen=True)
class Detectron2Settings(DetectionSettings):
    """As `DetectionSettings`; the thresholds stand for SCORE_THRESH_TEST and DETECTIONS_PER_IMAGE of the config."""


class Detectron2Detector:
    """See `vivo.detectors.base.Detector` for the attributes and methods that all detectors have.

    Args:
        settings: thresholds, dtype, device.
        cfg: detectron2's configuration, complete.
        class_names: a name for each of NUM_CLASSES.

    The network has random weights until `from_specification` or `from_pretrained` fills it.
    """

    name = "detectron2"
    batch_size = 4

    def __init__(self, settings: Detectron2Settings, cfg: CfgNode, class_names: Sequence[str]) -> None:
        self.settings = settings
        self._device = device_of(settings.device)
        self.cfg = _for_detection(cfg, settings, self._device)
        self.model = build_model(self.cfg).eval().requires_grad_(False)
        heads = getattr(self.model, "roi_heads", None)
        if not isinstance(heads, Res5ROIHeads | StandardROIHeads):
            kind = type(heads or self.model).__name__
            raise UserError(f"detectron2: {kind} is not supported, only Faster R-CNN with a C4 or FPN head")
        if len(class_names) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise UserError(
                f"detectron2: {len(class_names)} class names for a network of {cfg.MODEL.ROI_HEADS.NUM_CLASSES}"
                " classes; give classes=FILE with one name a line in the order of the network"
            )
        self._names = list(class_names)
        self.class_names = list(dict.fromkeys(self._names))
        self.feature_size: int = heads.box_predictor.cls_score.in_features
        self._resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
        self._weights_sha256 = ""

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
        images = self.model.preprocess_image([{"image": self._pixels(picture)} for picture in pictures])
        maps = self.model.backbone(images.tensor)
        proposals, _ = self.model.proposal_generator(images, maps, None)
        said, _ = self.model.roi_heads(images, maps, proposals, None)  # boxes in pixels of what the network saw

        chosen, pooled_boxes = [], []
        for picture, one in zip(pictures, said, strict=True):
            height, width = one.image_size
            scale = torch.tensor([picture.width / width, picture.height / height] * 2, device=self._device)
            boxes, scores = clip_to(one.pred_boxes.tensor.float() * scale, picture), one.scores.float()
            places = choose(boxes, scores, self.settings)
            pooled = one.pred_boxes.tensor[places].float()
            if self.settings.whole_picture or not len(places):
                pooled = torch.cat([pooled, pooled.new_tensor([[0, 0, width, height]])])
            pooled_boxes.append(Boxes(pooled))
            chosen.append((boxes[places], [self._names[k] for k in one.pred_classes[places].tolist()], scores[places]))
        features = self._describe(maps, pooled_boxes).float().split([len(boxes) for boxes in pooled_boxes])
        return [
            regions_from(picture, boxes, rows, names, scores, self.settings.label_threshold)
            for picture, rows, (boxes, names, scores) in zip(pictures, features, chosen, strict=True)
        ]

    def _pixels(self, picture: Image.Image) -> Tensor:
        """[3, H, W], 0..255, resized and in the channel order of the config, as `DefaultPredictor` does it."""
        array = np.asarray(picture)
        if self.cfg.INPUT.FORMAT == "BGR":
            array = array[:, :, ::-1]
        array = self._resize.get_transform(array).apply_image(array)
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float()

    def _describe(self, maps: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        """Features [sum of N, F] of boxes in pixels of what the network saw."""
        heads = self.model.roi_heads
        if isinstance(heads, Res5ROIHeads):
            return heads._shared_roi_transform([maps[f] for f in heads.in_features], boxes).mean((2, 3))
        pooled = heads.box_head(heads.box_pooler([maps[f] for f in heads.box_in_features], boxes))
        return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled

    # ---------------------------------------------------------------- identity, saving, loading

    def fingerprint(self) -> dict[str, str | int | float]:
        """Name, SHA-256 of weights and of the configuration, thresholds, feature size."""
        self._weights_sha256 = self._weights_sha256 or weights_sha256(self.model.state_dict())
        return {
            "name": self.name,
            "weights_sha256": self._weights_sha256,
            "config_sha256": hashlib.sha256(_portable(self.cfg).encode()).hexdigest(),
            "feature_size": self.feature_size,
            **settings_fingerprint(self.settings),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.yaml`, `detector.safetensors` and `detector.json`."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "device"}
        config = {"detector": self.name, "settings": settings, "class_names": self._names}
        atomic_write_text(writable_folder(folder) / CFG_FILE, _portable(self.cfg))
        write_detector(folder, CONFIG_FILE, config, self.model.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Detectron2Detector":
        """From a folder that `save_pretrained` wrote."""
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        detector = cls(Detectron2Settings(**config["settings"]), _read_cfg(folder / CFG_FILE), config["class_names"])
        try:
            fill(detector.model, load_file(folder / WEIGHTS_FILE), str(folder))
        except (OSError, SafetensorError) as error:
            raise UserError(f"detector in {folder} cannot be read ({error}): save it again") from None
        return detector

    @classmethod
    def from_specification(cls, specification: str) -> "Detectron2Detector":
        """`detectron2:CONFIG.yaml,weights=FILE[,sha256=...][,classes=FILE][,threshold=...]...`."""
        _, source, options = parse_specification(specification)
        weights, sha256, classes = (options.pop(key, "") for key in ("weights", "sha256", "classes"))
        if not source or not weights:
            raise UserError(
                "detectron2: name a config and its weights, as in detectron2:CONFIG.yaml,weights=FILE.safetensors"
            )
        settings = settings_of(Detectron2Settings, options, "detectron2")
        tensors = read_weights(weights, sha256)  # before the network is built: it takes seconds
        cfg = _read_cfg(Path(source))
        names = read_class_names(classes) if classes else _dataset_names(cfg)
        detector = cls(settings, cfg, names)
        extra = fill(detector.model, tensors, weights, strict=False)
        if unknown := [name for name in extra if not any(part in name for part in IGNORED)]:
            warnings.warn(f"{weights}: {len(unknown)} weights are not used, first {unknown[0]}", stacklevel=2)
        return detector


def _for_detection(cfg: CfgNode, settings: Detectron2Settings, device: torch.device) -> CfgNode:
    """A copy of the configuration with the settings in it, without heads for masks and key points."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.threshold
    cfg.TEST.DETECTIONS_PER_IMAGE = settings.max_regions
    cfg.freeze()
    return cfg


def _portable(cfg: CfgNode) -> str:
    """The configuration as YAML without the device, which decides nothing."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    # through JSON, so that equal lists are written out, not as YAML's references to one another
    return yaml.safe_dump(json.loads(json.dumps(yaml.safe_load(cfg.dump()))), sort_keys=True)


def _read_cfg(path: Path) -> CfgNode:
    """detectron2's defaults with that file (and its `_BASE_` files) over them; YAML tags that run code are refused."""
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (OSError, AssertionError, KeyError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or repr(error)
        raise UserError(f"detectron2: {path} cannot be read as a configuration ({reason}); check the path") from None
    return cfg


def _dataset_names(cfg: CfgNode) -> list[str]:
    """Class names of the data set that the configuration names, where detectron2 knows them."""
    for dataset in cfg.DATASETS.TRAIN:
        if names := getattr(MetadataCatalog.get(dataset), "thing_classes", None):
            return list(names)
    raise UserError("detectron2: the names of the classes are not known: add classes=FILE, one name a line")
