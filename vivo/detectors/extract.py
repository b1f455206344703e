"""Pictures -> RegionStore: threads decode ahead while the detector works; a killed run goes on where it was.

The result is the same, byte for byte, whether a run was interrupted or not: pictures go in the order
given, broken ones leave no gap in a batch, and a shard is a whole number of batches, so that every
picture meets the same neighbours in its batch again.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vivo.data.regions import RegionStoreWriter
from vivo.detectors.base import Detector
from vivo.detectors.pictures import open_picture
from vivo.errors import UserError
from vivo.files import atomic_write_text

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
BROKEN = "broken.txt"


@dataclass
class Extraction:
    """What a run of `extract_regions` did.

    Attributes:
        written: pictures added in this run.
        skipped: pictures that the store held already.
        broken: (image id, path, reason) of the pictures that could not be read.
        seconds: wall time.
    """

    written: int = 0
    skipped: int = 0
    broken: list[tuple[str, Path, str]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = f" at {self.written / self.seconds:.1f} pictures/s" if self.written and self.seconds else ""
        return (
            f"{self.written} pictures written in {self.seconds:.1f} s{rate}, {self.skipped} were there already,"
            f" {len(self.broken)} broken"
        )


def image_id_of(path: str | Path) -> str:
    """The picture id that a file name stands for: its stem, and COCO's numbers without their zeros.

    000000000139.jpg and COCO_val2014_000000000139.jpg are "139", the id in COCO's JSON. Stems of more than
    12 digits stay whole: an Open Images id has 16 hexadecimal digits, which now and then are all decimal.
    """
    stem = Path(path).stem
    match = re.fullmatch(r"(?:COCO_(?:train|val|test)20\d\d_)?([0-9]{1,12})", stem)
    return str(int(match[1])) if match else stem


def find_pictures(folder: str | Path) -> list[Path]:
    """All picture files under a folder (also in its subfolders), sorted by path.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of the pictures")
    found = sorted(file for file in root.rglob("*") if file.suffix.lower() in PICTURE_ENDINGS and file.is_file())
    if not found:
        raise UserError(f"{root}: no pictures in it (looked for {' '.join(sorted(PICTURE_ENDINGS))})")
    return found


def extract_regions(
    pictures: Sequence[Path],
    store_path: str | Path,
    detector: Detector,
    *,
    image_ids: Sequence[str] | None = None,
    batch_size: int = 16,
    workers: int = 2,
    shard_pictures: int = 512,
    progress: bool = True,
) -> Extraction:
    """Detect the regions of `pictures` and keep them in the RegionStore at `store_path`.

    Pictures that the store holds are skipped. Pictures that cannot be read are listed in
    STORE/broken.txt (id, path, reason; tab-separated) and tried again by the next run.

    Args:
        pictures: the files.
        store_path: the store's folder; new, unfinished, or finished by the same detector.
        detector: see `vivo.detectors.base.Detector`.
        image_ids: id of each picture; default `image_id_of` its path.
        batch_size: pictures that the detector gets at once.
        workers: decoding threads; at most two batches wait decoded in memory.
        shard_pictures: pictures in a shard, rounded up to whole batches; what a kill can cost.
        progress: draw a bar with pictures/s and time left on stderr.

    Raises:
        UserError: two pictures with one id, no picture readable, a store of another detector, NaN in the
            features (naming the picture), a folder that cannot be written.
    """
    if batch_size < 1 or workers < 1:
        raise UserError(f"batch size {batch_size} and workers {workers} must be at least 1")
    ids = [image_id_of(path) for path in pictures] if image_ids is None else list(image_ids)
    _refuse_twins(ids, pictures)
    result = Extraction()
    start = perf_counter()
    whole_batches = -(-shard_pictures // batch_size) * batch_size
    with RegionStoreWriter(store_path, detector.fingerprint(), detector.feature_size, whole_batches) as writer:
        done = writer.done_ids()
        todo = [(image_id, path) for image_id, path in zip(ids, pictures, strict=True) if image_id not in done]
        result.skipped = len(ids) - len(todo)
        pipeline = closing(_decoded(todo, workers, 2 * batch_size, result.broken))
        with _bar(progress and bool(todo)) as bar, pipeline as decoded:
            task = bar.add_task("regions", total=len(todo), speed="")
            while batch := list(islice(decoded, batch_size)):
                found = detector.detect([picture for _, picture in batch])
                for (image_id, _), regions in zip(batch, found, strict=True):
                    writer.write(image_id, regions)
                result.written += len(batch)
                rate = result.written / (perf_counter() - start)
                bar.update(task, completed=result.written + len(result.broken), speed=f"{rate:.1f} pictures/s")
        _list_broken(Path(store_path), result.broken)
        if not done and not result.written:
            reason = result.broken[0][2] if result.broken else "the list is empty"
            raise UserError(f"{store_path}: none of the {len(ids)} pictures could be read; the first: {reason}")
    result.seconds = perf_counter() - start
    return result


def _decoded(
    todo: Sequence[tuple[str, Path]], workers: int, ahead: int, broken: list[tuple[str, Path, str]]
) -> Iterator[tuple[str, Image.Image]]:
    """(id, RGB picture) in the order of `todo`, decoded by threads, `ahead` in advance; broken ones go to the list."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[str, Path, Future[Image.Image]]] = deque()
        rest = iter(todo)
        try:
            while True:
                for image_id, path in islice(rest, ahead - len(waiting)):
                    waiting.append((image_id, path, pool.submit(open_picture, path)))
                if not waiting:
                    return
                image_id, path, future = waiting.popleft()
                try:
                    picture = future.result()
                except UserError as error:
                    broken.append((image_id, path, str(error)))
                    continue
                yield image_id, picture
        finally:
            # Also on Ctrl-C or an error of the detector: do not decode what nobody will look at.
            pool.shutdown(wait=True, cancel_futures=True)


def _refuse_twins(ids: Sequence[str], pictures: Sequence[Path]) -> None:
    if len(ids) != len(pictures):
        raise UserError(f"{len(ids)} ids for {len(pictures)} pictures; give one id a picture")
    first: dict[str, Path] = {}
    for image_id, path in zip(ids, pictures, strict=True):
        if image_id in first:
            raise UserError(
                f"{path}: has the same picture id {image_id!r} as {first[image_id]}; rename one, or give ids in a list"
            )
        first[image_id] = path


def _list_broken(store: Path, broken: Sequence[tuple[str, Path, str]]) -> None:
    file = store / BROKEN
    if broken:
        atomic_write_text(file, "".join(f"{image_id}\t{path}\t{reason}\n" for image_id, path, reason in broken))
    else:
        file.unlink(missing_ok=True)


def _bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
