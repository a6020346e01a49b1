"""What a connection has besides uvicorn's parts: the short way of a request, the app's turn, and when more is read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitor.pace import pace

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from monitor.api.express import Sender
    from monitor.daemon.head import Headers
    from monitor.daemon.protocol import BoundedProtocol
    from monitor.daemon.short import ShortProtocol


PROBES: Final = frozenset({"/livez", "/readyz", "/healthz"})
"""What asks these restarts the daemon, or calls somebody, if it has no answer in time."""


class Shortcut(Protocol):
    """Answers some requests without the app."""

    @property
    def begins(self) -> bytes:
        """How the heads begin that are worth knowing."""
        ...

    def leads(self, target: bytes) -> bool:
        """Whether a POST to this request target may be taken."""
        ...

    def sender(self, target: bytes, headers: Headers) -> Sender | None:
        """Who sends a request with this head, or None to decline it; the same each time."""
        ...

    def take(self, sender: Sender, body: bytes, answer: Callable[[bytes, bytes], None]) -> bool:
        """Take a whole request, or decline it (False) with nothing done.

        ``answer`` is to be called once, later: with the status line and the headers, each line ended, and the body.
        """
        ...


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


class Flow(FlowControl):
    """Reads no further while a request waits for the one before it: that one has come whole."""

    def __init__(self, transport: asyncio.Transport, protocol: BoundedProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Read on, unless a request waits already."""
        if not self._protocol.is_behind():
            super().resume_reading()
