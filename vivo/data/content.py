"""Pictures by what is in them: hashes of contents, so that one picture under two ids is seen to be one."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from vivo.data.own import OwnPicture
from vivo.errors import UserError
from vivo.progress import progress_of

Opener = Callable[[Path], Image.Image]
Result = TypeVar("Result")


def content_hash(picture: Image.Image) -> str:
    """SHA-256 of size and pixels of an upright RGB picture, as a detector sees it.

    Files with the same pixels (other metadata, PNG for BMP) have one hash; a picture that was scaled or
    compressed again has another.
    """
    return hashlib.sha256(f"{picture.width}x{picture.height}".encode() + picture.tobytes()).hexdigest()


def open_own(picture: OwnPicture, open_picture: Opener) -> Image.Image:
    """The pixels of one picture, from its file or from the bytes that a table holds.

    Args:
        open_picture: `vivo.detectors.pictures.open_picture`.

    Raises:
        UserError: naming its place in the source: no file named, and what `open_picture` raises.
    """
    try:
        if picture.data is not None:
            with tempfile.TemporaryDirectory(prefix="vivo-picture-") as folder:
                path = Path(folder) / (Path(picture.file).name or picture.image_id)
                path.write_bytes(picture.data())
                return open_picture(path)
        if picture.path is None:
            raise UserError(f"picture {picture.image_id} names no file; add one")
        return open_picture(picture.path)
    except UserError as error:
        raise UserError(f"{picture.where}: {error}") from error


def each_picture(
    work: Callable[[OwnPicture], Result], pictures: Sequence[OwnPicture], workers: int = 2
) -> Iterator[Result]:
    """`work` of each picture, in order, by threads, with progress on stderr; what was not begun is dropped when the
    reader stops."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    try:
        with progress_of("reading pictures", len(pictures)) as update:
            for done, result in enumerate(pool.map(work, pictures), 1):
                yield result
                update(done, done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
