"""How several processes share one port.

Each has a listening socket of its own on it, and the kernel deals new connections out by a hash, so evenly. (With one
socket for all, whoever wakes first takes most of those that wait: of 64 opened at once often all.) The supervisor keeps
every socket open, and each process has the others' too: what waits at one whose process is dead, or too
busy, is taken by another after a moment. So no connection is lost with the process that it was dealt to.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

RELIEF_S: Final = 0.05
"""How long a connection waits, about, before another process takes it."""
RELIEF_LIMIT: Final = 512
"""Connections taken from one socket at a time, so that all processes have their part in it."""


def dealt(first: socket.socket, *, count: int, backlog: int) -> tuple[socket.socket, ...]:
    """``count`` listening sockets on the address of ``first``, which is one of them.

    ``first`` was bound alone, which is how a second daemon on the port is found out; it is opened to the others here.
    Where the kernel deals nothing out (any but Linux) all are the same.

    Raises:
        OSError: there are no more sockets to be had.
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
    """Take what waits at the sockets of other processes, until cancelled."""
    while True:
        await asyncio.sleep(RELIEF_S)
        for sock in sockets:
            for _ in range(RELIEF_LIMIT):
                try:
                    connection, _ = sock.accept()
                except OSError:  # nobody waits; or it has gone again, or we have no descriptor for it
                    break
                try:
                    await adopt(connection)
                except OSError:  # it has gone again
                    connection.close()
