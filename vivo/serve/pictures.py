"""From the bytes of a request to an upright RGB picture: formats by content, limits before memory is spent.

A picture is opened (header only), judged by its sides, and only then decoded. Large ones are made smaller while they
are decoded (JPEG) or right afterwards: detectors work on a few hundred pixels a side, and a queue of pictures of 100
megapixels would not fit into memory. Sizes in answers are those of the whole upright picture.
"""

import io
import threading
import warnings
from contextlib import nullcontext
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vivo.detectors.pictures import to_rgb
from vivo.serve.problems import Problem, invalid
from vivo.serve.settings import Settings

FORMATS = {"JPEG": "Jpeg", "MPO": "Jpeg", "PNG": "Png", "GIF": "Gif", "BMP": "Bmp", "WEBP": "Webp"}
"""Pillow's names -> those of answers. A file is what its first bytes say, whatever it is called."""
_OPENED = [name for name in FORMATS if name != "MPO"]  # which is opened as the JPEG that it is
LARGEST_SIDE = 2048  # of what detectors are given
LARGE = 16_000_000  # pixels; of pictures with more, one is decoded at a time: it can take a gigabyte
_LARGE_ONE = threading.Lock()
MOST_SCANS = 200  # of a JPEG: each costs a pass over the whole picture, and one can be a few bytes


@dataclass(frozen=True)
class Picture:
    """What a request brought.

    Attributes:
        image: RGB, upright, no side above LARGEST_SIDE.
        width, height: of the whole picture, upright, in pixels.
        format: as answers name it.
        size: bytes of the file.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    size: int

    @property
    def memory(self) -> int:
        """Bytes of the pixels."""
        return 3 * self.image.width * self.image.height


def read_picture(data: bytes, settings: Settings) -> Picture:
    """Decode a picture.

    Raises:
        Problem: nothing there, no picture, a damaged one, one that is too small or too large.
    """
    if not data:
        raise invalid("InvalidImageFormat", "Input data is not a valid image: it is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=_OPENED) as opened:
            return _decode(opened, data, settings)
    except Problem:
        raise
    except UnidentifiedImageError:
        known = "JPEG, PNG, GIF, BMP and WebP"
        raise invalid("InvalidImageFormat", f"Input data is not a valid image; {known} are supported.") from None
    except Image.DecompressionBombError:
        raise _too_large(settings) from None
    except Exception as error:
        # Pillow's readers raise anything from struct.error to IndexError on damaged files; whatever it is, the file
        # is what is wrong, and the next request is none the worse for it.
        raise invalid("InvalidImageFormat", "Input data is not a valid image: it is damaged or truncated.") from error


def _decode(opened: Image.Image, data: bytes, settings: Settings) -> Picture:
    width, height = opened.size
    if min(width, height) < settings.least_side or max(width, height) > settings.greatest_side:
        raise invalid(
            "InvalidImageSize",
            f"The image dimension is not allowed to be smaller than {settings.least_side}"
            f" and larger than {settings.greatest_side}.",
        )
    if width * height > settings.most_pixels:
        raise _too_large(settings)
    kind = opened.format or ""
    if kind in ("JPEG", "MPO"):
        if data.count(b"\xff\xda") > MOST_SCANS:  # entropy-coded data never holds FF DA
            raise invalid("InvalidImageFormat", f"The JPEG image has more than {MOST_SCANS} scans.")
        if max(width, height) > 2 * LARGEST_SIDE:
            opened.draft(None, (LARGEST_SIDE, LARGEST_SIDE))  # decodes every 2nd, 4th or 8th pixel
    with _LARGE_ONE if width * height > LARGE else nullcontext():
        return _loaded(opened, kind, width, height, len(data))


def _loaded(opened: Image.Image, kind: str, width: int, height: int, size: int) -> Picture:
    turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    opened.load()  # an animation's first frame; truncation shows here
    image: Image.Image = opened
    if max(image.size) > LARGEST_SIDE:
        image = _reduced(image)
    image = to_rgb(ImageOps.exif_transpose(image))
    if image is opened:
        image = image.copy()  # the file is closed behind us
    if turned:
        width, height = height, width
    return Picture(image, width, height, FORMATS[kind], size)


def _reduced(image: Image.Image) -> Image.Image:
    """The picture by the least whole factor with which it fits; EXIF stays with it."""
    factor = -(-max(image.size) // LARGEST_SIDE)
    exif = image.getexif()
    if image.mode in ("P", "1") or image.mode.startswith("I"):  # not numbers that have a mean, or 16 bits
        image = to_rgb(image)
    smaller = image.reduce((min(factor, image.width), min(factor, image.height)))
    smaller.getexif().update(dict(exif))
    return smaller


def _too_large(settings: Settings) -> Problem:
    return invalid(
        "InvalidImageSize", f"The image has too many pixels: {settings.most_pixels // 1_000_000} megapixels at most."
    )


def quieten_pillow() -> None:
    """Pillow warns of pictures between 89 and 179 megapixels; our own limit stands. Once for the process."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\..*")
