"""Grid features: cells of a backbone's feature map as regions, so that any photograph works without a detector.

    detector = load_detector("grid")                                   # Lite0 with its ImageNet weights, 7 x 7 cells
    detector = load_detector("grid:scales=448x7+224x3")                # two scales: 49 + 9 + 1 regions
    detector = load_detector("grid:tagger=runs/tagger")                # with labels: see `vivo.detectors.tagger`
    detector = load_detector("grid:resnet50,weights=resnet50.safetensors,scales=448x7,dtype=bfloat16")

A scale SxG squashes the picture to S x S pixels and averages the last feature map over G x G cells; the box of
a cell is the part of the picture under those map positions. The last region is the whole picture, the mean of
the first scale's map. Nothing is named: tags come from a tagger (`vivo.detectors.tagger`), labels or a file.

Notation: B pictures, S side of the input in pixels, m side of the feature map, G cells a side, F feature size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vivo.data.types import Regions
from vivo.detectors.adapting import parse_specification, settings_of
from vivo.detectors.backbone import LITE0, open_backbone, squares
from vivo.detectors.backbone_detector import BackboneDetector
from vivo.detectors.base import Detector
from vivo.detectors.pictures import to_rgb
from vivo.detectors.tagger import TaggedDetector, Tagger
from vivo.errors import UserError


@dataclass(frozen=True)
class GridSettings:
    """Options of a grid.

    Attributes:
        backbone: name of a timm model.
        scales: SxG, several joined by "+".
        dtype: float32, bfloat16 or float16.
        device: empty: this process's GPU where there is one.
    """

    backbone: str = LITE0
    scales: str = "448x7"
    dtype: str = "float32"
    device: str = ""


class GridDetector(BackboneDetector):
    """See `vivo.detectors.backbone_detector.BackboneDetector`."""

    name = "grid"
    settings_class = GridSettings

    def __init__(self, settings: GridSettings, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scales = parse_scales(settings.scales)
        super().__init__(settings, network, mean, std, max(side for side, _ in self.scales))
        self._check_scales()

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        """Cells of each picture, scale by scale, row by row, then the whole picture; no labels, scores 0."""
        found: list[Regions] = []
        for start in range(0, len(pictures), self.batch_size):
            batch = [to_rgb(picture) for picture in pictures[start : start + self.batch_size]]
            with torch.inference_mode():
                found.extend(self._detect_batch(batch))
        return found

    def _detect_batch(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        maps = {
            size: self._map(squares(pictures, size, self._pool))
            for size in dict.fromkeys(size for size, _ in self.scales)
        }
        features, boxes = [], []
        for size, cells in self.scales:
            pooled = F.adaptive_avg_pool2d(maps[size], cells)  # [B, F, G, G]
            features.append(pooled.flatten(2).transpose(1, 2))
            boxes.append(cell_boxes(maps[size].shape[-1], cells))
        features.append(maps[self.scales[0][0]].mean((2, 3))[:, None])
        boxes.append(np.array([[0, 0, 1, 1]], np.float32))
        rows, parts = torch.cat(features, 1).half().cpu().numpy(), np.concatenate(boxes)
        return [
            Regions(
                boxes=parts * np.array([picture.width, picture.height] * 2, np.float32),
                features=row,
                labels=[""] * len(parts),
                scores=np.zeros(len(parts), np.float32),
                width=picture.width,
                height=picture.height,
            )
            for picture, row in zip(pictures, rows, strict=True)
        ]

    def _check_scales(self) -> None:
        """Try every input size once: one that the backbone cannot take, or of too few cells, is an error now.

        Then the network is folded.
        """
        for size, cells in self.scales:
            found = self._tried(size, "scale")
            if found.shape[1] != self.feature_size or found.shape[2] != found.shape[3] or found.shape[3] < cells:
                raise UserError(
                    f"grid: scale {size}x{cells} asks for {cells} x {cells} cells of a map of {found.shape[2]} x"
                    f" {found.shape[3]}; give fewer cells or more pixels"
                )
        self._fold(dict.fromkeys(size for size, _ in self.scales))

    @classmethod
    def from_specification(cls, specification: str) -> Detector:
        """`grid[:BACKBONE][,scales=...][,weights=FILE|hub][,sha256=...][,dtype=...][,device=...][,tagger=FOLDER]`."""
        _, source, options = parse_specification(specification)
        weights, sha256, tagger = (options.pop(key, "") for key in ("weights", "sha256", "tagger"))
        settings = settings_of(GridSettings, options, "grid", backbone=source or LITE0)
        grid = cls._with_weights(settings, weights, sha256)
        return TaggedDetector(grid, Tagger.load(tagger)) if tagger else grid

    @classmethod
    def _with_weights(cls, settings: GridSettings, weights: str, sha256: str) -> "GridDetector":
        parse_scales(settings.scales)  # before the weights are loaded
        return cls(settings, *open_backbone(settings.backbone, weights, sha256))


def parse_scales(text: str) -> list[tuple[int, int]]:
    """ "448x7+224x3" -> [(448, 7), (224, 3)]: input pixels and cells a side of each scale."""
    scales = []
    for part in text.split("+"):
        size, _, cells = part.partition("x")
        if not (size.isdecimal() and cells.isdecimal() and int(size) >= 32 and int(cells) >= 1):
            raise UserError(f"grid: scales={text}: {part!r} must be PIXELSxCELLS such as 448x7; join scales by +")
        scales.append((int(size), int(cells)))
    return scales


def cell_boxes(side: int, cells: int) -> np.ndarray:
    """Boxes [G * G, 4], parts of the picture in 0..1, of the map positions that `adaptive_avg_pool2d` averages."""
    starts = [i * side // cells for i in range(cells)]
    ends = [-(-(i + 1) * side // cells) for i in range(cells)]
    boxes = [(starts[x], starts[y], ends[x], ends[y]) for y in range(cells) for x in range(cells)]
    return np.array(boxes, np.float32) / side
