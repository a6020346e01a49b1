"""HTTP/1.1: uvicorn's protocol, with limits on the resources of a client, and with the fast path for heartbeats.

The fast path (``FastPath``) avoids the request scope, the task and the messages of an ASGI call, which
cost several times as much as the heartbeat itself; ``docs/performance.md`` has the figures. It is open to a request
that arrives complete, in one read, on a connection with no other request in flight. A request that it declines goes
through uvicorn's own code and the app, as if there were no fast path.
"""

import asyncio
from http import HTTPStatus
from typing import Final

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl

from monitor.clock import monotonic_s
from monitor.http.connections import network
from monitor.http.fast_path import FastPathProtocol
from monitor.http.head import BadRequestError, check_head, without_upgrade
from monitor.http.stall import has_hung_up, has_unread
from monitor.metrics.registry import Limit

log = structlog.get_logger(__name__)

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1_048_576
"""After an answer that ends a connection in the middle of a request, received data is dropped, up to these limits of
time and size. If a connection with unread data is closed, the kernel resets it, and the client may not receive the
answer."""
BODY_SHARE: Final = 8
"""Bytes of chunk heads and trailers allowed per byte of a chunked body, in addition to ``head_bytes``."""
FIELD_BYTES: Final = 128
"""Memory of a header field in addition to its own bytes."""
PIECE_BYTES: Final = 4_096
"""Data is parsed in pieces of this size, and only until a request has to wait for the previous one. One read may hold
thousands of small requests, and each takes a hundred times its size in memory."""


class Flow(FlowControl):
    """Flow control that does not read while a complete request waits for the previous one."""

    def __init__(self, transport: asyncio.Transport, protocol: "BoundedProtocol") -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Resume reading, unless a request waits."""
        if not self._protocol.is_behind():
            super().resume_reading()


class BoundedProtocol(FastPathProtocol):
    """One connection."""

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
        """Whether the held data waits for a turn of the loop."""
        self._stalled_s: float | None = None
        """Since when the client has not read the data written to it."""
        self.headers = []  # empty lines may come before the first request
        self._is_between = True
        """Whether the parser waits for a request to begin."""
        self._in_body = False
        """Whether a request's head is complete and its body is not."""
        self._framing = 0
        """Bytes of an unfinished request outside its body, minus ``BODY_SHARE`` times the bytes of its body."""
        self._is_ending = False
        """Whether received data is dropped."""
        self._dropped = 0
        self._has_ended = False
        """Whether the client has closed its sending side."""
        self._refusal: BadRequestError | None = None
        """Why the newest request is refused; sent after the answers to earlier requests."""
        self._limit_s = self._shared.head_s
        """Timeout of the current wait, for a head or for the next request; 0 while a request is in flight."""
        self._since_s = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if not self._shared.limits.admit(self):
            self.drop()
            return
        self._look_at(self._since_s + self._shared.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end_unfinished()
        super().connection_lost(exc)
        # Break reference cycles: otherwise the garbage collector has to scan all connections, which delays beats.
        self.cycle = self.scope = self.flow = self._refusal = None  # type: ignore[assignment]
        self.pipeline.clear()

    def drop(self) -> None:
        """Close immediately."""
        self._end_unfinished()
        self.transport.abort()

    def _end_unfinished(self) -> None:
        if self._is_unfinished:
            self._is_unfinished = False
            self._framing = 0
            self._shared.limits.end(self)

    def may_hold_request(self) -> bool:
        """Whether there is unparsed data that may be a complete request."""
        return self._waits or (not self._framing and not self._is_ending and has_unread(self.transport))

    def idle_since_s(self) -> float | None:
        """Since when the connection waits for the client to send a request or read an answer; None: it does not."""
        if self._stalled_s is not None:
            return self._stalled_s
        return self._since_s if self._limit_s == self._shared.idle_s and not self._held else None

    # One timer per connection, set again when it fires, not with each request. Only an incomplete head sets an
    # earlier time.

    def _look_at(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(at_s, self._look)
        self._timer_s = at_s

    def _look(self) -> None:
        self._timer = None
        now_s = self.loop.time()
        is_stalled = self._stalled_s is not None and now_s >= self._stalled_s + self._shared.idle_s
        if is_stalled or (self._limit_s and not self._waits and now_s >= self._since_s + self._limit_s):
            if self._is_unfinished and not self._is_ending:
                self._shared.limits.hit(Limit.HEAD, self.address)
            self.transport.abort()
        else:
            ahead = bool(self._limit_s) and not self._waits
            self._look_at(self._since_s + self._limit_s if ahead else now_s + self._shared.idle_s)

    def data_received(self, data: bytes) -> None:
        """Handle received data: a part of a request, or several requests."""
        if monotonic_s() < self._shared.time_slices.open_until_s and not self._held and not self._is_ending:
            self._parse(data)
            return
        if self._shared.stall.is_recent(self.loop.time()) and has_hung_up(self.transport):
            self.transport.abort()
            return
        if self._is_ending:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
        elif self._held:
            self._held += data
        elif self._shared.time_slices.admit(self):
            self._parse(data)
        else:
            self._waits = True
            self._held = data
            self.flow.pause_reading()

    def go_on(self) -> None:
        """Parse the held data now."""
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
        """The client has closed its sending side. Returns whether it may still wait for answers."""
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
        """Parse as much as is allowed now; the rest is held for a later turn."""
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
                self._pass_to_app(whole=False)
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
                    # The parser has stopped after the head. A new one continues, without the Upgrade.
                    data = self._without_upgrade() + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, BadRequestError) else BadRequestError(f"malformed HTTP: {error}"))
            return
        if self._in_body or self._limit_s == self._shared.head_s:
            self._wait_for_more(size)

    def _without_upgrade(self) -> bytes:
        head = without_upgrade(self.parser.get_method(), self.url, self.parser.get_http_version(), self._head)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head

    def _wait_for_more(self, size: int) -> None:
        """Register that a piece of this size was parsed and the request is incomplete."""
        self._framing += size
        if self._framing > self._shared.head_bytes or len(self.headers) > self._shared.head_fields:
            self._refuse(self._too_large())
            return
        self._is_unfinished = True
        self._shared.limits.begin(self, 0 if self._in_body else self._framing + FIELD_BYTES * len(self.headers))
        if not self._in_body and self._timer_s > self._since_s + self._shared.head_s:
            self._look_at(self._since_s + self._shared.head_s)

    def _too_large(self) -> BadRequestError:
        what = "chunk heads and trailers" if self._in_body else "head"
        return BadRequestError(
            f"the {what} of a request may have {self._shared.head_bytes} bytes and {self._shared.head_fields} fields",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        )

    def _refuse(self, error: BadRequestError) -> None:
        """Refuse the newest request, after the answers to earlier ones. Later data is not parsed."""
        if self._in_body and self._body is not None:
            try:
                self._pass_to_app(whole=False)  # the app counts the request
            except BadRequestError as first:
                error = first
        error.__traceback__ = error.__context__ = error.__cause__ = None  # no reference cycle through this frame
        self._refusal = error
        self._held = b""
        is_large = error.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        self._shared.limits.hit(Limit.HEAD if is_large else Limit.BAD_REQUEST, self.address)
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
        """End the connection in the middle of a request: everything is sent, and received data is dropped."""
        self._is_ending = self._is_unfinished = True
        self._shared.limits.begin(self, 0)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._limit_s, self._since_s = LINGER_S, self.loop.time()
        self._look_at(self._since_s + LINGER_S)

    def pause_writing(self) -> None:
        """The client reads its answers more slowly than they are written."""
        self._stalled_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read most of the answers."""
        self._stalled_s = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request has begun."""
        self._limit_s, self._since_s = self._shared.head_s, self.loop.time()
        self._framing = 0
        self._is_between, self._taken = False, None
        # The scope is created when the request goes to the app.
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle a field of a request's head or trailers."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head of a request is complete."""
        self._limit_s = 0.0
        # Trailers are not headers: they are collected in a new list, which is ignored.
        self._head, self.headers = self.headers, []
        is_long = self._framing and self._head_size() > self._shared.head_bytes
        if is_long or len(self._head) > self._shared.head_fields:
            raise self._too_large()
        if self._is_unfinished:
            self._shared.limits.head_ended(self)
            self._framing = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise BadRequestError("CONNECT is for proxies", HTTPStatus.NOT_IMPLEMENTED)
            return
        if (
            self._shared.fast_path is not None
            and self._is_free()
            and self.parser.get_method() == b"POST"
            and self._shared.fast_path.leads(self.url)
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
        """Handle a part of a request's body."""
        if self._framing:
            self._framing = max(0, self._framing - (1 + BODY_SHARE) * len(body))
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """A request is complete."""
        if not self._in_body:
            return  # the request continues in another parser, without Upgrade
        self._in_body, self._is_between = False, True
        if self._is_unfinished:
            self._end_unfinished()
        if self._body is None:
            super().on_message_complete()
        elif not self._took_fast_path():
            self._pass_to_app(whole=True)

    def _pass_to_app(self, *, whole: bool) -> None:
        """Pass the request, or its received part, to the app."""
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
        """Whether received requests wait for the previous one."""
        return bool(self.pipeline or self._held)

    def on_response_complete(self) -> None:
        """An answer was sent; continue with the next request, if it was received already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            # The client has not read the whole answer: apply the idle timeout.
            self._limit_s, self._since_s = self._shared.idle_s, self.loop.time()
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
            self._limit_s, self._since_s = self._shared.idle_s, self.loop.time()
