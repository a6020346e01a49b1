"""redis-py's connections, changed so that a lost transport is always reported as a lost connection.

For a write to a lost transport uvloop raises a RuntimeError, and asyncio's own transport an AttributeError from
CPython 3.12 on: its ``writelines`` writes at once, and by then has no loop any more. redis-py lets both through.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Guarded(AbstractConnection):
    """A connection that raises only redis-py's and the system's errors."""

    async def send_packed_command(self, *args: Any, **settings: Any) -> None:
        """Send a command; connects first, if necessary."""
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            await super().send_packed_command(*args, **settings)
        except (AttributeError, RuntimeError) as error:
            raise _lost(error) from error
        if task is not None and task.cancelling() > before:
            # On CPython 3.11 ``wait_for``, in the base class, loses a cancellation that comes as the write ends.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def read_response(self, *args: Any, **settings: Any) -> Any:
        """Return the answer to a command."""
        try:
            return await super().read_response(*args, **settings)
        except (AttributeError, RuntimeError) as error:
            raise _lost(error) from error


class TcpConnection(Guarded, Connection):
    """A connection over TCP."""


class TlsConnection(Guarded, SSLConnection):
    """A connection over TLS."""


class UnixConnection(Guarded, UnixDomainSocketConnection):
    """A connection over a unix socket."""


GUARDED: Final[Mapping[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: TcpConnection,
    SSLConnection: TlsConnection,
    UnixDomainSocketConnection: UnixConnection,
}
"""The guarded class for each class of redis-py."""


def _lost(error: Exception) -> RedisConnectionError:
    return RedisConnectionError(f"the connection was lost: {error}")
