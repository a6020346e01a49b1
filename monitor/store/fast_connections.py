"""redis-py's connections, changed in two ways.

A lost transport is always reported as a lost connection. For a write to a lost transport uvloop raises a RuntimeError,
and asyncio's own transport an AttributeError from CPython 3.12 on: its ``writelines`` writes at once, and by then has
no loop any more. redis-py lets both through.

The calls that every beat waits for go without redis-py's client: its pool, retry and telemetry layers took as long as
packing, sending and reading the answer together.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

RETRIES: Final = 2
BACKOFF: Final = ExponentialWithJitterBackoff(base=0.02, cap=0.25)
RESENT: Final = Retry(BACKOFF, RETRIES)
"""A call without an answer is sent again, at most twice. A replay must be harmless."""
SENT_ONCE: Final = Retry(NoBackoff(), 0)
"""Never sent again: if only the answer was lost, the call has been executed."""
TROUBLE: Final = (RedisError, OSError, TimeoutError)
"""Errors of a call: no answer, or a refusal."""


class Lines:
    """At most ``most`` calls at a time, each on a connection of its own until its answer has come.

    ``pool`` makes the connections. They have no timeouts of their own: the caller sets one around the whole call.
    (Inner timeouts would cost a task each, and on Python 3.11 can swallow the outer one's cancellation.) A call whose
    connection is lost is sent again on a new one, at most twice.
    """

    def __init__(self, pool: ConnectionPool, *, most: int) -> None:
        self._pool = pool
        self._places = asyncio.Semaphore(most)
        self._idle: list[AbstractConnection] = []

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its answer. The connection of a cancelled call is not used again.

        Raises:
            ResponseError: the server refuses.
            RedisError, OSError: the connection was lost each time.
        """
        async with self._places:
            for failures in range(RETRIES + 1):
                if failures:
                    await asyncio.sleep(BACKOFF.compute(failures))
                try:
                    return await self._exchange(command)
                except ResponseError:
                    raise
                except TROUBLE:
                    if failures == RETRIES:
                        raise
        raise AssertionError("the last failure was raised")

    async def _exchange(self, command: tuple[bytes | str | int, ...]) -> Any:
        connection: AbstractConnection
        connection = self._idle.pop() if self._idle else self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            if connection.should_reconnect():  # connected to a former primary
                await connection.disconnect(nowait=True)
            # Packs in C, where redis-py packs in Python. Connects first, if necessary.
            await connection.send_packed_command(pack_command(command))  # type: ignore[arg-type]  # any length is valid
            answer = await connection.read_response()
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return answer

    async def close(self) -> None:
        """Close the connections. No further calls are allowed."""
        while self._idle:
            await self._idle.pop().disconnect()


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
