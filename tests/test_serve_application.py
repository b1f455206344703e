"""The application over HTTP, before a model that does what the test says: full, too large, asked by another name."""

import argparse
import asyncio
import io
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from hostile import saved
from PIL import Image
from serving import KEY, Server

from vivo.serve.application import application
from vivo.serve.command import _warn, settings_of
from vivo.serve.describer import Description, Scored, Wanted
from vivo.serve.options import add_serve
from vivo.serve.pictures import Picture
from vivo.serve.service import Service
from vivo.serve.settings import Settings
from vivo.serve.v4 import neutral_words

V3, V4 = "/vision/v3.2/describe", "/computervision/imageanalysis:analyze?api-version=2023-10-01&features=caption"


class Model:
    """Stands for a captioner: one sentence for each picture, as soon as it is let."""

    threshold, version, calibration = 0.0, "2026-01-01", None

    def __init__(self) -> None:
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()

    def describe(self, pictures: Sequence[Picture], wanted: Sequence[Wanted]) -> list[Description]:
        self.begun.set()
        assert self.free.wait(60)
        return [Description([Scored("a man and his dog", 0.9)]) for _ in pictures]


@contextmanager
def serving(model: Model, **options: object) -> Iterator[tuple[Server, Service]]:
    """The application in a thread."""
    app = application(Settings(checkpoint=Path(), keys=(KEY,), **options), model)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="on", log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}", None, None), app.service
    finally:
        model.free.set()
        server.should_exit = True
        thread.join(60)


SMALL = saved(Image.new("RGB", (60, 60)), "PNG")


def test_a_full_service_says_so_and_when_to_come_again() -> None:
    model = Model()
    model.free.clear()
    with serving(model, queue=1, batch=1) as (server, service), ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.describe, SMALL)
        assert model.begun.wait(60) and server.ask("/readyz")[0] == 200
        second = pool.submit(server.describe, SMALL)
        while service.batcher.waiting < 1 and not second.done():
            os.sched_yield()
        for path, has in (
            (V3, b'"error": {"code": "429"'),
            ("/vision/v3.0/describe", b'{"code": "429"'),
            (V4, b'"429"'),
        ):
            status, headers, body = server.ask(path, SMALL, **{"Ocp-Apim-Subscription-Key": KEY})
            assert status == 429 and 1 <= int(headers["Retry-After"]) <= 60
            assert has.replace(b" ", b"") in body.replace(b" ", b"")
        assert [server.ask(path)[0] for path in ("/readyz", "/healthz")] == [503, 200]
        model.free.set()
        assert [one.result()[0] for one in (first, second)] == [200, 200]
        assert server.ask("/readyz")[0] == 200


def test_small_pictures_that_fill_the_queue_keep_no_large_one_out() -> None:
    large, model = saved(Image.new("L", (2400, 2000)), "PNG"), Model()
    model.free.clear()
    with serving(model, queue=1, large_queue=1, batch=1) as (server, service), ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(server.describe, SMALL)]
        assert model.begun.wait(60)
        for waiting, body in ((1, SMALL), (2, large)):
            asked.append(pool.submit(server.describe, body))
            while service.batcher.waiting < waiting and not asked[-1].done():
                os.sched_yield()
            assert server.describe(SMALL)[0] == 429
        assert server.describe(large)[0] == 429
        model.free.set()
        assert [one.result()[0] for one in asked] == [200, 200, 200]


def test_each_interface_has_its_own_largest_file() -> None:
    between = saved(Image.new("RGB", (1250, 1200)), "BMP")  # above 4 MiB
    with serving(Model()) as (server, _):
        status, said = server.describe(between)
        assert (status, said["error"]["innererror"]["code"]) == (400, "InvalidImageSize")
        assert server.describe(between, V4)[0] == server.describe(between, "/api/describe?words=false")[0] == 200
        over = between + bytes(20 * 1024**2 + 1 - len(between))
        assert server.describe(over[:-1], V4)[0] == 200
        assert server.describe(over, V4) == (
            400,
            {
                "error": {
                    "code": "InvalidRequest",
                    "message": "The image size is not allowed to be zero or larger than 20971520 bytes.",
                }
            },
        )
        chunked = io.BytesIO(over)  # no length: counted while it is read
        assert server.ask(V4, chunked, **{"Ocp-Apim-Subscription-Key": KEY})[0] == 400


def test_words_for_men_and_women() -> None:
    assert neutral_words("a woman and her two boys") == "a person and their two children"
    assert neutral_words("the human chess of a snowman") == "the human chess of a snowman"


def options(*given: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_serve(parser.add_subparsers())
    return settings_of(parser.parse_args(["serve", "--checkpoint", "none", *given]))


def test_without_keys_it_answers_to_the_name_that_it_listens_on() -> None:
    assert "127.0.0.2" in options("--no-key", "--host", "127.0.0.2").hosts
    assert set(options("--no-key").hosts) == {"127.0.0.1", "localhost", "[::1]"}


def test_what_is_said_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text(KEY)
    settings = options("--key-file", str(tmp_path / "keys"))
    assert settings.keys == (KEY,) and KEY not in repr(settings) and not settings.urls
    _warn(options("--no-key", "--threshold", "0.5"))
    assert capsys.readouterr().err == ""
    open_to = options("--no-key", "--allow-url-network", "10.1.0.0/16")
    assert open_to.urls
    _warn(open_to)
    said = capsys.readouterr().err
    assert "pictures are fetched from 10.1.0.0/16" in said and "is not calibrated" in said
