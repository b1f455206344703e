"""The whole picture as its one region: what an image classifier's last layer says of it, the mean of its feature map.

    detector = load_detector("whole")                                          # Lite0 with its ImageNet weights
    detector = load_detector("whole:inception_v3,weights=inception_v3.safetensors,size=299,resize=346")

It is what Show and Tell (vivo/show_and_tell) knows of a picture. `size` is the side of the square that the network
sees; with `resize` the picture is squashed to that side first and the middle is cut out of it.

Notation: B pictures, S side of the input in pixels, F feature size.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vivo.data.types import Regions
from vivo.detectors.adapting import parse_specification, settings_of
from vivo.detectors.backbone import LITE0, open_backbone, squares
from vivo.detectors.backbone_detector import BackboneDetector
from vivo.detectors.pictures import to_rgb
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


class WholePictureDetector(BackboneDetector):
    """See `vivo.detectors.backbone_detector.BackboneDetector`."""

    name = "whole"
    settings_class = WholeSettings

    def __init__(
        self, settings: WholeSettings, network: nn.Module, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        if settings.size < 32 or (settings.resize and settings.resize < settings.size):
            raise UserError(f"whole: size={settings.size} must be 32 or more, and resize={settings.resize} no less")
        # no resizing and resizing to the size itself are one thing, and have one fingerprint
        super().__init__(replace(settings, resize=settings.resize or settings.size), network, mean, std, settings.size)
        self._fits = False  # whether the network takes this size is tried when pictures come: a hash needs no pass

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """One region of each picture: all of it, without a name."""
        if not self._fits:
            self._tried(self.settings.size, "size")
            self._fold([self.settings.size])
            self._fits = True
        found: list[Regions] = []
        for start in range(0, len(pictures), self.batch_size):
            part = [to_rgb(picture) for picture in pictures[start : start + self.batch_size]]
            pixels = middle_squares(part, self.settings.size, self.settings.resize, self._pool)
            with torch.inference_mode():
                features = self._map(pixels).mean((2, 3)).half().cpu().numpy()
            found += [whole_picture(p.width, p.height, row[None]) for p, row in zip(part, features, strict=True)]
        return found

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


def middle_squares(pictures: Sequence[Image.Image], size: int, resize: int = 0, pool: Executor | None = None) -> Tensor:
    """RGB pictures -> uint8 [B, 3, S, S]: squashed to `resize` (0: to `size`), then the middle square of `size`."""
    if not resize or resize == size:
        return squares(pictures, size, pool)
    first = (resize - size) // 2
    return squares(pictures, resize, pool)[:, :, first : first + size, first : first + size].contiguous()
