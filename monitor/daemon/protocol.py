"""HTTP/1.1 as uvicorn speaks it, with bounds on what a client may keep of us, and with the short way for heartbeats.

The short way (``Shortcut``) saves a heartbeat the request scope, the task and the messages of an ASGI call, which
cost several times as much as the heartbeat itself; ``docs/performance.md`` has the figures. A request can take it
when it has come whole, in one read, on a connection with no other request under way. What it declines goes
through uvicorn's own code and the app, as if there were no short way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitor.daemon.stall import Stall, has_hung_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from monitor.daemon.turns import Turns

log = structlog.get_logger(__name__)

REFUSED_LOG_S: Final = 10.0
PIECE_BYTES: Final = 4_096
"""What was read is parsed in pieces of this size, and no further once a request waits for the one before it: in one
read there may be thousands of small ones, and each takes a hundred times its size in memory."""

Headers = list[tuple[bytes, bytes]]


class Shortcut(Protocol):
    """Somebody who can answer some requests without the app."""

    def leads(self, target: bytes) -> bool:
        """Whether a POST to this request target may be taken."""
        ...

    def take(self, target: bytes, headers: Headers, body: bytes, answer: Callable[[bytes, bytes], None]) -> bool:
        """Take a whole request, or decline it (False) with nothing done.

        ``answer`` is to be called once, later: with the status line and the headers, each line ended, and the body.
        """
        ...


class BoundedProtocol(HttpToolsProtocol):
    """One connection. The class attributes are its settings; ``HttpServer`` makes a subclass with its own.

    The head of a request must be there ``head_s`` after the connection was made or the request was begun; a
    connection without a request is closed after ``idle_s``, and so is one whose client takes no answer for as long.
    Above ``kept`` open connections each answer closes its own, so that idle ones make room for others; above ``most``
    new ones are closed at once.
    """

    kept = 0
    most = 0
    head_s = 0.0
    idle_s = 0.0
    shortcut: Shortcut | None = None
    stall = Stall()
    turns: Turns | None = None
    refused_s = 0.0
    defaults: tuple[Headers, bytes] = ([], b"")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._held = b""
        self._waits = False
        """Whether what is held waits for a turn of the loop."""
        self._stalled_s: float | None = None
        """Since when the client has not taken what was written to it."""
        self._body: list[bytes] | None = None
        """What has come of the body of a request that may take the short way; None: there is no such request."""
        self._limit_s = self.head_s
        """How long what we wait for may take, a head or another request; 0 while a request is under way."""
        self._since_s = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most:
            if self._since_s - type(self).refused_s > REFUSED_LOG_S:
                type(self).refused_s = self._since_s
                log.warning("http.connections_refused", open=len(self.connections))
            transport.abort()
            return
        self._look_at(self._since_s + self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    # One timer for a connection, which is set anew when it goes off, and not with each request: only the start of
    # a head that did not come whole asks for a nearer one.

    def _look_at(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(at_s, self._look)
        self._timer_s = at_s

    def _look(self) -> None:
        self._timer = None
        now_s = self.loop.time()
        is_stalled = self._stalled_s is not None and now_s >= self._stalled_s + self.idle_s
        if is_stalled or (self._limit_s and not self._waits and now_s >= self._since_s + self._limit_s):
            self.transport.abort()
        else:
            ahead = bool(self._limit_s) and not self._waits
            self._look_at(self._since_s + self._limit_s if ahead else now_s + self.idle_s)

    def data_received(self, data: bytes) -> None:
        """Some of a request has come, or several of them."""
        if self.stall.is_recent(self.loop.time()) and has_hung_up(self.transport):
            self.transport.abort()
            return
        if self._held:
            self._held += data
        elif self.turns is None or self.turns.admit(self):
            self._parse(data)
        else:
            self._waits = True
            self._held = data
            self.flow.pause_reading()

    def go_on(self) -> None:
        """What has come may be parsed now."""
        self._waits = False
        if not self.transport.is_closing():
            self._parse_held()
            self.flow.resume_reading()

    def _parse_held(self) -> None:
        if self._held and not self._waits and not self.pipeline:
            held, self._held = self._held, b""
            self._parse(held)

    def _parse(self, data: bytes) -> None:
        """Parse as far as it may go now; the rest is held until its turn comes."""
        if len(data) <= PIECE_BYTES:
            super().data_received(data)
        else:
            for start in range(0, len(data), PIECE_BYTES):
                super().data_received(data[start : start + PIECE_BYTES])
                if self.transport.is_closing():
                    break
                if self.pipeline:
                    self._held = data[start + PIECE_BYTES :]
                    break
        if self._body is not None:
            self._go_the_usual_way(whole=False)
        if self.transport.is_closing():
            return
        if self._limit_s == self.head_s and self._timer_s > self._since_s + self.head_s:
            self._look_at(self._since_s + self.head_s)

    def pause_writing(self) -> None:
        """The client takes its answers more slowly than they are written."""
        self._stalled_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has taken most of them."""
        self._stalled_s = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request has begun."""
        self._limit_s, self._since_s = self.head_s, self.loop.time()
        # The scope is for the app: it is made when the request goes there.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._limit_s = 0.0
        if (
            self.shortcut is not None
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.shortcut.leads(self.url)
            and not self.expect_100_continue
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        ):
            self._body = []
        else:
            self._make_cycle()

    def on_body(self, body: bytes) -> None:
        """Some of a request's body has come."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if self._body is None:
            super().on_message_complete()
        elif not self._went_the_short_way():
            self._go_the_usual_way(whole=True)

    def _went_the_short_way(self) -> bool:
        exchange = _ShortExchange(self, keep_alive=self.parser.should_keep_alive() and not self._crowded())
        try:
            if self.shortcut is None or not self.shortcut.take(
                self.url, self.headers, b"".join(self._body or ()), exchange.answer
            ):
                return False
        except Exception:
            # Raised in here, it would be taken for bad HTTP of the client. The usual way meets it again and says 500.
            log.exception("http.shortcut_failed")
            return False
        self._body = None
        self.cycle = exchange  # type: ignore[assignment]  # as much of a cycle as uvicorn's connection asks for
        return True

    def _go_the_usual_way(self, *, whole: bool) -> None:
        """Let the app have the request as far as it has come."""
        parts, self._body = self._body or [], None
        self._make_cycle()
        for part in parts:
            super().on_body(part)
        if whole:
            super().on_message_complete()

    def _make_cycle(self) -> None:
        target, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = target, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        if self._crowded():
            self.cycle.keep_alive = False

    def default_lines(self) -> bytes:
        """The headers that the server gives every answer (Date), as lines; new once a second."""
        headers, lines = self.defaults
        if headers is not self.server_state.default_headers:
            headers = self.server_state.default_headers
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            type(self).defaults = headers, lines
        return lines

    def is_behind(self) -> bool:
        """Whether requests have come that wait for the one before them."""
        return bool(self.pipeline or self._held)

    def _crowded(self) -> bool:
        return len(self.connections) > self.kept

    def on_response_complete(self) -> None:
        """An answer was sent; the next request may have come already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._parse_held()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.cycle.response_complete and not self._limit_s:
            self._limit_s, self._since_s = self.idle_s, self.loop.time()


class _Flow(FlowControl):
    """Reads no further while a request waits for the one before it: that one has come whole."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Read on, unless a request waits already."""
        if not self._protocol.is_behind():
            super().resume_reading()


class _Unheard:
    """Stands for an event that nobody waits for."""

    def set(self) -> None:
        """Tell nobody."""


class _ShortExchange:
    """A request on the short way, as uvicorn's connection sees it: a cycle without an app."""

    __slots__ = ("_protocol", "disconnected", "keep_alive", "response_complete")

    message_event = _Unheard()

    def __init__(self, protocol: BoundedProtocol, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def answer(self, head: bytes, body: bytes) -> None:
        """Send the answer, if there is still somebody to send it to."""
        transport = self._protocol.transport
        if self.response_complete or self.disconnected or transport.is_closing():
            return
        self.response_complete = True
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        transport.write(head + self._protocol.default_lines() + end + body)
        if not self.keep_alive:
            transport.close()
        self._protocol.on_response_complete()
