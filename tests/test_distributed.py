"""Two real gloo processes: the same global order, the same losses and weights as one process."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]


def launch(processes: int, world: Path, out: Path, *overrides: str) -> None:
    """pretrain/train.py on `processes` gloo processes through accelerate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # --cpu would silently start one process: --multi_gpu with no GPU gives gloo (tooling: accelerate#2741)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--num_machines", "1", "--num_processes", str(processes), "--main_process_port", str(port),
        *(["--multi_gpu"] if processes > 1 else []),
        "pretrain/train.py", "configs/world.yaml", f"out={out}", f"data.regions={world / 'regions' / 'open_images'}",
        f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}",
        f"data.examples={world / 'examples' / 'tags.jsonl'}", "model.dropout=0", "optim.precision=fp32",
        "optim.batch_size=8", "optim.duration=4 steps", "optim.warmup=1step", "tracking.log_every=1step", *overrides,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(ROOT)  # the code beside this file, whatever is installed
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"({processes} processes" in done.stderr


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_equal_one_and_micro_batches_equal_whole_ones(tiny_world: Path, tmp_path: Path):
    """With both kinds of updates DDP would stop at a parameter that one of them leaves without a gradient."""
    pairs = [
        "objective=both", f"data.pairs={tiny_world / 'examples' / 'captions.jsonl'}",
        f"data.pairs_regions={tiny_world / 'regions' / 'coco'}",
    ]  # fmt: skip
    launch(1, tiny_world, tmp_path / "one", *pairs)
    launch(2, tiny_world, tmp_path / "two", *pairs)
    launch(2, tiny_world, tmp_path / "split", "optim.micro_batch_size=2", *pairs)
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
    launch(1, tiny_world, tmp_path / "one", "tracking.save_every=2steps")
    expected = losses(tmp_path / "one")
    for processes in (2, 4):
        out = tmp_path / str(processes)
        shutil.copytree(tmp_path / "one", out)
        shutil.rmtree(out / "model")
        launch(processes, tiny_world, out, "tracking.save_every=2steps")
        assert losses(out) == pytest.approx(expected, rel=1e-5)
