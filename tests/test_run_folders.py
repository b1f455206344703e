"""Run folders with odd files: one line that names the file, or the run read without the odd line."""

import json
from pathlib import Path

import pytest
from test_ablation_table import CLASSES, REFERENCES, make_run

from eval.ablation_table import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """One finished run and what it is scored against."""
    make_run(tmp_path / "rows" / "vivo" / "seed0", 0, 5, {})
    (tmp_path / "references.json").write_text(json.dumps(REFERENCES))
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path


def table(runs: Path) -> int:
    files = ["--references", str(runs / "references.json"), "--classes", str(runs / "classes.json")]
    return main([str(runs / "rows"), *files, "--json", str(runs / "table.json"), "--resamples", "20"])


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("environment.json", "[1]", "must be a JSON object with the run's commit, not [1]"),
        ("environment.json", '{"commit', "line 1: not JSON"),
        ("config.yaml", "seed: zero", "seed: must be a whole number, not 'zero'"),
        ("config.yaml", "seed: null", "seed: must be a whole number, not None"),
        ("config.yaml", "seed: [1]", "seed: must be a whole number, not [1]"),
        ("config.yaml", "seed: true", "seed: must be a whole number, not True"),
        ("config.yaml", "[", "cannot be read (while parsing"),
        ("config.yaml", "3", "is no run configuration"),
    ],
)
def test_a_file_that_is_no_run_s_is_named(runs: Path, capsys, file: str, content: str, message: str) -> None:
    path = runs / "rows" / "vivo" / "seed0" / "finetune" / file
    if content.startswith("seed"):
        content = f"{content}\ninit: minilm\n"
    path.write_text(content)
    assert table(runs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}") and message in line


@pytest.mark.parametrize(
    "content",
    ["5", "null", '"text"', "\x00\x01", '{"loss": 3}', '{"step": "x", "loss": 3}', '{"step": 9, "loss": "low"}',
     '{"step": 9, "loss": null}'],
)  # fmt: skip
def test_an_odd_line_of_metrics_costs_nothing_else(runs: Path, content: str) -> None:
    """The last loss is that of the last record that has one."""
    path = runs / "rows" / "vivo" / "seed0" / "finetune" / "metrics.jsonl"
    path.write_text(f"{content}\n{path.read_text()}{content}\n")
    assert table(runs) == 0
    rows = json.loads((runs / "table.json").read_text())["rows"]
    assert rows["vivo"]["last"]["0"]["finetune"] == {"step": 7, "loss": 0.5}


@pytest.mark.parametrize("line", ["3: 4", "data: 5", "data: {regions: [1]}", "loss: null", "init: minilm"])
def test_settings_of_any_type_are_read_as_they_stand(runs: Path, line: str) -> None:
    path = runs / "rows" / "vivo" / "seed0" / "finetune" / "config.yaml"
    path.write_text(f"objective: captions\ninit: minilm\n{line}\n" if line != "init: minilm" else line)
    assert table(runs) == 0
