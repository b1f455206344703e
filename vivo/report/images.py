"""Small pictures for pages: inside the page as data URIs, or in a folder beside it."""

import base64
import io
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from vivo.detectors.pictures import safe_name, to_rgb
from vivo.errors import UserError
from vivo.files import writable_folder

# (longest side, JPEG quality): the first pair whose page fits the size limit is used.
SIZES = ((480, 82), (400, 78), (336, 72), (272, 64), (208, 55))


def small_jpeg(path: Path, longest: int, quality: int) -> bytes:
    """The picture at `path` as a JPEG file, upright, no side longer than `longest`.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                # Fast for JPEG files: decode at a fraction of the size. A no-op for other formats.
                picture.draft("RGB", (longest, longest))
                # Boxes are of the upright picture, as `vivo.detectors.pictures.open_picture` gives it.
                small = to_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the report cannot read this picture ({reason}); make or fetch it again") from error
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def jpeg_data_uri(path: Path, longest: int, quality: int) -> str:
    """What `small_jpeg` gives, as a `data:` URI."""
    return "data:image/jpeg;base64," + base64.b64encode(small_jpeg(path, longest, quality)).decode("ascii")


def write_thumbnails(pictures: Mapping[str, Path], folder: Path, longest: int, quality: int) -> dict[str, str]:
    """A small copy of each picture in `folder`, several at a time; copies that are newer than their picture stay.

    Args:
        pictures: image id -> file.

    Returns:
        image id -> file name in `folder`.

    Raises:
        UserError: a picture cannot be read, the folder cannot be written.
    """
    writable_folder(folder)
    # The size is part of the name, so that a page with larger pictures does not take the small ones.
    names = {image_id: f"{safe_name(image_id)}.{longest}.jpg" for image_id in pictures}

    def make(image_id: str) -> None:
        source, target = pictures[image_id], folder / names[image_id]
        try:
            if target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
                return
            temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
            temporary.write_bytes(small_jpeg(source, longest, quality))
            os.replace(temporary, target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror or error}); choose another --out") from error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # Pillow decodes without Python's lock
        for _ in pool.map(make, pictures):
            pass
    return names
