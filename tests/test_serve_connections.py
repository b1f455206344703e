"""Connections that send slowly, nothing, or too much: each is closed, whatever request of it is the slow one."""

import asyncio
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
    """Answers at once and reads no body; /reads reads it first."""
    while scope["path"] == "/reads" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with that application, the service's connections and little patience."""
    before = PatientProtocol.settings if hasattr(PatientProtocol, "settings") else None
    PatientProtocol.settings = replace(
        Settings(checkpoint=Path()), header_seconds=0.5, body_seconds=0.5, connections=20
    )
    grace, connections.GRACE = connections.GRACE, 0.1
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, http=PatientProtocol, ws="none", lifespan="off", log_config=None)
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
