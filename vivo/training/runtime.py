"""The machine under a run: accelerate, precision, seeds, and the block that says what was resolved."""

import os
import platform
import subprocess
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed

from vivo.errors import UserError


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware (GPU of 2020 or later, AVX-512 bf16)."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported())


def make_accelerator(precision: str, timeout: int = 1800) -> Accelerator:
    """The processes of this run, joined.

    Args:
        precision: "fp32" | "bf16" | "fp16" | "auto".
        timeout: seconds after which a process that waits for another one raises.

    Raises:
        UserError: the launcher's processes did not join; fp16 without a GPU.
    """
    bf16 = precision == "bf16" or (precision == "auto" and fast_bf16())
    if precision == "fp16" and not torch.accelerator.is_available():
        raise UserError("optim.precision: fp16 needs a GPU; use bf16 or fp32")
    # without a GPU accelerate joins the processes of a launcher only if told that the CPU is meant;
    # else each trains alone and all write into one folder
    accelerator = Accelerator(
        mixed_precision="fp16" if precision == "fp16" else "bf16" if bf16 else "no",
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"the launcher started {launched} processes, but accelerate joined {accelerator.num_processes}; "
            "start it as the head of pretrain/train.py shows"
        )
    return accelerator


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout as a function of (seed, step, rank): nothing to save, nothing to restore on resume."""
    torch.manual_seed((seed * 1_000_003 + step) * 1009 + rank)


def seed_start(seed: int) -> None:
    """Initial values of new weights as a function of the seed."""
    set_seed(seed)


def git_commit() -> str:
    """Commit of the checkout the package lies in, "+" where files differ from it, "" outside git."""
    here = Path(__file__).resolve().parents[2]
    try:
        run = ["git", "-C", str(here)]
        commit = subprocess.run([*run, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            [*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if dirty else "")


def environment() -> dict[str, str]:
    """Versions, commit and machine, as strings; saved with every run."""
    packages = ("torch", "torchvision", "transformers", "accelerate", "datasets", "wandb")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "commit": git_commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": f"{device}, {os.cpu_count()} cores" if not torch.cuda.is_available() else device,
    }


def _processor() -> str:
    """The CPU's name on Linux, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
