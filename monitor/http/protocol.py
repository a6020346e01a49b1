"""HTTP/1.1 as uvicorn speaks it, with bounds on what a client may keep of us, and with the short way for heartbeats.

The short way (``Shortcut``) saves a heartbeat the request scope, the task and the messages of an ASGI call, which
cost several times as much as the heartbeat itself; ``docs/performance.md`` has the figures. A request can take it
when it has come whole, in one read, on a connection with no other request under way. What it declines goes
through uvicorn's own code and the app, as if there were no short way.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl

from monitor.clock import monotonic_s
from monitor.http.connections import network
from monitor.http.head import BadRequestError, check_head, without_upgrade
from monitor.http.short_path import ShortProtocol
from monitor.http.stall import has_hung_up, has_unread
from monitor.metrics.registry import Limit

if TYPE_CHECKING:
    import asyncio

log = structlog.get_logger(__name__)

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1_048_576
"""After an answer that ends a connection in the middle of a request, what still comes is dropped for so long, and no
more of it: closing on unread bytes makes the kernel reset the connection, and the client may never see the answer."""
BODY_SHARE: Final = 8
"""Each byte of a chunked body may bring as many bytes of chunk heads and trailers, besides ``head_bytes``."""
FIELD_BYTES: Final = 128
"""What a field takes in memory besides its own bytes."""
PIECE_BYTES: Final = 4_096
"""What was read is parsed in pieces of this size, and no further once a request waits for the one before it: in one
read there may be thousands of small ones, and each takes a hundred times its size in memory."""


class Flow(FlowControl):
    """Reads no further while a request waits for the one before it: that one has come whole."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Read on, unless a request waits already."""
        if not self._protocol.is_behind():
            super().resume_reading()


class BoundedProtocol(ShortProtocol):
    """One connection of a ``site``."""

    __slots__ = (
        *("_dropped", "_framing", "_has_ended", "_held", "_in_body", "_is_between", "_is_ending", "_limit_s"),
        *("_refusal", "_since_s", "_stalled_s", "_timer", "_timer_s", "_waits", "address"),
    )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = Flow(transport, self)
        self.address = network(self.client[0]) if self.client else ""
        self._held = b""
        self._waits = False
        """Whether what is held waits for a turn of the loop."""
        self._stalled_s: float | None = None
        """Since when the client has not taken what was written to it."""
        self.headers = []  # empty lines may come before the first request
        self._is_between = True
        """Whether the parser waits for a request to begin."""
        self._in_body = False
        """Whether a request's head is whole and its body is not."""
        self._framing = 0
        """What has come of an unfinished request that is not its body, in bytes, less ``BODY_SHARE`` times its body."""
        self._is_unfinished = True
        self._is_ending = False
        """Whether what still comes is dropped."""
        self._dropped = 0
        self._has_ended = False
        """Whether the client sends nothing more."""
        self._refusal: BadRequestError | None = None
        """Why the newest request is refused; to be said when those before it are answered."""
        self._limit_s = self._site.head_s
        """How long what we wait for may take, a head or another request; 0 while a request is under way."""
        self._since_s = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if not self._site.limits.admit(self):
            self.drop()
            return
        self._look_at(self._since_s + self._site.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end_unfinished()
        super().connection_lost(exc)
        # Left in a circle, what has ended is the collector's: it looks at all connections then, and beats wait for it.
        self.cycle = self.scope = self.flow = self._refusal = None  # type: ignore[assignment]
        self.pipeline.clear()

    def drop(self) -> None:
        """Close at once."""
        self._end_unfinished()
        self.transport.abort()

    def _end_unfinished(self) -> None:
        if self._is_unfinished:
            self._is_unfinished = False
            self._framing = 0
            self._site.limits.end(self)

    def may_hold_request(self) -> bool:
        """Whether bytes have come that were not looked at yet, and may be a whole request."""
        return self._waits or (not self._framing and not self._is_ending and has_unread(self.transport))

    def idle_since_s(self) -> float | None:
        """Since when it has waited for the client to send a request or to take an answer; None: it does not."""
        if self._stalled_s is not None:
            return self._stalled_s
        return self._since_s if self._limit_s == self._site.idle_s and not self._held else None

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
        is_stalled = self._stalled_s is not None and now_s >= self._stalled_s + self._site.idle_s
        if is_stalled or (self._limit_s and not self._waits and now_s >= self._since_s + self._limit_s):
            if self._is_unfinished and not self._is_ending:
                self._site.limits.hit(Limit.HEAD, self.address)
            self.transport.abort()
        else:
            ahead = bool(self._limit_s) and not self._waits
            self._look_at(self._since_s + self._limit_s if ahead else now_s + self._site.idle_s)

    def data_received(self, data: bytes) -> None:
        """Some of a request has come, or several of them."""
        if monotonic_s() < self._site.turns.open_until_s and not self._held and not self._is_ending:
            self._parse(data)
            return
        if self._site.stall.is_recent(self.loop.time()) and has_hung_up(self.transport):
            self.transport.abort()
            return
        if self._is_ending:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
        elif self._held:
            self._held += data
        elif self._site.turns.admit(self):
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
            if self._has_ended and not self._ends_later():
                self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's own always closes
        """The client sends nothing more; whether it may still wait for answers."""
        self._has_ended = True
        return self._ends_later()

    def _ends_later(self) -> bool:
        if self._is_ending or self._in_body:
            return False
        if self._held:
            return True
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def _parse(self, data: bytes) -> None:
        """Parse as far as it may go now; the rest is held until its turn comes."""
        if self._refusal is not None:
            return
        is_whole = self._is_between
        if is_whole and self._knows(data):
            self._limit_s = 0.0
            if self._is_unfinished:
                self._end_unfinished()
            return
        if len(data) <= PIECE_BYTES:
            self._feed(data)
        else:
            self._feed_in_pieces(data)
        if self._body is not None:
            try:
                self._go_the_usual_way(whole=False)
            except BadRequestError as error:
                self._refuse(error)
        elif self._taken is not None:
            if is_whole:
                self._keep(data, *self._taken)
            self._taken = None

    def _feed_in_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self._feed(data[start : start + PIECE_BYTES])
            if self._is_ending or self._refusal is not None or self.transport.is_closing():
                break
            if self.pipeline:
                self._held = data[start + PIECE_BYTES :]
                break

    def _feed(self, data: bytes) -> None:
        size = len(data)
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    # The parser has stopped behind the head. Another one goes on, and sees no Upgrade.
                    data = self._without_upgrade() + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, BadRequestError) else BadRequestError(f"this is no HTTP: {error}"))
            return
        if self._in_body or self._limit_s == self._site.head_s:
            self._wait_for_more(size)

    def _without_upgrade(self) -> bytes:
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self._head)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head

    def _wait_for_more(self, size: int) -> None:
        """A piece of this size has been parsed, and the request is not whole."""
        self._framing += size
        if self._framing > self._site.head_bytes or len(self.headers) > self._site.head_fields:
            self._refuse(self._too_large())
            return
        self._is_unfinished = True
        self._site.limits.begin(self, 0 if self._in_body else self._framing + FIELD_BYTES * len(self.headers))
        if not self._in_body and self._timer_s > self._since_s + self._site.head_s:
            self._look_at(self._since_s + self._site.head_s)

    def _too_large(self) -> BadRequestError:
        what = "chunk heads and trailers" if self._in_body else "head"
        return BadRequestError(
            f"the {what} of a request may have {self._site.head_bytes} bytes and {self._site.head_fields} fields",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        )

    def _refuse(self, error: BadRequestError) -> None:
        """Answer what is no request, after those before it are answered; nothing behind it is read."""
        if self._in_body and self._body is not None:
            try:
                self._go_the_usual_way(whole=False)  # the app counts it
            except BadRequestError as first:
                error = first
        error.__traceback__ = error.__context__ = error.__cause__ = None  # they lead back to it, by this call's frames
        self._refusal = error
        self._held = b""
        is_large = error.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self._site.limits.hit(Limit.HEAD if is_large else Limit.BAD_REQUEST, self.address)
        is_with_app = self._in_body and self._body is None
        self._body, self._in_body = None, False
        if is_with_app and self.pipeline:
            self.pipeline.popleft()  # the newest
        elif is_with_app:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self._linger()
            else:
                self._say_refusal(error)
        elif self.cycle is None or self.cycle.response_complete:
            self._say_refusal(error)

    def _say_refusal(self, error: BadRequestError) -> None:
        self.transport.write(error.answer(self.default_lines()))
        self._linger()

    def _linger(self) -> None:
        """End the connection in the middle of a request: all is said, and what still comes is dropped."""
        self._is_ending = self._is_unfinished = True
        self._site.limits.begin(self, 0)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._limit_s, self._since_s = LINGER_S, self.loop.time()
        self._look_at(self._since_s + LINGER_S)

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
        self._limit_s, self._since_s = self._site.head_s, self.loop.time()
        self._framing = 0
        self._is_between, self._taken = False, None
        # The scope is for the app: it is made when the request goes there.
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of a request's head, or of its trailers."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._limit_s = 0.0
        # Trailers are not headers: they go to a list that is not read.
        self._head, self.headers = self.headers, []
        if len(self._head) > self._site.head_fields or (self._framing and self._head_size() > self._site.head_bytes):
            raise self._too_large()
        if self._is_unfinished:
            self._site.limits.head_ended(self)
            self._framing = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise BadRequestError("CONNECT is for proxies", HTTPStatus.NOT_IMPLEMENTED)
            return
        if (
            self._site.shortcut is not None
            and self._is_free()
            and self.parser.get_method() == b"POST"
            and self._site.shortcut.leads(self.url)
            and self.parser.get_http_version() == "1.1"
        ):
            self._body = b""
        else:
            self._make_cycle()
        self._in_body = True

    def _head_size(self) -> int:
        line = len(self.parser.get_method()) + len(self.url) + len("  HTTP/1.1\r\n\r\n")
        return line + sum(len(name) + len(value) + len(": \r\n") for name, value in self._head)

    def on_body(self, body: bytes) -> None:
        """Some of a request's body has come."""
        if self._framing:
            self._framing = max(0, self._framing - (1 + BODY_SHARE) * len(body))
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """A request has come whole."""
        if not self._in_body:
            return  # it goes on without Upgrade
        self._in_body, self._is_between = False, True
        if self._is_unfinished:
            self._end_unfinished()
        if self._body is None:
            super().on_message_complete()
        elif not self._went_the_short_way():
            self._go_the_usual_way(whole=True)

    def _go_the_usual_way(self, *, whole: bool) -> None:
        """Let the app have the request as far as it has come."""
        self._make_cycle()
        body, self._body = self._body, None
        if body:
            super().on_body(body)
        if whole:
            super().on_message_complete()

    def _make_cycle(self) -> None:
        check_head(self.parser.get_http_version(), self._head)
        target = self.url
        super().on_message_begin()
        self.url = target
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self._head
        )
        self.headers.extend((name, value.rstrip(b" \t")) for name, value in self._head)
        try:
            super().on_headers_complete()
        except (AttributeError, ValueError, httptools.HttpParserError) as error:
            raise BadRequestError("the target of the request is not a path") from error
        self.headers = []
        if self._crowded():
            self.cycle.keep_alive = False

    def is_behind(self) -> bool:
        """Whether requests have come that wait for the one before them."""
        return bool(self.pipeline or self._held)

    def on_response_complete(self) -> None:
        """An answer was sent; the next request may have come already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            # The client has not taken all of it: it has as long as one that waits for nothing.
            self._limit_s, self._since_s = self._site.idle_s, self.loop.time()
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._say_refusal(self._refusal)
            return
        elif self._in_body and self.cycle.response_complete:
            self._linger()
            return
        if self._held:
            self._parse_held()
            if self.transport.is_closing():
                return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.cycle.response_complete and not self._limit_s:
            self._limit_s, self._since_s = self._site.idle_s, self.loop.time()
