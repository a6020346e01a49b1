"""The fast path of a connection: answers requests without the app, with a parsed or a cached head."""

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from monitor.http.port import Headers, Sender
from monitor.http.shared_state import SharedState
from monitor.pace import pace

log = structlog.get_logger(__name__)


PROBES: Final = frozenset({"/livez", "/readyz", "/healthz"})
"""Urgent: without an answer in time an orchestrator restarts the daemon, or raises an alert."""


@dataclass(slots=True, eq=False)
class FastPathExchange:
    """A request on the fast path. For uvicorn's connection it is a request-response cycle without an app."""

    protocol: "FastPathProtocol"
    keep_alive: bool
    disconnected: bool = False
    response_complete: bool = False
    message_event: ClassVar[asyncio.Event] = asyncio.Event()
    """No task waits for it."""

    def answer(self, head: bytes, body: bytes) -> None:
        """Send the answer, if the client is still connected."""
        transport = self.protocol.transport
        if self.response_complete or self.disconnected or transport.is_closing():
            return
        self.response_complete = True
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        transport.write(head + self.protocol.default_lines() + end + body)
        if not self.keep_alive:
            transport.close()
        self.protocol.on_response_complete()


class PacedProtocol(HttpToolsProtocol):
    """Passes requests to the app at the loop's pace, unless their connection was closed meanwhile."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        pace().submit(partial(self._start, cycle, app), urgent=cycle.scope["path"] in PROBES)

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        if self.transport.is_closing():
            return False
        super()._start_asgi_task(cycle, app)
        return True


class FastPathProtocol(PacedProtocol):
    """The part of a connection that answers without the app."""

    # Slots: together with uvicorn's attributes an instance dictionary would exceed 30 entries, which slows access.
    __slots__ = ("_body", "_head", "_is_unfinished", "_shared", "_taken")

    def __init__(self, shared: SharedState, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._shared = shared
        self._head: Headers = []
        self._body: bytes | None = None
        """Received body of a request that may take the fast path; None: there is no such request."""
        self._taken: tuple[Sender, bytes] | None = None
        """Sender and body of the request that just took the fast path, until the data of the same read is parsed."""
        self._is_unfinished = True
        """Whether an unfinished request is registered in ``limits``."""

    def _is_free(self) -> bool:
        """Whether all earlier requests are answered, and the client reads its answers."""
        return not self.flow.write_paused and (self.cycle is None or self.cycle.response_complete)

    def _knows(self, data: bytes) -> bool:
        """Handle an unparsed request, if it is complete and its head is cached."""
        heads = self._shared.heads
        if heads is None or not data.startswith(heads.begins) or not self._is_free():
            return False
        found = heads.find(data)
        return found is not None and self._take(*found, keep_alive=True)

    def _keep(self, data: bytes, sender: Sender, body: bytes) -> None:
        """Cache the head of the request just handled, if ``data`` is exactly that request."""
        heads = self._shared.heads
        if heads is not None and self.cycle.keep_alive and data.startswith(heads.begins):
            heads.keep(data, body, sender)

    def _took_fast_path(self) -> bool:
        body, sender = self._body or b"", self._sender()
        if sender is None or not self._take(sender, body, keep_alive=self.parser.should_keep_alive()):
            return False
        # The head contains a token, which must not stay in memory while the connection is idle.
        self._body, self._head, self._taken = None, [], (sender, body)
        return True

    # The parser would report an exception from these two as bad HTTP. The app meets the same error and answers 500.

    def _sender(self) -> Sender | None:
        try:
            return None if self._shared.fast_path is None else self._shared.fast_path.sender(self.url, self._head)
        except Exception:
            log.exception("http.shortcut_failed")
            return None

    def _take(self, sender: Sender, body: bytes, *, keep_alive: bool) -> bool:
        is_kept = keep_alive and (len(self.connections) <= self._shared.kept or not self._crowded())
        exchange = FastPathExchange(self, keep_alive=is_kept)
        try:
            if self._shared.fast_path is None or not self._shared.fast_path.take(sender, body, exchange.answer):
                return False
        except Exception:
            log.exception("http.shortcut_failed")
            return False
        self.cycle = exchange  # type: ignore[assignment]  # has the part of a cycle that uvicorn's connection uses
        return True

    def _crowded(self) -> bool:
        # Connections with an unfinished request do not count: Connections closes those itself.
        count, kept = len(self.connections), self._shared.kept
        return count > kept and count - self._shared.limits.unfinished + self._is_unfinished > kept

    def default_lines(self) -> bytes:
        """The default headers of every answer (Date), as lines; refreshed once a second."""
        shared, headers = self._shared, self.server_state.default_headers
        if headers is not shared.headers:
            shared.headers = headers
            shared.lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return shared.lines
