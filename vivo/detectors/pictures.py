"""Reading pictures the way a camera meant them: RGB, upright, or one clear line about what is wrong."""

import hashlib
import re
import warnings
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vivo.errors import UserError


def open_picture(path: str | Path) -> Image.Image:
    """Read a picture file whole, turn it as its EXIF orientation says, and give it as RGB.

    Transparent parts become white, 16-bit greys are scaled to 8 bits. Raises `UserError` naming the
    file where it is missing, unreadable, truncated, not a picture, or suspiciously huge.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns between 89 and 179 megapixels; at 3 bytes a pixel that still fits.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()  # Pillow reads lazily: truncation shows here, not at open
                return to_rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise UserError(f"picture {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"picture {path} is a folder: name a picture file") from None
    except PermissionError:
        raise UserError(f"picture {path} cannot be read: check its permissions") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture that Pillow can read (JPEG, PNG, WebP, ...)") from None
    except Image.DecompressionBombError:
        raise UserError(f"picture {path} has too many pixels: scale it down first") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow reports damaged files with all of these, depending on the format.
        reason = " ".join(str(error).split())
        raise UserError(f"picture {path} is damaged or truncated ({reason}): fetch or export it again") from None


def picture_size(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of a picture as `open_picture` gives it, from its header alone; None if that is unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None  # `open_picture` will say why
    return (height, width) if turned else (width, height)


def picture_file(folder: Path, image_id: str, file_name: str, option: str) -> Path:
    """The file of a picture: by the name that a data set gives it, else by its id.

    Raises:
        UserError: it is not there; `option` is what named the folder.
    """
    names = [file_name] if file_name else [f"{image_id}{end}" for end in (".jpg", ".jpeg", ".png")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{option}: there is no {names[0]} in {folder} (picture {image_id})")


def safe_name(image_id: str) -> str:
    """A file name (without its end) for a picture of any id; unlike ids have unlike names."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", image_id)
    if stem != image_id:  # ids that differ only in other characters stay apart
        stem += "-" + hashlib.sha256(image_id.encode()).hexdigest()[:8]
    return stem


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB copy of any Pillow picture; alpha is laid over white (Pillow alone would show hidden colours)."""
    if picture.mode == "RGB" and "transparency" not in picture.info:  # a PNG may name one colour that is clear
        return picture
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips everything above 255
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")
