"""The sections of cpu.py on data: store, collation, loading, scoring."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import region_store
import torch
from cpu_bench import Bench
from input_pipeline import measure
from scaling import GPUS_A_NODE, PUBLISHED, flops_of_a_picture
from scoring import largest_difference, made_references, sides, write_predictions
from torch import Tensor
from training_step import Numbers, some_regions, some_tags

from vivo.data.collate import Limits, TagCollator, box_positions
from vivo.data.types import Regions


def store(bench: Bench) -> None:
    """Random pictures of 50 x 2,048 numbers out of a RegionStore and out of Oscar's TSV, all from the page cache."""
    pictures = 20 if bench.tiny else 500
    with tempfile.TemporaryDirectory() as name:
        works = region_store.readers(Path(name), pictures)
        found = bench.by_turns(ours=works["store"], rival=works["TSV"])
        ours, theirs, _ = region_store.sizes(Path(name))
    features = 2.0 * region_store.REGIONS * region_store.FEATURES
    what = f"store, {pictures} pictures in random order"
    bench.row(what, found["ours"], found["rival"], pictures, "pictures/s", 10.0, bench.copies / (2.0 * features))
    kilobytes = [size / pictures / 1e3 for size in (ours, theirs)]
    row = bench.results.row
    row("store: bytes of a picture", *kilobytes, "kB", 2.5, features / 1e3, less_is_better=True)


def by_example(given: list[tuple[list[str], Regions]], tokenizer: Numbers) -> dict[str, Tensor]:
    """What one writes first: a dictionary of tensors for each example, padded and stacked; no masking."""
    examples = []
    for tags, regions in given:
        ids = torch.tensor([piece for tag in tags for piece in tokenizer(tag)["input_ids"]])
        features = torch.from_numpy(regions.features)
        boxes = torch.tensor(box_positions(regions.boxes, regions.width, regions.height))
        examples.append({"ids": ids, "features": features, "boxes": boxes, "seen": torch.ones(len(boxes))})
    return {
        key: torch.nn.utils.rnn.pad_sequence([example[key] for example in examples], batch_first=True)
        for key in examples[0]
    }


def collation(bench: Bench) -> None:
    """256 pictures into a batch, features of 2,048 numbers; ours masks and groups its tags, too."""
    pictures, rng = (8 if bench.tiny else 256), np.random.default_rng(0)
    regions = some_regions(rng.integers(10, 51, pictures), rng)
    for each in regions:
        each.features = rng.standard_normal((len(each.labels), 2048)).astype(np.float16)
    tags = [some_tags(int(n), bench.shape.vocabulary, rng) for n in rng.integers(1, 16, pictures)]
    collator = TagCollator(Numbers(), Limits.of(bench.shape.config()), 0, 0.15, 0.15, 0)
    examples = [(0, str(n), t, [], r) for n, (t, r) in enumerate(zip(tags, regions, strict=True))]
    given = list(zip(tags, regions, strict=True))
    found = bench.by_turns(ours=lambda: collator(examples), rival=lambda: by_example(given, Numbers()))
    what = f"collation, {pictures} pictures"
    # features are read in fp16 and written into the padded batch
    moved = sum(each.features.nbytes for each in regions) + collator(examples)["region_features"].nbytes
    limit = pictures * bench.copies / moved
    bench.row(what, found["ours"], found["rival"], pictures, "pictures/s", 1.0, limit)


def loader(bench: Bench) -> None:
    """Pictures a second that the cores of a GPU in a node of eight read, collate and send, and that its training
    process receives, against what it wants.

    On paper: 14 times what a core does here (CPU time), and 50 % of the published peak of an H100.
    """
    with tempfile.TemporaryDirectory() as name:
        core = measure(Path(name), 64 if bench.tiny else 1000, 16 if bench.tiny else 64, 1)
    bench.results.note("loader/constants", core)
    cores = PUBLISHED["cores of a node"] // GPUS_A_NODE
    rate = cores / (core["work_seconds"] + core["send_seconds"])
    wanted = 0.5 * PUBLISHED["H100 SXM, bf16 dense, FLOP/s"] / flops_of_a_picture()
    what = f"input of {cores} loader workers against an H100 at 50 % of its peak, on paper"
    bench.results.row(what, rate, wanted, "pictures/s", 5.0, None)
    what = "what one training process receives of them, against the same"
    bench.results.row(what, 1 / core["receive_seconds"], wanted, "pictures/s", 5.0, None)


def scoring(bench: Bench) -> None:
    """eval/score.py against pycocoevalcap: each a process, from Python's start to its end."""
    pictures = 20 if bench.tiny else 4500
    if not shutil.which("java"):
        bench.results.note("scoring/skipped", "no Java")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references = made_references(folder, pictures)
        write_predictions(references, folder / "p.json")
        found = bench.by_turns(**sides(references, folder))
        bench.results.note("scoring/largest difference", largest_difference(folder))
    what = f"scoring, {pictures:,} pictures x 10 references"
    bench.row(what, found["ours"], found["theirs"], pictures, "pictures/s", 3.0, None)
