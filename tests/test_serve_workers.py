"""Several processes on one socket: answers, metrics of all together, one that dies, the end."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from serving import KEY, Server, running

from vivo.world.glyphs import DETECTOR_CLASSES
from vivo.world.scenes import render, sample_scene


def children(server: Server) -> list[int]:
    """Process ids of the workers."""
    found = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def counted(server: Server, expected: int) -> bytes:
    """The metrics, when so many requests are counted, which each is a moment after its answer has gone out."""
    for _ in range(100):
        page = server.ask("/metrics", Authorization=f"Bearer {KEY}")[2]
        found = re.findall(rb'vivo_requests_total{code="",operation="v3.2 describe",status="200"} (\d+)', page)
        if [int(number) for number in found] == [expected]:
            return page
    raise AssertionError(f"{found}, not {expected}")


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_no_other_down(tiny_captioner: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene.png"
    render(sample_scene(np.random.default_rng(0), DETECTOR_CLASSES, n_objects=2)).save(scene)
    with running(tiny_captioner, tmp_path, "--beam", "1", "--workers", "2") as server:
        body = scene.read_bytes()
        texts = {server.describe(body)[1]["description"]["captions"][0]["text"] for _ in range(6)}
        assert len(texts) == 1 and len(children(server)) == 2  # connections wait until a process listens
        counted(server, 6)
        os.kill(children(server)[0], signal.SIGKILL)
        assert {server.describe(body)[0] for _ in range(6)} == {200}
        page = counted(server, 12)  # of both, and of the one that is gone
        assert b"vivo_request_memory_bytes 0.0" in page and b"vivo_decode_queue_pictures 0.0" in page
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(90) == 0
        assert "Traceback" not in server.log.read_text()
