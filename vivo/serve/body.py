"""Reading a request's body: counted while it comes, within a time, and within what all requests may hold together.

The Azure client sends pictures chunked, without a length, so nothing can be known before reading. What is too large
is read to its end all the same (up to a bound): a client that is still sending does not read our answer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from vivo.serve.problems import Problem, busy

DRAINED = 64 * 1024 * 1024
"""Bytes of a body that is too large which are read and thrown away before the connection is closed."""


class Memory:
    """How much the requests hold together. Counted by the event loop's thread alone."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._given = asyncio.Event()

    def take(self, count: int) -> None:
        """Raises: Problem, 429, where that is more than there is."""
        if self.held + count > self.most:
            raise busy("memory for pictures is used up", retry_after=2, close=True)
        self.held += count

    async def claim(self, count: int) -> None:
        """Take it as soon as there is as much; until then whoever comes later is refused. For one at a time."""
        self.held += count
        try:
            while self.held > self.most:
                self._given.clear()
                await self._given.wait()
        except asyncio.CancelledError:
            self.give(count)
            raise

    def give(self, count: int) -> None:
        self.held -= count
        self._given.set()


@dataclass
class Share:
    """What one request holds of the memory."""

    memory: Memory
    held: int = 0

    def take(self, count: int) -> None:
        self.memory.take(count)
        self.held += count

    async def claim(self, count: int) -> None:
        await self.memory.claim(count)
        self.held += count

    def give(self, count: int) -> None:
        self.memory.give(count)
        self.held -= count


@asynccontextmanager
async def share_of(memory: Memory) -> AsyncIterator[Share]:
    """A share that is given back whatever happens."""
    share = Share(memory)
    try:
        yield share
    finally:
        share.give(share.held)


async def read_body(request: Request, most: int, seconds: float, share: Share, too_large: Problem) -> bytes:
    """The whole body.

    Raises:
        Problem: `too_large`; 408 where it does not come in time; 429 where memory is used up.
        ClientDisconnect: the client is gone.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _read(request, most, share, too_large)
    except TimeoutError:
        raise Problem(
            408, "InvalidRequest", f"The request was not sent within {seconds:.0f} s.", "Timeout", close=True
        ) from None


async def _read(request: Request, most: int, share: Share, too_large: Problem) -> bytes:
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > most + DRAINED:  # hopeless: nothing of it is read
        too_large.close = True
        raise too_large
    parts: list[bytes] = []
    count = 0
    async for part in request.stream():
        count += len(part)
        if count <= most:
            share.take(len(part))
            parts.append(part)
        elif parts:
            parts.clear()
            share.give(share.held)
        if count > most + DRAINED:
            too_large.close = True
            raise too_large
    if count > most:
        raise too_large
    return b"".join(parts)


async def wait_until_gone(request: Request) -> None:
    """Returns when the client has closed the connection; to be awaited once its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
