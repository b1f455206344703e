"""Many at once, too many, the model that fails, the process that is told to stop."""

import asyncio
import gc
import json
import os
import re
import signal
import socket
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hostile import empty_webp, many_scans, saved
from PIL import Image
from serving import KEY, OTHER_KEY, Server, running

from vivo.captioner import Captioner
from vivo.errors import UserError
from vivo.serve.batching import Batcher
from vivo.serve.body import Memory, Share
from vivo.serve.describer import Description, Scored, Wanted
from vivo.serve.keys import Keys, read_keys
from vivo.serve.pictures import Picture
from vivo.serve.problems import Problem
from vivo.world.glyphs import DETECTOR_CLASSES
from vivo.world.scenes import render, sample_scene


def picture(number: int) -> Picture:
    return Picture(Image.new("RGB", (50, 50), (number, 0, 0)), 50, 50, "Png")


class Model:
    """Stands for a model: says the number of each picture, fails with those that are told, waits where told."""

    def __init__(self, bad: Sequence[int] = (), held: bool = False) -> None:
        self.bad, self.batches = set(bad), []
        self.free = threading.Event()
        self.begun = threading.Event()
        if not held:
            self.free.set()

    def __call__(self, pictures: Sequence[Picture], wanted: Sequence[Wanted]) -> list[Description]:
        numbers = [one.image.getpixel((0, 0))[0] for one in pictures]
        self.begun.set()
        assert self.free.wait(30)
        self.batches.append(numbers)
        if self.bad & set(numbers):
            raise RuntimeError("the model fails")
        return [Description([Scored(str(number), 1.0)]) for number in numbers]


async def ask(batcher: Batcher, number: int, seconds: float = 30.0, extra: int = 0) -> str:
    found, job = await batcher.describe(picture(number), Wanted(), seconds, extra)
    assert job.together >= 1 and job.waited >= 0
    return found.captions[0].text


def test_what_comes_while_the_model_works_is_read_together() -> None:
    model = Model(held=True)
    batcher = Batcher(model, batch=4, batch_seconds=0.0, size=20)
    batcher.start()

    async def go() -> list[str]:
        tasks = [asyncio.create_task(ask(batcher, n)) for n in range(10)]
        await asyncio.sleep(0)  # all of them have been put into the queue
        model.free.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(go()) == [str(n) for n in range(10)]
    batcher.stop()
    assert sorted(sum(model.batches, [])) == list(range(10)) and max(map(len, model.batches)) == 4
    assert len(model.batches) <= 4  # 1 to 4 in the first, then 4 at a time


def test_only_the_picture_that_is_to_blame_fails() -> None:
    model, seen = Model(bad=[3], held=True), []
    batcher = Batcher(model, 16, 0.0, 20, lambda *numbers: seen.append(numbers))
    batcher.start()

    async def go() -> list:
        tasks = [asyncio.create_task(ask(batcher, n)) for n in range(6)]
        await asyncio.sleep(0)
        model.free.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(go())
    assert found[:3] == ["0", "1", "2"] and found[4:] == ["4", "5"]
    assert isinstance(found[3], Problem) and (found[3].status, found[3].inner) == (500, "FailedToProcess")
    assert sum(failed for _, _, failed in seen) == 1 and batcher.healthy
    batcher.stop()
    assert not batcher.healthy


def test_a_model_that_only_fails_is_not_healthy() -> None:
    batcher = Batcher(Model(bad=range(100)), 4, 0.0, 20)
    batcher.start()
    for number in range(8):
        assert batcher.healthy
        with pytest.raises(Problem):
            asyncio.run(ask(batcher, number))
    assert not batcher.healthy
    batcher.stop()


def test_a_model_that_failed_is_tried_again_and_healthy_once_it_succeeds() -> None:
    """Nobody asks a service that is not ready, so that it could not succeed if time alone changed nothing."""
    for trial, ready in ((0.0, True), (3600.0, False)):
        model = Model(bad=[1])
        batcher = Batcher(model, 4, 0.0, 20, trial=trial)
        batcher.start()
        for _ in range(8):
            with pytest.raises(Problem):
                asyncio.run(ask(batcher, 1))
        assert batcher.healthy == ready
        assert asyncio.run(ask(batcher, 2)) == "2" and batcher.healthy
        batcher.stop()


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    model = Model(held=True)
    batcher = Batcher(model, 1, 0.0, 3)
    batcher.start()

    async def go() -> list:
        first = asyncio.create_task(ask(batcher, 0))
        await asyncio.to_thread(model.begun.wait, 30)  # it is with the model, the queue is empty
        batcher.check_room()
        tasks = [asyncio.create_task(ask(batcher, n)) for n in range(1, 6)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as full:
            batcher.check_room()
        assert full.value.status == 429 and 1 <= full.value.retry_after <= 60
        large = [asyncio.create_task(ask(batcher, n, extra=1)) for n in (6, 7)]  # which small ones cannot keep out
        await asyncio.sleep(0)
        model.free.set()
        return await asyncio.gather(first, *tasks, *large, return_exceptions=True)

    found = asyncio.run(go())
    assert found[:4] == ["0", "1", "2", "3"] and found[6] == "6"
    assert [one.status for one in (*found[4:6], found[7])] == [429] * 3
    batcher.stop()


def test_who_waits_too_long_or_leaves_costs_the_model_nothing() -> None:
    model = Model(held=True)
    batcher = Batcher(model, 1, 0.0, 10)
    batcher.start()

    async def go() -> None:
        first = asyncio.create_task(ask(batcher, 0))
        await asyncio.to_thread(model.begun.wait, 30)
        with pytest.raises(Problem) as late:
            await ask(batcher, 1, seconds=0.01)
        assert (late.value.status, late.value.inner) == (503, "Timeout")
        seen = picture(2)
        gone, kept = asyncio.create_task(batcher.describe(seen, Wanted(), 30.0)), weakref.ref(seen)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait({gone})
        assert gone.cancelled()
        del seen, gone
        gc.collect()
        assert kept() is None and batcher.waiting == 0  # neither takes anybody's place
        last = asyncio.create_task(ask(batcher, 3))
        await asyncio.sleep(0)
        model.free.set()
        assert await asyncio.gather(first, last) == ["0", "3"]

    asyncio.run(go())
    batcher.stop()
    assert model.batches == [[0], [3]]


def test_memory_of_all_requests_is_bounded() -> None:
    memory = Memory(100)
    one, other = Share(memory), Share(memory)
    one.take(70)
    with pytest.raises(Problem) as full:
        other.take(40)
    assert full.value.status == 429 and (memory.held, other.held) == (70, 0)
    one.give(50)
    other.take(40)
    assert memory.held == 60


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}\n\n  {OTHER_KEY}  \n")
    keys = Keys(read_keys(path))
    assert keys and keys.name_of(KEY) and keys.name_of(OTHER_KEY) and keys.name_of(KEY) != keys.name_of(OTHER_KEY)
    assert KEY[:8] not in keys.name_of(KEY)
    wrong = ["", KEY[:-1], KEY + "0", KEY.upper(), KEY + OTHER_KEY, "é" * 32, "# ours", "\udcff"]
    assert [keys.name_of(key) for key in wrong] == [""] * len(wrong)
    for text, said in (("", "no key in it"), ("short\n", "16 or more"), ("a b" * 10, "no space"), ("é" * 20, "ASCII")):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_keys(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "none")


# ---------------------------------------------------------------- the process


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("scenes"), np.random.default_rng(5)
    paths = [folder / f"{n}.jpg" for n in range(6)]
    for path in paths:
        render(sample_scene(random, DETECTOR_CLASSES, n_objects=2)).save(path)
    return paths


@pytest.fixture(scope="module")
def server(tiny_captioner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--beam", "2", "--body-seconds", "1.5", "--queue", "16")
    with running(tiny_captioner, tmp_path_factory.mktemp("serve"), *options) as found:
        yield found


def raw(server: Server, content: bytes, wait: bool = True) -> bytes:
    """Send bytes as they are; what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(content)
        answer = b""
        while wait and (part := connection.recv(65536)):
            answer += part
        return answer


HEAD = f"POST /vision/v3.2/describe HTTP/1.1\r\nHost: x\r\nOcp-Apim-Subscription-Key: {KEY}\r\n".encode()
STREAM = HEAD + b"Content-Type: application/octet-stream\r\n"


def test_right_answers_among_garbage(server: Server, scenes: list[Path], tiny_captioner: Path) -> None:
    """Each good request gets its own picture's caption, whatever the others send at the same time."""
    captioner = Captioner.from_pretrained(tiny_captioner, "cpu")
    expected = [{caption.text for caption in captioner(path, beam=2)} for path in scenes]
    assert len({frozenset(texts) for texts in expected}) > 1
    good = [path.read_bytes() for path in scenes]

    def client(number: int) -> tuple[int, object]:
        kind, n = number % 4, number % len(good)
        if kind == 0:
            return server.describe(b"garbage" * 1000)
        if kind == 1:
            raw(server, STREAM + b"Content-Length: 100000\r\n\r\n" + good[n][:500], wait=False)  # and leaves
            return 499, None
        if kind == 2:
            return server.describe(good[n], key="wrong")
        return server.describe(good[n], "/vision/v3.2/describe?maxCandidates=2")

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(client, range(48)))
    for number, (status, content) in enumerate(found):
        kind, n = number % 4, number % len(good)
        assert status == {0: 400, 1: 499, 2: 401, 3: 200}[kind], content
        if kind == 3:
            assert {one["text"] for one in content["description"]["captions"]} == expected[n]
    assert server.ask("/readyz")[0] == 200


def test_slow_and_broken_senders(server: Server) -> None:
    answer = raw(server, STREAM + b"Content-Length: 5000\r\n\r\nabc")  # and no more comes
    assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer.lower()
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["innererror"]["code"] == "Timeout"
    assert raw(server, b"\x16\x03\x01 no http\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server, STREAM + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n").startswith(b"HTTP/1.1 400")
    huge = STREAM + b"Content-Length: 99999999999\r\n\r\n"
    assert raw(server, huge).startswith(b"HTTP/1.1 400")  # not one byte of it is waited for
    assert raw(server, STREAM + b"Connection: close\r\nX: " + b"y" * 100_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert server.ask("/healthz")[0] == 200


def test_bombs_are_refused_undecoded_and_those_who_left_are_forgotten(server: Server) -> None:
    seen = len(server.lines())
    bombs = [empty_webp(15_900, 6_200)] * 4 + [many_scans(2_500, 2_000, 190)] * 12
    for body in bombs:
        raw(server, STREAM + f"Content-Length: {len(body)}\r\n\r\n".encode() + body, wait=False)
    assert server.describe(saved(Image.new("RGB", (60, 60)), "PNG"))[0] == 200
    for _ in range(10_000):  # each has a line, once its client was seen to leave
        if len(lines := server.lines()[seen:]) >= len(bombs) + 1:
            break
        server.ask("/healthz")
    assert len(lines) == len(bombs) + 1
    assert [line["code"] for line in lines if line["status"] == 400] == ["InvalidImageSize"] * 4
    rest = [line for line in lines if line["status"] in (429, 499)]
    assert len(rest) == 12 and not any("width" in line for line in rest)  # not one was decoded to its end


def test_bodies_that_are_no_picture(server: Server) -> None:
    def inner(body: bytes, kind: str) -> tuple[int, str]:
        status, found = server.describe(body, **{"Content-Type": kind})
        return status, found["error"]["innererror"]["code"]

    assert inner(b"x", "text/plain") == (415, "UnsupportedMediaType")
    for body in (b"", b"{", b"[]", b'{"url": 5}', b'{"uri": "x"}', b"[" * 60_000, b"\xff\xfe", b"x" * 70_000):
        assert inner(body, "application/json") == (400, "BadArgument"), body[:20]
    assert inner(b'{"url": "http://127.0.0.1/x"}', "application/json") == (400, "InvalidImageUrl")  # they are off
    assert inner(b"", "image/png") == (400, "InvalidImageSize")


def test_double_slashes_unknown_paths_and_methods(server: Server, scenes: list[Path]) -> None:
    assert server.describe(scenes[0].read_bytes(), "//vision//v3.2/describe")[0] == 200
    for path in ("/vision/v9.9/describe", "/vision/v3.2/ocr", "/nothing", "/page/..%2Fcommand.py", "/page/%2e%2e"):
        assert server.describe(b"x", path)[0] in (404, 405), path
    assert server.ask("/page/command.py")[0] == 404
    status, _, said = server.ask("/vision/v3.2/describe")
    assert status == 405 and json.loads(said)["error"]["message"] == "Method not allowed"


def test_two_lengths_and_requests_without_an_answers_body(server: Server) -> None:
    both = raw(server, STREAM + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
    assert both.startswith(b"HTTP/1.1 400") and b"connection: close" in both.lower() and both.count(b"HTTP/1.1") == 1
    for path in ("/", "/healthz", "/readyz", "/page/page.css"):
        head = raw(server, f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\r\n\r\n"), path
        assert int(re.search(rb"content-length: (\d+)", head)[1]) == len(server.ask(path)[2])


def test_keys_and_probes_of_the_process(server: Server, scenes: list[Path]) -> None:
    body = scenes[0].read_bytes()
    assert [server.describe(body, key=key)[0] for key in (KEY, OTHER_KEY, "", "x")] == [200, 200, 401, 401]
    assert server.ask("/healthz")[0] == server.ask("/readyz")[0] == server.ask("/")[0] == 200
    assert server.ask("/metrics")[0] == 401
    status, _, page = server.ask("/metrics", Authorization=f"Bearer {KEY}")
    counted = re.findall(rb'vivo_requests_total{code="",operation="v3.2 describe",status="200"} (\d+)', page)
    assert status == 200 and int(counted[0]) >= 2
    assert b"vivo_batch_pictures_count" in page and b"vivo_queue_pictures 0" in page
    assert b"vivo_decode_queue_pictures 0" in page


def test_the_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    status, headers, content = server.ask("/")
    policy = headers["Content-Security-Policy"]
    assert status == 200 and b"<html" in content and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and "frame-ancestors 'none'" in policy


def test_logs_say_what_happened_and_not_what_was_seen(server: Server, scenes: list[Path]) -> None:
    status, found = server.describe(scenes[1].read_bytes())
    assert status == 200
    line = server.line_of(found["requestId"])
    assert (line["operation"], line["status"], line["format"], line["width"]) == ("v3.2 describe", 200, "Jpeg", 224)
    assert line["bytes"] == scenes[1].stat().st_size and line["seconds"] >= line["model_seconds"]
    text = server.log.read_text()
    assert found["description"]["captions"][0]["text"] not in text and KEY not in text and "Traceback" not in text


def test_the_pages_own_answer(server: Server, scenes: list[Path]) -> None:
    status, found = server.describe(scenes[2].read_bytes(), "/api/describe")
    assert status == 200 and found["picture"] == {"width": 224, "height": 224, "format": "Jpeg"}
    caption = found["caption"]["text"]
    for word in found["words"]:
        assert caption[word["start"] : word["end"]] == word["text"]
        assert len(word["regions"]) == len(found["regions"]) and all(0 <= share <= 1 for share in word["regions"])
    assert found["words"] and max(max(word["regions"]) for word in found["words"]) > 0
    assert all(0 <= side <= 1 for region in found["regions"] for side in region["box"])
    status, quick = server.describe(scenes[2].read_bytes(), "/api/describe?words=false")
    assert quick["words"] == [] and quick["caption"] == found["caption"]


def test_options_that_are_refused(tiny_captioner: Path) -> None:
    from vivo.cli import main

    command = ["serve", "--checkpoint", str(tiny_captioner), "--port", "0"]
    assert main(command) == main([*command, "--no-key", "--host", "0.0.0.0"]) == 2
    assert main([*command, "--no-key", "--allow-url-network", "10.0.0.1/8"]) == 2
    for option, value in (
        ("--port", "99999"), ("--drain-seconds", "inf"), ("--body-seconds", "nan"), ("--max-wait-ms", "nan"),
        ("--device", "nonsense"), ("--device", "cuda:99"),
    ):  # fmt: skip
        assert main([*command, "--no-key", option, value]) == 2, option


def test_sigterm_answers_what_is_there_and_ends_well(tiny_captioner: Path, tmp_path: Path, scenes: list[Path]) -> None:
    with running(tiny_captioner, tmp_path, "--beam", "2") as server:
        body = scenes[0].read_bytes()
        with ExitStack() as stack:
            halves = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(8)
            ]
            for half in halves:
                half.sendall(STREAM + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
            while b"vivo_requests_active 9.0" not in server.ask("/metrics", Authorization=f"Bearer {KEY}")[2]:
                os.sched_yield()
            os.kill(server.process.pid, signal.SIGTERM)
            _until_refused(server.port)
            for half in halves:
                half.sendall(body[1000:])  # a request that had begun is still answered
            for half in halves:
                answer = b""
                while part := half.recv(65536):
                    answer += part
                assert answer.startswith(b"HTTP/1.1 200") and b"captions" in answer
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_what_is_not_done_in_time_is_told_so_when_the_service_stops(tiny_captioner: Path, tmp_path: Path) -> None:
    long = many_scans(2_500, 2_000, 190)
    with running(tiny_captioner, tmp_path, "--beam", "1", "--drain-seconds", "1") as server:
        half = STREAM + b"Content-Length: 1000\r\n\r\nabc"
        full = STREAM + f"Content-Length: {len(long)}\r\n\r\n".encode() + long
        with ThreadPoolExecutor(10) as pool:
            sent = [pool.submit(raw, server, content) for content in [half] * 2 + [full] * 8]
            while b"vivo_requests_active 11.0" not in server.ask("/metrics", Authorization=f"Bearer {KEY}")[2]:
                os.sched_yield()
            os.kill(server.process.pid, signal.SIGTERM)
            answers = [one.result() for one in sent]
        assert server.process.wait(60) == 0
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers[:2])
        assert {answer[9:12] for answer in answers[2:]} <= {b"503", b"200"}
        assert "Traceback" not in server.log.read_text() and {line["status"] for line in server.lines()} <= {503, 200}


def _until_refused(port: int) -> None:
    """Until nobody listens any more."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
        except OSError:
            return
