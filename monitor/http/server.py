"""The listening socket and the HTTP server: uvicorn, without its signal handlers, logs and lifespan."""

import asyncio
import contextlib
import errno
import math
import resource
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from litestar.types import ASGIApp

from monitor.http.connections import Connections
from monitor.http.fairness import TimeSlices
from monitor.http.known_heads import KnownHeads
from monitor.http.port import FastPath
from monitor.http.protocol import BoundedProtocol
from monitor.http.shared_state import SharedState
from monitor.http.stall import Stall
from monitor.metrics.registry import Limit

log = structlog.get_logger(__name__)

BACKLOG: Final = 2_048
ACCEPTS: Final = 8
"""The loop accepts one connection per listening socket in each turn, so each socket is registered this many times.
Otherwise, with long turns, clients time out and reconnect faster than their connections are accepted."""
KEEP_ALIVE_S: Final = 75
"""Longer than the usual interval, so that a worker can send all beats over one connection."""
HEAD_S: Final = 10.0
"""Timeout for a request's head."""
HEAD_BYTES: Final = 65_536
HEAD_FIELDS: Final = 100
HARD_SHARE: Final = 1.25
SPARE_DESCRIPTORS: Final = 200
"""File descriptors reserved for the store, receivers and files."""


class ListenError(Exception):
    """The daemon cannot listen on the address; the message has the address and the reason."""


def listen(host: str, port: int) -> socket.socket:
    """Create the listening socket. Called before anything else is started, so that a port in use is detected first.

    Without ``SO_REUSEPORT``: a second daemon must fail here instead of sharing the traffic.

    Raises:
        ListenError: the port is in use, or the address is not one of this machine.
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


def allowed_connections(connections: int) -> int:
    """Number of connections that file descriptors allow. Raises the limit on open files as far as permitted."""
    needed = round(connections * HARD_SHARE) + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < needed:
            return max(math.floor((soft - SPARE_DESCRIPTORS) / HARD_SHARE), 1)
    return connections


class HttpServer(uvicorn.Server):
    """Serves one app on one listening socket until ``should_exit`` is set. The daemon handles signals, not this class.

    Above ``connections`` open connections each answer closes its connection, so that idle ones do not keep out others.
    A quarter above that, a new connection makes ``Connections`` close another one. ``fast_path`` may answer some
    requests instead of the app. ``accepting`` is set once connections are accepted.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        connections: int,
        shutdown_timeout_ms: int,
        fast_path: FastPath | None = None,
        head_bytes: int = HEAD_BYTES,
        head_fields: int = HEAD_FIELDS,
        head_s: float = HEAD_S,
        idle_s: float = KEEP_ALIVE_S,
        hit: Callable[[Limit, str], None] = lambda _, __: None,
    ) -> None:
        stall = Stall()
        self.time_slices = TimeSlices(asyncio.get_running_loop(), stall)
        shared = SharedState(
            kept=connections,
            head_bytes=head_bytes,
            head_fields=head_fields,
            head_s=head_s,
            idle_s=idle_s,
            fast_path=fast_path,
            heads=None if fast_path is None else KnownHeads(fast_path.begins),
            stall=stall,
            time_slices=self.time_slices,
        )
        protocol: Any = partial(BoundedProtocol, shared)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("x-content-type-options", "nosniff")],
                backlog=BACKLOG,
                timeout_graceful_shutdown=math.ceil(shutdown_timeout_ms / 1_000),
            )
        )
        opened: set[Any] = self.server_state.connections
        self.connections = Connections(opened, most=round(connections * HARD_SHARE), hit=hit)
        shared.limits = self.connections
        self.accepting = asyncio.Event()
        self._stall = stall

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting, at most ``ACCEPTS`` connections per socket and turn of the loop."""
        await super().startup([sock if copy == 0 else sock.dup() for sock in sockets or () for copy in range(ACCEPTS)])
        self.accepting.set()

    async def on_tick(self, counter: int) -> bool:
        """Called every 100 ms."""
        self._stall.turn(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield
