"""The pictures of an evaluation as a table of the run: its file, and what W&B is shown, read from W&B's own records."""

import json
from pathlib import Path

import pytest
from evaluation_files import Files, caption_of, make_files, references_of
from PIL import Image
from wandb_records import Stretch, stretches

from eval.report import main as report
from vivo.cli import main as vivo
from vivo.config import TrackingConfig, TrainConfig, to_yaml
from vivo.data.region_format import sha256_of
from vivo.explanation import WordEvidence
from vivo.metrics.nocaps import SplitScorer
from vivo.report.records import EvaluatedPicture
from vivo.training.evaluation_table import evaluation_path, explained
from vivo.training.tables import read_table


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of 8 updates, tracked offline, whose model has written the captions of six pictures."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    folder = tmp_path / "row" / "finetune"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    config = TrainConfig(objective="captions", tracking=TrackingConfig(wandb="offline"))
    (folder / "config.yaml").write_text(to_yaml(config))
    scored = {"step": 8, "scored": {"pictures": 6}, "score/overall/CIDEr": 5.0}
    records = [{"step": 8, "pictures": 64.0, "loss": 0.5}, scored]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def captioned(run: Path, tmp_path: Path) -> Files:
    files = make_files(tmp_path / "files", 6, traces=True)
    header = files.predictions.with_name("predictions.header.json")
    told = {"weights_sha256": sha256_of(run / "model" / "model.safetensors"), "tags": "detector", "control": ""}
    header.write_text(json.dumps(told))
    return files


def shown(stretch: Stretch) -> tuple[dict, dict[str, Path]]:
    """The table of a stretch as W&B has it, and the files that travel with it."""
    found = [files for files in stretch.artifacts if any(name.endswith(".table.json") for name in files)]
    (files,) = [f for f in found if any("evaluation" in name for name in f)]
    (table,) = [path for name, path in files.items() if name.endswith(".table.json")]
    return json.loads(table.read_text()), files


def check(table: dict, sent: dict[str, Path], run: Path) -> None:
    """Every cell against the file in the run folder, boxes and pixels too."""
    rows, pictures = read_table(evaluation_path(run))
    place = {name: n for n, name in enumerate(table["columns"])}
    assert len(table["data"]) == len(rows) == 6
    for row, line in zip(rows, table["data"], strict=True):
        assert line[place["image_id"]] == row["image_id"] and line[place["caption"]] == row["caption"]
        assert line[place["CIDEr"]] == row["scores"]["CIDEr"] and line[place["ROUGE_L"]] == row["scores"]["ROUGE_L"]
        assert line[place["references"]].split("\n") == row["references"]
        assert line[place["novel objects"]] == ", ".join(row["novel"])
        image = line[place["picture"]]
        assert sent[image["path"]].read_bytes() == (pictures / row["picture"]).read_bytes()
        boxes = image["boxes"]["regions"]
        assert [b["position"] for b in boxes] == [
            {"minX": x1 / 200, "maxX": x2 / 200, "minY": y1 / 100, "maxY": y2 / 100}
            for x1, y1, x2, y2 in (b["box"] for b in row["boxes"])
        ]
        assert [b["box_caption"] for b in boxes] == [b["label"] for b in row["boxes"]]
    told = [line[place["constraints"]] for line in table["data"]]
    assert told[4] == "yak: yak" and told[1] == "yak: not satisfied\nfell back" and told[2] == ""


def test_the_table_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = captioned(run, tmp_path)
    arguments = [*files.arguments, "--out", str(tmp_path / "r.html"), "--run", str(run)]
    assert report(arguments) == 0
    assert f"kept with the run: {evaluation_path(run)} and W&B (offline)" in capsys.readouterr().out
    rows, pictures = read_table(evaluation_path(run))
    assert [row["caption"] for row in rows] == [caption_of(n) for n in range(6)]
    assert [row["references"] for row in rows] == [references_of(n) for n in range(6)]
    assert rows[4]["novel"] == rows[4]["named"] == ["yak"] and rows[1]["named"] == []
    assert rows[4]["boxes"][0] == {"box": [20.0, 10.0, 80.0, 90.0], "label": "yak", "score": 0.9, "explains": []}
    assert rows[1]["constraints"]["fell_back"] and rows[2]["constraints"]["constraints"] == []
    assert Image.open(pictures / rows[0]["picture"]).size == (200, 100)
    (stretch,) = stretches(run)
    assert stretch.run_id == (run / "wandb_run_id.txt").read_text().strip() and stretch.exit_code == 0
    (row,) = stretch.rows.values()
    assert row["evaluation"]["nrows"] == 6 and row["pictures"] == 64.0  # at the place of the run's last update
    check(*shown(stretch), run)

    # The whole run written anew has it, too, behind its records.
    assert vivo(["sync", str(run), "--offline"]) == 0
    replayed = stretches(run)[-1]
    assert replayed.rows[8]["loss"] == 0.5 and replayed.rows[max(replayed.rows)]["evaluation"]["nrows"] == 6
    assert replayed.summary["score/overall/CIDEr"] == 5.0
    check(*shown(replayed), run)


def test_captions_of_others_are_no_table_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is scored."""
    files = captioned(run, tmp_path)
    (run / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(SplitScorer, "score", lambda *_: pytest.fail("scored all the same"))
    assert report([*files.arguments, "--out", str(tmp_path / "r.html"), "--run", str(run)]) == 2
    assert "was written by other weights than" in capsys.readouterr().err
    assert not evaluation_path(run).exists() and not (run / "wandb").exists()


def test_what_a_box_explains_by_hand() -> None:
    """Falls of 2.0, 0.05 and 0.5 of log p -0.5: the second is too small to be told, the greatest stands first."""
    words = [
        WordEvidence(0, 1, -0.5, [0.5, 0.0], [], 0.0, 0.0), WordEvidence(2, 5, -0.5, [2.0, 0.1], [], 0.0, 0.0),
        WordEvidence(6, 9, -0.5, [0.05, 0.0], [], 0.0, 0.0),
    ]  # fmt: skip
    picture = EvaluatedPicture(
        "1", Path(), "", [(0, 0, 1, 1)] * 3, [""] * 3, [0.0] * 3, 1, 1, [], {"r": "a dog sat"}, evidence={"r": words}
    )
    assert explained(picture, "r", 0) == [["dog", 0.6065, 0.0821], ["a", 0.6065, 0.3679]]
    assert explained(picture, "r", 1) == [["dog", 0.6065, 0.5488]]
    assert explained(picture, "r", 2) == []  # a region behind those that the model reads
