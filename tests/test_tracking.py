"""Tracking: W&B is a copy of the run folder that can be made again and cannot cost a run."""

import dataclasses
import json
import resource
from pathlib import Path

import pytest
from wandb_records import Stretch, stretches

from vivo.cli import main
from vivo.config import TrackingConfig, TrainConfig, to_yaml
from vivo.training.tracking import Tracker, read_records

RESOLVED = dataclasses.asdict(TrainConfig())


def record_of(step: int) -> dict[str, float]:
    """Values that show any rounding."""
    return {"loss": 1 / (3 * step), "lr": 1e-4 / step, "pictures": 64.0 * step, "gradient_norm": 1e20 / step}


def track(folder: Path, start: int, stop: int, mode: str = "offline", run_id: str = "") -> str:
    """A stretch of a run: updates start + 1 .. stop, each logged, a validation at the last. Returns the run's id."""
    config = TrackingConfig(wandb=mode)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(TrainConfig()))
    (folder / "environment.json").write_text(json.dumps({"commit": "abc1234"}))
    with Tracker(folder, config, RESOLVED, 100, start, "tags run", True, run_id) as tracker:
        for step in range(start + 1, stop + 1):
            tracker.log(step, record_of(step))
        tracker.log(stop, {"validation_CIDEr": 12.5 + stop})
    return tracker.run_id


def assert_same(stretch: Stretch, records: list[dict]) -> None:
    """Every value of every record stands in the row of its step, and nothing else but W&B's own."""
    expected: dict[int, dict] = {}
    for record in records:
        expected.setdefault(record["step"], {}).update({k: v for k, v in record.items() if k != "step"})
    found = {
        step: {k: v for k, v in row.items() if not k.startswith("_") and k != "validation_table"}
        for step, row in stretch.rows.items()
    }
    assert found == expected


def test_an_offline_run_has_every_record(tmp_path: Path):
    run_id = track(tmp_path / "run", 0, 7)
    (stretch,) = stretches(tmp_path / "run")
    assert (stretch.run_id, stretch.name, stretch.project, stretch.exit_code) == (run_id, "tags run", "vivo", 0)
    assert_same(stretch, read_records(tmp_path / "run" / "metrics.jsonl"))
    assert stretch.metrics == {"pictures": "", "*": "pictures"}
    assert {k: stretch.config[k] for k in RESOLVED} == RESOLVED
    assert stretch.config["environment"] == {"commit": "abc1234"}


def test_two_stretches_have_one_id_and_sync_makes_one_run_of_them(tmp_path: Path, capsys):
    """Resumed at 5 after 8 were logged: the first stretch has 8 rows, the second goes on at 6, sync has each once."""
    run = tmp_path / "run"
    run_id = track(run, 0, 8)
    assert track(run, 5, 12, run_id=run_id) == run_id == (run / "wandb_run_id.txt").read_text().strip()
    first, second = stretches(run)
    assert first.run_id == second.run_id == run_id
    assert (list(first.rows), list(second.rows)) == (list(range(1, 9)), list(range(6, 13)))

    records = read_records(run / "metrics.jsonl")
    assert [r["step"] for r in records] == [*range(1, 13), 12]
    assert main(["sync", str(run), "--offline", "--project", "elsewhere"]) == 0
    assert f"{len(records)} records, 0 tables -> W&B run {run_id}" in capsys.readouterr().out
    *_, replayed = stretches(run)
    assert (replayed.run_id, replayed.project, replayed.name) == (run_id, "elsewhere", "tags run")
    assert_same(replayed, records)
    assert replayed.config["environment"] == {"commit": "abc1234"} and replayed.config["optim"] == RESOLVED["optim"]


def test_whose_id_it_is(tmp_path: Path, monkeypatch):
    """A checkpoint's, else the folder's, else what a sweep's agent demands, else a new one; other ranks have none."""
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
    assert track(tmp_path / "run", 0, 1, "disabled") == "fromagent"
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert track(tmp_path / "run", 0, 1, "disabled") == "fromagent"
    assert track(tmp_path / "run", 0, 1, "disabled", "checkpoint") == "checkpoint"
    assert track(tmp_path / "run", 0, 1, "disabled") == "checkpoint"
    assert Tracker(tmp_path / "none", TrackingConfig(wandb="offline"), {}, 1, 0, "n", False).run_id == ""
    assert not (tmp_path / "none").exists() and not (tmp_path / "run" / "wandb").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere: no config.yaml"),
        (["empty", "--offline"], "empty/metrics.jsonl: no record to replay"),
        (["run"], "W&B: UsageError: No API key configured"),
    ],
)
def test_sync_says_what_it_lacks(tmp_path: Path, monkeypatch, capsys, arguments, message):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    track(tmp_path / "run", 0, 2, "disabled")
    (tmp_path / "empty").mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / "empty" / name).write_text("seed: 0\n" if name == "config.yaml" else "")
    assert main(["sync", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")


def test_records_wait_while_the_disk_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A limit of this process stands for the full disk: half a line is never left, and nothing is lost."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Tracker(tmp_path, TrackingConfig(), {}, 9, 0, "run", True) as tracker:
        tracker.log(1, {"loss": 1.0})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
            for step in (2, 3, 4):
                tracker.log(step, {"loss": 1.0})
            assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [1]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        tracker.log(5, {"loss": 1.0})
    assert [r["step"] for r in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert capsys.readouterr().err.count("records wait in memory") == 1


def spoil(path: Path, line: int, content: bytes) -> list[bytes]:
    """Replace line number `line` of a file (from 1); returns all lines."""
    lines = path.read_bytes().splitlines()
    lines[line - 1] = content
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return lines


ODD = [
    b'{"step": 3, "lo',
    b"\x00\x00\xff",
    b"5",
    b'["step"]',
    b'{"loss": 3}',
    b'{"step": null}',
    b'{"step": true}',
    b"NaN",
]


@pytest.mark.parametrize("content", ODD)
def test_one_bad_line_costs_no_other_record(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes):
    """Cut in the middle, as a power cut leaves it, or no record at all: named; the run goes on and keeps the line."""
    path = tmp_path / "metrics.jsonl"
    track(tmp_path, 0, 5, "disabled")
    lines = spoil(path, 3, content)
    assert [r["step"] for r in read_records(path)] == [1, 2, 4, 5, 5]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [f"WARNING: {path}: no record with a step in line 3; read without, and kept in the file"]
    track(tmp_path, 4, 6, "disabled")
    assert path.read_bytes().splitlines()[:4] == lines[:4]
    assert [r["step"] for r in read_records(path)] == [1, 2, 4, 5, 6, 6]


def test_a_last_line_that_a_kill_has_cut_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "metrics.jsonl"
    track(tmp_path, 0, 3, "disabled")
    capsys.readouterr()
    content = path.read_bytes()
    for missing in range(1, 40):
        path.write_bytes(content[:-missing])
        # only the end of the line is missing, or the record of the validation at 3
        assert [r["step"] for r in read_records(path)] == ([1, 2, 3, 3] if missing == 1 else [1, 2, 3])
    assert capsys.readouterr().err == ""
    track(tmp_path, 2, 4, "disabled")
    assert [r["step"] for r in read_records(path)] == [1, 2, 3, 4, 4]


def test_many_bad_lines_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "metrics.jsonl").write_bytes(b"?\n" * 9 + b'\n{"step": 1}\n')
    assert read_records(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert "in lines 1, 2, 3, 4, 5 and 4 more;" in capsys.readouterr().err


def test_sync_replays_what_lies_behind_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    track(run, 0, 5, "disabled")
    spoil(run / "metrics.jsonl", 3, b'{"step": 3, "l')
    assert main(["sync", str(run), "--offline"]) == 0
    said = capsys.readouterr()
    assert "5 records, 0 tables" in said.out and "no record with a step in line 3" in said.err
    (stretch,) = stretches(run)
    assert sorted(stretch.rows) == [1, 2, 4, 5]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("metrics.jsonl", "[1]\n", "metrics.jsonl: no record to replay"),
        ("metrics.jsonl", '{"loss": 3}\n', "metrics.jsonl: no record to replay"),
        ("metrics.jsonl", "\x00\x00\n", "metrics.jsonl: no record to replay"),
        ("config.yaml", "tracking: 3\n", "config.yaml: tracking: is a group of fields, not 3"),
        ("config.yaml", "tracking: [\n", "config.yaml: cannot be read (while parsing a flow node"),
        ("config.yaml", "- a\n", "config.yaml: is no run configuration"),
        ("config.yaml", "a: \x00\n", "config.yaml: cannot be read ("),
        ("environment.json", '{"commit": ', "environment.json: is damaged ("),
    ],
)
def test_sync_names_the_file_that_it_cannot_read(tmp_path: Path, capsys, file: str, content: str, message: str):
    track(tmp_path / "run", 0, 2, "disabled")
    (tmp_path / "run" / file).write_text(content)
    capsys.readouterr()
    assert main(["sync", str(tmp_path / "run"), "--offline"]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"error: {tmp_path / 'run'}/{message}")
