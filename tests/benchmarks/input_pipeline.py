"""From the RegionStore to batches: what one core delivers of the data path of training.

    python tests/benchmarks/input_pipeline.py                     a line for each part
    python tests/benchmarks/input_pipeline.py --json FILE         also the constants that scaling.py computes with
    options: --pictures N, --batch N, --workers N, --folder DIR (kept; default: a temporary folder)

A made-up store of pictures with 50 regions of 2,048 numbers (the paper's), 15 tags each. Measured are

    read       store[id] and a copy of its features, which is let go at once; random order, from the page cache
    cold       the same after the kernel was told to forget the files (wall time: what the disk delivers)
    collate    TagCollator on pictures that were read: tags, masks, padding
    work       both as a loader process does them, batch by batch, without that copy: reading gives views
    send       what it then spends on a batch that leaves it (vivo/training/sending.py)
    receive    what the training process spends on a batch that a loader process made and sent
    loader     the whole, through torch.utils.data.DataLoader with worker processes (wall time)

All costs but cold and loader are CPU time, which does not grow much because somebody else uses the machine; the best of
several turns counts. Rates of cold and loader are wall time and depend on what else runs.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from vivo.data.collate import Limits, TagCollator
from vivo.data.datasets import TagPictures
from vivo.data.regions import RegionStore, RegionStoreWriter
from vivo.data.sampler import StepBatches
from vivo.data.tag_source import TagSource
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions, TagExample
from vivo.training.sending import Sending, Sent
from vivo.weights import bert_folder

REGIONS, FEATURES, TAGS = 50, 2048, 15
LIMITS = Limits(REGIONS, TAGS, 40, 40)
TURNS = 20


def make_store(folder: Path, pictures: int) -> RegionStore:
    """A store of `pictures` pictures of random content."""
    rng = np.random.default_rng(0)
    with RegionStoreWriter(folder, {"name": "benchmark"}, FEATURES) as writer:
        for number in range(pictures):
            corners = np.sort(rng.uniform(0, 1, (REGIONS, 2, 2)), axis=1).reshape(-1, 4) * [640, 480, 640, 480]
            features = np.maximum(rng.standard_normal((REGIONS, FEATURES), np.float32), 0)
            scores = np.sort(rng.uniform(0, 1, REGIONS).astype(np.float32))[::-1]
            writer.write(
                str(number), Regions(corners.astype(np.float32), features, ["dog"] * REGIONS, scores, 640, 480)
            )
    return RegionStore(folder)


def forget(folder: Path) -> None:
    """Tell the kernel to drop the pages of all files in `folder` (which must not be mapped)."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def best_cpu_seconds(work: Callable[[], object], pictures: int) -> float:
    """CPU seconds a picture of `work`, which handles `pictures` of them; the best of some turns."""
    best = float("inf")
    for _ in range(TURNS):
        start = time.process_time()
        work()
        best = min(best, (time.process_time() - start) / pictures)
    return best


def measure(folder: Path, pictures: int, batch: int, workers: int) -> dict[str, float]:
    """All of the above; seconds a picture, bytes a picture, pictures a second."""
    path = folder / "store"
    store = make_store(path, pictures)
    order = [str(number) for number in random.Random(0).sample(range(pictures), pictures)]
    found: dict[str, float] = {
        "picture_bytes": sum(file.stat().st_size for file in path.iterdir()) / pictures,
        "batch_picture_bytes": REGIONS * (2.0 * FEATURES + 4.0 * 6),
    }
    forget(path)
    cold = RegionStore(path)
    start = time.perf_counter()
    for image_id in order:
        cold[image_id].features.copy()
    found["cold_rate"] = pictures / (time.perf_counter() - start)

    def read() -> None:
        for image_id in order:
            store[image_id].features.copy()

    found["read_seconds"] = best_cpu_seconds(read, pictures)

    tokenizer = load_tokenizer(bert_folder("minilm"))
    vocabulary = tokenizer.get_vocab()
    words = sorted((w for w in vocabulary if w.isascii() and w.isalpha() and len(w) > 3), key=vocabulary.get)[:6400]
    draw = random.Random(1)
    examples = [TagExample(str(number), draw.sample(words, TAGS)) for number in range(pictures)]
    data = TagPictures(examples, store, TagSource("labels"), None, 0.0, 0)
    collator = TagCollator(tokenizer, LIMITS, 0, 0.15, 0.15, 0)
    chosen = [data[0, i] for i in range(min(batch, pictures))]
    collator(chosen)  # the word pieces of the tags are remembered from here on
    found["collate_seconds"] = best_cpu_seconds(lambda: collator(chosen), len(chosen))

    def work() -> None:
        for first in range(0, pictures, batch):
            collator([data[0, int(image_id)] for image_id in order[first : first + batch]])

    found["work_seconds"] = best_cpu_seconds(work, pictures)
    made = collator(chosen)
    found["send_seconds"] = best_cpu_seconds(lambda: Sent(made).close(), len(chosen))

    steps = max(8, 1024 // batch)
    sampler = StepBatches(pictures, batch, 0, 0, steps)
    loader = iter(DataLoader(data, batch_sampler=sampler, collate_fn=Sending(collator), num_workers=workers))
    for _ in range(2):  # the processes start
        next(loader)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(steps - 2):
        next(loader)
    found["loader_rate"] = (steps - 2) * batch / (time.perf_counter() - start)
    if workers:
        found["receive_seconds"] = (time.process_time() - busy) / ((steps - 2) * batch)
    return found | {"loader_workers": workers, "loader_batch": batch, "pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the files here")
    parser.add_argument("--json", type=Path, help="also write the constants")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder, arguments.pictures, arguments.batch, arguments.workers)
    print(f"{arguments.pictures} pictures of {REGIONS} x {FEATURES}, {found['picture_bytes'] / 1e3:.1f} kB each")
    for name in ("read", "collate", "work", "send", "receive"):
        if f"{name}_seconds" in found:
            cost = found[f"{name}_seconds"]
            print(f"    {name:<8} {cost * 1e3:7.3f} ms of CPU a picture   {1 / cost:9,.0f} pictures/s of a core")
    cold = found["cold_rate"]
    print(f"    cold     {cold:9,.0f} pictures/s, {cold * found['picture_bytes'] / 1e6:,.0f} MB/s (wall time)")
    print(f"    loader   {found['loader_rate']:9,.0f} pictures/s with {arguments.workers} worker processes (wall time)")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
