"""Kills one of two extracting processes in the middle; the store must end as it does without, byte for byte.

    python tests/benchmarks/extraction_kill.py                                   # the 3,000 photographs, `grid`
    python tests/benchmarks/extraction_kill.py --pictures FOLDER --limit 200 --detector grid:scales=224x7

Two processes under `accelerate launch` extract; when a third of the pictures is done, one of them gets kill -9; the
same command is given again; `vivo features verify` reads the store; a second store is extracted without interruption,
and every file of both is compared. Exit status 1 on any difference, 0 also where the photographs are absent. Each
process computes with `--threads` threads (last bits depend on it). The programs' own output is in WORK/*.log.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# ruff: noqa: E402
from launching import kill, start_extraction, wait_until, workers_of

from vivo.detectors.extract import find_pictures
from vivo.detectors.extraction_plan import ExtractionPlan

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "flickr8k_3k" / "images"
DAY = 86400.0


def pictures_done(store: Path) -> int:
    """Pictures whose shards are finished, by the receipts in the folder."""
    receipts = ExtractionPlan(store, "").receipts().values()
    return sum(len(r.broken) + (r.shard["pictures"] if r.shard else 0) for r in receipts)


def say(text: str, start: float) -> None:
    """One line for each step."""
    print(f"[{time.perf_counter() - start:7.1f} s] {text}", flush=True)


def last_line(log: Path) -> str:
    """What a program said last."""
    return (log.read_text(errors="replace").strip().splitlines() or [""])[-1]


def run(arguments: list[str | Path], log: Path) -> int:
    """An extraction from start to end; its exit status."""
    with log.open("w") as file:
        return start_extraction(2, arguments, file).wait()


def run_and_kill(arguments: list[str | Path], log: Path, store: Path, wanted: int) -> tuple[int, int]:
    """Kill the worker of rank 1 when so many pictures are done; the launcher's exit status, and the pictures done."""
    with log.open("w") as file:
        launcher = start_extraction(2, arguments, file)
        try:
            wait_until(lambda: pictures_done(store) >= wanted, launcher, DAY)
            kill(workers_of(launcher)[1])
            status = launcher.wait()
        finally:
            launcher.kill()
    return status, pictures_done(store)


def differences(first: Path, second: Path) -> list[str]:
    """Names of files that one folder lacks, or whose bytes are not the same."""
    names = sorted({file.name for folder in (first, second) for file in folder.iterdir()})
    both = [(name, first / name, second / name) for name in names]
    return [name for name, a, b in both if not (a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes())]


def check(work: Path, arguments: argparse.Namespace) -> int:
    """All steps; the exit status."""
    begin = time.perf_counter()
    paths = find_pictures(arguments.pictures)[: arguments.limit]
    listed = work / "pictures.txt"
    listed.write_text("".join(f"{path.resolve()}\n" for path in paths), encoding="utf-8")
    options = ["--list", listed, "--detector", arguments.detector, "--threads", str(arguments.threads)]
    options += ["--shard-pictures", str(arguments.shard_pictures)]
    store, whole = work / "killed", work / "whole"
    say(f"{len(paths)} pictures of {arguments.pictures}, {arguments.detector}, 2 processes, work in {work}", begin)

    status, done = run_and_kill([arguments.pictures, store, *options], work / "1.log", store, -(-len(paths) // 3))
    say(f"kill -9 of rank 1; the launcher ended with status {status}, {done} pictures done", begin)
    if status == 0 or done >= len(paths):
        say("FAILED: the kill did not come in the middle; give more pictures or smaller --shard-pictures", begin)
        return 1
    status = run([arguments.pictures, store, *options], work / "2.log")
    say(f"the same command again: status {status}; {last_line(work / '2.log')}", begin)
    verify = [sys.executable, "-m", "vivo.cli", "features", "verify", str(store)]
    verified = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True)
    said = (verified.stdout + verified.stderr).strip().splitlines()
    say(f"vivo features verify: status {verified.returncode}; {' | '.join(said)[:500]}", begin)
    uninterrupted = run([arguments.pictures, whole, *options], work / "3.log")
    say(f"without interruption: status {uninterrupted}; {last_line(work / '3.log')}", begin)
    if status or uninterrupted or verified.returncode:
        say("FAILED", begin)
        return 1
    other = differences(store, whole)
    files = list(whole.iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    say(f"{len(files)} files, {size:.1f} MB: {f'DIFFERENT: {other}' if other else 'equal byte for byte'}", begin)
    return 1 if other else 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=PHOTOGRAPHS, help="folder (default: the 3,000 photographs)")
    parser.add_argument("--limit", type=int, help="the first so many pictures only")
    parser.add_argument("--detector", default="grid")
    parser.add_argument("--threads", type=int, default=1, help="computing threads of each process")
    parser.add_argument("--shard-pictures", type=int, default=128)
    parser.add_argument("--work", type=Path, help="new folder for stores and logs, kept; default: a temporary one")
    arguments = parser.parse_args()
    if not arguments.pictures.is_dir():
        print(f"skipped: no pictures in {arguments.pictures}; give --pictures FOLDER")
        return 0
    if arguments.work:
        arguments.work.mkdir(parents=True)
        return check(arguments.work, arguments)
    with tempfile.TemporaryDirectory() as folder:
        return check(Path(folder), arguments)


if __name__ == "__main__":
    sys.exit(main())
