"""pretrain/extract_regions.py in real processes, for the tests and benchmarks that kill them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


def start_extraction(
    processes: int, arguments: Sequence[str | Path], log: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """The program on gloo processes through accelerate, or as a plain program; `log` takes both outputs.

    Args:
        processes: how many; 1: without a launcher.
        arguments: the program's own.
        log: an open file; default: two pipes.
    """
    program = ["pretrain/extract_regions.py", *map(str, arguments)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(ROOT)  # the code beside this file, whatever is installed
    environment.pop("OMP_NUM_THREADS", None)
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # --cpu would silently start one process: --multi_gpu with no GPU gives gloo (accelerate#2741)
        program = [
            "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--num_processes", str(processes), "--main_process_port", str(port), *program,
        ]  # fmt: skip
    return subprocess.Popen([sys.executable, *program], cwd=ROOT, env=environment, text=True, stdout=log, stderr=log)


def workers_of(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of a launcher's workers by rank, from /proc."""
    found = {}
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        environment = dict(
            line.split("=", 1) for line in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in line
        )
        if "RANK" in environment:
            found[int(environment["RANK"])] = int(child)
    return found


def kill(pid: int) -> None:
    """As `kill -9` does."""
    os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 600) -> None:
    """Look again and again, as long as the process lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"nothing after {seconds:.0f} s"
        time.sleep(0.01)


def receipts(store: Path) -> int:
    """Chunks of an unfinished store that are done."""
    return len(list(store.glob("shard-*.json")))
