"""From the bytes of a request to an upright RGB picture: formats by content, limits before memory is spent.

A picture is judged by its header (`headers.py`) and only then decoded. Large ones are made smaller while they are
decoded (JPEG) or right afterwards, a band at a time: detectors work on a few hundred pixels a side, and a queue of
pictures of 100 megapixels would not fit into memory. Sizes in answers are those of the whole upright picture. The
service does this in processes of their own (`decoding.py`).
"""

import io
import warnings
from dataclasses import dataclass

from PIL import ExifTags, Image, ImageOps

from vivo.detectors.pictures import to_rgb
from vivo.serve.headers import LARGEST_SIDE, Header, check_sides, damaged, read_header, too_large
from vivo.serve.problems import Problem, invalid
from vivo.serve.settings import Settings

FORMATS = {"JPEG": "Jpeg", "PNG": "Png", "GIF": "Gif", "BMP": "Bmp", "WEBP": "Webp"}
"""Pillow's names -> those of answers. A file is what its first bytes say, whatever it is called."""
BAND = 256  # rows that are converted at once


@dataclass(frozen=True)
class Picture:
    """What a request brought.

    Attributes:
        image: RGB, upright, no side above LARGEST_SIDE.
        width, height: of the whole picture, upright, in pixels.
        format: as answers name it.
        large: whether it was decoded as a large one.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    large: bool = False

    @property
    def memory(self) -> int:
        """Bytes of the pixels: Pillow keeps RGB in four each."""
        return 4 * self.image.width * self.image.height


def read_picture(data: bytes, settings: Settings) -> Picture:
    """Decode a picture.

    Raises:
        Problem: nothing there, no picture, a damaged one, one that is too small or too large.
    """
    header = read_header(data, settings)
    try:
        with Image.open(io.BytesIO(data), formats=[header.kind]) as opened:
            return _decode(opened, header, settings)
    except Problem:
        raise
    except Image.DecompressionBombError:
        raise too_large(settings) from None
    except MemoryError:  # the file is worse than it said: the decode process may take no more
        raise invalid("InvalidImageSize", "The image takes too much memory to decode.") from None
    except Exception as error:
        # Pillow's readers raise anything from struct.error to IndexError on damaged files; whatever it is, the file
        # is what is wrong, and the next request is none the worse for it.
        raise damaged() from error


def _decode(opened: Image.Image, header: Header, settings: Settings) -> Picture:
    width, height = opened.size
    check_sides(width, height, settings)
    if (width, height) != (header.width, header.height) and header.kind != "GIF":  # whose frame may be larger
        raise damaged()
    if width * height > 2 * header.pixels:
        raise damaged()
    if header.draft > 1:
        opened.draft(None, (width // header.draft, height // header.draft))
    turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    opened.load()  # an animation's first frame; truncation shows here
    image = ImageOps.exif_transpose(_reduced(opened))
    if turned:
        width, height = height, width
    return Picture(image, width, height, FORMATS[header.kind], header.is_large)


def _reduced(image: Image.Image) -> Image.Image:
    """RGB by the least whole factor with which it fits, with its turn. A band at a time, to save memory."""
    factor = -(-max(image.size) // LARGEST_SIDE)
    across, down = min(factor, image.width), min(factor, image.height)
    found = Image.new("RGB", (-(-image.width // across), -(-image.height // down)))
    rows = BAND * down
    for top in range(0, image.height, rows):
        band = to_rgb(image.crop((0, top, image.width, min(top + rows, image.height))))
        found.paste(band.reduce((across, down)), (0, top // down))
    found.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found


def quieten_pillow() -> None:
    """Pillow warns of pictures between 89 and 179 megapixels; our own limit stands. Once for the process."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\..*")
