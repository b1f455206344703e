"""Pictures -> RegionStore, by any number of processes, any of which may be killed at any moment.

The result is the same, byte for byte, on any number of processes and whether a run was interrupted or not: the picture
list is cut into chunks, each chunk becomes one shard, and what is in it depends on the chunk alone
(`extraction_plan`), and on a CPU on the number of threads that compute, so that is kept with the plan. While the
detector works, threads decode what comes next (`picture_batches`), and one writes the last shard.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter, sleep

from vivo.data.region_format import read_manifest, schema_of
from vivo.data.region_shards import ShardFile, number_of, shard_name, storable
from vivo.data.regions import RegionStoreWriter
from vivo.data.types import Regions
from vivo.detectors.base import Detector
from vivo.detectors.extraction_plan import Chunk, ExtractionPlan, Receipt, request_hash
from vivo.detectors.extraction_report import ProgressReport, announce
from vivo.detectors.picture_batches import decoded_batches
from vivo.errors import UserError
from vivo.files import atomic_write_text, lock_folder
from vivo.processes import ALONE, Processes

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
BROKEN = "broken.txt"
_FOLDER_SECONDS = 90


@dataclass
class Extraction:
    """What a run of `extract_regions` did, in all processes together.

    Attributes:
        written: pictures added in this run.
        skipped: pictures that were done already.
        broken: (image id, path, reason) of the pictures that could not be read.
        seconds: wall time.
    """

    written: int = 0
    skipped: int = 0
    broken: list[tuple[str, str, str]] = field(default_factory=list)
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
    threads: int | None = None,
    progress: bool = True,
    processes: Processes = ALONE,
) -> Extraction:
    """Detect the regions of `pictures` and keep them in the RegionStore at `store_path`.

    Pictures that the store holds are skipped. Pictures that cannot be read are listed in
    STORE/broken.txt (id, path, reason; tab-separated) and tried again when a finished store is extracted to again.

    Args:
        pictures: the files. With several processes only those of the main one count.
        store_path: the store's folder, one and the same for all processes; new, unfinished, or finished by the same
            detector.
        detector: see `vivo.detectors.base.Detector`.
        image_ids: id of each picture; default `image_id_of` its path.
        batch_size: pictures that the detector gets at once.
        workers: decoding threads of each process; at most three batches wait decoded in memory.
        shard_pictures: pictures in a shard, rounded up to whole batches; what a kill can cost each process.
        threads: that each process computes with on a CPU; default: those of the run that is gone on with, else as
            PyTorch has it. Another number changes the last bits of features.
        progress: report on stderr: expected size, then pictures/s and time left.
        processes: what `join_processes` gave; every process calls this function with the same arguments.

    Returns:
        The sum over all processes in the main one; nothing but `seconds` in the others.

    Raises:
        UserError: two pictures with one id, no picture readable, a store of another detector, NaN in the
            features (naming the picture), a folder that cannot be written, too little space, a process that died.
    """
    start = perf_counter()
    if min(batch_size, workers, shard_pictures, 1 if threads is None else threads) < 1:
        raise UserError(
            f"batch size {batch_size}, workers {workers}, shard {shard_pictures}, threads {threads}: each at least 1"
        )
    whole_batches = -(-shard_pictures // batch_size) * batch_size
    main = _Main(Path(store_path), detector, processes, progress)
    prepare, finish = _storing(main.store)(main.prepare), _storing(main.store)(main.finish)
    try:
        asked, todo = processes.from_main(lambda: prepare(pictures, image_ids, batch_size, whole_batches, threads))
        plan = ExtractionPlan(Path(store_path), asked)
        own = todo[processes.rank :: processes.count]
        with _threads(plan.threads):
            _work(plan, own, detector, batch_size, workers, main.report)
        processes.wait(main.report.others)
        result = processes.on_main(finish) or Extraction()
    finally:
        main.stop()
    result.seconds = perf_counter() - start
    return result


class _Main:
    """What the main process does before and after the work; in the others an empty shell."""

    def __init__(self, store: Path, detector: Detector, processes: Processes, progress: bool) -> None:
        self.store = store
        self.detector = detector
        self.processes = processes
        self.report = ProgressReport(progress and processes.is_main)
        self.todo: dict[int, int] = {}
        """Chunks to do and their pictures."""
        self.plan: ExtractionPlan
        self._writer: RegionStoreWriter | None = None
        self._lock: int | None = None
        self._skipped = 0
        self._listed = 0

    def prepare(
        self,
        pictures: Sequence[Path],
        image_ids: Sequence[str] | None,
        batch_size: int,
        chunk_pictures: int,
        threads: int | None,
    ) -> tuple[str, list[int]]:
        """Check everything that can be checked before the work, and write the plan (or go on with the one there).

        Returns:
            Hash of what is asked for, and the numbers of the chunks to do.
        """
        ids = [image_id_of(path) for path in pictures] if image_ids is None else list(image_ids)
        _refuse_twins(ids, pictures)
        paths = [str(path) for path in pictures]
        self._listed = len(ids)
        self._writer = RegionStoreWriter(self.store, self.detector.fingerprint(), self.detector.feature_size)
        self._lock = lock_folder(self.store, "this store")
        settings = {"detector": self._writer.detector, "batch": batch_size, "chunk": chunk_pictures, "threads": threads}
        self.plan = ExtractionPlan(self.store, request_hash(settings, ids, paths))
        receipts = self.plan.receipts()
        if self.plan.threads is None:
            done = set(self._writer.done_ids()).union(*(r.shard["ids"] for r in receipts.values() if r.shard))
            rest = [(image_id, path) for image_id, path in zip(ids, paths, strict=True) if image_id not in done]
            taken = [number_of(file.name) for file in self.store.glob("shard-*.arrow")]
            first = max([self._writer.next_number(), *(number + 1 for number in [*taken, *receipts])])
            self.plan.write(
                [i for i, _ in rest], [p for _, p in rest], chunk_pictures, first, threads or _threads_now()
            )
        left: list[str] = []
        broken = 0
        for chunk in self.plan.chunks():
            if chunk.number in receipts:
                broken += len(receipts[chunk.number].broken)
            else:
                self.todo[chunk.number] = len(chunk.ids)
                left += chunk.paths
        self._skipped = len(ids) - len(left) - broken
        if left:
            self.report.begin(announce(left, self.store, self.detector), len(left), self._finished_elsewhere)
        return self.plan.asked, sorted(self.todo)

    def finish(self) -> Extraction:
        """Make one store of all shards, and remove what only the work needed."""
        receipts = self._all_receipts()
        own = [receipt for receipt in receipts.values() if receipt.plan == self.plan.asked]
        result = Extraction(skipped=self._skipped, broken=[tuple(entry) for r in own for entry in r.broken])
        result.written = sum(r.shard["pictures"] for r in own if r.shard and r.number in self.todo)
        _list_broken(self.store, result.broken)
        self._writer.adopt(receipt.shard for receipt in receipts.values() if receipt.shard)
        if not self._writer.done_ids():
            self.plan.clear()
            reason = result.broken[0][2] if result.broken else "the list is empty"
            raise UserError(f"{self.store}: none of the {self._listed} pictures could be read; the first: {reason}")
        self._writer.close()
        self.plan.clear()
        named = {shard["name"] for shard in read_manifest(self.store)["shards"]}
        for file in self.store.glob("shard-*.arrow"):
            if file.name not in named:  # of a process killed before it wrote the receipt, in a plan given up since
                file.unlink()
        return result

    def stop(self) -> None:
        """Let go of everything; finished shards and their receipts stay."""
        self.report.end()
        if self._writer is not None:
            self._writer.abort()  # without effect on a store that was closed
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _all_receipts(self) -> dict[int, Receipt]:
        """Every process has signed; what another node signed may take a network file system a minute to show."""
        deadline = monotonic() + _FOLDER_SECONDS
        while lost := set(self.todo) - set(receipts := self.plan.receipts()):
            if monotonic() > deadline:
                raise UserError(f"{self.store}: no shards of chunks {sorted(lost)[:3]}; run the same command again")
            sleep(1)
        return receipts

    def _finished_elsewhere(self) -> int:
        """Pictures that the other processes have finished in this run."""
        own = sorted(self.todo)[:: self.processes.count]
        there = self.plan.receipt_numbers() - set(own)
        return sum(pictures for number, pictures in self.todo.items() if number in there)


def _threads_now() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch computes with so many threads on the CPU; afterwards with as many as before."""
    import torch  # here: programs first set what PyTorch reads when it is loaded (`vivo.program`)

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _work(
    plan: ExtractionPlan,
    numbers: Sequence[int],
    detector: Detector,
    batch_size: int,
    workers: int,
    report: ProgressReport,
) -> None:
    """Do these chunks: shard and receipt of each."""
    if not numbers:
        return
    found: dict[int, Regions] = {}  # by place in the chunk
    broken: list[tuple[int, str]] = []
    writing: Future[None] | None = None
    batches = closing(decoded_batches(plan.chunks(numbers), batch_size, workers))
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer, batches as decoded:
        for batch in decoded:
            if batch.pictures:
                found.update(zip(batch.places, detector.detect(batch.pictures), strict=True))
            broken += batch.broken
            report.add(len(batch.pictures) + len(batch.broken))
            if batch.last:
                if writing is not None:
                    writing.result()  # one shard waits in memory at most, and errors come out
                writing = writer.submit(
                    _storing(plan.store)(_keep), plan, batch.chunk, found, broken, detector.feature_size
                )
                found, broken = {}, []
        if writing is not None:
            writing.result()


def _keep(
    plan: ExtractionPlan, chunk: Chunk, found: dict[int, Regions], broken: Iterable[tuple[int, str]], feature_size: int
) -> None:
    """Write a chunk's regions in the order of the list as its shard, then its receipt."""
    name = shard_name(chunk.number)
    shard: ShardFile | None = None
    try:
        for place in sorted(found):
            regions = storable(plan.store, chunk.ids[place], found[place], feature_size)
            shard = shard or ShardFile(plan.store / name, schema_of(feature_size), plan.temporary(name))
            shard.write(chunk.ids[place], regions)
        if plan.threads is None:
            raise UserError(f"{plan.store}: another command has taken the store over; this one stops")
        entry = shard.finish() if shard else None
        shard = None
        listed = [(chunk.ids[place], chunk.paths[place], reason) for place, reason in sorted(broken)]
        plan.sign(Receipt(chunk.number, plan.asked, entry, listed))
    finally:
        if shard is not None:
            with suppress(OSError):
                shard.drop()


@contextmanager
def _storing(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{store}: cannot write the store ({error.strerror or error}); mend it and run the same command again"
        ) from error


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


def _list_broken(store: Path, broken: Sequence[tuple[str, str, str]]) -> None:
    file = store / BROKEN
    if broken:
        atomic_write_text(file, "".join(f"{image_id}\t{path}\t{reason}\n" for image_id, path, reason in broken))
    else:
        file.unlink(missing_ok=True)
