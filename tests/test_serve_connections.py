"""Connections that send slowly, nothing, or too much, or do not read: each is closed, whatever request is slow."""

import asyncio
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn

from vivo.serve import connections
from vivo.serve.connections import PatientProtocol
from vivo.serve.settings import Settings

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def application(scope: dict, receive, send) -> None:
    """Answers at once and reads no body; /reads reads it first. /large: with more than a small buffer holds."""
    while scope["path"] == "/reads" and (await receive()).get("more_body"):
        pass
    body = b"ok" * (30_000 if scope["path"] == "/large" else 1)
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


class Watched(PatientProtocol):
    """Says which clients' connections had to wait to be read, and which are gone."""

    paused: queue.Queue[int] = queue.Queue()
    lost: queue.Queue[int] = queue.Queue()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.paused.put(self.client[1])

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.put(self.client[1])


def seen(among: queue.Queue[int], connection: socket.socket) -> None:
    """Wait for a connection; queue.Empty: it does not come."""
    while among.get(timeout=10) != connection.getsockname()[1]:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with that application, the service's connections and little patience."""
    before = PatientProtocol.settings if hasattr(PatientProtocol, "settings") else None
    PatientProtocol.settings = replace(
        Settings(checkpoint=Path()), header_seconds=0.5, body_seconds=0.5, connections=20
    )
    grace, connections.GRACE = connections.GRACE, 0.1
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that it is left with what is unread
    config = uvicorn.Config(application, http=Watched, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(30)
    connections.GRACE = grace
    PatientProtocol.settings = before


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def answered(connection: socket.socket) -> None:
    found = b""
    while not found.endswith(b"ok"):
        found += connection.recv(65536)
    assert found.startswith(b"HTTP/1.1 200")


def until_closed(connection: socket.socket, drip: bytes = b"") -> bytes:
    """What came until the server closed; TimeoutError: it did not. `drip` is sent all the while."""
    found = b""
    for _ in range(100):
        try:
            if drip:
                connection.settimeout(0.1)
                connection.sendall(drip)
            part = connection.recv(65536)
        except TimeoutError:
            if not drip:
                raise
            continue
        except OSError:
            return found
        if not part:
            return found
        found += part
    raise TimeoutError


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_headers_that_do_not_end(port: int, answers: int) -> None:
    """Of the first request of a connection and of every later one; a byte now and then does not help."""
    for drip in (b"", b"X"):
        with connected(port) as connection:
            for _ in range(answers):
                connection.sendall(GET)
                answered(connection)
            connection.sendall(b"GET /he")
            assert until_closed(connection, drip) == b""


def test_a_connection_that_says_nothing(port: int) -> None:
    with connected(port) as connection:
        assert until_closed(connection) == b""


@pytest.mark.parametrize("drip", [b"", b"1\r\na\r\n"])
def test_a_body_that_nobody_reads(port: int, drip: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    with connected(port) as connection:
        connection.sendall(head)
        assert until_closed(connection, drip).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("drip", [b"", b"a"])
def test_a_body_that_does_not_end(port: int, drip: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(GET)
        answered(connection)
        connection.sendall(b"POST /reads HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert until_closed(connection, drip) == b""


def test_requests_that_are_sent_well_follow_each_other(port: int) -> None:
    with connected(port) as connection:
        for _ in range(5):
            connection.sendall(b"POST /reads HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            answered(connection)
        connection.sendall(GET * 3)  # pipelined
        found = b""
        while found.count(b"HTTP/1.1 200") < 3:
            found += connection.recv(65536)


def test_silent_connections_make_room_for_others(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(port)).sendall(b"GET /he")
        last = stack.enter_context(connected(port))
        last.sendall(GET)
        answered(last)


def reads_nothing(port: int, content: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(content)
    return connection


LARGE = GET.replace(b"/", b"/large", 1)


@pytest.mark.parametrize("requests", [LARGE, LARGE * 8, LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_answers_that_nobody_reads(port: int, requests: bytes) -> None:
    """One that waits to be closed until it is read, and several of which the next waits for the one before."""
    with reads_nothing(port, requests) as connection:
        seen(Watched.lost, connection)


def test_connections_that_do_not_read_make_room_for_others(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = replace(Settings(checkpoint=Path()), connections=4)  # no time runs out in this test
    monkeypatch.setattr(PatientProtocol, "settings", patient)
    with ExitStack() as stack:
        for _ in range(patient.connections + connections.SPARE + 2):
            seen(Watched.paused, stack.enter_context(reads_nothing(port, LARGE * 8)))
        last = stack.enter_context(connected(port))
        last.sendall(GET)
        answered(last)
