"""Connections for the calls that every beat waits for: those of redis-py, without the overhead of its client.

The client's pool, retry and telemetry layers took as long as packing, sending and reading the answer together.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from hiredis import pack_command
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError, ResponseError

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool
    from redis.asyncio.connection import AbstractConnection

RETRIES: Final = 2
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
        self._backoff = ExponentialWithJitterBackoff(base=0.02, cap=0.25)

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its answer. The connection of a cancelled call is not used again.

        Raises:
            ResponseError: the server refuses.
            RedisError, OSError: the connection was lost each time.
        """
        async with self._places:
            for failures in range(RETRIES + 1):
                if failures:
                    await asyncio.sleep(self._backoff.compute(failures))
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
