"""Calls to function libraries: connections, timeouts, and the meaning of a server's errors.

``Functions`` calls one library. ``Connection`` calls that of the worker store.

Several connection pools, so that no kind of work waits behind another: beats and sweeps; reads of requests, a few at a
time; the daemon's own reads, for alerts and metrics; health probes; orders that must not be sent twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from monitor.clock import StoreClock
from monitor.durability import Confirmation, Durability, DurabilityMode
from monitor.errors import NoRoomError, StoreUnavailableError
from monitor.store.endpoint import Address
from monitor.store.errors import StoreDeniedError, StoreFullError, StoreRefusedError
from monitor.store.fast_connections import RESENT, SENT_ONCE, TROUBLE, Lines
from monitor.store.library import LIBRARY, Library
from monitor.store.results import Condition, condition_of
from monitor.store.sentinel import REFUSALS, SentinelsRefuseUsError

WRITERS: Final = 16
READERS: Final = 4
"""Maximum reads of requests in flight; others wait, each for the timeout at most. Reads can have large answers."""
READERS_INSIDE: Final = 4
PROBES: Final = 2
ONCE: Final = 2
OLDEST_MAJOR: Final = 7
"""The first Redis with functions."""

NO_EVICTION: Final = "noeviction"
NOT_FOUNDED: Final = "NOTFOUNDED"
"""The error of a function whose hash tag is not founded."""

_PASSING: Final = (
    "OOM",
    "READONLY",
    "NOREPLICAS",
    "MISCONF",
    "LOADING",
    "MASTERDOWN",
    "BUSY",
    "TRYAGAIN",
    "CLUSTERDOWN",
)
"""Prefixes of errors that are due to the server's present state and not to the command."""
_FULL: Final = ("OOM", "MISCONF")
_NO_DATABASE: Final = ("DB index is out of range", "invalid DB index", "SELECT is not allowed")

Argument = bytes | str | int


@dataclass(frozen=True, kw_only=True, slots=True)
class Founded:
    """What a hash tag was founded with."""

    schema: int
    partitions: int
    installation: tuple[str, ...]
    """The IDs of the installation, the oldest first; empty: unknown."""
    is_complete: bool
    """Whether all other tags were founded too."""


class Functions:
    """The functions of one library. A missing library is loaded again, and an empty store founded again.

    ``loader``: the client that loads the library. ``found``: founds the store. Every method raises the errors of
    redis-py and ``OSError``.
    """

    def __init__(self, library: Library, *, loader: Redis, found: Callable[[], Awaitable[None]]) -> None:
        self._library = library
        self._loader = loader
        self._found = found

    async def load(self) -> None:
        """Load the library if the server does not have it. A loaded one stays: a full store would refuse the load."""
        if not await self._loader.function_list(library=self._library.name):
            await self._load()

    async def call(self, send: Callable[..., Awaitable[Any]], function: str, base: str, *args: Argument) -> Any:
        """Call a function. ``base`` begins with a hash tag and a colon. ``send`` sends a command, returns its reply."""
        anchor = f"{base[: base.index('}')]}}}:meta"
        command = ("FCALL", f"{self._library.name}_{function}", 2, base, anchor, *args)
        repairs = {"unction not found": self._load, NOT_FOUNDED: self._found}
        while True:
            try:
                return await send(*command)
            except ResponseError as error:
                repair = next((repairs.pop(text) for text in tuple(repairs) if text in str(error)), None)
                if repair is None:
                    raise
                await repair()

    async def call_confirmed(
        self, client: Redis, durability: Durability, limit_ms: int, function: str, base: str, *args: Argument
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

        return await self.call(send, function, base, *args), confirmation_of(durability, waited)

    async def _load(self) -> None:
        await self._loader.function_load(self._library.source, replace=True)


class Connection:
    """Calls functions of one server. The first item of every answer, the store's time, goes into ``clock``.

    Every method raises ``StoreUnavailableError`` when there is no answer within the timeout, or the store is unable
    now. Whether the call was applied is then unknown, except for a ``StoreFullError``: then it was not.
    """

    def __init__(
        self, url: str, *, namespace: str, timeout_s: float, clock: StoreClock, found: Callable[[], Awaitable[None]]
    ) -> None:
        self._tag = f"{namespace}.ls" if namespace else "ls"
        self.address = Address(url, timeout_s=timeout_s)
        """The store's endpoint, for other clients of the same server."""
        self._timeout_s = timeout_s
        self._clock = clock
        self._writing = Lines(self.address.unlimited(), most=WRITERS)
        self._reading = self.address.client(READERS, timeout_s=timeout_s, retry=RESENT)
        self._reads = asyncio.Semaphore(READERS)
        self._inside = self.address.client(READERS_INSIDE, timeout_s=timeout_s, retry=RESENT)
        self._reads_inside = asyncio.Semaphore(READERS_INSIDE)
        self._probing = self.address.client(PROBES, timeout_s=timeout_s, retry=RESENT)
        self._once = self.address.client(ONCE, timeout_s=timeout_s, retry=SENT_ONCE)
        self._functions = Functions(LIBRARY, loader=self._probing, found=found)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TROUBLE as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._writing.close()
        for client in (self._reading, self._inside, self._probing, self._once):
            await client.aclose()
        await self.address.close()

    async def judge_server(self) -> None:
        """Check that the server does not lose data and can run the library.

        Raises:
            StoreRefusedError: the server evicts keys, or has no functions.
        """
        policy = await self.evicting_policy()
        async with self._in_time():
            server = await self._probing.info("server")
        if policy is not None:
            raise StoreRefusedError(
                f"the store evicts keys: its maxmemory-policy is {policy!r}, which would drop workers and alerts "
                f"silently; set it to {NO_EVICTION!r}"
            )
        version = str(server.get("redis_version", "0"))
        if int(version.split(".", maxsplit=1)[0]) < OLDEST_MAJOR:
            raise StoreRefusedError(f"the store has no functions: it is version {version}; Redis 7.0, Valkey or newer")

    async def condition(self) -> Condition:
        """Return the server's state from INFO; reads no data."""
        async with self._in_time():
            memory = await self._probing.info("memory")
            persistence = await self._probing.info("persistence")
        return condition_of(memory, persistence)

    async def evicting_policy(self) -> str | None:
        """Return the server's ``maxmemory-policy`` if it evicts keys, else None. It may change at any time."""
        async with self._in_time():
            memory = await self._probing.info("memory")
        policy = str(memory.get("maxmemory_policy", NO_EVICTION))
        return None if policy == NO_EVICTION else policy

    async def load(self) -> None:
        """Load the library if it is not loaded.

        Raises:
            StoreRefusedError: the server does not accept the library.
        """
        async with self._in_time():
            try:
                await self._functions.load()
            except ResponseError as error:
                if _is_passing(error):
                    raise
                raise StoreRefusedError(f"the store refuses the function library: {error}") from error

    def bases(self, partitions: int) -> list[str]:
        """Return the bases of all hash tags: of the partitions, and of what workers share."""
        return [
            base for number in range(partitions) for base in (self._base(number), f"{{{self._tag}.shared:{number}}}:")
        ]

    async def founded(self, base: str) -> Founded | None:
        """Return what a hash tag was founded with, without the library; None if it is not founded."""
        async with self._in_time():
            known: Any = await self._probing.hmget(f"{base}meta", "schema", "partitions", "installation", "founding")
        schema, partitions, ids, founding = known
        if schema is None or partitions is None:
            return None
        return Founded(
            schema=int(schema),
            partitions=int(partitions),
            installation=tuple((ids or b"").decode().split()),
            is_complete=founding is None,
        )

    async def found(self, base: str, *args: Argument) -> None:
        """Found a hash tag, or add the IDs of the installation."""
        async with self._in_time():
            answer = await self._functions.call(self._writing.call, "found", base, *args)
        self._clock.observe(answer[0])

    def _base(self, partition: int) -> str:
        return f"{{{self._tag}:{partition}}}:"

    async def write(self, function: str, partition: int, *args: Argument) -> Any:
        """Call a function whose replay is harmless; it may be sent again when no answer comes."""
        return await self._call(self._writing.call, function, partition, args)

    async def once(self, function: str, partition: int, *args: Argument) -> Any:
        """Call a function that is sent at most once."""
        return await self._call(self._once.execute_command, function, partition, args)

    async def write_confirmed(
        self, durability: Durability, function: str, partition: int, *args: Argument
    ) -> tuple[Any, Confirmation]:
        """Call a function once, then wait until its writes, and all before them, are as durable as asked."""
        limit_ms = round(self._timeout_s * 500)  # the rest is for the call itself
        async with self._in_time():
            answer, confirmation = await self._functions.call_confirmed(
                self._once, durability, limit_ms, function, self._base(partition), *args
            )
        self._clock.observe(answer[0])
        return answer, confirmation

    async def read(self, function: str, partition: int, *args: Argument) -> Any:
        """Call a read-only function, for a request.

        Raises:
            NoRoomError: too many reads at once for the whole timeout.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._reads.acquire()
        except TimeoutError:
            raise NoRoomError("too many reads at once") from None
        try:
            return await self._call(self._reading.execute_command, function, partition, args)
        finally:
            self._reads.release()

    async def read_inside(self, function: str, partition: int, *args: Argument) -> Any:
        """Call as ``read`` does, for the daemon itself: the number of its reads is bounded by design."""
        async with self._reads_inside:
            return await self._call(self._inside.execute_command, function, partition, args)

    async def probe(self, function: str, partition: int, *args: Argument) -> Any:
        """Call as ``read`` does, for health probes."""
        return await self._call(self._probing.execute_command, function, partition, args)

    async def _call(
        self, send: Callable[..., Awaitable[Any]], function: str, partition: int, args: tuple[Argument, ...]
    ) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._functions.call(send, function, self._base(partition), *args)
        except TROUBLE as error:
            raise _unavailable(error) from error
        self._clock.observe(answer[0])
        return answer


def _is_passing(error: ResponseError) -> bool:
    # redis-py strips the code from errors for which it has a type; for the others the text decides.
    return type(error) is not ResponseError or str(error).startswith(_PASSING) or _is_full(error)


def _is_full(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, ResponseError) and (text.startswith(_FULL) or "maxmemory" in text)


def _unavailable(error: Exception) -> StoreUnavailableError:
    # redis-py wraps errors that occur while it connects.
    if isinstance(error, REFUSALS) or isinstance(error.__cause__, SentinelsRefuseUsError):
        return StoreDeniedError(f"the store refuses our credentials: {error}")
    if isinstance(error, ResponseError) and str(error).startswith(_NO_DATABASE):
        return StoreDeniedError(f"the store has no such database: {error}")
    if isinstance(error, TimeoutError):
        return StoreUnavailableError("the store did not answer in time")
    if _is_full(error):
        return StoreFullError(f"the store is full: {error}")
    return StoreUnavailableError(f"the store failed: {error}")


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
        case DurabilityMode.FSYNC if isinstance(waited, ResponseError) and _cannot_sync(waited):
            return Confirmation.UNAVAILABLE
        case _:
            return Confirmation.UNCONFIRMED


def _cannot_sync(error: ResponseError) -> bool:
    """Whether the server never answers WAITAOF: it lacks the command, the file or our permission."""
    # Another error is about this call: a primary that becomes a replica unblocks its callers.
    text = str(error)
    return isinstance(error, NoPermissionError) or "unknown command" in text or "appendonly is disabled" in text
