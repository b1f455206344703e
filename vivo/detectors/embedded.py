"""The detector that ships with the package: Lite0 maps, a small Faster R-CNN, trained on the world's scenes.

    detector = load_detector("embedded")            # backbone from pip, trained part from the package
    regions = detector.detect([open_picture("a.jpg")])[0]
    detector.save_pretrained("somewhere")           # self-contained: backbone weights as well

The trained part, `weights/embedded.safetensors` and `weights/embedded.json` (class names, thresholds,
what was measured), is made by `pretrain/train_detector.py`. It derives from OpenMoji's pictures (CC BY-SA 4.0).

Notation: B pictures, R regions, F feature size, S side of the network's square input in pixels.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.ops import nms

from vivo.data.types import Regions
from vivo.detectors.base import CONFIG_FILE
from vivo.detectors.lite0 import Lite0Maps, copy_weights
from vivo.detectors.network import INPUT_SIZE, MEAN_SIZE, EmbeddedNetwork
from vivo.detectors.pictures import to_rgb
from vivo.errors import UserError
from vivo.files import atomic_write_json, writable_folder

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
WEIGHTS_FILE = "detector.safetensors"
"""Beside CONFIG_FILE in a folder of `save_pretrained`."""


@dataclass
class EmbeddedConfig:
    """Everything but weights that decides the regions.

    Attributes:
        class_names: the classes that may become labels, in the order of the network's outputs.
        unnamed_classes: how many outputs follow that never become a label (distractors).
        colour_names: outputs of the colour head; not part of `Regions`, it only shapes the features.
        channels, embedding: sizes N and E of the network.
        objectness: regions below are dropped. overlap: IoU above which of two regions the worse is dropped.
        label_probability: a named class must be at least so probable among all classes to become the label.
        max_regions: detections kept a picture.
        whole_picture: whether the whole picture follows the detections as a last region, so that places
            ("on the beach") reach a captioner. Without detections it is there in any case.
    """

    class_names: list[str]
    unnamed_classes: int
    colour_names: list[str]
    channels: int = 128
    embedding: int = 512
    objectness: float = 0.3
    overlap: float = 0.5
    label_probability: float = 0.5
    max_regions: int = 10
    whole_picture: bool = True

    def network(self) -> EmbeddedNetwork:
        """An untrained network of these sizes."""
        classes = len(self.class_names) + self.unnamed_classes
        return EmbeddedNetwork(classes, len(self.colour_names), self.channels, self.embedding)


class EmbeddedDetector:
    """See `vivo.detectors.base.Detector` for the attributes and methods that all detectors have.

    Runs on the CPU, in float32 (see `Lite0Maps` for why not bfloat16), `batch_size` pictures at a time: the
    maps of more pictures do not fit into the cache and the same work takes longer.
    """

    name = "embedded"
    batch_size = 8

    def __init__(
        self, config: EmbeddedConfig, network: EmbeddedNetwork, backbone: Lite0Maps, notes: dict | None = None
    ) -> None:
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.backbone = backbone
        self.notes = notes or {}
        """What was measured, and the attribution; kept with the weights wherever they go."""
        self.class_names = list(config.class_names)
        self.feature_size = config.embedding + MEAN_SIZE
        self._weights_sha256: str | None = None

    # ---------------------------------------------------------------- detection

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """Regions of each picture: detections by falling objectness, then the whole picture, unnamed, score 0."""
        found: list[Regions] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = pictures[start : start + self.batch_size]
            with torch.inference_mode():
                found.extend(self._detect_batch(batch))
        return found

    def describe(self, pictures: Sequence[Image.Image], boxes: Sequence[np.ndarray]) -> list[Regions]:
        """Features and labels of given boxes ([R, 4] in pixels of each picture, R >= 1), in their order."""
        found: list[Regions] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = pictures[start : start + self.batch_size]
            scaled = [
                torch.as_tensor(np.asarray(b), dtype=torch.float32) / _scale(p)
                for p, b in zip(batch, boxes[start : start + self.batch_size], strict=True)
            ]
            with torch.inference_mode():
                maps = self.network.standardise(self.backbone(squares(batch)))
                found.extend(self._regions(batch, maps, scaled, None))
        return found

    def _detect_batch(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        maps = self.network.standardise(self.backbone(squares(pictures)))
        proposals, _ = self.network.propose(maps)
        boxes, objectness = self.network.heads.refine(maps, proposals)
        kept_boxes, kept_scores = [], []
        for box, score in zip(boxes, objectness, strict=True):
            sides = box[:, 2:] - box[:, :2]
            good = (score >= self.config.objectness) & (sides.amin(1) >= 2)
            box, score = box[good], score[good]
            keep = nms(box, score, self.config.overlap)[: self.config.max_regions]  # falling score
            kept_boxes.append(box[keep])
            kept_scores.append(score[keep])
        return self._regions(pictures, maps, kept_boxes, kept_scores)

    def _regions(
        self,
        pictures: Sequence[Image.Image],
        maps: dict[int, Tensor],
        boxes: list[Tensor],
        objectness: list[Tensor] | None,
    ) -> list[Regions]:
        """Describe boxes (input pixels) a second time at their final place, and scale them back.

        Features of the refined boxes instead of the proposals' cost 0.5 ms a picture and are what makes
        detected regions as good as true boxes. With `objectness` (detection, not given boxes) the whole
        picture follows as a last region, unless detections exist and `config.whole_picture` is off.
        """
        detected = [len(b) for b in boxes]
        if objectness is not None:
            whole = torch.tensor([[0.0, 0.0, INPUT_SIZE, INPUT_SIZE]])
            boxes = [torch.cat([b, whole]) if self.config.whole_picture or not len(b) else b for b in boxes]
        counts = [len(b) for b in boxes]
        said = {name: t.split(counts) for name, t in self.network.heads.describe(maps, boxes).items()}
        result = []
        for i, picture in enumerate(pictures):
            n = detected[i]
            score = said["objectness"][i] if objectness is None else objectness[i]
            labels, scores = self._labels(said["classes"][i][:n], score)
            more = counts[i] - n  # the whole picture: no object, so no name and no score
            result.append(
                Regions(
                    boxes=(boxes[i] * _scale(picture)).numpy().astype(np.float32),
                    features=said["features"][i].half().numpy(),
                    labels=labels + [""] * more,
                    scores=np.concatenate([scores.numpy(), np.zeros(more)]).astype(np.float32),
                    width=picture.width,
                    height=picture.height,
                )
            )
        return result

    def _labels(self, classes: Tensor, objectness: Tensor) -> tuple[list[str], Tensor]:
        """Class probabilities [R, K] -> R labels ("" where none is sure) and their scores [R]."""
        probability, best = classes.max(dim=1)
        named = (best < len(self.class_names)) & (probability >= self.config.label_probability)
        labels = [self.class_names[k] if known else "" for k, known in zip(best.tolist(), named.tolist(), strict=True)]
        return labels, torch.where(named, probability, objectness)

    # ---------------------------------------------------------------- identity, saving, loading

    def fingerprint(self) -> dict[str, str | int | float]:
        """Name, SHA-256 over all weights (backbone too), sizes and thresholds."""
        if self._weights_sha256 is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self._tensors().items()):
                digest.update(f"{name} {tuple(tensor.shape)};".encode())
                digest.update(tensor.float().contiguous().numpy().tobytes())
            self._weights_sha256 = digest.hexdigest()
        return {
            "name": self.name,
            "weights_sha256": self._weights_sha256,
            "feature_size": self.feature_size,
            "input_size": INPUT_SIZE,
            "objectness": self.config.objectness,
            "overlap": self.config.overlap,
            "label_probability": self.config.label_probability,
            "max_regions": self.config.max_regions,
            "whole_picture": int(self.config.whole_picture),
        }

    def _tensors(self) -> dict[str, Tensor]:
        trained = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        return trained | {f"backbone.{k}": v for k, v in self.backbone.state_dict().items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `detector.json` and `detector.safetensors` (19 MB: backbone as well, nothing else needed)."""
        _write(Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE, self._json(), self._tensors())

    def save_trained_part(self, folder: str | Path) -> None:
        """Write `embedded.json` and `embedded.safetensors`, what ships with the package."""
        trained = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        _write(Path(folder) / "embedded.json", Path(folder) / "embedded.safetensors", self._json(), trained)

    def _json(self) -> dict:
        return {"detector": self.name, "config": asdict(self.config), "notes": self.notes}

    @classmethod
    def from_package(cls, folder: Path = WEIGHTS_FOLDER) -> "EmbeddedDetector":
        """Backbone from the pip package of ImageNet weights, the trained part from this package."""
        config, notes, tensors = _read(folder / "embedded.json", folder / "embedded.safetensors")
        network = config.network()
        _fill(network, tensors, "network.", folder)
        return cls(config, network, Lite0Maps.from_package(), notes)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "EmbeddedDetector":
        """From a folder that `save_pretrained` wrote: exactly the same detector."""
        config, notes, tensors = _read(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        network, backbone = config.network(), Lite0Maps()
        _fill(network, tensors, "network.", folder)
        _fill(backbone, tensors, "backbone.", folder)
        return cls(config, network, backbone, notes)


def squares(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size -> uint8 RGB [B, 3, S, S], channels last in memory.

    Squashed, not cropped or padded: nothing is lost at the edges, and boxes scale back by two numbers.
    """
    size = (INPUT_SIZE, INPUT_SIZE)
    arrays = []
    for picture in pictures:
        picture = to_rgb(picture)
        if picture.size != size:
            # reducing_gap: shrink big photographs by an integer factor first, as good and several times faster
            picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        arrays.append(np.asarray(picture))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _scale(picture: Image.Image) -> Tensor:
    """[4]: pixels of the picture per pixel of the network's input, for x1 y1 x2 y2."""
    return torch.tensor([picture.width, picture.height] * 2, dtype=torch.float32) / INPUT_SIZE


def _fill(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str, folder: Path) -> None:
    own = {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}
    try:
        copy_weights(module, own)
    except AssertionError as error:
        raise UserError(
            f"weights in {folder} do not fit their configuration ({error}): save the detector again"
        ) from None


def _read(config_path: Path, weights_path: Path) -> tuple[EmbeddedConfig, dict, dict[str, Tensor]]:
    try:
        written = json.loads(config_path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(EmbeddedConfig)}
        config = EmbeddedConfig(**{k: v for k, v in written["config"].items() if k in known})
        return config, written["notes"], load_file(weights_path)
    except FileNotFoundError as error:
        missing = error.filename or weights_path
        raise UserError(f"detector file {missing} is missing: save or install the detector again") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"detector in {config_path.parent} cannot be read ({error}): save it again") from None


def _write(config_path: Path, weights_path: Path, config: dict, tensors: dict[str, Tensor]) -> None:
    """Weights first, each file whole or not at all, so that a reader never sees half a detector."""
    folder = writable_folder(config_path.parent)
    temporary = folder / f".{weights_path.name}.tmp-{os.getpid()}"
    try:
        save_file({name: _compact(tensor) for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors makes it private; what ships is for all
        os.replace(temporary, weights_path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {weights_path} ({error}): free some space or choose another folder") from None
    finally:
        temporary.unlink(missing_ok=True)
    atomic_write_json(config_path, config)


def _compact(tensor: Tensor) -> Tensor:
    """float16 where that loses nothing (the trained part is rounded to it once, after training), else as it is."""
    half = tensor.half()
    return half.contiguous() if torch.equal(half.to(tensor.dtype), tensor) else tensor.contiguous()
