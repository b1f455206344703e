"""Two real gloo processes: the same global order, the same losses and weights as one process."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from launching import start
from safetensors.torch import load_file

from vivo.config import load_config
from vivo.training.runs import pretrain

ROOT = Path(__file__).resolve().parents[1]


def arguments(world: Path, out: Path, *overrides: str) -> list[str]:
    """Of pretrain/train.py: four updates of 8 pictures without dropout."""
    return [
        "configs/world.yaml", f"out={out}", f"data.regions={world / 'regions' / 'open_images'}",
        f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}",
        f"data.examples={world / 'examples' / 'tags.jsonl'}", "model.dropout=0", "optim.precision=fp32",
        "optim.batch_size=8", "optim.duration=4 steps", "optim.warmup=1step", "tracking.log_every=1step", *overrides,
    ]  # fmt: skip


def alone(world: Path, out: Path, *overrides: str) -> None:
    """One process: this one."""
    config, *changes = arguments(world, out, *overrides)
    pretrain(load_config(ROOT / config, changes))


def launch(processes: int, *runs: list[str]) -> None:
    """Trainings with these arguments, one after the other in one world of gloo processes (starting it is most of the
    time)."""
    job = start(processes, ["tests/train_in_a_row.py", json.dumps(runs)])
    _, errors = job.communicate(timeout=400)
    assert job.returncode == 0, errors[-3000:]
    assert errors.count(f"({processes} processes") == len(runs)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_equal_one_and_micro_batches_equal_whole_ones(tiny_world: Path, tmp_path: Path):
    """With both kinds of updates DDP would stop at a parameter that one of them leaves without a gradient."""
    pairs = [
        "objective=both", f"data.pairs={tiny_world / 'examples' / 'captions.jsonl'}",
        f"data.pairs_regions={tiny_world / 'regions' / 'coco'}",
    ]  # fmt: skip
    alone(tiny_world, tmp_path / "one", *pairs)
    split = arguments(tiny_world, tmp_path / "split", "optim.micro_batch_size=2", *pairs)
    launch(2, arguments(tiny_world, tmp_path / "two", *pairs), split)
    expected = losses(tmp_path / "one")
    assert len(expected) == 4 and expected[-2] < expected[0]
    reference = load_file(tmp_path / "one" / "model" / "model.safetensors")
    for other in ("two", "split"):
        assert losses(tmp_path / other) == pytest.approx(expected, rel=1e-5)
        weights = load_file(tmp_path / other / "model" / "model.safetensors")
        for name, value in reference.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_processes(tiny_world: Path, tmp_path: Path):
    """Begun by one process, finished by one, two and four: the same order, masks and losses (dropout off)."""
    alone(tiny_world, tmp_path / "one", "tracking.save_every=2steps")
    expected = losses(tmp_path / "one")
    for processes in (2, 4):
        out = tmp_path / str(processes)
        shutil.copytree(tmp_path / "one", out)
        shutil.rmtree(out / "model")
        launch(processes, arguments(tiny_world, out, "tracking.save_every=2steps"))
        assert losses(out) == pytest.approx(expected, rel=1e-5)
