"""W&B online, against a stand-in for its server: the same rows as metrics.jsonl; no server, and the run goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from test_tracking import RESOLVED, record_of, track
from wandb_server import WandbServer

from vivo.cli import main
from vivo.config import TrackingConfig
from vivo.training.tracking import Tracker, read_records

ROOT = Path(__file__).resolve().parents[1]
KEY = "0" * 40  # the form that wandb asks of a key; it is checked nowhere here


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    """A stand-in that W&B in this process takes for its server."""
    wandb.teardown()  # it read its settings when it was set up
    with WandbServer() as stand_in:
        monkeypatch.setenv("WANDB_BASE_URL", stand_in.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "60")  # of a machine that is busy with other tests
        yield stand_in
        wandb.teardown()


def plain(rows: dict[int, dict]) -> dict[int, dict]:
    """Rows without W&B's own keys."""
    return {step: {k: v for k, v in row.items() if not k.startswith("_")} for step, row in sorted(rows.items())}


def by_step(path: Path) -> dict[int, dict]:
    """Records of a metrics.jsonl, those of one step together."""
    rows: dict[int, dict] = {}
    for record in read_records(path):
        rows.setdefault(record["step"], {}).update({k: v for k, v in record.items() if k != "step"})
    return rows


@pytest.mark.slow
def test_online_the_stored_run_goes_on_and_sync_sends_it_whole(server: WandbServer, tmp_path: Path, capsys):
    run = tmp_path / "run"
    run_id = track(run, 0, 4, "online")
    assert plain(server.rows[run_id]) == by_step(run / "metrics.jsonl")
    assert server.configs[run_id]["optim"]["value"]["lr"] == RESOLVED["optim"]["lr"]
    asked = len(server.asked)
    track(run, 4, 7, "online", run_id)
    assert "RunResumeStatus" in server.asked[asked:] and list(server.rows) == [run_id]
    assert plain(server.rows[run_id]) == by_step(run / "metrics.jsonl") and len(server.rows[run_id]) == 7

    server.rows.clear()
    asked = len(server.asked)
    assert main(["sync", str(run)]) == 0
    assert f"W&B run {run_id}, project vivo" in capsys.readouterr().out
    assert plain(server.rows[run_id]) == by_step(run / "metrics.jsonl")
    assert "RunResumeStatus" not in server.asked[asked:]  # written anew, not resumed


@pytest.mark.slow
def test_a_server_that_goes_away_costs_a_line(server: WandbServer, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    with Tracker(tmp_path, TrackingConfig(wandb="online"), RESOLVED, 9, 0, "tags run", True) as tracker:
        tracker.log(1, record_of(1))
        server.close()
        for step in range(2, 10):
            tracker.log(step, record_of(step))
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == list(range(1, 10))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B: ")]
    assert said == [f"W&B: TimeoutError: Timed out finishing run.; going on without it, later: vivo sync {tmp_path}"]


@pytest.mark.slow
def test_a_training_without_a_server_ends_well(tiny_world: Path, tmp_path: Path):
    """pretrain/train.py with a port at which nobody listens: the whole run, one line about W&B."""
    command = [
        sys.executable, "pretrain/train.py", "configs/world.yaml", f"out={tmp_path / 'run'}",
        f"data.regions={tiny_world / 'regions' / 'open_images'}",
        f"data.examples={tiny_world / 'examples' / 'tags.jsonl'}",
        f"model.vocabulary={tiny_world / 'examples' / 'vocabulary.txt'}", "optim.duration=3steps", "optim.warmup=1step",
        "optim.batch_size=8", "tracking.log_every=1step", "tracking.wandb=online",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    environment["WANDB_INIT_TIMEOUT"] = "2"  # how long it waits is W&B's own, and measured in docs/tracking.md
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stderr.splitlines() if line.startswith("W&B: ")]
    assert len(said) == 1 and said[0].endswith(f"later: vivo sync {tmp_path / 'run'}"), done.stderr[-3000:]
    assert [r["step"] for r in read_records(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
