"""redis-py's connections, for which a transport that was lost is a lost connection, whatever it raises.

uvloop raises a RuntimeError for a write to one, and asyncio's own transport an AttributeError from CPython 3.12 on:
its ``writelines`` writes at once, and by then has no loop any more. redis-py lets both through.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Guarded(AbstractConnection):
    """A connection that raises redis-py's errors, and those of the system, and no others."""

    async def send_packed_command(self, *args: Any, **settings: Any) -> None:
        """Write a command, on a connection that is made now if there is none."""
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            await super().send_packed_command(*args, **settings)
        except (AttributeError, RuntimeError) as error:
            raise _lost(error) from error
        if task is not None and task.cancelling() > before:
            # On CPython 3.11 wait_for, in there, loses a cancellation that comes as the write ends.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def read_response(self, *args: Any, **settings: Any) -> Any:
        """The answer to what was sent."""
        try:
            return await super().read_response(*args, **settings)
        except (AttributeError, RuntimeError) as error:
            raise _lost(error) from error


class TcpConnection(Guarded, Connection):
    """Over TCP."""


class TlsConnection(Guarded, SSLConnection):
    """Over TLS."""


class UnixConnection(Guarded, UnixDomainSocketConnection):
    """Over a unix socket."""


GUARDED: Final[Mapping[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: TcpConnection,
    SSLConnection: TlsConnection,
    UnixDomainSocketConnection: UnixConnection,
}
"""By what redis-py would use."""


def _lost(error: Exception) -> RedisConnectionError:
    return RedisConnectionError(f"the connection was lost: {error}")
