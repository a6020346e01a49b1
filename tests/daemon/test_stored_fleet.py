"""What alerts ask of the worker store: whether an outage goes on."""

from typing import cast

import pytest
from redis.asyncio import Redis

from alerts.groups.fleet import StoredWorker
from monitor.daemon.alerts import StoredFleet
from monitor.events import Event
from monitor.liveness import EventKind, Trigger
from monitor.store import Store
from monitor.workers import Disconnect, WorkerKey
from tests.support.stores import GRACE_MS, INTERVAL_MS, ManualClock, beat, opened

PATIENCE_MS = INTERVAL_MS + GRACE_MS
KEY = WorkerKey("acme", "w")


def goodbye(trigger: Trigger) -> Disconnect:
    return Disconnect(key=KEY, trigger=trigger, reason="shutdown", exit_code=0, error_message=None, allowed=None)


async def stored(redis: Redis) -> StoredWorker:
    """The worker as a claim of its group gives it."""
    record, transitions = [await redis.hget("{ls:0}:" + name, "4:acmew") for name in ("records", "transitions")]
    return StoredWorker(cast("bytes | None", record), cast("bytes | None", transitions))


async def newest(store: Store, kind: EventKind) -> Event:
    events = (await store.history(0, "acme", after="", limit=100, newest_first=True)).events
    return next(event for event in events if event.kind is kind)


@pytest.mark.parametrize("is_claimed", [False, True])
async def test_p19_an_outage_goes_on_until_its_worker_is_back_and_through_what_makes_it_worse(
    store_url: str, *, is_claimed: bool
) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        fleet, clock = StoredFleet(store), ManualClock(store_url)

        async def is_ongoing(event: Event) -> bool:
            return (await fleet.outage(event, stored=await stored(redis) if is_claimed else None)).is_ongoing

        async def silence() -> None:
            now_ms = (await store.beat(0, [beat()])).now_ms
            await clock.set(now_ms + PATIENCE_MS)
            await store.sweep(0, limit=10)

        await silence()
        first = await newest(store, EventKind.STALE)
        assert await is_ongoing(first)
        await store.disconnect(goodbye(Trigger.DISCONNECT_FAILURE))
        failed = await newest(store, EventKind.FAILED)
        assert failed.seq == first.seq + 1
        assert await is_ongoing(first)
        assert await is_ongoing(failed)
        await silence()
        second = await newest(store, EventKind.STALE)
        assert not await is_ongoing(first)
        assert not await is_ongoing(failed)
        assert await is_ongoing(second)
        await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))
        assert not await is_ongoing(second)
        for _ in range(20):
            await silence()
        assert not await is_ongoing(second)
        assert await is_ongoing(await newest(store, EventKind.STALE))
        await store.delete(KEY, allowed=None, reason="deleted")
        assert not await is_ongoing(await newest(store, EventKind.STALE))
        await silence()
        assert not await is_ongoing(second)
