"""Our programs in real processes under `accelerate launch`, for the tests and benchmarks that kill them."""

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
    return start(processes, ["pretrain/extract_regions.py", *map(str, arguments)], log, OMP_NUM_THREADS="")


def start(
    processes: int,
    program: Sequence[str],
    log: IO[str] | int = subprocess.PIPE,
    node: int = 0,
    nodes: int = 1,
    port: int = 0,
    **environment: str,
) -> subprocess.Popen[str]:
    """A program on gloo processes through accelerate, or as a plain program.

    Args:
        processes: of all nodes together; 1: without a launcher.
        program: its path from the repository's root, and its arguments.
        log: an open file for both outputs; default: two pipes.
        node, nodes: this launcher's number among several on this machine. port: theirs in common.
        environment: variables of the processes; threads: one each, unless OMP_NUM_THREADS is given as "".
    """
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    variables |= {"PYTHONPATH": str(ROOT)} | environment  # the code beside this file, whatever is installed
    if not variables["OMP_NUM_THREADS"]:
        del variables["OMP_NUM_THREADS"]
    launch: list[str] = []
    if processes > 1:
        # --cpu would silently start one process: --multi_gpu with no GPU gives gloo (accelerate#2741)
        launch = [
            "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", str(nodes), "--mixed_precision", "no",
            "--dynamo_backend", "no", "--num_processes", str(processes),
            "--main_process_port", str(port or free_port()),
        ]  # fmt: skip
        if nodes > 1:
            launch += ["--machine_rank", str(node), "--main_process_ip", "127.0.0.1"]
    command = [sys.executable, *launch, *program]
    return subprocess.Popen(command, cwd=ROOT, env=variables, text=True, stdout=log, stderr=log)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


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
