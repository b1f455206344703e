"""Scores that stay with their run: metrics.jsonl, W&B's summary, and the ablation table from W&B's records alone."""

import json
from pathlib import Path

import pytest
from test_training import config_for
from wandb_records import stretches, told

from eval.ablation_table import main as ablation_table
from eval.predict import main as predict
from eval.score import main as score
from vivo.cli import main as vivo
from vivo.config import TrainConfig, to_yaml
from vivo.data.predictions import write_predictions
from vivo.data.region_format import sha256_of
from vivo.errors import UserError
from vivo.experiment.wandb_runs import runs_of_records
from vivo.training.runs import finetune, pretrain
from vivo.training.scores import check_scored, last_scores, record_scores, summary_of
from vivo.training.tracking import read_records

ROOT = Path(__file__).resolve().parents[1]
TABLE = {"overall": {"CIDEr": 70 / 3, "BLEU-4": 1e-7, "pictures": 12}, "in": {"CIDEr": 20.5, "F1": 0.25, "pictures": 3}}
SCORES = {
    "score/overall/CIDEr": 70 / 3, "score/overall/BLEU-4": 1e-7, "score/in/CIDEr": 20.5, "score/in/F1": 0.25,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 8 updates, not tracked, with captions of its model beside it."""
    folder = tmp_path / "row" / "finetune"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "config.yaml").write_text(to_yaml(TrainConfig(objective="captions")))
    (folder / "metrics.jsonl").write_text('{"step": 8, "loss": 0.5}\n{"step": 8, "validation_CIDEr": 3.0}\n')
    caption(folder)
    return folder


def caption(run: Path, **header: object) -> Path:
    """Predictions of the run's model; `header` changes what their header says."""
    found = {"weights_sha256": sha256_of(run / "model" / "model.safetensors"), "tags": "detector", "control": ""}
    path = run.parent / "predictions.json"
    write_predictions(path, [{"image_id": "1", "caption": "a dog"}], found | header)
    return path


def test_scores_are_a_record_of_their_own(run: Path) -> None:
    predictions = run.parent / "predictions.json"
    header = check_scored(run, predictions)
    before = read_records(run / "metrics.jsonl")
    assert record_scores(run, header, "val.json", TABLE) == f"kept with the run: {run / 'metrics.jsonl'}"
    *kept, record = read_records(run / "metrics.jsonl")
    scored = {"weights_sha256": header["weights_sha256"], "tags": "detector", "references": "val.json", "pictures": 12}
    assert kept == before and record == {"step": 8, "scored": scored, **SCORES}
    assert summary_of(record) == {"scored": {**scored, "step": 8}, **SCORES}
    assert not (run / "wandb").exists()

    record_scores(run, header, "val.json", TABLE)  # the same again is nothing new
    assert len(read_records(run / "metrics.jsonl")) == len(before) + 1
    record_scores(run, header, "test.json", {"overall": {"CIDEr": 5.0, "pictures": 2}}, "of the server")
    last = last_scores(read_records(run / "metrics.jsonl"))
    assert last is not None and (last["score/overall/CIDEr"], last["scored"]["references"]) == (5.0, "test.json")
    assert last["scored"]["domains"] == "of the server"


def test_scores_of_others_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in one line, before anything is scored, and nothing is written."""
    references = run.parent / "references.json"
    references.write_text(json.dumps({"images": [], "annotations": []}))
    before = (run / "metrics.jsonl").read_text()

    def refused(message: str, folder: Path = run) -> None:
        predictions = run.parent / "predictions.json"
        common = ["--references", str(references), "--out", str(run.parent / "scores.json")]
        assert score(["--predictions", str(predictions), *common, "--run", str(folder)]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and len(error.splitlines()) == 1, error
        assert (run / "metrics.jsonl").read_text() == before and not (run.parent / "scores.json").exists()

    caption(run, weights_sha256="0" * 64)
    refused("was written by other weights than")
    caption(run, weights_sha256="")
    refused("does not say whose captions these are")
    caption(run, control="another picture's regions and tags")
    refused("are those of a control (another picture's regions and tags)")
    caption(run)
    refused("no config.yaml; give the folder of a training run", run / "model")
    (run / "model" / "model.safetensors").unlink()
    refused("has no model yet")


def test_a_run_that_was_killed_is_to_go_on_first(run: Path) -> None:
    header = check_scored(run, run.parent / "predictions.json")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    with pytest.raises(UserError, match="its last line is cut"):
        record_scores(run, header, "val.json", TABLE)


def test_scores_of_an_earlier_update_are_no_scores_of_the_model() -> None:
    """A run that was scored after 8 updates and then trained to 12."""
    summary = {"_step": 8, "loss": 0.5, "score/overall/CIDEr": 5.0, "scored": {"step": 8}}
    config = {"objective": "captions", "out": "row/finetune", "init": "minilm", "seed": 0}
    record = {"id": "a", "state": "finished", "config": config, "summary": summary}
    (found,), left_out = runs_of_records([record])
    assert found.table == {"overall": {"CIDEr": 5.0}} and not left_out
    trained, (left,) = runs_of_records([record | {"summary": summary | {"_step": 12}}])
    assert not trained and "scored after 8 updates and trained to 12" in left.why


@pytest.mark.slow
def test_the_table_from_the_records_of_offline_runs(tiny_world: Path, tmp_path: Path) -> None:
    """Two rows trained, captioned and scored for real; W&B's offline records alone give the scores of scores.json."""
    references = tiny_world / "world" / "nocaps" / "nocaps_val_captions.json"
    common = ["tracking.wandb=offline", "optim.duration=2steps", "optim.warmup=1step", "optim.batch_size=8"]
    rows = {"none": "minilm", "vivo": str(tmp_path / "vivo" / "pretrain" / "model")}
    pretrain(config_for(tiny_world, tmp_path / "vivo" / "pretrain", "tags", *common))
    for row, init in rows.items():
        tuned = tmp_path / row / "finetune"
        finetune(config_for(tiny_world, tuned, "captions", f"init={init}", *common))
        regions = f"regions={tiny_world / 'regions' / 'nocaps'}"
        predict([
            str(ROOT / "configs" / "eval" / "world.yaml"), f"checkpoint={tuned / 'model'}", regions,
            f"references={references}", f"out={tmp_path / row}", "decode.max_tokens=5",
        ])  # fmt: skip
        score([
            "--predictions", str(tmp_path / row / "predictions.json"), "--references", str(references),
            "--classes", str(tiny_world / "world" / "classes.json"), "--out", str(tmp_path / row / "scores.json"),
            "--run", str(tuned),
        ])  # fmt: skip
    folders = [tmp_path / "vivo" / "pretrain", *(tmp_path / row / "finetune" for row in rows)]

    def table_of(records: list[dict]) -> dict:
        path, out = tmp_path / "records.json", tmp_path / "table.json"
        path.write_text(json.dumps(records))
        assert ablation_table(["--records", str(path), "--json", str(out)]) == 0
        return json.loads(out.read_text())

    for folder in folders[1:]:
        trained, scored = stretches(folder)
        assert trained.run_id == scored.run_id and not scored.rows and scored.exit_code == 0
        record = last_scores(read_records(folder / "metrics.jsonl"))
        found = {key: value for key, value in scored.summary.items() if not key.startswith("_")}  # without W&B's own
        assert record is not None and found == summary_of(record) and found["score/overall/ROUGE_L"] > 0
    first = table_of([told(stretches(folder)) for folder in folders])
    for row in rows:
        found = json.loads((tmp_path / row / "scores.json").read_text())
        for part in ("in", "near", "out", "overall"):
            shown = {metric: value for metric, (value, *_) in first["rows"][row]["scores"][part].items()}
            expected = {metric: value for metric, value in found[part].items() if metric != "pictures"}
            assert shown == pytest.approx(expected, abs=5e-5) and "CIDEr" in expected
    assert first["rows"]["none"]["differences"] == {"pretrain": ["yes", "none: from minilm"]} and not first["left_out"]

    for folder in folders:
        assert vivo(["sync", str(folder), "--offline"]) == 0
    assert table_of([told(stretches(folder)[-1:]) for folder in folders])["rows"] == first["rows"]
