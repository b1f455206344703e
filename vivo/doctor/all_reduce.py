"""A few seconds of all-reduce over real processes: whether they find each other, add up right, and how fast.

Without a launcher `check_all_reduce` starts processes of this module on this machine. Under `torchrun` or
`accelerate launch` (WORLD_SIZE is set) it joins their world, on any number of nodes, with one process each:

    vivo doctor --distributed
    accelerate launch --config_file configs/accelerate/two_nodes.yaml ... -m vivo.cli doctor --distributed
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import timedelta

from vivo.doctor.finding import Finding, failure, first_line, ok
from vivo.doctor.interfaces import connected_through, described

NAME = "all-reduce"
FIRST_NUMBERS, MOST_NUMBERS = 1 << 18, 1 << 24  # float32: 1 MB, 64 MB
ROUND_SECONDS = 0.2
# Imports, rendezvous and clean-up on a busy machine, beside the seconds of the exchange itself.
GRACE = 60.0
# torch.distributed ends what waits too long and says why; this much later the process is ended in any case.
LATER = 5.0


class ExchangeError(Exception):
    """What happened, in words for the user."""


class TooLateError(ExchangeError):
    """The processes may work, but not within the time."""


@dataclass
class Exchange:
    """What was measured.

    world: processes. backend: "gloo" or "nccl". interfaces: of the connections between processes, "" if none were
    found. megabytes: size of one round. rounds, seconds: of all of them. bus_rate: bytes a second over the
    slowest link of a ring, 2 (n - 1) / n times the bytes reduced a second.
    """

    world: int
    backend: str
    interfaces: str
    megabytes: float
    rounds: int
    seconds: float
    bus_rate: float


def launched() -> bool:
    """Whether a launcher has started several processes of this program."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_all_reduce(seconds: float, timeout: float, processes: int | None = None) -> Finding:
    """Join the launcher's world, or start processes on this machine, and reduce for `seconds`.

    Args:
        timeout: seconds after which it counts as failed. Under a launcher, a process that hangs even then ends with
            status 1 some seconds later: one that is stuck in a collective cannot be told to stop.
        processes: how many to start; None: one a GPU, at least 2. Not used under a launcher.
    """
    try:
        found = _join(seconds, timeout) if launched() else _start(seconds, timeout, processes)
    except TooLateError as error:
        return failure(NAME, str(error), f"on a busy machine: --timeout {4 * timeout:.0f}; else {advice()}")
    except ExchangeError as error:
        return failure(NAME, str(error), advice())
    except (RuntimeError, ValueError, OSError) as error:  # torch.distributed's own are RuntimeErrors
        return failure(NAME, first_line(error), advice())
    rate = f"{found.bus_rate / 1e9:.2f} GB/s" if found.bus_rate >= 1e8 else f"{found.bus_rate / 1e6:.1f} MB/s"
    through = f" through {found.interfaces}" if found.interfaces else ""
    return ok(
        NAME,
        f"{found.world} processes, {found.backend}{through}: {rate} on the bus "
        f"({found.rounds} rounds of {found.megabytes:.1f} MB in {found.seconds:.1f} s), sums right",
    )


def advice() -> str:
    """What helps where processes do not find each other."""
    set_now = [f"{n}={os.environ[n]}" for n in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if n in os.environ]
    now = f" (now {' and '.join(set_now)})" if set_now else ""
    return f"export GLOO_SOCKET_IFNAME=NAME NCCL_SOCKET_IFNAME=NAME{now} with one that all nodes share: {described()}"


def _start(seconds: float, timeout: float, processes: int | None) -> Exchange:
    """Processes on this machine, one rank each; all are gone when this returns."""
    import torch

    world = processes or max(2, torch.cuda.device_count())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended = time.monotonic() + timeout
    running = []
    try:
        for rank in range(world):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            environment = os.environ | {name: str(value) for name, value in place.items()}
            environment["MASTER_ADDR"] = "127.0.0.1"
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "vivo.doctor.all_reduce", str(seconds), str(timeout)],
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        outputs = [process.communicate(timeout=max(0.1, ended - time.monotonic())) for process in running]
    except subprocess.TimeoutExpired:
        raise TooLateError(f"{world} processes on this machine did not finish within {timeout:.0f} s") from None
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
    for process, (_, said) in zip(running, outputs, strict=True):
        if process.returncode:
            raise ExchangeError((said.strip().splitlines() or [f"exit status {process.returncode}"])[-1])
    return Exchange(**json.loads(outputs[0][0].splitlines()[-1]))


def _join(seconds: float, timeout: float) -> Exchange:
    """This process's part in the world that the environment names; the same `Exchange` on every rank."""
    import torch
    import torch.distributed as dist

    if "RANK" not in os.environ:
        raise ExchangeError("WORLD_SIZE is set without RANK; only torchrun and accelerate launch set both")
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    on_gpu = gpus > local
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu else "gloo"
    guard = threading.Timer(timeout + LATER, _give_up, (timeout + LATER,))
    guard.daemon = True
    guard.start()
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        try:
            return _exchange(dist, torch, device, world, backend, seconds)
        finally:
            dist.destroy_process_group()
    finally:
        guard.cancel()


def _exchange(dist, torch, device, world: int, backend: str, seconds: float) -> Exchange:
    """Reduce again and again; rank 0 says how much and when to stop. A wrong sum is an `ExchangeError`."""
    numbers, rounds, busy, moved = FIRST_NUMBERS, 0, 0.0, 0
    rank, began = dist.get_rank(), time.monotonic()
    while True:
        payload = torch.full((numbers,), float(rank + 1), device=device)
        start = time.perf_counter()
        dist.all_reduce(payload)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - start
        if not bool((payload == world * (world + 1) / 2).all()):
            raise ExchangeError(f"rank {rank}: a sum over {world} processes is wrong")
        if rounds:  # the first one opens the connections
            busy, moved = busy + took, moved + payload.numel() * payload.element_size()
        rounds += 1
        wanted = min(MOST_NUMBERS, max(1024, int(numbers * ROUND_SECONDS / max(took, 1e-6))))
        more = rounds < 2 or time.monotonic() - began < seconds
        word = torch.tensor([wanted, int(more)], device=device)
        dist.broadcast(word, src=0)
        numbers, more = (int(value) for value in word.tolist())
        if not more:
            break
    through = connected_through({int(os.environ.get("MASTER_PORT", "0"))})
    rate = moved / busy * 2 * (world - 1) / world
    size = payload.numel() * payload.element_size() / 1e6
    return Exchange(world, backend, " and ".join(through), size, rounds, busy, rate)


def _give_up(timeout: float) -> None:
    """End this process although its main thread hangs inside a collective."""
    print(f"{NAME}: nothing came back within {timeout:.0f} s; {advice()}", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> int:
    """One rank that `_start` started: seconds and timeout are the arguments, rank 0 prints its `Exchange`."""
    try:
        found = _join(float(sys.argv[1]), float(sys.argv[2]))
    except (ExchangeError, RuntimeError, ValueError, OSError) as error:
        print(first_line(error).removeprefix("ExchangeError: "), file=sys.stderr)
        return 1
    if os.environ["RANK"] == "0":
        print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
