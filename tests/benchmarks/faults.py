"""The faults of tests/faults.py, one after the other, as the table of docs/training.md.

    python tests/benchmarks/faults.py [--world runs/tiny]

24 updates on the tiny embedded world, a checkpoint each fourth, `engine.timeout=20`. "Lost" are updates that the same
command, given again, does a second time; with the same result (tests/test_faults.py).
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# ruff: noqa: E402
import faults
from tiny_world import make_tiny_world


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a folder of the demo's tiny size; default: one made for this")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    world = make_tiny_world(arguments.world or work / "world")
    tried = {
        "kill -9 of one of two processes": faults.killed_process,
        "kill -STOP of one of two processes": faults.stopped_process,
        "kill -9 of the process of the second of two nodes": faults.killed_worker_of_a_node,
        "SIGTERM, one process": lambda world, out: faults.signalled(world, out, signal.SIGTERM),
        "Ctrl-C (SIGINT), one process": lambda world, out: faults.signalled(world, out, signal.SIGINT),
        "SIGTERM to the launcher of two processes": faults.signalled_launcher,
        "SIGTERM to the launcher of two processes with two loader processes each": faults.signalled_with_loaders,
        "SIGUSR1 to one of two processes": faults.signalled_process,
        "no file over 20 MB can be written": faults.full_disk,
        "NaN in a feature, two processes": lambda world, out: faults.not_a_number(world, out)[0],
    }
    print("| fault | exit status | ended after | updates done | goes on from | lost |")
    print("|---|---|---|---|---|---|")
    for number, (name, fault) in enumerate(tried.items()):
        found = fault(world, work / str(number))
        statuses = ", ".join(map(str, found.statuses))
        lost = found.done - found.saved
        print(f"| {name} | {statuses} | {found.seconds:.1f} s | {found.done} | {found.saved} | {lost} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
