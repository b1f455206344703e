"""How fast and in how much memory label rows become tag examples, beside what one would write first.

    python tests/benchmarks/open_images_stream.py                            4M rows, with the rival
    python tests/benchmarks/open_images_stream.py --pictures 1700000         as Open Images: 34M rows, 1.4 GB of CSV

Rows are made as the official file has them (grouped by picture, 20 a picture) or, with --scattered, so that every
picture comes up again far away in the file. The rival is a script of fifteen lines: csv.DictReader into a dictionary
of lists, then JSON lines. Each runs in a process of its own; printed are rows per second of processor time (other
work on the machine does not count), peak memory, and the ratios.
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 6_400
MEASURED = """
import resource, runpy, sys, time
sys.argv = sys.argv[1:]
start = time.perf_counter()
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("\\nMEASURED", time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
RIVAL = """
import csv, json, sys
labels, classes, out = sys.argv[1:4]
names = {row[0]: row[1].lower() for row in csv.reader(open(classes))}
tags = {}
for row in csv.DictReader(open(labels)):
    present = tags.setdefault(row["ImageID"], [])
    if row["Confidence"] == "1" and names[row["LabelName"]] not in present:
        present.append(names[row["LabelName"]])
with open(out, "w") as file:
    for image_id, present in tags.items():
        if present:
            file.write(json.dumps({"image_id": image_id, "tags": present}) + "\\n")
"""


def main() -> None:
    """Make the files, run both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--scattered", action="store_true", help="two distant runs of rows for every picture")
    parser.add_argument("--no-rival", action="store_true", help="it needs gigabytes at full size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vivo-open-images-") as folder:
        rows = write_labels(Path(folder), arguments.pictures, arguments.scattered)
        size = (Path(folder) / "labels.csv").stat().st_size
        print(f"{arguments.pictures:,} pictures, {rows:,} rows, {size / 1e6:,.0f} MB")
        ours = measure(
            folder, ROOT / "pretrain" / "prepare_open_images.py", "ours.jsonl", rows, "--max-tag-tokens", "0"
        )
        if arguments.no_rival:
            return
        (Path(folder) / "rival.py").write_text(RIVAL)
        rival = measure(folder, Path(folder) / "rival.py", "rival.jsonl", rows)
        same = (Path(folder) / "ours.jsonl").read_bytes() == (Path(folder) / "rival.jsonl").read_bytes()
        print(f"equal output: {same}; time {ours[0] / rival[0]:.2f} x, memory {ours[1] / rival[1]:.2f} x the rival's")


def write_labels(folder: Path, pictures: int, scattered: bool) -> int:
    """labels.csv and classes.csv; returns the number of rows."""
    mids = [f"/m/{number:05x}" for number in range(CLASSES)]
    (folder / "classes.csv").write_text("".join(f"{mid},Class {number},\n" for number, mid in enumerate(mids)))
    often = list(itertools.accumulate(1 / (number + 10) for number in range(CLASSES)))
    drawn = random.Random(0).choices(mids, cum_weights=often, k=400_000)
    pool = [f"{mid},{number % 2}\n" for number, mid in enumerate(drawn)]
    rows = 0
    with (folder / "labels.csv").open("w", buffering=1 << 20) as file:
        file.write("ImageID,Source,LabelName,Confidence\n")
        for part in range(2 if scattered else 1):
            for number in range(pictures):
                count, start = 8 + number * 7 % 25, number * 131 % 399_900
                if scattered:
                    count = count // 2 if part else count - count // 2
                    start += part * 40
                prefix = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x},verification,"
                file.write(prefix + prefix.join(pool[start : start + count]))
                rows += count
    return rows


def measure(folder: str, script: Path, out: str, rows: int, *options: str) -> tuple[float, float]:
    """Run a program on the files; prints and returns processor seconds and peak MB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURED, str(script), "labels.csv", "classes.csv", out, *options]
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds, peak = map(float, run.stdout.rsplit("MEASURED", 1)[1].split())
    print(f"{script.name:24s} {rows / seconds:>12,.0f} rows/s {peak:>8,.0f} MB peak {seconds:>8.1f} s")
    return seconds, peak


if __name__ == "__main__":
    main()
