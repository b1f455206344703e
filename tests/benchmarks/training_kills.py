"""A pre-training of 500 updates, killed at ten random moments, must equal the uninterrupted one bit for bit.

    python tests/benchmarks/training_kills.py [--world runs/tiny] [--updates 500] [--kills 10] [--seed 0]

Real processes on the tiny embedded world (made first where it is not there), fp32, dropout 0.1, a checkpoint each 20
updates, `optim.ema` on. A kill is SIGKILL at a random update; the same command is then given again. At the end the
weights, the averages, the optimizer's state, and the losses in metrics.jsonl are compared. Exit status 1 on any
difference.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# ruff: noqa: E402
import torch
from launching import kill, start, wait_until
from safetensors.torch import load_file
from tiny_world import make_tiny_world
from training_runs import finish, losses, pretraining, updates

from vivo.training.checkpoint import list_checkpoints


def main() -> int:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a folder of `vivo demo --size tiny`; default: one made for this")
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    world = make_tiny_world(arguments.world or work / "world")
    more = (f"optim.duration={arguments.updates}steps", "tracking.save_every=20steps", "optim.ema=0.99")
    began = time.monotonic()
    whole, broken = work / "whole", work / "broken"
    finish(start(1, pretraining(world, whole, *more)))
    print(f"uninterrupted: {updates(whole)} updates in {time.monotonic() - began:.0f} s", flush=True)
    moments = sorted(random.Random(arguments.seed).sample(range(5, arguments.updates - 5), arguments.kills))
    program, lost = pretraining(world, broken, *more), 0
    began = time.monotonic()
    for moment in moments:
        process = start(1, program)
        wait_until(lambda moment=moment: updates(broken) >= moment, process)
        kill(process.pid)
        process.communicate()
        at = updates(broken)
        kept = int(list_checkpoints(broken / "checkpoints")[-1].name.removeprefix("step_")) if at >= 20 else 0
        lost += at - kept
        print(f"killed after update {at}; goes on from {kept}", flush=True)
    finish(start(1, program))
    print(f"killed {len(moments)} times: {time.monotonic() - began:.0f} s, {lost} updates done twice", flush=True)
    last = list_checkpoints(whole / "checkpoints")[-1].name
    places = [Path("model"), Path("checkpoints") / last]
    files = [place / file.name for place in places for file in sorted((whole / place).glob("*.safetensors"))]
    different = []
    for file in files:
        one, two = load_file(whole / file), load_file(broken / file)
        different += [f"{file}: {name}" for name in one if not torch.equal(one[name], two[name])]
    if losses(whole) != losses(broken):
        different.append("metrics.jsonl: losses")
    print(f"{len(files)} files and {len(losses(whole))} losses compared, {len(different)} differ")
    for line in different[:10]:
        print(f"  {line}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
