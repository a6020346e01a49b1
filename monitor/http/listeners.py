"""Listening sockets of several processes on one port.

Each process has its own listening socket, and the kernel distributes new connections evenly, by a hash. (With one
shared socket the first process to wake accepts most waiting connections: of 64 opened at once often all.) The
supervisor keeps every socket open, and each process also has the sockets of the others. If a process is dead or too
busy, another one accepts its waiting connections after a moment. So no connection is lost with a process.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

RELIEF_S: Final = 0.05
"""Approximate wait of a connection before another process accepts it."""
RELIEF_LIMIT: Final = 512
"""Maximum connections accepted from one socket at a time, so that all processes get a share."""


def dealt(first: socket.socket, *, count: int, backlog: int) -> tuple[socket.socket, ...]:
    """Create ``count`` listening sockets on the address of ``first``, which is one of them.

    ``first`` was bound without SO_REUSEPORT, to detect a second daemon on the port; the option is set here. Where the
    kernel does not distribute connections (any but Linux) all are the same socket.

    Raises:
        OSError: a socket cannot be created.
    """
    if sys.platform != "linux":
        return (first,) * count
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made = [first]
    while len(made) < count:
        sock = socket.socket(first.family, first.type, first.proto)
        made.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(first.getsockname())
        sock.listen(backlog)
        sock.setblocking(False)  # noqa: FBT003 - its only parameter
    return tuple(made)


async def relieve(sockets: Sequence[socket.socket], adopt: Callable[[socket.socket], Awaitable[object]]) -> None:
    """Accept connections that wait at the sockets of other processes, until cancelled."""
    while True:
        await asyncio.sleep(RELIEF_S)
        for sock in sockets:
            for _ in range(RELIEF_LIMIT):
                try:
                    connection, _ = sock.accept()
                except OSError:  # none waits, it has disconnected, or there is no free descriptor
                    break
                try:
                    await adopt(connection)
                except OSError:  # the client has disconnected
                    connection.close()
