"""How runs end, and what the same command does then."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from test_engine import SHORT, equal, six  # noqa: F401
from test_training import config_for

from vivo.errors import UserError
from vivo.training.best import Best
from vivo.training.checkpoint import list_checkpoints
from vivo.training.interruption import Stopped
from vivo.training.runs import finetune, pretrain
from vivo.training.tracking import Tracker, read_records


@pytest.mark.slow
def test_a_finished_run_is_not_begun_again(tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    short = ("optim.duration=2steps", "optim.warmup=1step", "optim.batch_size=4")
    config = config_for(tiny_world, tmp_path, "tags", *short)
    model = pretrain(config) / "model.safetensors"
    before = model.stat().st_mtime_ns
    capsys.readouterr()
    assert pretrain(config) == tmp_path / "model" and "is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds the finished model of another configuration and no checkpoint"):
        pretrain(config_for(tiny_world, tmp_path, "tags", *short, "optim.lr=1e-5"))
    assert model.stat().st_mtime_ns == before and len(read_records(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.slow
def test_a_finished_run_with_checkpoints_can_be_made_longer(tiny_world: Path, tmp_path: Path, six: Path):  # noqa: F811
    shutil.copytree(six, tmp_path / "longer")
    longer = config_for(tiny_world, tmp_path / "longer", "tags", *SHORT[1:], "optim.duration=8steps", "optim.ema=0.9")
    pretrain(longer)
    records = read_records(tmp_path / "longer" / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 9))
    assert records[:6] == read_records(six / "metrics.jsonl")


@pytest.mark.slow
def test_a_run_stopped_before_a_validation_makes_it_when_it_goes_on(tiny_world: Path, tmp_path: Path):
    """A signal is answered before a validation that is due: a scheduler may leave too little time for it."""
    settings = (
        "init=minilm", *SHORT, "tracking.validate_every=3steps",
        f"data.validation_references={tiny_world / 'world' / 'coco' / 'captions_val.json'}",
        f"data.validation_regions={tiny_world / 'regions' / 'coco'}",
    )  # fmt: skip
    finetune(config_for(tiny_world, tmp_path / "whole", "captions", *settings))
    config = config_for(tiny_world, tmp_path / "broken", "captions", *settings)

    def stop_at_three(tracker: Tracker, step: int, record: dict) -> None:
        log(tracker, step, record)
        if step == 2:  # received while update 3 is computed
            signal.raise_signal(signal.SIGTERM)

    log = Tracker.log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "log", stop_at_three)
        with pytest.raises(Stopped):
            finetune(config)
    assert [r["step"] for r in read_records(tmp_path / "broken" / "metrics.jsonl")] == [1, 2, 3]
    assert list_checkpoints(tmp_path / "broken" / "checkpoints")[-1].name == "step_00000003"
    finetune(config)
    whole, broken = (read_records(tmp_path / name / "metrics.jsonl") for name in ("whole", "broken"))
    assert [r["step"] for r in broken] == [1, 2, 3, 3, 4, 5, 6, 6]
    for one, two in zip(whole, broken, strict=True):
        assert [one.get(name) for name in ("loss", "validation_CIDEr", "validation_words")] == [
            two.get(name) for name in ("loss", "validation_CIDEr", "validation_words")
        ]
    assert equal(tmp_path / "whole", tmp_path / "broken")


def test_the_best_validation_by_hand(tmp_path: Path):
    def write(folder: Path) -> None:
        (folder / "model").write_text("x")

    best = Best(tmp_path / "best", "validation_loss", 0)
    taken = [best.take({"validation_loss": value}) for value in (8.5, 8.7, 8.1, 8.1)]
    assert taken == [True, False, True, False]
    best.keep(6, write)
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {"step": 6, "validation_loss": 8.1}
    goes_on = Best(tmp_path / "best", "validation_loss", 6)
    assert not goes_on.take({"validation_loss": 8.2}) and goes_on.take({"validation_loss": 8.0})
    # what the folder says is of updates that are done again, or of an earlier run in the same folder
    assert Best(tmp_path / "best", "validation_loss", 4).take({"validation_loss": 8.2})
    assert Best(tmp_path / "best", "validation_loss", 0).take({"validation_loss": 8.2})
    (tmp_path / "best" / "best.json").write_text('{"step": 6, "valid')
    assert Best(tmp_path / "best", "validation_loss", 6).take({"validation_loss": 8.2})
    highest = Best(tmp_path / "best", "validation_CIDEr", 6)
    assert [highest.take({"validation_CIDEr": value}) for value in (0.0, 3.0, 2.0)] == [True, True, False]
    with pytest.raises(UserError, match="a validation has no number validation_alarms, but validation_CIDEr"):
        Best(tmp_path / "best", "validation_alarms", 0).take({"validation_alarms": "", "validation_CIDEr": 1.0})
