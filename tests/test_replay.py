"""A stopped update, run again: what is missing, damaged or of another run is said in one line."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from test_engine import tag_batch
from test_modeling import small_model

from pretrain.train import main as pretrain_main
from vivo.config import TrainConfig
from vivo.errors import UserError
from vivo.modeling import VivoForTagPretraining
from vivo.training.nonfinite import stop_before_update

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of objective tags left whose second picture has a NaN."""
    config, batch = TrainConfig(out=str(tmp_path_factory.mktemp("run")), objective="tags", seed=3), tag_batch()
    batch["region_features"][1, 0, 0] = math.nan
    batch["matchable"] = torch.zeros(3)
    with pytest.raises(UserError, match="step 7: loss nan.* not finite: 1. The batch is saved in"):
        stop_before_update(
            config, 7, math.nan, math.nan, [batch], Accelerator(cpu=True), small_model(VivoForTagPretraining)
        )
    return Path(config.out) / "nonfinite" / "step_00000007"


def pretrain(*arguments: str, objective: str = "tags") -> int:
    """The program itself, with what its configuration needs; no file of it is read."""
    pairs = ["data.pairs=p"] if objective != "tags" else []
    return pretrain_main([str(ROOT / "configs" / "world.yaml"), f"objective={objective}", *pairs, *arguments])


def test_the_update_is_run_again(stopped: Path, capsys: pytest.CaptureFixture[str]):
    assert pretrain("--replay", str(stopped)) == 1
    said = capsys.readouterr().out
    assert "step 7: loss was nan" in said and "features not finite: 1\n" in said
    assert "first output not finite: vivo.regions" in said


@pytest.mark.parametrize("objective", ["pairs", "both"])
def test_of_another_objective(stopped: Path, capsys: pytest.CaptureFixture[str], objective: str):
    assert pretrain("--replay", str(stopped), objective=objective) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {stopped}: is of a run with objective tags, this configuration has {objective}; ")


DAMAGE = {
    "state.json": (b'{"objective": "tags", "st', "state.json: is damaged ("),
    "state.json ": (b'{"step": 7}', "state.json: does not say objective, seed, loss, gradient_norm: it is damaged"),
    "state.json  ": (b"[7]", "state.json: does not say objective, step, "),
    "state.json   ": (
        b'{"objective": "tags", "step": "7", "seed": 3, "loss": "nan", "gradient_norm": "nan"}',
        "state.json: is damaged (step '7', seed 3)",
    ),
    "rank0_0.json": (None, "rank0_0.json: cannot be read (No such file"),
    "rank0_0.json ": (b'{"image_ids": ["0"]}', "rank0_0.safetensors: holds no batch of the pictures that rank0_0.json"),
    "rank0_0.json  ": (b'{"image_ids": 3}', "rank0_0.safetensors: holds no batch of the pictures that rank0_0.json"),
    "rank0_0.safetensors": (b"\x08", "rank0_0.safetensors: cannot be read ("),
    "model": (None, "model: no config.json; give the folder of a trained model"),
    "model/model.safetensors": (b"\x08", "model: the model there cannot be loaded ("),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_missing_or_damaged_is_named(stopped: Path, tmp_path: Path, capsys, name: str):
    folder = shutil.copytree(stopped, tmp_path / "saved")
    content, message = DAMAGE[name]
    path = folder / name.strip()
    if content is not None:
        path.write_bytes(content)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert pretrain("--replay", str(folder)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}/{message}")


@pytest.mark.parametrize("option", ["--print-config", "--estimate", "--dry-run"])
def test_replay_is_not_ignored_beside_a_preview(stopped: Path, capsys: pytest.CaptureFixture[str], option: str):
    assert pretrain(option, "--replay", str(stopped)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(
        "error: --replay: runs a saved update again; leave out --print-config"
    )
