"""configs/sweeps: valid for W&B, and what is drawn from them runs, by the code with which W&B's agent starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_records import stretches

from vivo.training.tracking import read_records

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
SWEEPS_PYTHON = ROOT / ".venv-sweeps" / "bin" / "python"


@pytest.fixture(scope="session")
def sweeps_python() -> Path:
    """Python of the environment that has W&B's `sweeps`; made at the first call."""
    make = ["make", "--no-print-directory", "sweeps", f"PYTHON={sys.executable}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return SWEEPS_PYTHON


def draw(python: Path, path: Path, count: int) -> dict[str, Any]:
    """What tests/draw_sweep.py prints."""
    command = [python, ROOT / "tests" / "draw_sweep.py", path, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def values_of(parameter: dict[str, Any]) -> tuple[float, float] | list[Any]:
    """The range or the list of a sweep's parameter."""
    return parameter["values"] if "values" in parameter else (parameter["min"], parameter["max"])


def test_there_are_sweeps_and_each_tells_its_story():
    assert [path.stem for path in FILES] == ["finetune", "pretrain_loss", "pretrain_lr_mask"]
    for path in FILES:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        for word in ("command", "needs", "hardware", "expected"):
            assert any(line.startswith(f"#   {word} ") for line in header), f"{path}: no '{word}' in the header"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_valid_and_drawn_from(sweeps_python: Path, path: Path):
    sweep = yaml.safe_load(path.read_text())
    result = draw(sweeps_python, path, 12)
    assert result["violations"] == []
    for drawn in result["drawn"]:
        assert set(drawn) == set(sweep["parameters"])
        for name, value in drawn.items():
            allowed = values_of(sweep["parameters"][name])
            within = value in allowed if isinstance(allowed, list) else allowed[0] <= value <= allowed[1]
            assert within, f"{name}={value}"
    different = {json.dumps(drawn, sort_keys=True) for drawn in result["drawn"]}
    if sweep["method"] == "grid":  # each combination once, then none
        assert len(result["drawn"]) == len(different) == 8
    else:
        assert len(result["drawn"]) == 12 and len(different) > 6


@pytest.mark.slow
def test_a_sweep_that_is_wrong_is_found(sweeps_python: Path, tmp_path: Path):
    sweep = yaml.safe_load(FILES[0].read_text()) | {"method": "rndom"}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(sweep))
    (violation,) = draw(sweeps_python, tmp_path / "wrong.yaml", 1)["violations"]
    assert violation == "'rndom' is not one of ['bayes', 'random', 'grid', 'custom']"


def lay_out(work: Path, world: Path) -> None:
    """A working folder as the sweeps expect it, with the tiny world in the place of the demo's."""
    for name in ("pretrain", "finetune", "configs"):
        (work / name).symlink_to(ROOT / name)
    (work / "runs").mkdir()
    (work / "runs" / "demo").symlink_to(world)


def run_by_agent(sweep: dict[str, Any], run_id: str, values: dict[str, Any], log: Path) -> int:
    """Start one run as W&B's agent does (its own code, without the server that it asks for work); exit status.

    What the launcher and the run print goes to `log`.
    """
    from wandb import wandb_agent

    agent = wandb_agent.Agent(None, None)
    agent._sweep_command = list(sweep["command"])
    with log.open("w") as file:
        kept = os.dup(1), os.dup(2)
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            work = {"run_id": run_id, "program": sweep["program"]}
            agent._command_run(work | {"args": {name: {"value": value} for name, value in values.items()}})
            return agent._run_processes[run_id].wait()
        finally:
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stem, short",
    [
        ("pretrain_lr_mask", {"tracking.validate_every": "2steps"}),
        ("pretrain_loss", {}),
        ("finetune", {"init": "minilm", "tracking.validate_every": "2steps"}),
    ],
)
def test_a_drawn_run_runs(sweeps_python: Path, tiny_world: Path, tmp_path: Path, monkeypatch, stem, short):
    """Two updates, W&B offline; the rest is as drawn. Its W&B run has the id of the agent and the drawn values."""
    path = ROOT / "configs" / "sweeps" / f"{stem}.yaml"
    sweep = yaml.safe_load(path.read_text())
    *_, drawn = draw(sweeps_python, path, 2)["drawn"]
    short = short | {"optim.duration": "2steps", "optim.warmup": "1step", "optim.batch_size": 8}
    lay_out(tmp_path, tiny_world)
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "x")  # so that what the agent sets does not outlive the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    status = run_by_agent(sweep, "drawn123", drawn | short | {"tracking.wandb": "offline"}, tmp_path / "log.txt")
    said = (tmp_path / "log.txt").read_text()
    assert status == 0, said
    assert f"({2 if '--multi_gpu' in sweep['command'] else 1} processes" in said
    out = tmp_path / "runs" / "sweeps" / stem / "drawn123"
    records = read_records(out / "metrics.jsonl")
    assert any(sweep["metric"]["name"] in record for record in records), records
    (stretch,) = stretches(out)
    assert stretch.run_id == "drawn123"
    for name, value in drawn.items():
        found: Any = stretch.config
        for part in name.split("."):
            found = found[part]
        assert found == pytest.approx(value) if isinstance(value, float) else found == value, name
