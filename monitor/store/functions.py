"""Calls to the functions of a library, on whichever connections the caller gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from monitor.durability import Confirmation, Durability, DurabilityMode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from monitor.store.library import Library

Argument = bytes | str | int
_NOT_FOUND: Final = "unction not found"


class Functions:
    """The functions of one library, which is loaded whenever the server does not have it (any more).

    ``loader``: the client that loads it. Every method raises the errors of redis-py and ``OSError``.
    """

    def __init__(self, library: Library, *, loader: Redis) -> None:
        self._library = library
        self._loader = loader

    async def load(self) -> None:
        """Load the library if the server does not have it. A loaded one stays: a full store would refuse the load."""
        if not await self._loader.function_list(library=self._library.name):
            await self._load()

    async def call(self, send: Callable[..., Awaitable[Any]], function: str, key: str, *args: Argument) -> Any:
        """Call a function with one key. ``send`` sends a command and returns its reply."""
        command = ("FCALL", f"{self._library.name}_{function}", 1, key, *args)
        try:
            return await send(*command)
        except ResponseError as error:
            if _NOT_FOUND not in str(error):
                raise
            await self._load()
            return await send(*command)

    async def call_confirmed(
        self, client: Redis, durability: Durability, limit_ms: int, function: str, key: str, *args: Argument
    ) -> tuple[Any, Confirmation]:
        """Call a function, then wait until its writes are as durable as asked, for ``limit_ms`` at most.

        Both use one connection, in one pipeline: WAIT and WAITAOF cover only the writes of their own connection. On a
        new connection they would return at once and confirm nothing.
        """
        waited: Any = None

        async def send(*command: Argument) -> Any:
            nonlocal waited
            pipeline = client.pipeline(transaction=False)
            for one in (command, *_wait_commands(durability, limit_ms)):
                pipeline.execute_command(*one)
            answer, *rest = await pipeline.execute(raise_on_error=False)
            if isinstance(answer, Exception):
                raise answer
            waited = rest[0] if rest else None
            return answer

        return await self.call(send, function, key, *args), confirmation_of(durability, waited)

    async def _load(self) -> None:
        await self._loader.function_load(self._library.source, replace=True)


def _wait_commands(durability: Durability, limit_ms: int) -> tuple[tuple[Argument, ...], ...]:
    match durability.mode:
        case DurabilityMode.FSYNC:
            return (("WAITAOF", 1, 0, limit_ms),)
        case DurabilityMode.REPLICAS:
            return (("WAIT", durability.replicas, limit_ms),)
        case DurabilityMode.MEMORY:
            return ()


def confirmation_of(durability: Durability, waited: object) -> Confirmation:
    """What ``waited``, the answer to WAIT or WAITAOF or the server's error, confirms."""
    match durability.mode:
        case DurabilityMode.MEMORY:
            return Confirmation.CONFIRMED
        case DurabilityMode.REPLICAS if isinstance(waited, int):
            return Confirmation.CONFIRMED if waited >= durability.replicas else Confirmation.UNCONFIRMED
        case DurabilityMode.FSYNC if isinstance(waited, list):
            return Confirmation.CONFIRMED if waited[0] >= 1 else Confirmation.UNCONFIRMED
        case DurabilityMode.FSYNC if isinstance(waited, ResponseError):
            return Confirmation.UNAVAILABLE
        case _:
            return Confirmation.UNCONFIRMED
