"""Connections that are slow, silent or too many.

uvicorn waits for ever for a first request, and lets go of its own timers at any byte. Here every request of a
connection has a time for its headers and one for its body, and so has what is left of a body after the answer:

    headers    header_seconds from the first byte (of a new connection: from its beginning)
    body       body_seconds, in which the application answers 408, and then GRACE, after which nobody waits for it
    the rest   header_seconds after the answer: some clients read it only when they have sent everything
"""

import asyncio
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vivo.serve.settings import Settings

GRACE = 5.0
SPARE = 64  # connections beyond the limit, on which probes are answered and everything else is told 503


class PatientProtocol(H11Protocol):
    """One connection."""

    settings: Settings

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._phase: tuple = ()
        if len(self.connections) > self.settings.connections:
            self._make_room()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_timer(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being worked for: nobody loses an answer if it is closed."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Start a timer where something else is waited for than before."""
        state = self.conn.their_state
        phase, seconds = (), None
        if state is h11.IDLE and self.timeout_keep_alive_task is None:  # which is uvicorn's, between two requests
            phase, seconds = ("headers", self.cycle), self.settings.header_seconds
        elif state is h11.SEND_BODY and self.is_idle:
            phase, seconds = ("rest", self.cycle), self.settings.header_seconds
        elif state is h11.SEND_BODY:
            phase, seconds = ("body", self.cycle), self.settings.body_seconds + GRACE
        if phase != self._phase:
            self._phase = phase
            self._set_timer(seconds)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort() if self._phase[:1] == ("rest",) else self.transport.close()

    def _make_room(self) -> None:
        """Close a connection that nothing is done for, so that a probe gets through."""
        for other in self.connections:
            if other is not self and other.is_idle and not other.transport.is_closing():
                other.transport.abort()
                return
        if len(self.connections) > self.settings.connections + SPARE:
            self.transport.abort()


def allow_connections(count: int) -> None:
    """Let the process open so many and what else it needs, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))
