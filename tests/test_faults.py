"""What can go wrong with a long training, done to real processes: killed, stopped, signalled, full disk, damaged files.

After each fault the same command goes on, and the end equals the run that nothing happened to, bit for bit.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import ROOT, free_port, kill, start, wait_until, workers_of
from training_runs import finish, losses, pretraining, run, same_weights, updates

from vivo.data.regions import RegionStore
from vivo.training.checkpoint import list_checkpoints, open_checkpoint
from vivo.training.interruption import STOPPED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc"),
]


@pytest.fixture(scope="module")
def whole(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Uninterrupted runs on one and two processes."""
    runs = {n: tmp_path_factory.mktemp("whole") / str(n) for n in (1, 2)}
    for processes, out in runs.items():
        run(processes, pretraining(tiny_world, out))
    return runs


def test_a_killed_process_ends_the_job_and_costs_nothing(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    program = pretraining(tiny_world, tmp_path)
    launcher = start(2, program)
    wait_until(lambda: updates(tmp_path) >= 6, launcher)
    kill(workers_of(launcher)[1])
    finish(launcher, 1)
    assert 4 <= updates(tmp_path) < 24
    assert "resumed at" in run(2, program)
    assert same_weights(tmp_path, whole[2]) and losses(tmp_path) == losses(whole[2])


def test_a_stopped_process_ends_the_job_within_the_timeout(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    program = pretraining(tiny_world, tmp_path)
    launcher = start(2, program)
    wait_until(lambda: updates(tmp_path) >= 6, launcher)
    os.kill(workers_of(launcher)[1], signal.SIGSTOP)
    text = finish(launcher, 1)  # in 20 s, and 30 s more until the launcher gives up on the stopped process
    assert "Timed out waiting" in text
    run(2, program)
    assert same_weights(tmp_path, whole[2])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_and_ends(tiny_world: Path, tmp_path: Path, whole: dict[int, Path], number: signal.Signals):
    program = pretraining(tiny_world, tmp_path, "tracking.save_every=")
    process = start(1, program)
    wait_until(lambda: updates(tmp_path) >= 3, process)
    process.send_signal(number)
    text = finish(process, 130 if number == signal.SIGINT else STOPPED)
    (saved,) = list_checkpoints(tmp_path / "checkpoints")
    step = open_checkpoint(saved).step
    assert step == updates(tmp_path) < 24 and f"stopped by a signal after update {step}" in text
    run(1, program)
    assert same_weights(tmp_path, whole[1]) and losses(tmp_path) == losses(whole[1])


def test_a_signal_to_the_launcher_reaches_all(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    """SIGTERM only: a launcher knows no SIGUSR1 and dies of it, which is why configs/slurm traps it."""
    program = pretraining(tiny_world, tmp_path, "tracking.save_every=")
    launcher = start(2, program)
    wait_until(lambda: updates(tmp_path) >= 3, launcher)
    launcher.send_signal(signal.SIGTERM)
    assert "stopped by a signal after update" in finish(launcher, None) and launcher.returncode != 0
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1
    run(2, program)
    assert same_weights(tmp_path, whole[2])


def test_a_signal_to_one_process_saves_on_all(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    program = pretraining(tiny_world, tmp_path, "tracking.save_every=")
    launcher = start(2, program)
    wait_until(lambda: updates(tmp_path) >= 3, launcher)
    os.kill(workers_of(launcher)[1], signal.SIGTERM)
    finish(launcher, 1)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1
    run(2, program)
    assert same_weights(tmp_path, whole[2])


def test_two_nodes_equal_one_and_a_killed_worker_ends_both(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    program, port = pretraining(tiny_world, tmp_path), free_port()
    nodes = [start(2, program, node=n, nodes=2, port=port) for n in (0, 1)]
    wait_until(lambda: updates(tmp_path) >= 6, nodes[0])
    (worker,) = workers_of(nodes[1]).values()
    kill(worker)
    for node in nodes:
        finish(node, 1)
    port = free_port()
    nodes = [start(2, program, node=n, nodes=2, port=port) for n in (0, 1)]
    for node in nodes:
        finish(node)
    assert same_weights(tmp_path, whole[2]) and losses(tmp_path) == losses(whole[2])


def test_a_full_disk_costs_no_update(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    """Files of more than 20 MB cannot be written (a limit of the process); then they can, and nothing is missing."""
    program = pretraining(tiny_world, tmp_path)
    limited = subprocess.run(
        [sys.executable, *program], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000)),
    )  # fmt: skip
    assert limited.returncode == 2, limited.stderr[-3000:]
    assert limited.stderr.count("WARNING: checkpoint") == 5 and "Traceback" not in limited.stderr
    assert "error: cannot write" in limited.stderr.splitlines()[-1]
    assert not list_checkpoints(tmp_path / "checkpoints") and not (tmp_path / "model").exists()
    assert updates(tmp_path) == 24
    run(1, program)
    assert same_weights(tmp_path, whole[1]) and losses(tmp_path) == losses(whole[1])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    tiny_world: Path, tmp_path: Path, whole: dict[int, Path], name: str
):
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "model")
    *_, before, last = list_checkpoints(tmp_path / "checkpoints")
    damaged = last / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    text = run(1, pretraining(tiny_world, tmp_path))
    assert f"checkpoint passed over: {damaged}" in text and f"resumed at {open_checkpoint(before).step}" in text
    assert same_weights(tmp_path, whole[1]) and losses(tmp_path) == losses(whole[1])
    assert (last.with_name(f"{last.name}.damaged")).is_dir()


def test_all_checkpoints_damaged_is_an_error(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    shutil.copytree(whole[1] / "checkpoints", tmp_path / "checkpoints")
    for checkpoint in list_checkpoints(tmp_path / "checkpoints"):
        (checkpoint / "state.json").unlink()
    text = run(1, pretraining(tiny_world, tmp_path), 2)
    assert text.splitlines()[-1].startswith(f"error: {tmp_path}/checkpoints: none of its 3 checkpoints is whole")


def test_a_feature_that_is_no_number_stops_all_and_can_be_looked_at(tiny_world: Path, tmp_path: Path):
    store = tmp_path / "regions"
    shutil.copytree(tiny_world / "regions" / "open_images", store)
    victim = RegionStore(store).image_ids[5]
    poison(store, victim)
    program = pretraining(tiny_world, tmp_path / "run", f"data.regions={store}")
    text = run(2, program, 1)
    assert "stopped before the update. Pictures with features that are not finite: " + victim in text
    (folder,) = (tmp_path / "run" / "nonfinite").iterdir()
    assert not list((tmp_path / "run").rglob("*.pt")) and not list((tmp_path / "run").rglob("*.pkl"))
    shown = run(1, [*program[:2], "--replay", str(folder), *program[2:]], 1)
    assert f"features not finite: {victim}" in shown and "first output not finite: vivo.regions.linear" in shown


def poison(store: Path, image_id: str) -> None:
    """Overwrite one feature of a picture by NaN in the file, as a bad disk or a foreign writer would."""
    features = RegionStore(store)[image_id].features
    for shard in store.glob("shard-*.arrow"):
        content = shard.read_bytes()
        at = content.find(np.ascontiguousarray(features).tobytes())
        if at >= 0:
            shard.write_bytes(content[:at] + np.float16("nan").tobytes() + content[at + 2 :])
            assert np.isnan(RegionStore(store)[image_id].features).any()
            return
    raise AssertionError(f"{image_id} is in no shard of {store}")
