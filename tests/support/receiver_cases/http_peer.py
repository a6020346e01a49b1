"""A small HTTP server that misbehaves as a test chooses, in ways that a server library would not allow."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.support.receiver_cases import Does, Peer

SLOW_S: Final = 0.3
_ANSWERS: Final = {
    Does.ACCEPT: "200 OK",
    Does.ACCEPT_SLOWLY: "200 OK",
    Does.REFUSE: "413 Content Too Large",
    Does.BE_GONE: "410 Gone",
    Does.BE_BUSY: "429 Too Many Requests\r\nretry-after: 7",
    Does.BREAK: "500 Internal Server Error",
    Does.REDIRECT: "307 Temporary Redirect\r\nlocation: /elsewhere",
}


@asynccontextmanager
async def serve(does: Does, *, status: str | None = None) -> AsyncIterator[Peer]:
    """Run it on loopback."""
    peer = Peer()
    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        handlers.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                peer.received.append(head + await reader.readexactly(int(length[1]) if length else 0))
                if does is Does.CUT:
                    break
                if does is Does.HANG:
                    await asyncio.Event().wait()
                if does is Does.ACCEPT_SLOWLY:
                    await asyncio.sleep(SLOW_S)  # what is tested is that time passes
                answer = "SMTP ready" if does is Does.BABBLE else f"HTTP/1.1 {status or _ANSWERS[does]}"
                writer.write(f"{answer}\r\ncontent-length: 0\r\n\r\n".encode())
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError, OSError):
            pass  # the client has gone, or does not speak HTTP, or the test is over
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        peer.address = f"{host}:{port}"
        yield peer
    finally:
        server.close()
        left = [task for task in handlers if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await server.wait_closed()
