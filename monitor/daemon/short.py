"""The short way of a connection: requests that are answered without the app, of a head that is parsed or known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from monitor.daemon.exchange import PacedProtocol, ShortExchange

if TYPE_CHECKING:
    from monitor.api.express import Sender
    from monitor.daemon.head import Headers
    from monitor.daemon.site import Site

log = structlog.get_logger(__name__)


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
