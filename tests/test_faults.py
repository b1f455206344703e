"""After each fault of tests/faults.py the same command goes on and ends as if nothing had happened, bit for bit.

Damaged checkpoints: tests/test_engine.py.
"""

import signal
from pathlib import Path

import faults
import pytest
from launching import free_port, start
from training_runs import finish, losses, pretraining, run, same_weights, updates

from vivo.config import load_config
from vivo.errors import UserError
from vivo.training.checkpoint import list_checkpoints
from vivo.training.interruption import STOPPED
from vivo.training.runs import pretrain, replay_pretrain
from vivo.training.tracking import read_records

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
    found = faults.killed_process(tiny_world, tmp_path)
    assert found.statuses == [1] and 4 <= found.saved <= found.done < 24
    assert f"resumed at {found.saved}" in run(2, found.program)
    assert same_weights(tmp_path, whole[2]) and losses(tmp_path) == losses(whole[2])


def test_a_stopped_process_ends_the_job_after_the_timeout(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    found = faults.stopped_process(tiny_world, tmp_path)
    assert found.statuses == [1] and "Timed out waiting" in found.text
    run(2, found.program)
    assert same_weights(tmp_path, whole[2])


def test_two_nodes_equal_one_and_a_killed_process_ends_both(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    found = faults.killed_worker_of_a_node(tiny_world, tmp_path)
    assert found.statuses == [1, 1]
    port = free_port()
    for node in [start(2, found.program, node=n, nodes=2, port=port) for n in (0, 1)]:
        finish(node)
    assert same_weights(tmp_path, whole[2]) and losses(tmp_path) == losses(whole[2])


def test_signals_save_and_end(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    """One after the other in the same run, which goes on each time."""
    kinds = [(signal.SIGTERM, STOPPED), (signal.SIGUSR1, STOPPED), (signal.SIGINT, 130)]
    for count, (number, status) in enumerate(kinds, start=1):
        found = faults.signalled(tiny_world, tmp_path, number)
        assert found.statuses == [status] and found.saved == found.done < 24
        assert f"stopped by a signal after update {found.done}" in found.text
        assert len(list_checkpoints(tmp_path / "checkpoints")) == count
    run(1, found.program)
    assert same_weights(tmp_path, whole[1]) and losses(tmp_path) == losses(whole[1])


@pytest.mark.parametrize("fault", [faults.signalled_with_loaders, faults.signalled_process])
def test_a_signal_saves_on_all_processes(tiny_world: Path, tmp_path: Path, whole: dict[int, Path], fault):
    found = fault(tiny_world, tmp_path)
    assert found.statuses != [0] and 3 <= found.saved == found.done < 24
    run(2, found.program)
    assert same_weights(tmp_path, whole[2])


def test_a_full_disk_costs_no_update(tiny_world: Path, tmp_path: Path, whole: dict[int, Path]):
    found = faults.full_disk(tiny_world, tmp_path)
    assert found.statuses == [2] and found.text.count("WARNING: checkpoint") == 6 and "Traceback" not in found.text
    assert "error: cannot write" in found.text.splitlines()[-1]
    assert (found.done, found.saved) == (24, 0) and not (tmp_path / "model").exists()
    run(1, found.program)
    assert same_weights(tmp_path, whole[1]) and losses(tmp_path) == losses(whole[1])


def test_a_full_disk_at_a_validation_ends_no_training(tiny_world: Path, tmp_path: Path):
    found = faults.full_disk_at_a_validation(tiny_world, tmp_path)
    assert found.statuses == [2] and found.done == 4 and "Traceback" not in found.text
    assert found.text.count("WARNING: validation table") == found.text.count("WARNING: checkpoint") == 2
    assert "WARNING: best model not kept" in found.text and "error: cannot write" in found.text.splitlines()[-1]
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl") if "validation_CIDEr" in r] == [2, 4]


def test_a_feature_that_is_no_number_stops_all_and_can_be_looked_at(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found, victim = faults.not_a_number(tiny_world, tmp_path / "run")
    assert found.statuses == [1] and updates(tmp_path / "run") == found.done < 24
    assert "stopped before the update. Pictures with features that are not finite: " + victim in found.text
    with pytest.raises(UserError, match=f"picture {victim} has features that are not finite"):
        pretrain(load_config(found.program[1], [*found.program[2:], "model.standardise_regions=true"]))
    (folder,) = (tmp_path / "run" / "nonfinite").iterdir()
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} == {".safetensors", ".json"}
    assert replay_pretrain(load_config(found.program[1], found.program[2:]), folder)
    shown = capsys.readouterr().out
    assert f"features not finite: {victim}" in shown and "first output not finite: vivo.regions.linear" in shown
