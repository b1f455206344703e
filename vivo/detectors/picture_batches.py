"""Chunks of a picture list -> batches of decoded pictures of like shape, decoded ahead by threads.

Padding changes features, so detectors that keep the aspect ratio compute only pictures of one size together
(`vivo.detectors.adapting.same_size_batches`). For them a chunk's pictures are sorted by shape before they are cut into
batches; which pictures share a batch depends on their chunk alone, never on how many processes are at work.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from vivo.detectors.extraction_plan import Chunk
from vivo.detectors.pictures import open_picture, picture_size
from vivo.errors import UserError

_BATCHES_AHEAD = 2


@dataclass
class PictureBatch:
    """Decoded pictures of one chunk.

    Attributes:
        chunk: where they come from.
        places: of each picture in the chunk.
        pictures: RGB, upright.
        broken: (place, reason) of pictures of this batch that could not be read.
        last: whether the chunk is complete with this batch.
    """

    chunk: Chunk
    last: bool
    places: list[int] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)


def like_shapes(sizes: list[tuple[int, int] | None], batch_size: int) -> list[list[int]]:
    """Places 0..N-1 in batches: sorted by aspect ratio and size (width, height), ties in their order, then cut.

    None is a picture whose header cannot be read; those come last.
    """

    def shape(place: int) -> tuple[float, tuple[int, int]]:
        size = sizes[place]
        return (size[0] / size[1], size) if size else (float("inf"), (0, 0))

    order = sorted(range(len(sizes)), key=shape)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def decoded_batches(chunks: Iterable[Chunk], batch_size: int, workers: int) -> Iterator[PictureBatch]:
    """All pictures of the chunks, chunk by chunk; `workers` threads decode up to `_BATCHES_AHEAD` batches in advance.

    Threads are enough: Pillow lets go of the interpreter lock while it decodes, and so does PyTorch while it computes.
    """
    with ThreadPoolExecutor(workers, "size") as sizing, ThreadPoolExecutor(workers, "decode") as decoding:
        try:
            waiting: deque[tuple[PictureBatch, list[int], list[Future[Image.Image]]]] = deque()
            for batch, places in _planned(chunks, batch_size, sizing):
                waiting.append((batch, places, [decoding.submit(open_picture, batch.chunk.paths[p]) for p in places]))
                if len(waiting) > _BATCHES_AHEAD:
                    yield _collected(*waiting.popleft())
            while waiting:
                yield _collected(*waiting.popleft())
        finally:
            # Also on Ctrl-C or an error of the detector: do not decode what nobody will look at.
            sizing.shutdown(wait=True, cancel_futures=True)
            decoding.shutdown(wait=True, cancel_futures=True)


def _planned(
    chunks: Iterable[Chunk], batch_size: int, sizing: ThreadPoolExecutor
) -> Iterator[tuple[PictureBatch, list[int]]]:
    """(empty batch, places that belong into it); sizes of the next chunk are read while this one is at work."""
    upcoming: deque[tuple[Chunk, list[Future[tuple[int, int] | None]]]] = deque()
    for chunk in chunks:
        upcoming.append((chunk, [sizing.submit(picture_size, path) for path in chunk.paths]))
        if len(upcoming) > 1:
            yield from _batches_of(*upcoming.popleft(), batch_size)
    while upcoming:
        yield from _batches_of(*upcoming.popleft(), batch_size)


def _batches_of(
    chunk: Chunk, sizes: list[Future[tuple[int, int] | None]], batch_size: int
) -> Iterator[tuple[PictureBatch, list[int]]]:
    batches = like_shapes([size.result() for size in sizes], batch_size)
    for number, places in enumerate(batches, 1):
        yield PictureBatch(chunk, last=number == len(batches)), places


def _collected(batch: PictureBatch, places: list[int], futures: list[Future[Image.Image]]) -> PictureBatch:
    for place, future in zip(places, futures, strict=True):
        try:
            batch.pictures.append(future.result())
            batch.places.append(place)
        except UserError as error:
            batch.broken.append((place, str(error)))
    return batch


def sample_pictures(paths: Sequence[str], count: int) -> list[Image.Image]:
    """Up to `count` pictures from evenly spaced places of the list, without those that cannot be read."""
    found = []
    for number in range(min(count, len(paths))):
        try:
            found.append(open_picture(paths[number * len(paths) // min(count, len(paths))]))
        except UserError:
            continue
    return found
