"""The store: every call to the function library, and nothing else that speaks Redis in this package.

Concurrency: a ``Store`` belongs to one event loop. Every method is one function call on one partition,
atomic in the store, and replaying it is harmless. Each answer carries the store's time into ``clock``.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgpack
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.maint_notifications import MaintNotificationsConfig

from monitor.clock import StoreClock
from monitor.liveness import Liveness, Trigger
from monitor.store import codec
from monitor.store.errors import SchemaError, StoreRefusedError, StoreUnavailableError
from monitor.store.library import DOWN_STATES, LIBRARY_NAME, LIBRARY_SOURCE, STATE_CODES
from monitor.workers import partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monitor.events import Event
    from monitor.workers import Beat, Disconnect, Moved, Worker, WorkerKey

SCHEMA_VERSION: Final = 1
COUNT_PAGE: Final = 200
EVENTS_TRIMMED_PER_CALL: Final = 1_000

STORED, OVER_WORKERS, OVER_ENVIRONMENTS, NOT_ALLOWED, UNKNOWN, REFUSED = range(6)
"""What a function answers of one worker; the same numbers stand at the top of ``lastseen.lua``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRule:
    """What is expected of the workers of environments that match, unless they declare otherwise."""

    match: str
    interval_ms: int
    grace_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSettings:
    """What the store needs to know of the configuration. Times in milliseconds."""

    url: str
    partitions: int
    daemon: str
    timeout_s: float
    interval_ms: int
    grace_ms: int
    rules: tuple[EnvironmentRule, ...]
    workers_per_tenant: int
    environments_per_tenant: int
    status_events: bool
    connections: int = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class BeatsResult:
    """``outcomes[k]`` is (outcome, effective interval in ms) of the k-th beat."""

    now_ms: int
    outcomes: list[tuple[int, int]]
    moved: list[Moved]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeResult:
    """What became of an order about one worker."""

    now_ms: int
    outcome: int
    moved: list[Moved]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """One chunk of a pass; ``more`` says that another chunk is due at once."""

    now_ms: int
    more: bool
    moved: list[Moved]


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    """Which workers a list is to hold, as far as the store can tell them apart cheaply."""

    alive: bool
    late: bool
    overdue: bool
    down: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Workers in the order of their ids; ``last`` is where to go on, empty at the end."""

    now_ms: int
    swept_ms: int
    last: str
    workers: list[Worker]


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """Counts by environment and liveness of a tenant, or of all."""

    now_ms: int
    swept_ms: int
    environments: dict[str, dict[Liveness, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The router's turn at a partition. ``token`` 0: another daemon has the lease."""

    token: int
    events: list[Event]
    age_ms: int


class Store:
    """See the module. Made by ``open``; ``close`` gives the connections back."""

    def __init__(self, redis: Redis, settings: StoreSettings) -> None:
        self._redis = redis
        self._timeout_s = settings.timeout_s
        self.settings = settings
        self.partitions = settings.partitions
        self.clock = StoreClock()
        self._beat_settings = msgpack.packb(
            [
                settings.interval_ms,
                settings.grace_ms,
                [[rule.match, rule.interval_ms, rule.grace_ms] for rule in settings.rules],
                # Each partition counts its own share; ids are spread by a hash, so a small quota over many
                # partitions may be reached a little early.
                -(-settings.workers_per_tenant // settings.partitions),
                settings.environments_per_tenant,
                settings.daemon,
                settings.status_events,
            ]
        )

    @classmethod
    async def open(cls, settings: StoreSettings) -> Store:
        """Connect, judge the server, load the library, check the schema.

        Raises:
            StoreUnavailableError: no answer.
            StoreRefusedError: the server evicts keys or has no functions.
            SchemaError: the data is of a newer release or of another number of partitions.
        """
        pool = BlockingConnectionPool.from_url(
            settings.url,
            max_connections=settings.connections,
            timeout=settings.timeout_s,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.25), 2),
            # redis-py 8.1.0 does not replace a connection that the server has closed while idle unless
            # this is off (redis-py issue 4252).
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        async with AsyncExitStack() as stack:
            store = cls(Redis(connection_pool=pool), settings)
            stack.push_async_callback(store.close)
            await store._judge_server()
            await store._load()
            for partition in range(store.partitions):
                await store._hello(partition)
            stack.pop_all()
        return store

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    # Calling ------------------------------------------------------------------------------------------------------

    async def _judge_server(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                memory = await self._redis.info("memory")
                server = await self._redis.info("server")
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreRefusedError(
                f"the store evicts keys: its maxmemory-policy is {policy!r}, which would drop workers and alerts "
                f"without a word; set it to 'noeviction'"
            )
        version = str(server.get("redis_version", "0"))
        if int(version.split(".", maxsplit=1)[0]) < 7:  # noqa: PLR2004 - the first release with functions
            raise StoreRefusedError(f"the store has no functions: it is version {version}; Redis 7.0, Valkey or newer")

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._redis.function_load(LIBRARY_SOURCE, replace=True)
        except ResponseError as error:
            raise StoreRefusedError(f"the store refuses the function library: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def _call(self, function: str, partition: int, *args: bytes | str | int) -> Any:
        """One call; the first item of the answer, the store's time, goes to the clock and comes back too.

        Raises:
            StoreUnavailableError: no answer in time, or the store can't write. Whether the call was
                applied is then not known.
        """
        name = f"{LIBRARY_NAME}_{function}"
        base = f"{{ls:{partition}}}:"
        answer: Any
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    answer = await self._redis.fcall(name, 1, base, *args)
                except ResponseError as error:
                    if "unction not found" not in str(error):
                        raise
                    # A failover or a flush took the library away.
                    await self._redis.function_load(LIBRARY_SOURCE, replace=True)
                    answer = await self._redis.fcall(name, 1, base, *args)
        except (RedisError, OSError, TimeoutError) as error:
            raise _unavailable(error) from error
        self.clock.observe(answer[0])
        return answer

    async def _hello(self, partition: int) -> None:
        _, schema, partitions = await self._call("hello", partition, SCHEMA_VERSION, self.partitions)
        if schema > SCHEMA_VERSION:
            raise SchemaError(
                f"the store's schema is version {schema}, written by a newer release; this one knows {SCHEMA_VERSION}"
            )
        if partitions != self.partitions:
            raise SchemaError(
                f"the store was founded with store.partitions = {partitions}, the configuration says {self.partitions}"
            )

    def partition_of(self, key: WorkerKey) -> int:
        """Where a worker lives."""
        return partition_of(key, self.partitions)

    # Writing ------------------------------------------------------------------------------------------------------

    async def beat(self, partition: int, beats: Sequence[Beat]) -> BeatsResult:
        """Apply at most 256 beats of one partition, in order, in one step."""
        rows = msgpack.packb([codec.beat_row(beat) for beat in beats])
        now_ms, flat, moves = await self._call("beat", partition, self._beat_settings, rows)
        return BeatsResult(
            now_ms=now_ms, outcomes=list(zip(flat[::2], flat[1::2], strict=True)), moved=codec.moved(moves)
        )

    async def leave(self, disconnect: Disconnect) -> ChangeResult:
        """Apply a goodbye. ``REFUSED`` means that it changed nothing."""
        args = [
            disconnect.key.tenant,
            disconnect.key.worker_id,
            disconnect.trigger.value,
            disconnect.trigger is Trigger.DISCONNECT_CLEAN,
            disconnect.allowed,
            disconnect.reason,
            disconnect.exit_code,
            disconnect.error_message,
        ]
        now_ms, outcome, moves = await self._call("leave", self.partition_of(disconnect.key), msgpack.packb(args))
        return ChangeResult(now_ms=now_ms, outcome=outcome, moved=codec.moved(moves))

    async def forget(self, key: WorkerKey, *, allowed: tuple[str, ...] | None, reason: str) -> ChangeResult:
        """Erase a worker's record, metadata and logs at once."""
        args = msgpack.packb([key.tenant, key.worker_id, allowed, reason])
        now_ms, outcome, moves = await self._call("forget", self.partition_of(key), args)
        return ChangeResult(now_ms=now_ms, outcome=outcome, moved=codec.moved(moves))

    async def sweep(self, partition: int, *, limit: int) -> SweepResult:
        """Expire at most ``limit`` workers whose deadline has passed."""
        now_ms, more, moves = await self._call("sweep", partition, limit)
        return SweepResult(now_ms=now_ms, more=bool(more), moved=codec.moved(moves))

    async def purge(self, partition: int, *, limit: int, retention_ms: int) -> SweepResult:
        """Forget at most ``limit`` workers that have not been alive for ``retention_ms``."""
        now_ms, more, moves = await self._call("purge", partition, limit, retention_ms, "retention passed")
        return SweepResult(now_ms=now_ms, more=bool(more), moved=codec.moved(moves))

    async def trim(self, partition: int, *, keep_ms: int) -> int:
        """Drop events older than ``keep_ms`` that the router has passed; how many were dropped."""
        _, dropped = await self._call("trim", partition, keep_ms, EVENTS_TRIMMED_PER_CALL)
        return int(dropped)

    # The outbox ---------------------------------------------------------------------------------------------------

    async def take(self, partition: int, *, owner: str, lease_ms: int, limit: int) -> Taken:
        """Take or keep a partition's router lease and read the events behind its cursor."""
        _, token, entries, age_ms = await self._call("take", partition, owner, lease_ms, limit)
        return Taken(token=token, events=[codec.event(partition, entry) for entry in entries], age_ms=age_ms)

    async def ack(self, partition: int, *, token: int, position: str) -> bool:
        """Move the cursor; False when the lease has gone to somebody else."""
        _, done = await self._call("ack", partition, token, position)
        return bool(done)

    async def release(self, partition: int, *, token: int) -> None:
        """Give the lease back at a clean stop."""
        await self._call("release", partition, token)

    # Reading ------------------------------------------------------------------------------------------------------

    async def one(self, key: WorkerKey) -> tuple[int, int, Worker | None]:
        """(now in ms, time of the last full sweep, the worker with its last transitions)."""
        now_ms, swept_ms, row, past = await self._call("one", self.partition_of(key), key.tenant, key.worker_id)
        return now_ms, swept_ms, None if row is None else codec.worker(row, past)

    async def page(
        self,
        partition: int,
        tenant: str,
        *,
        after: str,
        limit: int,
        environments: tuple[str, ...] | None,
        want: Want | None,
    ) -> Page:
        """At most ``limit`` workers of one partition behind ``after``; the caller filters what comes back."""
        wanted = None if want is None else {name: getattr(want, name) for name in Want.__slots__}
        filters = msgpack.packb([environments, wanted])
        now_ms, swept_ms, last, rows = await self._call("page", partition, tenant, after, limit, filters)
        return Page(
            now_ms=now_ms, swept_ms=swept_ms, last=codec.text(last), workers=[codec.worker(row) for row in rows]
        )

    async def census(self, tenant: str | None) -> Census:
        """Count a tenant's workers, or everybody's, by environment and liveness; one bounded call per 200 groups."""
        environments: dict[str, dict[Liveness, int]] = {}
        codes = [STATE_CODES[state] for state in DOWN_STATES]
        now_ms, swept_ms = 0, None
        for partition in range(self.partitions):
            gid = 0
            while True:
                now_ms, swept, gid, rows = await self._call("counts", partition, tenant or "", gid, COUNT_PAGE, *codes)
                for name, after_stop, on_time, late, overdue, *down in rows:
                    counts = environments.setdefault(codec.text(name), dict.fromkeys(Liveness, 0))
                    counts[Liveness.ALIVE] += on_time
                    counts[Liveness.LATE] += late
                    counts[Liveness.STOPPED if after_stop else Liveness.STALE] += overdue
                    for state, count in zip(DOWN_STATES, down, strict=True):
                        counts[state] += count
                if not gid:
                    break
            swept_ms = swept if swept_ms is None else min(swept_ms, swept)
        return Census(now_ms=now_ms, swept_ms=swept_ms or 0, environments=environments)

    async def history(
        self, partition: int, *, after: str, limit: int, newest_first: bool
    ) -> tuple[int, int, list[Event]]:
        """(now, last full sweep, events of all tenants behind ``after``)."""
        order = "desc" if newest_first else "asc"
        now_ms, swept_ms, entries = await self._call("history", partition, after, limit, order)
        return now_ms, swept_ms, [codec.event(partition, entry) for entry in entries]


def _unavailable(error: Exception) -> StoreUnavailableError:
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return StoreUnavailableError(f"the store refuses our credentials: {error}")
    if isinstance(error, TimeoutError):
        return StoreUnavailableError("the store did not answer in time")
    return StoreUnavailableError(f"the store failed: {error}")
