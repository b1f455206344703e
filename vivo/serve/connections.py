"""Connections that are slow, silent or too many.

uvicorn waits for ever for a first request and for answers to be read, and lets go of its own timers at any byte. Here
every request of a connection has a time for its headers and one for its body, and so has what is left of it:

    headers    header_seconds from the first byte (of a new connection: from its beginning)
    body       body_seconds, in which the application answers 408, and then GRACE, after which nobody waits for it
    the rest   header_seconds after the answer: some clients read it only when they have sent everything
    reading    body_seconds from when so much of answers is unread that the next one must wait
    closing    header_seconds to read what is unread

Then it is aborted, since closing would wait until a client has read what it may never read.
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
        self._reading: asyncio.TimerHandle | None = None
        self._dropped = False
        self._phase: tuple = ()
        if len(self.connections) > self.settings.connections:
            self._make_room()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_timer(None)
        self._set_reading(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def shutdown(self) -> None:
        super().shutdown()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_reading(self.settings.body_seconds)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_reading(None)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being worked for: nobody loses an answer if it is closed."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Start a timer where something else is waited for than before."""
        state = self.conn.their_state
        phase, seconds = (), None
        if self.transport.is_closing():
            phase, seconds = ("closing",), self.settings.header_seconds
        elif state is h11.IDLE and self.timeout_keep_alive_task is None:  # which is uvicorn's, between two requests
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
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._drop)

    def _set_reading(self, seconds: float | None) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        self._dropped = True  # it stays among the connections until the event loop's next turn
        self.transport.abort()

    def _make_room(self) -> None:
        """Drop a connection that nothing is done for, or whose client does not read, so that a probe gets through."""
        for other in self.connections:
            may_go = other.is_idle or other.flow.write_paused or other.transport.is_closing()
            if other is not self and may_go and not other._dropped:
                other._drop()
                return
        if len(self.connections) > self.settings.connections + SPARE:
            self._drop()


def allow_connections(count: int) -> None:
    """Let the process open so many and what else it needs, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))
