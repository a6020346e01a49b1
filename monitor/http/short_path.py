"""The short way of a connection: requests that are answered without the app, of a head that is parsed or known."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitor.pace import pace

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from monitor.http.head import Headers
    from monitor.http.shortcut import Sender
    from monitor.http.site import Site

log = structlog.get_logger(__name__)


PROBES: Final = frozenset({"/livez", "/readyz", "/healthz"})
"""What asks these restarts the daemon, or calls somebody, if it has no answer in time."""


class _Unheard:
    """Stands for an event that has no waiter."""

    def set(self) -> None:
        """Do nothing."""


class ShortExchange:
    """A request on the short way, as uvicorn's connection sees it: a cycle without an app."""

    __slots__ = ("_protocol", "disconnected", "keep_alive", "response_complete")

    message_event = _Unheard()

    def __init__(self, protocol: ShortProtocol, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def answer(self, head: bytes, body: bytes) -> None:
        """Send the answer, if the client is still there."""
        transport = self._protocol.transport
        if self.response_complete or self.disconnected or transport.is_closing():
            return
        self.response_complete = True
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        transport.write(head + self._protocol.default_lines() + end + body)
        if not self.keep_alive:
            transport.close()
        self._protocol.on_response_complete()


class PacedProtocol(HttpToolsProtocol):
    """Gives requests to the app at the loop's pace, unless their connection has been closed meanwhile."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        pace().submit(partial(self._start, cycle, app), urgent=cycle.scope["path"] in PROBES)

    def _start(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        if self.transport.is_closing():
            return False
        super()._start_asgi_task(cycle, app)
        return True


class ShortProtocol(PacedProtocol):
    """What a connection of a ``site`` needs to answer by itself."""

    # With those of uvicorn's there would be more than 30 in an instance's dictionary, which makes each look slower.
    __slots__ = ("_body", "_head", "_is_unfinished", "_site", "_taken")

    def __init__(self, site: Site, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._site = site
        self._head: Headers = []
        self._body: bytes | None = None
        """What has come of the body of a request that may take the short way; None: there is no such request."""
        self._taken: tuple[Sender, bytes] | None = None
        """Who sent the request that has just taken it, and its body; only until what came with it is parsed."""
        self._is_unfinished = True
        """Whether ``limits`` knows of a request that is not whole."""

    def _is_free(self) -> bool:
        """Whether every request before is answered, and the client takes its answers."""
        return not self.flow.write_paused and (self.cycle is None or self.cycle.response_complete)

    def _knows(self, data: bytes) -> bool:
        """Take a request of which nothing was parsed, if it is whole and its head is known."""
        heads = self._site.heads
        if heads is None or not data.startswith(heads.begins) or not self._is_free():
            return False
        found = heads.find(data)
        return found is not None and self._take(*found, keep_alive=True)

    def _keep(self, data: bytes, sender: Sender, body: bytes) -> None:
        """Know the head of what was just taken from now on, if it has come whole and alone in ``data``."""
        heads = self._site.heads
        if heads is not None and self.cycle.keep_alive and data.startswith(heads.begins):
            heads.keep(data, body, sender)

    def _went_the_short_way(self) -> bool:
        body, sender = self._body or b"", self._sender()
        if sender is None or not self._take(sender, body, keep_alive=self.parser.should_keep_alive()):
            return False
        # The head has a token in it, which is not to stay in memory while the connection waits.
        self._body, self._head, self._taken = None, [], (sender, body)
        return True

    # What is raised in these two would be taken for bad HTTP of the client. The usual way meets it again and says 500.

    def _sender(self) -> Sender | None:
        try:
            return None if self._site.shortcut is None else self._site.shortcut.sender(self.url, self._head)
        except Exception:
            log.exception("http.shortcut_failed")
            return None

    def _take(self, sender: Sender, body: bytes, *, keep_alive: bool) -> bool:
        is_kept = keep_alive and (len(self.connections) <= self._site.kept or not self._crowded())
        exchange = ShortExchange(self, keep_alive=is_kept)
        try:
            if self._site.shortcut is None or not self._site.shortcut.take(sender, body, exchange.answer):
                return False
        except Exception:
            log.exception("http.shortcut_failed")
            return False
        self.cycle = exchange  # type: ignore[assignment]  # as much of a cycle as uvicorn's connection asks for
        return True

    def _crowded(self) -> bool:
        # Those without a whole request make room by themselves.
        count = len(self.connections)
        return count > self._site.kept and count - self._site.limits.unfinished + self._is_unfinished > self._site.kept

    def default_lines(self) -> bytes:
        """The headers that the server gives every answer (Date), as lines; new once a second."""
        site, headers = self._site, self.server_state.default_headers
        if headers is not site.headers:
            site.headers = headers
            site.lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return site.lines
