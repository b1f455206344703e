"""Load and abuse of the caption service on loopback: requests/s and times, wrong answers, memory.

    python tests/benchmarks/service_load.py [--checkpoint DIR] [--clients 200] [--requests 10000] [--out load.json]

Three parts, on one machine in one run:

1. one at a time    `--batch 1`: every picture is a batch of its own; --clients of them ask at once
2. micro-batching   the default; the same pictures, the same clients
3. abuse            --requests requests by --clients at once: pictures among garbage, wrong keys, broken HTTP, bodies
                    that are too large, senders that stop and senders that leave, pictures that are made to be long
                    or large to decode, from clients that stay and that leave; each answer is compared with what the
                    service says of the picture when nothing else is going on; memory is looked at all along

Without --checkpoint, a random model on the features of the embedded detector: as much work for the detector as a
trained one, less for the captioner. A refusal (429) is waited out as Retry-After says, and counted.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hostile import empty_webp, many_scans  # beside the tests
from serving import KEY, Server, make_captioner, running  # beside the tests

PATH = "/vision/v3.2/describe?maxCandidates=3"
SHARE_GOOD = 0.3
ABUSE = (
    "garbage", "wrong key", "too large", "no http", "stops sending", "leaves", "tags", "4.0", "bomb", "long to decode",
    "long to decode, leaves",
)  # fmt: skip
BOMB = empty_webp(15_900, 6_200)  # 1.5 GB, if anybody decoded it
LONG = many_scans(2_500, 2_000, 190)  # as long as the service allows


@dataclass
class Counts:
    """What came back.

    Attributes:
        statuses: by kind of request and status ("closed": none). seconds: of the good ones.
        wrong: answers that are not those of the picture. refused: times 429 was waited out.
    """

    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    refused: int = 0


async def send(port: int, content: bytes, leave: bool = False) -> tuple[int | str, dict[str, str], bytes]:
    """One request on a connection of its own: (status, headers, body), or ("closed", ...) without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        await writer.drain()
        if leave:
            return "closed", {}, b""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else b""
        return int(lines[0].split()[1]), headers, body
    except (OSError, asyncio.IncompleteReadError):
        return "closed", {}, b""
    finally:
        writer.transport.abort()


def request(body: bytes, path: str = PATH, key: str = KEY, length: int | None = None) -> bytes:
    """The bytes of a POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nOcp-Apim-Subscription-Key: {key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def caption_of(body: bytes) -> list[str]:
    return [one["text"] for one in json.loads(body)["description"]["captions"]]


async def good(port: int, picture: bytes, expected: list[str] | None, counts: Counts) -> list[str]:
    """A picture's captions, asked for until they come; compared with what they should be."""
    while True:
        begun = time.perf_counter()
        status, headers, body = await send(port, request(picture))
        if status == 429:
            counts.refused += 1
            await asyncio.sleep(int(headers["retry-after"]) * random.uniform(0.2, 1.0))
            continue
        counts.statuses["picture", status] += 1
        counts.seconds.append(time.perf_counter() - begun)
        found = caption_of(body) if status == 200 else []
        if expected is not None and found != expected:
            counts.wrong += 1
        return found


async def bad(port: int, kind: str, picture: bytes, counts: Counts) -> None:
    """One request of a kind of abuse; what may come back for it is checked."""
    content, leave, allowed = {
        "garbage": (request(random.randbytes(20_000)), False, {400, 429}),
        "wrong key": (request(picture, key="0" * 32), False, {401}),
        "too large": (request(b"\xff" * 4_300_000), False, {400, 408, 429, "closed"}),
        "no http": (b"\x16\x03\x01\x02\x00" + random.randbytes(100) + b"\r\n\r\n", False, {400, "closed"}),
        "stops sending": (request(picture[:2000], length=len(picture)), False, {408, 429}),
        "leaves": (request(picture), True, {"closed"}),
        "bomb": (request(BOMB), False, {400, 429}),
        "long to decode": (request(LONG), False, {200, 429, 503}),  # 503: its turn came too late
        "long to decode, leaves": (request(LONG), True, {"closed"}),
        "tags": (request(picture, "/vision/v3.1/tag"), False, {200, 429}),
        "4.0": (
            request(picture, "/computervision/imageanalysis:analyze?api-version=2023-10-01&features=caption"),
            False,
            {200, 429},
        ),
    }[kind]
    status, _, _ = await send(port, content, leave)
    counts.statuses[kind, status] += 1
    if status not in allowed:
        counts.wrong += 1


async def crowd(clients: int, jobs: int, work: Callable, watch: Callable[[int], None] = lambda done: None) -> float:
    """`jobs` jobs by so many clients at once; seconds. work(number) makes a job's coroutine."""
    numbers, done = iter(range(jobs)), 0
    begun = time.perf_counter()

    async def client() -> None:
        nonlocal done
        for number in numbers:
            await work(number)
            done += 1
            watch(done)

    await asyncio.gather(*(client() for _ in range(min(clients, jobs))))
    return time.perf_counter() - begun


def memory_of(server: Server) -> tuple[float, float]:
    """Resident memory of the service and of its decode processes, MiB."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own, *others = (_resident(Path(f"/proc/{one}/status")) for one in (str(pid), *children))
    return round(own, 1), round(sum(others), 1)


def _resident(status: Path) -> float:
    try:
        return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError):  # it has just been stopped
        return 0.0


def load() -> float:
    """Of the machine, the last minute."""
    return round(os.getloadavg()[0], 1)


def speed(server: Server, pictures: list[bytes], clients: int, jobs: int) -> dict[str, float]:
    """Good requests alone, after a warm-up."""
    counts = Counts()

    async def both() -> float:
        await crowd(clients, min(32, jobs), lambda n: good(server.port, pictures[n % len(pictures)], None, Counts()))
        return await crowd(clients, jobs, lambda n: good(server.port, pictures[n % len(pictures)], None, counts))

    seconds = asyncio.run(both())
    times = sorted(counts.seconds)
    assert counts.statuses == {("picture", 200): jobs}, counts.statuses
    return {
        "clients": clients,
        "requests": jobs,
        "requests/s": round(jobs / seconds, 2),
        "p50 s": round(times[len(times) // 2], 3),
        "p95 s": round(times[int(len(times) * 0.95)], 3),
        "refused": counts.refused,
        "load": load(),
    }


def abuse(server: Server, pictures: list[bytes], clients: int, jobs: int) -> dict:
    """Part 3."""
    counts, rss = Counts(), []
    alone = [asyncio.run(good(server.port, picture, None, Counts())) for picture in pictures]
    draw = random.Random(0)
    kinds = ["picture" if draw.random() < SHARE_GOOD else draw.choice(ABUSE) for _ in range(jobs)]

    async def work(number: int) -> None:
        n = number % len(pictures)
        if kinds[number] == "picture":
            await good(server.port, pictures[n], alone[n], counts)
        else:
            await bad(server.port, kinds[number], pictures[n], counts)

    def watch(done: int) -> None:
        if done % max(1, jobs // 10) == 0:
            rss.append((*memory_of(server), load()))
            print(f"{done:6} requests  {rss[-1][0]:8.1f} MiB, decoders {rss[-1][1]} MiB", file=sys.stderr, flush=True)

    seconds = asyncio.run(crowd(clients, jobs, work, watch))
    times = sorted(counts.seconds)
    assert server.ask("/readyz")[0] == 200 and server.process.poll() is None
    return {
        "clients": clients,
        "requests": jobs,
        "requests/s": round(jobs / seconds, 2),
        "p50 s": round(times[len(times) // 2], 3),
        "p95 s": round(times[int(len(times) * 0.95)], 3),
        "refused": counts.refused,
        "load": load(),
        "wrong": counts.wrong,
        "statuses": {f"{kind}: {status}": count for (kind, status), count in sorted(counts.statuses.items(), key=str)},
        "after each tenth: MiB, MiB of decoders, load": rss,
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="captioner folder; default: a random model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=10_000, help="of the abuse")
    parser.add_argument("--speed-requests", type=int, default=400, help="of each of the first two parts; 0: leave out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    import io

    import numpy as np

    from vivo.world.glyphs import DETECTOR_CLASSES
    from vivo.world.scenes import render, sample_scene

    chance, pictures = np.random.default_rng(0), []
    for _ in range(24):
        buffer = io.BytesIO()
        render(sample_scene(chance, DETECTOR_CLASSES, n_objects=3)).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.checkpoint or make_captioner(Path(work) / "captioner")
        if arguments.speed_requests:
            jobs = arguments.speed_requests
            with running(folder, Path(work), "--batch", "1") as server:
                found["one client, batch 1"] = speed(server, pictures, 1, max(20, jobs // 8))
                found["one at a time"] = speed(server, pictures, arguments.clients, jobs)
            with running(folder, Path(work)) as server:
                found["one client"] = speed(server, pictures, 1, max(20, jobs // 8))
                found["micro-batching"] = speed(server, pictures, arguments.clients, jobs)
        if arguments.requests:
            with running(folder, Path(work), "--body-seconds", "2") as server:
                found["abuse"] = abuse(server, pictures, arguments.clients, arguments.requests)
    columns = ("clients", "requests", "requests/s", "p50 s", "p95 s", "refused", "load")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in found.items():
        print(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    if "abuse" in found:
        print(
            json.dumps(
                {k: found["abuse"][k] for k in ("wrong", "statuses", "after each tenth: MiB, MiB of decoders, load")},
                indent=1,
            )
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
