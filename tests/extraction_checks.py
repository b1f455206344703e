"""What the tests of extraction share: a detector that reads pixels, pictures, the bytes of a store."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vivo.data.types import Regions
from vivo.detectors.extract import find_pictures

ROOT = Path(__file__).resolve().parents[1]


class Quadrants:
    """A region for the whole picture and each quarter; features are mean and spread of the colours there.

    Like a real network on a padded batch, it lets the neighbours in the batch leak into the last bits.
    """

    name = "quadrants"
    feature_size = 6
    class_names = ["reddish"]

    def __init__(self, dies_after: int | None = None, version: int = 1) -> None:
        self.dies_after = dies_after
        self.version = version
        self.batches: list[int] = []

    def fingerprint(self) -> dict[str, str | int | float]:
        return {"name": self.name, "version": self.version}

    def detect(self, pictures: Sequence[Image.Image]) -> list[Regions]:
        if self.dies_after is not None and len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(len(pictures))
        leak = np.mean([np.asarray(picture).mean() for picture in pictures]) / 1000
        return [self._regions(np.asarray(picture, dtype=np.float32) / 255, leak) for picture in pictures]

    def _regions(self, pixels: np.ndarray, leak: float) -> Regions:
        height, width, _ = pixels.shape
        x, y = width // 2, height // 2
        boxes = [(0, 0, width, height), (0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        parts = [pixels[y1:y2, x1:x2].reshape(-1, 3) for x1, y1, x2, y2 in boxes]
        return Regions(
            boxes=np.array(boxes, np.float32),
            features=np.array([np.concatenate([part.mean(0), part.std(0)]) + leak for part in parts], np.float16),
            labels=["reddish" if part.mean(0).argmax() == 0 else "" for part in parts],
            scores=np.linspace(0.9, 0.1, 5, dtype=np.float32),
            width=width,
            height=height,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        raise AssertionError("extraction has no business saving its detector")


def make_pictures(folder: Path, count: int) -> list[Path]:
    """Noise pictures of growing width, named as COCO does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        noise = rng.integers(0, 256, (20, 20 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i + 1:012d}.png")
    return find_pictures(folder)


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
