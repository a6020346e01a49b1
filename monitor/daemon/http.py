"""The listener and the HTTP server in it: uvicorn, without its own signals, logs and lifespan."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import resource
import socket
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

BACKLOG: Final = 2_048
KEEP_ALIVE_S: Final = 75
"""Longer than the usual interval, so that a worker may beat over one connection."""
HEAD_S: Final = 10.0
"""How long a request's head may take."""
HARD_SHARE: Final = 1.25
SPARE_DESCRIPTORS: Final = 200
"""For the store, receivers and files."""
REFUSED_LOG_S: Final = 10.0


class ListenError(Exception):
    """The address can't be listened on; the message names it and says why."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything else is started, so that a port in use is found out first.

    Without ``SO_REUSEPORT``: a second daemon must fail here instead of sharing the traffic.

    Raises:
        ListenError: the port is in use, or the address is not ours.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} on {host} is in use, perhaps by another lastseen: stop that one, or set server.port"
            ) from error
        raise ListenError(f"can't listen on {host} port {port}: {error.strerror or error}") from error
    sock.setblocking(False)  # noqa: FBT003 - its only parameter
    return sock


def allow_descriptors(connections: int) -> None:
    """Raise the limit on open files to what so many connections need, as far as the system lets us; say if not."""
    needed = round(connections * HARD_SHARE) + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < needed:
            log.warning("http.few_descriptors", limit=soft, needed=needed, connections=connections)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it, with bounds on what a client may keep of us without asking for anything.

    The head of a request must be there ``head_s`` after the connection was made or the request was begun.
    ``most`` connections are kept; above that new ones are closed at once.
    """

    most = 0
    head_s = HEAD_S
    refused_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most:
            now_s = self.loop.time()
            if now_s - type(self).refused_s > REFUSED_LOG_S:
                type(self).refused_s = now_s
                log.warning("http.connections_refused", open=len(self.connections))
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._have_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request has begun."""
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._have_head()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._have_head()
        self._head_timer = self.loop.call_later(self.head_s, self.transport.abort)

    def _have_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class HttpServer(uvicorn.Server):
    """Serves one app on one listening socket until ``should_exit`` is set. Signals are the daemon's own business.

    Above ``connections`` open ones each answer closes its connection, so that idle ones make room for others and
    nobody is refused; a quarter above that, new ones are refused. ``accepting`` is set when the first request
    can be taken.
    """

    def __init__(self, app: ASGIApp, *, connections: int, shutdown_timeout_ms: int, head_s: float = HEAD_S) -> None:
        bounds = {"most": round(connections * HARD_SHARE), "head_s": head_s}
        bounded = type("BoundedProtocol", (BoundedProtocol,), bounds)
        super().__init__(
            uvicorn.Config(
                self._crowded(app, connections),
                http=bounded,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(shutdown_timeout_ms / 1_000),
            )
        )
        self.accepting = asyncio.Event()

    def _crowded(self, app: ASGIApp, connections: int) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if len(self.server_state.connections) <= connections:
                await app(scope, receive, send)
                return

            async def closing(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                await send(message)

            await app(scope, receive, closing)

        return serve

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        self.accepting.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals."""
        yield
