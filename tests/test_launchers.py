"""configs/accelerate and configs/slurm with the real launcher: what starts, who joins whom, who gets the signal."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from launching import wait_until

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
SLURM = sorted((ROOT / "configs" / "slurm").iterdir())


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(**changes: str) -> dict[str, str]:
    """This process's, without GPUs and with the code beside this file; processes meet on the loopback interface."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "ACCELERATE_", "MASTER_"))
    }
    ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return kept | ours | changes


def of_tiny_world(world: Path, out: Path, *overrides: str) -> list[str]:
    """Overrides of configs/world.yaml for a few updates on the tiny world."""
    return [
        f"out={out}", f"data.regions={world / 'regions' / 'open_images'}", "optim.batch_size=8", "optim.warmup=1 step",
        f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}", "model.dropout=0", "optim.precision=fp32",
        f"data.examples={world / 'examples' / 'tags.jsonl'}", "optim.duration=3 steps", "tracking.log_every=1 step",
        *overrides,
    ]  # fmt: skip


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("path", ACCELERATE + [p for p in SLURM if p.suffix == ".sbatch"], ids=lambda path: path.name)
def test_headers_say_how_to_start_and_what_was_verified(path: Path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "verified"):
        assert any(line.startswith(f"#   {word} ") for line in header), f"{path}: no '{word}' in the header"


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path: Path):
    """No key unknown to accelerate, no default left to be asked for, and the number of processes that the file says."""
    read = load_config_from_file(str(path))
    written = yaml.safe_load(path.read_text())
    assert read.num_processes == written["num_processes"] and read.distributed_type.value == written["distributed_type"]
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "pretrain/train.py", "CONFIG"])
    resolved, *_ = _validate_launch_command(arguments)
    assert resolved.num_processes == written["num_processes"] and resolved.num_machines == written["num_machines"]
    assert resolved.multi_gpu == (written["distributed_type"] == "MULTI_GPU")
    assert resolved.use_fsdp == (written["distributed_type"] == "FSDP") and resolved.mixed_precision == "no"


def test_fsdp_divides_at_the_layers_of_the_model():
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = ROOT / "configs" / "accelerate" / "fsdp.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "pretrain/train.py", "CONFIG"])
    resolved, *_ = _validate_launch_command(arguments)
    found = prepare_multi_gpu_env(resolved)
    assert (found["ACCELERATE_USE_FSDP"], found["FSDP_VERSION"]) == ("true", "2")
    from vivo import modeling

    assert hasattr(modeling, found["FSDP_TRANSFORMER_CLS_TO_WRAP"])


@pytest.mark.slow
def test_cpu2_starts_two_processes_that_join(tiny_world: Path, tmp_path: Path):
    """That two processes train the weights of one: tests/test_distributed.py."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu2.yaml",
               "pretrain/train.py", "configs/world.yaml", *of_tiny_world(tiny_world, tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(2 processes x 1 micro-batches)" in done.stderr and len(losses(tmp_path / "run")) == 3
    assert len(list((tmp_path / "run").glob("metrics*.jsonl"))) == 1


@pytest.mark.slow
def test_two_launchers_with_the_file_for_two_nodes(tiny_world: Path, tmp_path: Path):
    """One launcher a node, both on this machine, with the command that the file's header names."""
    port = str(free_port())
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/two_nodes.yaml",
             "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", port,
             "--num_processes", "2", "pretrain/train.py", "configs/world.yaml",
             *of_tiny_world(tiny_world, tmp_path / "run")],
            cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "".join(outputs)[-4000:]
    assert "(2 processes" in outputs[0] and len(losses(tmp_path / "run")) == 3


# ---- SLURM: its programs made up, everything else real ----------------------------------------

SRUN = """#!/usr/bin/env bash
# Starts the command once a node, as srun does, all on this machine; passes USR1 on to the tasks' shells.
while [[ "$1" == --* ]]; do shift; done
tasks=()
for ((node = 0; node < SLURM_NNODES; node++)); do
    SLURM_NODEID=$node SLURM_PROCID=$node "$@" &
    tasks+=($!)
done
trap 'kill -USR1 "${tasks[@]}"' USR1
worst=0
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2>/dev/null; do wait "$task"; done
    wait "$task" || worst=$?
done
exit $worst
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$FAKE_LOG"
if [[ "$1 $2" == "show hostnames" ]]; then echo 127.0.0.1; echo 127.0.0.2; fi
"""


def slurm(folder: Path) -> dict[str, str]:
    """An environment as on the first of two nodes with one GPU each, and a made-up srun and scontrol on PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return environment(
        PATH=f"{programs}:{os.environ['PATH']}",
        FAKE_LOG=str(folder / "scontrol.log"),
        VIVO_PYTHON=sys.executable,
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_ID="4711",
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_NNODES="2",
        SLURM_GPUS_ON_NODE="1",
        MASTER_PORT=str(free_port()),
    )


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.name)
def test_bash_reads_the_files(path: Path):
    subprocess.run(["bash", "-n", path], check=True)
    if path.suffix == ".sbatch":
        text = path.read_text()
        assert "#SBATCH --signal=B:USR1@120" in text and "#SBATCH --requeue" in text
        program, config = text.splitlines()[-1].split()[2:4]
        assert (ROOT / program).is_file() and (ROOT / config).is_file()


@pytest.mark.slow
def test_the_signal_before_the_end_of_time_saves_and_requeues(tiny_world: Path, tmp_path: Path):
    """USR1 to the batch script: checkpoint, status 0, requeue; the same job, started again, goes on from there."""
    out = tmp_path / "run"
    settings = slurm(tmp_path)
    command = ["bash", str(ROOT / "configs/slurm/pretrain.sbatch"), "configs/world.yaml",
               *of_tiny_world(tiny_world, out, "optim.duration=2000 steps")]  # fmt: skip
    log = (tmp_path / "job.log").open("w+")
    job = subprocess.Popen(command, env=settings, text=True, stdout=log, stderr=log)
    try:
        wait_until(lambda: (out / "metrics.jsonl").is_file() and len(losses(out)) >= 2, job, 300)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=120) == 0
    finally:
        job.kill()
    said = (tmp_path / "job.log").read_text()
    assert "stopped by a signal after update" in said and "back into the queue" in said, said[-3000:]
    assert (tmp_path / "scontrol.log").read_text().splitlines()[-1] == "requeue 4711"
    (checkpoint,) = (out / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step_"))
    assert len(losses(out)) == step < 2000
    again = [*command[:-1], f"optim.duration={step + 1} steps"]
    done = subprocess.run(again, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and f"resumed at {step}" in done.stderr, done.stderr[-3000:]
    assert (tmp_path / "scontrol.log").read_text().count("requeue") == 1  # a run that is over is not
