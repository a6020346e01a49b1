"""The server that references run on: uvicorn with the daemon's settings, and none of the daemon's code in it."""

import asyncio
import gc
import socket
import sys

import uvicorn
import uvloop
from litestar.types import ASGIApp

from monitor.http.server import BACKLOG, KEEP_ALIVE_S


def serve(app: ASGIApp) -> None:
    """Serve on any free port of loopback until SIGTERM, and say on stderr which one it is."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    listener.setblocking(False)  # noqa: FBT003 - its only parameter
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
    )
    sys.stderr.write(f"listens on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stderr.flush()
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listener]))
