"""What detectors on an image network (vivo/detectors/backbone.py) have in common: the network where it computes, its
identity, and its folder. The grid (grid.py) and the whole picture (whole.py) add what they take for regions.

Notation: B pictures, S side of the input in pixels, m side of the feature map, F feature size.
"""

import copy
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vivo.detectors import lite0
from vivo.detectors.adapting import (
    DTYPES,
    WEIGHTS_FILE,
    device_of,
    settings_fingerprint,
    weights_sha256,
    write_detector,
)
from vivo.detectors.backbone import LITE0, map_of, normalised, untrained
from vivo.detectors.base import CONFIG_FILE
from vivo.detectors.weight_files import fill
from vivo.errors import UserError


class BackboneDetector:
    """See `vivo.detectors.base.Detector` for the attributes and methods that all detectors have.

    Args:
        settings: a `settings_class`, with the fields backbone, dtype and device at least.
        network: the timm model with its weights, without classifier; it is the detector's own from here on.
        mean, std: of the pixels 0..255, by channel; the network sees (pixel - mean) / std.
        side: of the largest input, pixels; on a CPU the maps of a batch have to fit into its cache.
    """

    name = ""
    settings_class: type[Any]
    gpu_batch_size = 64

    def __init__(
        self, settings: Any, network: nn.Module, mean: Sequence[float], std: Sequence[float], side: int
    ) -> None:
        self.settings = settings
        self.class_names: list[str] = []
        self.feature_size: int = network.num_features
        self.mean, self.std = [float(m) for m in mean], [float(s) for s in std]
        self._plain = network.eval().requires_grad_(False).cpu()  # saved and hashed: no trace of machine or dtype
        self._device, self._dtype = device_of(settings.device), DTYPES[settings.dtype]
        # at 448 pixels eight pictures took 1.4 times the time of two, each (Lite0, 2 MB of cache a core)
        self.batch_size = self.gpu_batch_size if self._device.type == "cuda" else max(1, min(8, 8 * 224**2 // side**2))
        network = copy.deepcopy(self._plain)
        self._network = self._placed(lite0.streamline(network) if self._lite0 else network)
        self._mean, self._std = (torch.tensor(values, device=self._device) for values in (self.mean, self.std))
        self._weights_sha256 = ""
        # one core squashes some 200 pictures a second, a GPU looks at thousands
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(cores, "squash") if self._device.type == "cuda" else None

    @property
    def _lite0(self) -> bool:
        return self.settings.backbone.partition("/")[0] == LITE0

    def _placed(self, network: nn.Module) -> nn.Module:
        """Where and in what it computes."""
        return network.to(self._device, self._dtype, memory_format=torch.channels_last)

    def _fold(self, sizes: Iterable[int]) -> None:
        """Fold the network's batch norms into its convolutions, if its maps of pictures of these sizes stay the same.
        Lite0's are folded from the beginning."""
        if self._lite0:
            return
        from vivo.detectors.folding import fold, settle  # they need timm, which takes seconds to import

        network = copy.deepcopy(self._plain)
        noise = [torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)) for size in sizes]
        if fold(network, lambda trial: torch.cat([map_of(trial, inputs).flatten() for inputs in noise])):
            settle(network)
            self._network = self._placed(network)

    def _map(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> float32 [B, F, m, m]."""
        return map_of(self._network, self._inputs(pixels)).float()

    def _inputs(self, pixels: Tensor) -> Tensor:
        """uint8 RGB [B, 3, S, S] -> what the network sees, channels last."""
        inputs = normalised(pixels.to(self._device), self._mean, self._std)
        return inputs.to(self._dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def _tried(self, size: int, option: str) -> Tensor:
        """The map [1, F, m, m] of a black picture, so that a size that the backbone cannot take is an error now.

        Raises:
            UserError: it cannot; `option` is what should be another.
        """
        try:
            return self._map(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.name}: {self.settings.backbone} cannot take pictures of {size} pixels ({reason}); give another "
                f"{option}"
            ) from None

    def fingerprint(self) -> dict[str, str | int | float]:
        """Name, SHA-256 of the backbone's weights, settings, scaling of the pixels, feature size."""
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
    def from_pretrained(cls, folder: Path) -> Self:
        """From a folder that `save_pretrained` wrote."""
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        settings = cls.settings_class(**config["settings"])
        network = untrained(settings.backbone, who=cls.name)
        try:
            fill(network, load_file(folder / WEIGHTS_FILE), str(folder))
        except (OSError, SafetensorError) as error:
            raise UserError(f"detector in {folder} cannot be read ({error}): save it again") from None
        return cls(settings, network, config["mean"], config["std"])
