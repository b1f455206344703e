"""The machine: GPUs, bf16, room on disks and in shared memory, limits of the process."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vivo.doctor.finding import Finding, failure, first_line, ok, warning
from vivo.errors import UserError
from vivo.files import writable_folder

GB = 1e9
# A BERT-base checkpoint with its optimizer is 1.7 GB (docs/scaling.md), and one is written before the old one goes.
LEAST_DISK, GOOD_DISK = 1 * GB, 10 * GB
LEAST_TEMPORARY = 0.5 * GB
# Docker gives 64 MB. NCCL passes through it what GPUs without a direct way send one another; batches of loader
# processes take another way (vivo/training/sending.py).
GOOD_SHARED_MEMORY = 1 * GB
# A RegionStore closes the files that it maps; loader processes and W&B want some hundred descriptors.
LEAST_FILES, GOOD_FILES = 256, 1024
NVIDIA = Path("/proc/driver/nvidia/version")


def check_gpu() -> Finding:
    """GPUs that torch sees and computes on; no GPU is a warning, a GPU that torch cannot use a failure."""
    import torch

    built = torch.version.cuda or torch.version.hip or "none"
    if not torch.cuda.is_available():
        if not NVIDIA.is_file():
            return warning(
                "GPU", f"none (torch {torch.__version__})", "the demo needs none; pre-training at scale does"
            )
        try:
            torch.cuda.init()
            reason = "no device is visible"
        except (RuntimeError, AssertionError) as error:
            reason = first_line(error)
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        fix = (
            "unset CUDA_VISIBLE_DEVICES, which hides the GPUs"
            if hidden == ""
            else f"install a driver for CUDA {built}, or a torch built for the driver's CUDA (nvidia-smi names it)"
        )
        return failure("GPU", f"a driver is there, but torch (built for CUDA {built}) cannot use it: {reason}", fix)
    count = torch.cuda.device_count()
    for index in range(count):
        try:
            ones = torch.ones(16, 16, device=f"cuda:{index}")
            right = float((ones @ ones).sum()) == 16**3
        except RuntimeError as error:
            return failure(
                "GPU", f"cuda:{index} does not compute ({first_line(error)})", "see nvidia-smi; try a reboot"
            )
        if not right:
            return failure("GPU", f"cuda:{index} computes wrong sums", "take it out of CUDA_VISIBLE_DEVICES")
    memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(count)) / GB
    return ok("GPU", f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GB, CUDA {built}")


def check_bf16() -> Finding:
    """Whether `optim.precision: auto` will be bf16."""
    from vivo.training.runtime import fast_bf16

    if fast_bf16():
        return ok("bf16", "in hardware: optim.precision auto is bf16")
    return warning("bf16", "not in hardware: optim.precision auto is fp32", "none but other hardware; leave it at auto")


def check_disk(folder: Path, name: str = "disk") -> Finding:
    """Room for checkpoints where the command was started."""
    try:
        free = shutil.disk_usage(writable_folder(folder)).free
    except UserError as error:
        return failure(name, str(error), "start in a folder that you may write to, or give out=FOLDER")
    found = f"{free / GB:.1f} GB free here"
    if free < LEAST_DISK:
        return failure(name, found, "make room, or put the run elsewhere: out=FOLDER (--estimate says what it needs)")
    if free < GOOD_DISK:
        return warning(name, found, "enough for the demo; --estimate says what a checkpoint and a region store need")
    return ok(name, found)


def check_temporary() -> Finding:
    """Room in the temporary folder, where copies of example files lie during a run."""
    name = "temporary folder"
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return failure(
            name, "no folder for temporary files can be written to", "export TMPDIR=FOLDER with some GB free"
        )
    wanted = os.environ.get("TMPDIR")
    if wanted and Path(wanted).resolve() != Path(folder).resolve():
        return warning(
            name,
            f"TMPDIR={wanted} is full or cannot be written to; {folder} is used",
            "make room there, or export another TMPDIR",
        )
    free = shutil.disk_usage(folder).free
    found = f"{free / GB:.1f} GB free in {folder}"
    if free < LEAST_TEMPORARY:
        return failure(name, found, "make room, or export TMPDIR=FOLDER with some GB free")
    return ok(name, found)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Room for what the processes of one node exchange."""
    if not folder.is_dir():
        return ok("shared memory", "no /dev/shm on this system")
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / GB:.2f} of {usage.total / GB:.2f} GB free in {folder}"
    if usage.free < GOOD_SHARED_MEMORY:
        return warning(
            "shared memory",
            found,
            "docker run --shm-size=8g (or --ipc=host), or NCCL may fail between the GPUs of this node",
        )
    return ok("shared memory", found)


def check_open_files() -> Finding:
    """The limit of open files of one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_limit(soft)} at once"
    fix = f"ulimit -n {'4096' if hard == resource.RLIM_INFINITY else min(hard, 4096)} before the command"
    if soft != resource.RLIM_INFINITY and hard != resource.RLIM_INFINITY and hard < GOOD_FILES:
        fix = f"the hard limit is {hard}: raise it in /etc/security/limits.conf, or docker run --ulimit nofile=4096"
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        return failure("open files", found, fix)
    if soft != resource.RLIM_INFINITY and soft < GOOD_FILES:
        return warning("open files", found, fix)
    return ok("open files", found)


def check_machine() -> Iterator[Finding]:
    """All of this file."""
    yield check_gpu()
    yield check_bf16()
    yield check_disk(Path.cwd())
    yield check_temporary()
    yield check_shared_memory()
    yield check_open_files()


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else str(value)
