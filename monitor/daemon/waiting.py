"""A server that answers while the store is not available yet: alive, not ready, and 503 for beats.

Runs in its own thread and event loop, because the embedded store starts before there is a loop. It accepts on a
copy of the listening socket: connections that arrive while the daemon takes over wait in the socket's backlog.
"""

import asyncio
import socket
import threading
from typing import Final

import uvloop
from litestar.types import Receive, Scope, Send

from monitor.api.problems import problem_of
from monitor.api.responses import json_answer
from monitor.errors import StoreUnavailableError
from monitor.http.server import HttpServer
from monitor.reasons import Reason

CONNECTIONS: Final = 1_000
STOP_MS: Final = 1_000


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the probes, and 503 to every other request."""
    match scope["path"]:
        case "/livez":
            response = json_answer({"status": "ok", "reasons": []})
        case "/readyz" | "/healthz" as path:
            status = "not_ready" if path == "/readyz" else "degraded"
            response = json_answer({"status": status, "reasons": [Reason.STORE_UNAVAILABLE]}, status_code=503)
        case _:
            response = problem_of(StoreUnavailableError()).asgi()
    await response(scope, receive, send)


class Waiting:
    """Answers on ``listener`` from its creation until ``end``."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener.dup()
        self._server: HttpServer | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waiting for the store")
        self._thread.start()

    def end(self) -> None:
        """Stop accepting, and answer the received requests. Blocks for little more than a second at most."""
        self._begun.wait()
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        self._server = HttpServer(answer, connections=CONNECTIONS, shutdown_timeout_ms=STOP_MS)
        self._begun.set()
        await self._server.serve(sockets=[self._listener])
