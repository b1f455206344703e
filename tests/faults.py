"""What can go wrong with a long training, done to real processes.

tests/test_faults.py asserts, tests/benchmarks/faults.py prints the table of docs/training.md.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from launching import ROOT, free_port, kill, start, wait_until, workers_of
from training_runs import finish, pretraining, updates

from vivo.data.examples import read_caption_examples, write_caption_examples
from vivo.data.regions import RegionStore
from vivo.training.checkpoint import list_checkpoints

NOT_SAVED = "tracking.save_every="  # the only checkpoint is then the one that a signal leaves


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        statuses: exit status of each launcher (or of the one process). seconds: from the fault to the last one's end.
        text: what they printed. done: updates recorded. saved: updates of the newest checkpoint.
        program: to be given again.
    """

    statuses: list[int]
    seconds: float
    text: str
    done: int
    saved: int
    program: list[str]


def broken_job(
    program: list[str],
    out: Path,
    fault: Callable[[list[subprocess.Popen[str]]], None],
    processes: int = 2,
    nodes: int = 1,
    after: int = 6,
) -> Outcome:
    """Start a job, wait for `after` more updates, let `fault` loose on its launchers, wait for the end."""
    port, begun = free_port(), updates(out)
    jobs = [start(processes, program, node=n, nodes=nodes, port=port) for n in range(nodes)]
    wait_until(lambda: updates(out) >= begun + after, jobs[0])
    fault(jobs)
    since = time.monotonic()
    text = "".join(finish(job, None) for job in jobs)
    return outcome(program, out, [job.returncode for job in jobs], time.monotonic() - since, text)


def outcome(program: list[str], out: Path, statuses: list[int], seconds: float, text: str) -> Outcome:
    """With what the folder holds."""
    saved = list_checkpoints(out / "checkpoints")
    step = int(saved[-1].name.removeprefix("step_")) if saved else 0
    return Outcome(statuses, seconds, text, updates(out), step, program)


def killed_process(world: Path, out: Path) -> Outcome:
    """kill -9 of one of two processes."""
    return broken_job(pretraining(world, out), out, lambda jobs: kill(workers_of(jobs[0])[1]))


def stopped_process(world: Path, out: Path) -> Outcome:
    """kill -STOP of one of two processes: it hangs."""
    return broken_job(pretraining(world, out), out, lambda jobs: os.kill(workers_of(jobs[0])[1], signal.SIGSTOP))


def killed_worker_of_a_node(world: Path, out: Path) -> Outcome:
    """kill -9 of the process of the second of two nodes (two launchers)."""

    def fault(jobs: list[subprocess.Popen[str]]) -> None:
        (worker,) = workers_of(jobs[1]).values()
        kill(worker)

    return broken_job(pretraining(world, out), out, fault, nodes=2)


def signalled(world: Path, out: Path, number: signal.Signals) -> Outcome:
    """A signal to a run of one process."""
    program = pretraining(world, out, NOT_SAVED, "tracking.keep=9")
    return broken_job(program, out, lambda jobs: jobs[0].send_signal(number), processes=1, after=2)


def signalled_launcher(world: Path, out: Path) -> Outcome:
    """SIGTERM to the launcher of two processes."""
    program = pretraining(world, out, NOT_SAVED)
    return broken_job(program, out, lambda jobs: jobs[0].send_signal(signal.SIGTERM), after=3)


def signalled_with_loaders(world: Path, out: Path) -> Outcome:
    """SIGTERM to the launcher, which passes it to all processes of its group, loader processes too."""
    program = pretraining(world, out, NOT_SAVED, "data.workers=2")
    return broken_job(program, out, lambda jobs: jobs[0].send_signal(signal.SIGTERM), after=3)


def signalled_process(world: Path, out: Path) -> Outcome:
    """SIGUSR1 to one of two processes."""
    program = pretraining(world, out, NOT_SAVED)
    return broken_job(program, out, lambda jobs: os.kill(workers_of(jobs[0])[1], signal.SIGUSR1), after=3)


def full_disk(world: Path, out: Path) -> Outcome:
    """No file of more than 20 MB can be written: a limit of the process in place of a full disk."""
    return limited(pretraining(world, out), out, 20_000_000)


def limited(program: list[str], out: Path, size: int) -> Outcome:
    """A run of one process whose files can have `size` bytes at most."""
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, *program], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    return outcome(program, out, [done.returncode], time.monotonic() - since, done.stdout + done.stderr)


def full_disk_at_a_validation(world: Path, out: Path) -> Outcome:
    """Captions are validated; no file of more than 8 kB and no table can be written (a file is where its folder is)."""
    out.mkdir(exist_ok=True)
    (out / "validation").touch()
    few = out.with_name(f"{out.name}-captions.jsonl")  # `datasets` makes a copy, which must not be the file that fails
    write_caption_examples(read_caption_examples(world / "examples" / "captions.jsonl")[:8], few)
    program = [
        "finetune/train.py", "configs/finetune/world.yaml", f"out={out}", "init=minilm", "model.layers=1",
        f"model.vocabulary={world / 'examples' / 'vocabulary.txt'}", f"data.regions={world / 'regions' / 'coco'}",
        f"data.examples={few}",
        f"data.validation_regions={world / 'regions' / 'coco'}",
        f"data.validation_references={world / 'world' / 'coco' / 'captions_val.json'}", "optim.batch_size=4",
        "optim.duration=4steps", "optim.warmup=1step", "optim.precision=fp32", "tracking.log_every=1step",
        "tracking.validate_every=2steps", "tracking.save_every=2steps", "tracking.best=validation_CIDEr",
    ]  # fmt: skip
    return limited(program, out, 8_000)


def not_a_number(world: Path, out: Path) -> tuple[Outcome, str]:
    """One feature of one picture is NaN in the store's file; the outcome and that picture's id."""
    store = out.with_name(f"{out.name}-regions")
    shutil.copytree(world / "regions" / "open_images", store)
    victim = RegionStore(store).image_ids[5]
    poison(store, victim)
    # statistics of the store are looked at before the first update, which would find it then
    program = pretraining(world, out, f"data.regions={store}", "model.standardise_regions=false")
    since = time.monotonic()
    job = start(2, program)
    text = finish(job, None)
    return outcome(program, out, [job.returncode], time.monotonic() - since, text), victim


def poison(store: Path, image_id: str) -> None:
    """Overwrite one feature of a picture by NaN in the file, as a bad disk or a foreign writer would."""
    features = RegionStore(store)[image_id].features
    for shard in store.glob("shard-*.arrow"):
        content = shard.read_bytes()
        at = content.find(np.ascontiguousarray(features).tobytes())
        if at >= 0:
            shard.write_bytes(content[:at] + np.float16("nan").tobytes() + content[at + 2 :])
            assert np.isnan(RegionStore(store)[image_id].features).any()
            return
    raise AssertionError(f"{image_id} is in no shard of {store}")
