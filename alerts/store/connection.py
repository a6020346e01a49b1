"""The connections to the store. The only module of the package that uses the Redis client.

Each call is one function of one of the package's ``.lua`` files, which also list the keys.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, assert_never

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError, ResponseError

from alerts.store.durability import Confirmation, Durability, DurabilityMode
from monitor.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from redis.asyncio import BlockingConnectionPool

_CONFIRM_TIMEOUT_MS: Final = 2_000
_SOCKET_TIMEOUT_S: Final = 2.0
_COMMAND_CONNECTIONS: Final = 8
_KNOWN_RECEIVERS_KEY: Final = "la:receivers"

_LIBRARIES: Final = ("incidents.lua", "silences.lua", "mass_failures.lua", "groups.lua")
_PARTS: Final = ("helpers.lua", "reading.lua")
"""Files that the libraries include."""


def _source(name: str) -> str:
    folder = resources.files("alerts.store")
    text = folder.joinpath(name).read_text(encoding="utf-8")
    for part in _PARTS:
        text = text.replace(f"-- include: {part}\n", folder.joinpath(part).read_text(encoding="utf-8"))
    return text


_SOURCES: Final = tuple(map(_source, _LIBRARIES))
_DIGEST: Final = hashlib.sha256("".join(_SOURCES).encode()).hexdigest()[:12]

_TROUBLE: Final = (RedisError, OSError)
"""Errors for no answer, or for an error reply."""

_T = TypeVar("_T")

Reply: TypeAlias = Any
"""A reply of the store to one of the commands used here."""


class Pools(Protocol):
    """Makes a pool of connections to the store's primary, which may move while the pool is used.

    The connections raise only redis-py's errors and ``OSError``, also for a lost transport. Calls beyond
    ``max_connections`` wait for a free connection. ``timeout_s`` bounds that wait and each answer. Calls are re-sent
    only according to ``retry``.
    """

    def __call__(self, *, max_connections: int, timeout_s: float, retry: Retry) -> BlockingConnectionPool:
        """A new pool. The caller must close it."""


class StoreConnection:
    """The connections that all stores of this package share.

    ``pools``: makes the pools. ``receivers``: maximum number of confirmed calls at once. These wait for the disk and
    block their connection meanwhile, so they have a separate pool. ``namespace``: part of every key, in its hash tag.
    Belongs to one event loop.
    """

    def __init__(self, *, pools: Pools, receivers: int, namespace: str = "") -> None:
        self._prefix = f"{namespace}." if namespace else ""
        self._commands = Redis.from_pool(
            pools(
                max_connections=_COMMAND_CONNECTIONS,
                timeout_s=_SOCKET_TIMEOUT_S,
                retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.25), 2),
            )
        )
        # Never re-sent: if only the answer was lost, the call has been executed already.
        self._claims = Redis.from_pool(
            pools(
                max_connections=max(1, receivers),
                timeout_s=_SOCKET_TIMEOUT_S + _CONFIRM_TIMEOUT_MS / 1000,
                retry=Retry(NoBackoff(), 0),
            )
        )

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._commands.aclose()
        await self._claims.aclose()

    async def register(self, receivers: Iterable[str]) -> tuple[str, ...]:
        """Record the configured receivers. Returns the names that earlier runs recorded and that are not configured.

        Idempotent. Raises ``StoreUnavailableError``.
        """
        names = frozenset(receivers)
        known = await _answer(_execute(self._commands, "SMEMBERS", self._prefix + _KNOWN_RECEIVERS_KEY))
        if not isinstance(known, set | list):
            raise TypeError(f"SMEMBERS answered {known!r}")
        earlier = {name.decode() for name in known}
        if new := names - earlier:  # without new names nothing is written: a full store refuses SADD
            await _answer(_execute(self._commands, "SADD", self._prefix + _KNOWN_RECEIVERS_KEY, *sorted(new)))
        return tuple(sorted(earlier - names))

    async def forget(self, receiver: str) -> None:
        """Undo ``register`` for a receiver whose queue is empty. Idempotent. Raises ``StoreUnavailableError``."""
        await _answer(_execute(self._commands, "SREM", self._prefix + _KNOWN_RECEIVERS_KEY, receiver))

    async def test_wait_ms(self, receiver: str, spacing_ms: int) -> int:
        """Begin a test of a receiver. Returns 0, or how long to wait if one began less than ``spacing_ms`` ago.

        Raises ``StoreUnavailableError``.
        """
        key = self._key(f"{{lt:{receiver}}}:test")
        if await _answer(_execute(self._commands, "SET", key, "", "NX", "PX", spacing_ms)) is not None:
            return 0
        left_ms = await _answer(_execute(self._commands, "PTTL", key))
        return max(1, int(left_ms))

    async def can_confirm(self, durability: Durability) -> bool:
        """Whether the server can confirm what ``durability`` requires. Raises ``StoreUnavailableError``."""
        if durability.mode is not DurabilityMode.FSYNC:
            return True
        try:
            await _execute(self._commands, "WAITAOF", 1, 0, 1)
        except ResponseError:
            return False
        except _TROUBLE as error:
            raise StoreUnavailableError(f"the store does not answer: {error}") from error
        return True

    async def call(self, function: str, base: str, *args: str | bytes | int) -> Reply:
        """Call one function of the libraries. Loads the libraries if the server does not have it."""
        command = ("FCALL", f"la_{function}_{_DIGEST}", 1, self._key(base), *args)
        try:
            return await _execute(self._commands, *command)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise StoreUnavailableError(f"{function} {base}: {error}") from error
        except _TROUBLE as error:
            raise StoreUnavailableError(f"{function} {base}: {error}") from error
        await self._load()
        return await _answer(_execute(self._commands, *command))

    async def call_confirmed(
        self, durability: Durability, function: str, base: str, *args: str | bytes | int
    ) -> tuple[list[bytes], Confirmation]:
        """Call a function, then wait until its writes are as durable as ``durability`` requires.

        Both use one connection, in one pipeline: WAIT and WAITAOF cover only the writes of their own connection. On a
        new connection they would return at once and confirm nothing.
        """
        for last_try in (False, True):
            pipeline = self._claims.pipeline(transaction=False)
            for command in (
                ("FCALL", f"la_{function}_{_DIGEST}", 1, self._key(base), *args),
                *_wait_command(durability),
            ):
                pipeline.execute_command(*command)
            answer, *waited = await _answer(pipeline.execute(raise_on_error=False))
            if isinstance(answer, ResponseError) and "Function not found" in str(answer) and not last_try:
                await self._load()
                continue
            if isinstance(answer, Exception):
                raise StoreUnavailableError(f"{function} {base}: {answer}") from answer
            return answer, _confirmation(durability, waited[0] if waited else None)
        raise AssertionError  # the second try returns or raises

    def _key(self, name: str) -> str:
        return name.replace("{", "{" + self._prefix, 1)

    async def _load(self) -> None:
        for source in _SOURCES:
            await _answer(_execute(self._commands, "FUNCTION LOAD", "REPLACE", source.replace("DIGEST", _DIGEST)))


async def _execute(client: Redis, *command: str | bytes | int) -> Reply:
    reply: Reply = await client.execute_command(*command)  # type: ignore[no-untyped-call]
    return reply


async def _answer(call: Awaitable[_T]) -> _T:
    try:
        return await call
    except _TROUBLE as error:
        raise StoreUnavailableError(f"the store does not answer: {error}") from error


def _wait_command(durability: Durability) -> tuple[tuple[str | int, ...], ...]:
    match durability.mode:
        case DurabilityMode.FSYNC:
            return (("WAITAOF", 1, 0, _CONFIRM_TIMEOUT_MS),)
        case DurabilityMode.REPLICAS:
            return (("WAIT", durability.replicas, _CONFIRM_TIMEOUT_MS),)
        case DurabilityMode.MEMORY:
            return ()
        case _:
            assert_never(durability.mode)


def _confirmation(durability: Durability, waited: object) -> Confirmation:
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
