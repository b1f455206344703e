"""The whole picture as its one region: what an image classifier's last layer says of it, the mean of its feature map.

    detector = load_detector("whole")                                          # Lite0 with its ImageNet weights
    detector = load_detector("whole:inception_v3,weights=inception_v3.safetensors,size=299,resize=346")

It is what Show and Tell (vivo/show_and_tell) knows of a picture. `size` is the side of the square that the network
sees; with `resize` the picture is squashed to that side first and the middle is cut out of it.

Notation: B pictures, S side of the input in pixels, F feature size.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vivo.data.types import Regions
from vivo.detectors import lite0
from vivo.detectors.adapting import (
    DTYPES,
    WEIGHTS_FILE,
    device_of,
    parse_specification,
    settings_fingerprint,
    settings_of,
    weights_sha256,
    write_detector,
)
from vivo.detectors.backbone import LITE0, map_of, normalised, open_backbone, squares, untrained
from vivo.detectors.base import CONFIG_FILE
from vivo.detectors.pictures import to_rgb
from vivo.detectors.weight_files import fill
from vivo.errors import UserError


@dataclass(frozen=True)
class WholeSettings:
    """Options.

    Attributes:
        backbone: name of a timm model, "/n" behind it for its first n stages (vivo/detectors/backbone.py).
        size: side of what the network sees, pixels. resize: see the module's docstring; 0: the same as `size`.
        dtype: float32, bfloat16 or float16.
        device: empty: this process's GPU where there is one.
    """

    backbone: str = LITE0
    size: int = 224
    resize: int = 0
    dtype: str = "float32"
    device: str = ""


class WholePictureDetector:
    """See `vivo.detectors.base.Detector` for the attributes and methods that all detectors have.

    Args:
        network: the timm model with its weights, without classifier; it is copied.
        mean, std: of the pixels 0..255, by channel.
    """

    name = "whole"
    batch_size = 8  # maps of more pictures do not fit into a CPU's cache
    gpu_batch_size = 64

    def __init__(
        self, settings: WholeSettings, network: nn.Module, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        if settings.size < 32 or (settings.resize and settings.resize < settings.size):
            raise UserError(f"whole: size={settings.size} must be 32 or more, and resize={settings.resize} no less")
        self.settings = settings
        self.class_names: list[str] = []
        self.feature_size: int = network.num_features
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]
        self._plain = copy.deepcopy(network).eval().requires_grad_(False).cpu()
        self._device, self._dtype = device_of(settings.device), DTYPES[settings.dtype]
        if self._device.type == "cuda":
            self.batch_size = self.gpu_batch_size
        fast = copy.deepcopy(self._plain)
        if settings.backbone.partition("/")[0] == LITE0:
            fast = lite0.streamline(fast)
        self._network = fast.to(self._device, self._dtype, memory_format=torch.channels_last)
        self._mean, self._std = (torch.tensor(values, device=self._device) for values in (self.mean, self.std))
        self._weights_sha256 = ""

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """One region of each picture: all of it, without a name."""
        found: list[Regions] = []
        for start in range(0, len(pictures), self.batch_size):
            part = [to_rgb(picture) for picture in pictures[start : start + self.batch_size]]
            pixels = middle_squares(part, self.settings.size, self.settings.resize)
            features = self._features(pixels).half().cpu().numpy()
            found += [whole_picture(p.width, p.height, row[None]) for p, row in zip(part, features, strict=True)]
        return found

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> float32 [B, F]."""
        inputs = normalised(pixels.to(self._device), self._mean, self._std)
        try:
            found = map_of(self._network, inputs.to(self._dtype, memory_format=torch.channels_last))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"whole: {self.settings.backbone} cannot take pictures of {self.settings.size} pixels ({reason}); give"
                " another size"
            ) from None
        return found.float().mean((2, 3))

    # ---------------------------------------------------------------- identity, saving, loading

    def fingerprint(self) -> dict[str, str | int | float]:
        """Name, SHA-256 of the backbone's weights, sizes, dtype, scaling of the pixels, feature size."""
        self._weights_sha256 = self._weights_sha256 or weights_sha256(self._plain.state_dict())
        return {
            "name": self.name,
            "weights_sha256": self._weights_sha256,
            "feature_size": self.feature_size,
            "pixels": f"{self.mean} {self.std}",
            **settings_fingerprint(self.settings),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `detector.json` and `detector.safetensors` (the backbone's weights)."""
        settings = {key: value for key, value in asdict(self.settings).items() if key != "device"}
        config = {"detector": self.name, "settings": settings, "mean": self.mean, "std": self.std}
        write_detector(folder, CONFIG_FILE, config, self._plain.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "WholePictureDetector":
        """From a folder that `save_pretrained` wrote."""
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        settings = WholeSettings(**config["settings"])
        network = untrained(settings.backbone, who=cls.name)
        try:
            fill(network, load_file(folder / WEIGHTS_FILE), str(folder))
        except (OSError, SafetensorError) as error:
            raise UserError(f"detector in {folder} cannot be read ({error}): save it again") from None
        return cls(settings, network, config["mean"], config["std"])

    @classmethod
    def from_specification(cls, specification: str) -> "WholePictureDetector":
        """`whole[:BACKBONE][,size=...][,resize=...][,weights=FILE|hub][,sha256=...][,dtype=...][,device=...]`."""
        _, source, options = parse_specification(specification)
        weights, sha256 = options.pop("weights", ""), options.pop("sha256", "")
        settings = settings_of(WholeSettings, options, cls.name, backbone=source or LITE0)
        return cls(settings, *open_backbone(settings.backbone, weights, sha256, cls.name))


def whole_picture(width: int, height: int, features: np.ndarray) -> Regions:
    """A picture as one unnamed region, with features [1, F]."""
    box = np.array([[0, 0, width, height]], np.float32)
    return Regions(box, features, [""], np.zeros(1, np.float32), width, height)


def middle_squares(pictures: Sequence[Image.Image], size: int, resize: int = 0) -> Tensor:
    """RGB pictures -> uint8 [B, 3, S, S]: squashed to `resize` (0: to `size`), then the middle square of `size`."""
    if not resize or resize == size:
        return squares(pictures, size)
    first = (resize - size) // 2
    return squares(pictures, resize)[:, :, first : first + size, first : first + size].contiguous()
