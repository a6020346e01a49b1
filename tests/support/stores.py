"""Opening a store for a test, and its manual clock."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from redis.asyncio import Redis

from alerts.store.port import Reply
from alerts.store.routing import Reading, RoutingStore, Written
from monitor.daemon.alerts import LIBRARY
from monitor.durability import MEMORY, Durability
from monitor.events import Taken
from monitor.ownership import Bid, Ownership
from monitor.store import Store, StoreSettings
from monitor.store.endpoint import Address
from monitor.store.library_client import LibraryClient
from monitor.store.outbox import Outbox
from monitor.store.settings import EnvironmentRule
from monitor.workers import Beat, WorkerKey

INTERVAL_MS = 30_000
GRACE_MS = 60_000
DEV = EnvironmentRule(match="dev*", interval_ms=10_000, grace_ms=5_000)


def settings(url: str, **changes: Any) -> StoreSettings:
    """Settings with small quotas and two environments that differ."""
    values: dict[str, Any] = {
        "url": url,
        "partitions": 1,
        "daemon": "d1",
        "timeout_s": 2.0,
        "interval_ms": INTERVAL_MS,
        "grace_ms": GRACE_MS,
        "rules": (DEV,),
        "workers_per_tenant": 1_000,
        "environments_per_tenant": 100,
        "status_events": False,
        "durability": "memory",
        **changes,
    }
    return StoreSettings(**{**values, "durability": Durability.parse(values["durability"])})


class _Watched(LibraryClient):
    """Reports the position to which a router's write has moved the cursor."""

    routed: Callable[[str], object]

    async def call(self, function: str, base: str, *args: str | bytes | int) -> Reply:
        answer = await super().call(function, base, *args)
        if function == "route_write" and args[1] and answer == 1:
            self.routed(str(args[1]))
        return answer


def alert_store(
    store: str | Address,
    *,
    namespace: str = "",
    durability: str = "memory",
    partitions: int = 1,
    routed: Callable[[str], object] = lambda _: None,
) -> LibraryClient:
    """The alerts' port to a store, by its URL, and founded here; or by its address, of a store that is founded.

    ``routed``: called with the position up to which a write has acknowledged events.
    """
    again = _not_founded
    if isinstance(store, str):
        again = partial(found, store, namespace=namespace, partitions=partitions)
        with ThreadPoolExecutor(1) as thread:  # now: a test may end while a call founds the store, and cut that off
            thread.submit(asyncio.run, again()).result()
    client = _Watched(
        Address(store, timeout_s=2.0) if isinstance(store, str) else store,
        LIBRARY,
        namespace=namespace,
        partitions=partitions,
        durability=Durability.parse(durability),
        confirming=2,
        found=again,
    )
    client.routed = routed
    return client


async def found(url: str, **changes: Any) -> None:
    """Found a store that is empty, as the daemon does at its start."""
    await (await Store.open(settings(url, **changes))).close()


async def _not_founded() -> None:
    raise AssertionError("a store that is known by its address is founded before")


class Interrupted(LibraryClient):
    """A store at which another change comes first: once, right before a call of ``function``."""

    def __init__(
        self, redis_url: str, function: str, meanwhile: Callable[[], Awaitable[object]], *, partitions: int = 1
    ) -> None:
        address = Address(redis_url, timeout_s=2.0)
        super().__init__(
            address,
            LIBRARY,
            namespace="",
            partitions=partitions,
            durability=MEMORY,
            confirming=1,
            found=partial(found, redis_url, partitions=partitions),
        )
        self._function = function
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    async def call(self, function: str, base: str, *args: str | bytes | int) -> Reply:
        if function == self._function and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        return await super().call(function, base, *args)


@asynccontextmanager
async def opened(url: str, **changes: Any) -> AsyncIterator[Store]:
    """An open store."""
    store = await Store.open(settings(url, **changes))
    try:
        yield store
    finally:
        await store.close()


async def owned(store: Store) -> Ownership:
    """Take the lease of every partition for the store's daemon."""
    ownership = Ownership(store.settings.daemon, store.partitions, sweep_interval_s=1.0)
    for partition in range(store.partitions):
        ownership.note(partition, Bid.OWN, await store.lease(partition, bid=Bid.OWN))
    return ownership


async def outbox_of(store: Store) -> Outbox:
    """The outbox of a daemon that owns every partition."""
    return Outbox(store, await owned(store))


async def claimed(store: Store, *, limit: int) -> tuple[int, Taken]:
    """Take the lease of partition 0 and read its events: the token, and the events."""
    lease = await store.lease(0, bid=Bid.OWN)
    taken = await store.claim(0, token=lease.token, limit=limit)
    assert taken is not None, "another daemon has the lease"
    return lease.token, taken


async def acked(store: Store, token: int, position: str, *, partition: int = 0) -> bool:
    """Acknowledge the events of a partition up to a position, as the router does; False: its lease is lost."""
    alerts = alert_store(store.connection.address, partitions=store.partitions)
    written = await RoutingStore(alerts).write(partition, Reading(), {}, token=token, position=position, now_ms=0)
    await alerts.close()
    return written is Written.DONE


class ManualClock:
    """Sets the time that the store's next calls will see, through the store's own record of its newest time.

    A store never answers a time before one that it has answered already, so writing that record moves its
    clock forward to an exact millisecond. There is no second code path.
    """

    def __init__(self, url: str, partitions: int = 1) -> None:
        self._url = url
        self._partitions = partitions

    async def set(self, now_ms: int) -> None:
        """The next call of each partition happens at ``now_ms``, which must lie ahead."""
        async with Redis.from_url(self._url) as redis:
            for partition in range(self._partitions):
                await redis.hset(f"{{ls:{partition}}}:meta", "last", str(now_ms))

    async def freeze(self) -> None:
        """The next writing call of each partition happens in the millisecond of the last one."""
        async with Redis.from_url(self._url) as redis:
            for partition in range(self._partitions):
                await redis.hset(f"{{ls:{partition}}}:meta", "skew", str(-(10**12)))


def beat(worker: str = "w", tenant: str = "acme", environment: str | None = "prod", **changes: Any) -> Beat:
    """A beat with the given fields only."""
    values: dict[str, Any] = {
        "key": WorkerKey(tenant, worker),
        "environment_name": environment,
        "first_environment": "default",
        "allowed": None,
    }
    return Beat(**{**values, **changes})
