"""docs/scaling.md's numbers: what a step moves and computes at 1.7 and 100 million pictures, on 8 and 256 GPUs.

    python tests/benchmarks/scaling.py                  tables and picture of docs/scaling.md, from the constants
    python tests/benchmarks/scaling.py --measure        measure the constants on this machine first (minutes)

Constants come from docs/scaling_constants.json, which --measure writes: costs of the data path
(tests/benchmarks/input_pipeline.py) and FLOPs of a picture (torch.utils.flop_counter on the real model and a real
backward pass). Rates of GPUs, links and drives are the vendors' (PUBLISHED), and what a program reaches of them is
assumed (ASSUMED_SHARE). Memory and disk are those of `--estimate` (vivo/training/estimate.py).
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from input_pipeline import FEATURES, LIMITS, REGIONS, TAGS, measure
from scaling_chart import STEP_PARTS, chart
from torch.utils.flop_counter import FlopCounterMode

from vivo.config import configs_dir, load_config
from vivo.data.collate import TagCollator
from vivo.data.text import load_tokenizer
from vivo.data.types import Regions
from vivo.losses import tag_set_loss
from vivo.modeling import VivoConfig, VivoForTagPretraining
from vivo.training.estimate import memory_of, parameters_of, store_bytes
from vivo.training.plan import plan_of
from vivo.weights import bert_folder

ROOT = Path(__file__).resolve().parents[2]
CONSTANTS, PAGE = ROOT / "docs" / "scaling_constants.json", ROOT / "docs" / "scaling.md"
CHART = ROOT / "docs" / "scaling.svg"
CONFIG = "pretrain/vivo_base.yaml"
GPUS_A_NODE = 8

PICTURES = (1_700_000, 100_000_000)
SETTINGS = ((8, 1024), (256, 1024), (256, 32768))  # GPUs, global batch

# From the vendors' data sheets of an NVIDIA DGX H100; not measured.
PUBLISHED = {
    "H100 SXM, bf16 dense, FLOP/s": 989e12,
    "NVLink 4, bytes/s of a GPU in one direction": 450e9,
    "InfiniBand NDR, bytes/s of a GPU (400 Gb/s)": 50e9,
    "PCIe 5 x16, bytes/s in one direction": 63e9,
    "NVMe drive of PCIe 4, sequential bytes/s": 6.9e9,
    "NVMe drives of a node": 8,
    "main memory of a node, bytes": 2e12,
    "cores of a node": 112,
}
# Of the published rate of matrix products. Training of BERT-sized models in bf16 is reported between 0.3 and 0.5.
ASSUMED_SHARE = 0.4
# Of a node's memory, what the page cache can have.
CACHE_SHARE = 0.8


def flops_of_a_picture() -> float:
    """Forward and backward of BERT-base with 50 regions and 15 tags, counted on real tensors."""
    from numpy import float16, float32, full, ones, random

    tokenizer = load_tokenizer(bert_folder("minilm"))
    words = [w for w in tokenizer.get_vocab() if w.isascii() and w.isalpha() and len(w) > 3][:TAGS]
    boxes = full((REGIONS, 4), [10, 10, 200, 200], float32)
    features = random.default_rng(0).standard_normal((REGIONS, FEATURES)).astype(float16)
    regions = Regions(boxes, features, [""] * REGIONS, ones(REGIONS, float32), 640, 480)
    pictures = 2
    batch = TagCollator(tokenizer, LIMITS, 0, 0.15, 0.15, 0)([(0, str(i), words, [], regions) for i in range(pictures)])
    model = VivoForTagPretraining(VivoConfig(feature_size=FEATURES)).train()
    with FlopCounterMode(display=False) as counter:
        keys = ("target_ids", "group_slots", "group_size")
        tag_set_loss(model(batch)["logits"], *(batch[key] for key in keys))["loss"].backward()
    return counter.get_total_flops() / pictures


def measured() -> dict[str, float]:
    """All constants of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), 1024, 128, 1)
    return found | {"flops_of_a_picture": flops_of_a_picture()}


def limits(c: dict[str, float]) -> list[tuple[str, str, float, str]]:
    """(part, what it is, pictures a second of one node of 8 H100, where the number comes from)."""
    p = PUBLISHED
    peak = p["H100 SXM, bf16 dense, FLOP/s"] / c["flops_of_a_picture"] * GPUS_A_NODE
    cores, drives = p["cores of a node"], p["NVMe drives of a node"]
    drive, pcie = p["NVMe drive of PCIe 4, sequential bytes/s"], p["PCIe 5 x16, bytes/s in one direction"]
    computed = "a core measured, their number published"
    return [
        ("matmul", "at the published peak", peak, "FLOPs measured, peak published"),
        ("matmul", f"at {ASSUMED_SHARE:.0%} of it", peak * ASSUMED_SHARE, "share assumed"),
        ("drives", f"{drives} NVMe drives, where memory does not hold the store", drives * drive / c["picture_bytes"],
         "bytes measured, drives published"),
        ("page cache", f"copies out of mapped files, {cores} cores", cores / c["read_seconds"], computed),
        ("loader workers", f"read and collate, {cores} cores", cores / (c["read_seconds"] + c["collate_seconds"]),
         computed),
        ("training processes", "receive batches from workers, 8 processes", GPUS_A_NODE / c["receive_seconds"],
         "a process measured"),
        ("PCIe", "batches to 8 GPUs", GPUS_A_NODE * pcie / c["batch_picture_bytes"], "published"),
    ]  # fmt: skip


def data_path(c: dict[str, float], cached: bool) -> tuple[str, float]:
    """The part of a node's data path that delivers fewest pictures a second, and how many."""
    parts = [(name, rate) for name, _, rate, _ in limits(c) if name != "matmul" and not (cached and name == "drives")]
    return min(parts, key=lambda part: part[1])


def scenario(c: dict[str, float], pictures: int, gpus: int, batch: int) -> dict[str, float]:
    """One row: what a step reads, moves and computes, in bytes and seconds; `cached`: memory holds the store."""
    p = PUBLISHED
    plan = plan_of(load_config(configs_dir() / CONFIG, [f"optim.batch_size={batch}", "optim.precision=bf16"]), gpus)
    nodes = gpus // GPUS_A_NODE
    wire = 2 * (gpus - 1) / gpus * 4 * parameters_of(plan).trained
    link = "NVLink 4, bytes/s of a GPU in one direction"
    link = link if nodes == 1 else "InfiniBand NDR, bytes/s of a GPU (400 Gb/s)"
    store = store_bytes(plan, pictures)
    # every node draws from all pictures, so each needs all of them at hand
    cached = store <= CACHE_SHARE * p["main memory of a node, bytes"]
    compute = plan.per_process * c["flops_of_a_picture"] / (p["H100 SXM, bf16 dense, FLOP/s"] * ASSUMED_SHARE)
    data, reduce = batch / nodes / data_path(c, cached)[1], wire / p[link]
    step = max(compute, reduce, data)
    return {
        "per_gpu": plan.per_process, "store": store, "cached": cached, "read": batch / nodes * c["picture_bytes"],
        "wire": wire, "memory": memory_of(plan).total, "compute": compute, "reduce": reduce, "data": data,
        "step": step, "epoch_seconds": pictures / batch * step,
    }  # fmt: skip


def tables(c: dict[str, float]) -> str:
    """The part of docs/scaling.md between the markers."""
    lines = ["| constant of one core | value | rate of a core |", "|---|---|---|"]
    for name, what in (
        ("read", "a random picture out of the RegionStore, page cache, copied"),
        ("collate", "tags, masks, padding"),
        ("receive", "a picture of a batch that a loader process sent"),
    ):
        cost = c[f"{name}_seconds"]
        lines.append(f"| {name}: {what} | {cost * 1e3:.3f} ms of CPU | {1 / cost:,.0f} pictures/s |")
    lines += [
        f"| a picture on disk | {c['picture_bytes'] / 1e3:.1f} kB | |",
        f"| a picture in a batch (features in fp16) | {c['batch_picture_bytes'] / 1e3:.1f} kB | |",
        f"| FLOPs of a picture, forward and backward | {c['flops_of_a_picture'] / 1e9:.1f} GFLOP | |",
        f"| cold reading here (one virtual disk, wall time) | {c['cold_rate'] * c['picture_bytes'] / 1e6:,.0f} MB/s | "
        f"{c['cold_rate']:,.0f} pictures/s |",
        "",
        "| part of a node of 8 H100 | what | pictures/s of the node | where from |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {what} | {rate:,.0f} | {source} |" for name, what, rate, source in limits(c)]
    (name, rate), needed = data_path(c, cached=True), limits(c)[1][2]
    lines += [
        "",
        f"To keep 8 GPUs busy at {ASSUMED_SHARE:.0%} of peak, the data path of a node must deliver {needed:,.0f} "
        f"pictures/s, {needed * c['picture_bytes'] / 1e9:.1f} GB/s of features. From the measured cores it delivers "
        f"{rate:,.0f} pictures/s, {rate / needed:.0%} of that; the limit: {name}.",
        "",
        "| pictures | GPUs | batch | of a GPU | store | in memory | read by a node | all-reduced by a GPU "
        "| memory of a GPU | matmul | all-reduce | data path | step, at least | epoch, at least |",
        "|" + "---|" * 14,
    ]
    for pictures in PICTURES:
        for gpus, batch in SETTINGS:
            row = scenario(c, pictures, gpus, batch)
            times = " | ".join(f"{row[part] * 1e3:.1f} ms" for part in ("compute", "reduce", "data", "step"))
            lines.append(
                f"| {pictures / 1e6:g} M | {gpus} | {batch:,} | {row['per_gpu']:.0f} | {row['store'] / 1e12:.2f} TB | "
                f"{'yes' if row['cached'] else 'no'} | {row['read'] / 1e6:,.0f} MB | {row['wire'] / 1e6:,.0f} MB | "
                f"{row['memory'] / 1e9:.1f} GB | {times} | {_time(row['epoch_seconds'])} |"
            )
    return "\n".join(lines)


def drawn(c: dict[str, float]) -> str:
    """docs/scaling.svg: limits and scenarios; those of equal times, whatever the number of pictures, are
    drawn once."""
    parts = [(name, rate) for name, _, rate, _ in limits(c) if name != "matmul"]
    rows: list[dict[str, float | str]] = []
    for gpus, batch in SETTINGS:
        found = [(scenario(c, pictures, gpus, batch), pictures) for pictures in PICTURES]
        equal = all(row[part] == found[0][0][part] for row, _ in found for part in STEP_PARTS)
        for row, pictures in found[:1] if equal else found:
            size = "" if equal else f", {pictures / 1e6:g} M"
            rows.append({**row, "label": f"{gpus} GPUs\nbatch {batch:,}{size}"})
    return chart(parts, limits(c)[1][2], rows)


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def written(page: str, table: str, program: str = "scaling.py") -> str:
    """The page with `table` between the markers of a program."""
    begin, end = f"<!-- {program} begins -->", f"<!-- {program} ends -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the constants on this machine first")
    arguments = parser.parse_args()
    if arguments.measure:
        torch.set_num_threads(1)
        CONSTANTS.write_text(json.dumps(measured(), indent=1) + "\n")
    constants = json.loads(CONSTANTS.read_text())
    table = tables(constants)
    CHART.write_text(drawn(constants))
    PAGE.write_text(written(PAGE.read_text(), table))
    print(table)


if __name__ == "__main__":
    main()
