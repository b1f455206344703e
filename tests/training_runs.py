"""Training programs in real processes on the tiny world, for the tests that break them."""

import subprocess
from pathlib import Path

import torch
from launching import start
from safetensors.torch import load_file

from vivo.training.tracking import read_records


def pretraining(world: Path, out: Path, *overrides: str) -> list[str]:
    """pretrain/train.py with small batches; a checkpoint each fourth update, a record each."""
    return [
        "pretrain/train.py", "configs/world.yaml", f"out={out}", f"data.regions={world / 'regions' / 'open_images'}",
        f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}",
        f"data.examples={world / 'examples' / 'tags.jsonl'}", "model.dropout=0.1", "optim.precision=fp32",
        "optim.batch_size=8", "optim.duration=24steps", "optim.warmup=2steps", "tracking.log_every=1step",
        "tracking.save_every=4steps", "tracking.keep=3", "engine.timeout=20", *overrides,
    ]  # fmt: skip


def finish(process: subprocess.Popen[str], status: int | None = 0) -> str:
    """Wait for the end; what the process printed on both outputs."""
    output, errors = process.communicate(timeout=400)
    text = (output or "") + (errors or "")
    if status is not None:
        assert process.returncode == status, f"exit status {process.returncode}:\n{text[-4000:]}"
    return text


def run(processes: int, program: list[str], status: int | None = 0) -> str:
    """Start and finish."""
    return finish(start(processes, program), status)


def updates(out: Path) -> int:
    """Updates recorded so far."""
    return max((int(record["step"]) for record in read_records(out / "metrics.jsonl")), default=0)


def losses(out: Path) -> list[float]:
    """The loss of each update."""
    return [record["loss"] for record in read_records(out / "metrics.jsonl") if "loss" in record]


def same_weights(one: Path, two: Path) -> bool:
    """Bit for bit, of two finished runs."""
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
