"""Picture files as Show and Tell reads them: pixels in squares, and for training, cut and coloured at random.

`PictureStore` stands where a RegionStore stands otherwise: picture id -> `Pixels`, which are `Regions` (one, the
whole picture) with their pixels.

Random views, as published (im2txt's image_processing.py): the square is cut at a random place instead of the middle,
mirrored half of the time, and its brightness, saturation, hue and contrast are changed, in one of two orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vivo.data.region_format import fingerprint_of
from vivo.data.types import CaptionExample, Regions
from vivo.detectors.backbone import squares
from vivo.detectors.pictures import open_picture, to_rgb
from vivo.detectors.whole import middle_squares, whole_picture
from vivo.errors import UserError

AUGMENTATIONS = ("none", "flip", "cut", "distort")
"""Each with all that stands before it: mirrored; cut at random places; other colours."""
BRIGHTNESS, SATURATION, HUE, CONTRAST = 32 / 255, (0.5, 1.5), 0.032, (0.5, 1.5)
_NO_FEATURES = np.zeros((1, 0), np.float16)


@dataclass
class Pixels(Regions):
    """A whole picture: pixels, uint8 [3, S, S]; its one region has no features."""

    pixels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    @classmethod
    def of(cls, picture: Image.Image, pixels: Tensor) -> "Pixels":
        """The pixels that were made of `picture`."""
        whole = whole_picture(picture.width, picture.height, _NO_FEATURES)
        return cls(**vars(whole), pixels=pixels)


class PictureReader:
    """Pictures into `Pixels`, in the habit of a detector (vivo/detectors/base.py): what a `Captioner` looks with.

    Args:
        size: side of the square that the encoder sees. resize: the side that pictures are squashed to first; 0: `size`.
    """

    name = "pixels"
    feature_size = 0

    def __init__(self, size: int, resize: int = 0):
        self.size, self.resize = size, resize
        self.class_names: list[str] = []

    def fingerprint(self) -> dict[str, str | int | float]:
        """What decides the pixels."""
        return {"name": self.name, "size": self.size, "resize": self.resize or self.size}

    def detect(self, pictures: Sequence[Image.Image]) -> list[Pixels]:
        """The middle square of each picture."""
        pixels = middle_squares([to_rgb(p) for p in pictures], self.size, self.resize)
        return [Pixels.of(p, one) for p, one in zip(pictures, pixels, strict=True)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Nothing: the model's own configuration has all of it."""

    def random_view(self, picture: Image.Image, augment: str, generator: np.random.Generator) -> Pixels:
        """A square of the picture for training, by one of `AUGMENTATIONS`."""
        level = AUGMENTATIONS.index(augment)
        mirrored = level >= 1 and generator.random() < 0.5
        if level < 2:
            pixels = middle_squares([picture], self.size, self.resize)[0]
        else:
            whole = squares([picture], self.resize or self.size)[0]
            top, left = generator.integers(0, whole.shape[1] - self.size + 1, 2).tolist()
            pixels = whole[:, top : top + self.size, left : left + self.size]
        pixels = pixels.flip(2) if mirrored else pixels
        return Pixels.of(picture, distorted(pixels, generator) if level == 3 else pixels.contiguous())


def distorted(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """uint8 [3, S, S] with other brightness, saturation, hue and contrast. As published, but for saturation: a blend
    with grey, where the original scales it in HSV."""
    import torchvision.transforms.v2.functional as colours  # here: importing the model must be quick

    brightness = generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    saturation, contrast = generator.uniform(*SATURATION), generator.uniform(*CONTRAST)
    hue = generator.uniform(-HUE, HUE)
    image = pixels.float() / 255 + brightness

    def contrasted(x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2), keepdim=True)
        return (x - mean) * contrast + mean

    def coloured(x: Tensor) -> Tensor:
        return colours.adjust_hue(colours.adjust_saturation(x.clamp(0, 1), saturation), hue)

    image = contrasted(coloured(image)) if generator.random() < 0.5 else coloured(contrasted(image))
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


class PictureStore:
    """Picture id -> `Pixels`, read from the picture's file at each call.

    Args:
        files: of each picture. path: of their folder, for messages.

    Raises:
        UserError: files that are not there.
    """

    def __init__(self, files: Mapping[str, Path], path: Path, reader: PictureReader):
        missing = [file for file in files.values() if not file.is_file()]
        if missing:
            raise UserError(
                f"{path}: {len(missing)} of {len(files)} pictures are not there (first: {missing[0].name}); is it the "
                "folder of these captions?"
            )
        self.files, self.path, self.reader = dict(files), path, reader

    @classmethod
    def of(cls, examples: Sequence[CaptionExample], folder: str | Path, reader: PictureReader) -> "PictureStore":
        """The pictures of `examples`, by their file names in `folder`.

        Raises:
            UserError: an example without a file name, or whose file is not there.
        """
        return cls(files_of(examples, folder), Path(folder), reader)

    @property
    def image_ids(self) -> list[str]:
        """All picture ids, in the order of the examples."""
        return list(self.files)

    @property
    def detector(self) -> dict[str, str | int | float]:
        """How pictures become pixels, where a RegionStore has its detector."""
        return self.reader.fingerprint()

    @property
    def fingerprint(self) -> str:
        """Of `detector`."""
        return fingerprint_of(self.detector)

    def __len__(self) -> int:
        return len(self.files)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.files

    def __getitem__(self, image_id: str) -> Pixels:
        return self.reader.detect([self.open(image_id)])[0]

    def open(self, image_id: str) -> Image.Image:
        """The picture itself."""
        return open_picture(self.files[image_id])

    def check_pixels(self, size: int, resize: int) -> None:
        """`UserError` unless pictures are cut as a model of these sizes knows them."""
        if (self.reader.size, self.reader.resize or self.reader.size) != (size, resize or size):
            raise UserError(
                f"{self.path}: pictures are read at {self.reader.size} pixels (squashed to {self.reader.resize}), the "
                f"model knows {size} ({resize}); take the model's sizes"
            )


def picture_keys(pictures: Sequence[Regions]) -> dict[str, Tensor | list[str]]:
    """`pixels` uint8 [B, 3, S, S], or `features` float16 [B, F] of a RegionStore of whole pictures."""
    if isinstance(pictures[0], Pixels):
        return {"pixels": torch.stack([p.pixels for p in pictures])}
    return {"features": torch.from_numpy(np.stack([p.features[0] for p in pictures]))}


class PictureCollator:
    """Pictures to caption, from (picture id, tags, pixels or features); tags are not looked at."""

    def __call__(self, examples: Sequence[tuple[str, list[str], Regions]]) -> dict[str, Tensor | list[str]]:
        batch = picture_keys([picture for *_, picture in examples])
        batch["image_ids"] = [image_id for image_id, *_ in examples]
        return batch


def files_of(examples: Sequence[CaptionExample], folder: str | Path) -> dict[str, Path]:
    """Picture id -> its file in `folder`.

    Raises:
        UserError: an example without a file name.
    """
    nameless = next((e.image_id for e in examples if not e.file_name), None)
    if nameless is not None:
        raise UserError(f"picture {nameless} has no file_name in its caption file; Show and Tell reads picture files")
    return {e.image_id: Path(folder) / e.file_name for e in examples}
