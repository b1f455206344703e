"""Trainings side by side: real processes, their threads, errors, and no life beyond the parent's."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vivo.errors import UserError
from vivo.experiment.plan import photograph_plan, world_plan
from vivo.experiment.side_by_side import run_side_by_side

SECONDS = 120


def note(folder: Path, name: str) -> None:
    import torch

    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def refuse(reason: str) -> None:
    raise UserError(reason)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def block(file: Path) -> None:
    file.write_text(str(os.getpid()))
    threading.Event().wait()


def test_every_task_runs_once_in_another_process_with_its_share_of_the_cores(tmp_path: Path) -> None:
    ended: dict[str, float] = {}
    names = [f"task{n}" for n in range(5)]
    run_side_by_side([(name, note, (tmp_path, name)) for name in names], 2, ended.__setitem__)
    assert sorted(ended) == names and all(seconds > 0 for seconds in ended.values())
    written = [(tmp_path / name).read_text().split() for name in names]
    processes = {int(process) for process, _ in written}
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {int(threads) for _, threads in written} == {share}


def test_what_a_task_raises_arrives_and_a_death_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no captions"):
        run_side_by_side([("bad", refuse, ("no captions",))], 2, lambda *_: None)
    with pytest.raises(UserError, match="process died"):
        run_side_by_side([("dead", die, ())], 2, lambda *_: None)


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    """Else it would go on writing into the folder of the run that is started again."""
    program = (
        "import sys; from pathlib import Path\n"
        "from test_side_by_side import block\n"
        "from vivo.experiment.side_by_side import run_side_by_side\n"
        "if __name__ == '__main__':\n"
        "    run_side_by_side([('b', block, (Path(sys.argv[1]),))], 2, print)\n"
    )
    script, told = tmp_path / "parent.py", tmp_path / "told"
    script.write_text(program)
    os.mkfifo(told)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, str(script), str(told)], env=environment)
    child = os.pidfd_open(int(told.read_text()))  # the pipe waits until the child has written
    parent.kill()
    parent.wait(SECONDS)
    ended, _, _ = select.select([child], [], [], SECONDS)
    os.close(child)
    assert ended


def test_every_model_has_its_controls() -> None:
    for plan in (world_plan(True), photograph_plan()):
        names = [row.name for row in plan.rows]
        assert len(names) == len(set(names)) and "copy" in names
        for model in plan.models:
            assert {model.name, f"{model.name}, no tags", f"{model.name}, other picture"} <= set(names)
            by_name = {row.name: row for row in plan.rows if row.model == model.name}
            assert by_name[f"{model.name}, no tags"].tags == "none" and by_name[f"{model.name}, other picture"].shuffled
    assert [row.name for row in world_plan(False).rows] == ["none", "vivo"]
