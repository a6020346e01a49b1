"""A router's batch in a real store: all of it is written in one step, or nothing."""

from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from alerts.groups.classify import worker_key
from alerts.routing.enqueue import Offer, change_for
from alerts.routing.routes import ReceiverTraits, Route, Target, targets_of
from alerts.store.group_store import Change, GroupStore, Want
from alerts.store.incidents import IncidentStore
from alerts.store.port import StorePort
from alerts.store.routing import Reading, RoutingStore, Written
from monitor.events import Event
from tests.support.alerts_fakes import START_MS, event
from tests.support.stores import alert_store

EVENTS = [event(1, worker_id=name, position=f"{number}-0") for number, name in enumerate("abc", start=1)]
POSITION = EVENTS[-1].position


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StorePort]:
    opened = alert_store(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def redis(store_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(store_url, decode_responses=True) as opened:
        await opened.hset("{ls:0}:router", mapping={"token": "7", "cursor": "0-1"})
        yield opened


async def batch(store: StorePort, events: Sequence[Event] = EVENTS) -> tuple[Reading, list[Change]]:
    """Read a batch, and make its changes at one receiver."""
    reading = await RoutingStore(store).read(0, events, receivers={one.event_id: ["ops"] for one in events})
    keys = {one.event_id: {"ops": worker_key(one)} for one in events}
    reading.incidents.fold_all(events, lambda one: keys[one.event_id], lambda _: None)
    changes = []
    for one in events:
        offer = Offer(event=one, key=worker_key(one), target=_target(one))
        change = change_for([offer], *reading.groups["ops", worker_key(one)], receiver="ops", now_ms=START_MS)
        if change is not None:
            changes.append(change)
    return reading, changes


def _target(one: Event) -> Target:
    return targets_of(one, routes=[Route(receivers=("ops",))], traits={"ops": ReceiverTraits()})["ops"]


async def written(
    store: StorePort, reading: Reading, changes: list[Change], *, token: int = 7, position: str = POSITION
) -> Written:
    write = RoutingStore(store).write
    return await write(0, reading, {"ops": changes}, token=token, position=position, now_ms=START_MS)


async def stored(store: StorePort, redis: Redis) -> tuple[int, int, bytes | str | None]:
    """Open incidents, groups, and the cursor."""
    incidents = await IncidentStore(store).page("acme", limit=100)
    groups = await GroupStore(store, "ops").read([Want(group=worker_key(one)) for one in EVENTS])
    known = sum(one.group is not None for one in groups)
    return len(incidents.incidents), known, await redis.hget("{ls:0}:router", "cursor")


async def test_p5_a_batch_and_its_acknowledgement_are_one_write(store: StorePort, redis: Redis) -> None:
    for one in EVENTS:
        await redis.xadd("{ls:0}:outbox", {"event": "x"}, id=one.position)
    assert await written(store, *await batch(store)) is Written.DONE
    assert await stored(store, redis) == (3, 3, POSITION)
    assert await redis.zrange("{ls:0}:receivers_due", 0, -1) == ["ops"]


async def test_p6_a_batch_that_comes_again_changes_nothing(store: StorePort, redis: Redis) -> None:
    await written(store, *await batch(store), position="")
    assert await stored(store, redis) == (3, 3, "0-1")
    reading, changes = await batch(store)
    assert (reading.incidents.changed, changes) == ({}, [])
    assert await written(store, reading, changes) is Written.DONE
    assert await stored(store, redis) == (3, 3, POSITION)


async def test_p5_a_router_that_has_lost_its_lease_writes_nothing(store: StorePort, redis: Redis) -> None:
    assert await written(store, *await batch(store), token=6) is Written.LOST
    assert await stored(store, redis) == (0, 0, "0-1")


async def test_p5_nothing_is_written_if_one_group_has_changed_meanwhile(store: StorePort, redis: Redis) -> None:
    mine, others = await batch(store), await batch(store, EVENTS[2:])
    assert await written(store, *others, position="") is Written.DONE
    assert await written(store, *mine) is Written.CHANGED
    assert await stored(store, redis) == (1, 1, "0-1")
    assert await written(store, *await batch(store)) is Written.DONE
    assert await stored(store, redis) == (3, 3, POSITION)


async def test_p5_nothing_is_written_if_only_a_group_has_changed_meanwhile(store: StorePort, redis: Redis) -> None:
    await written(store, *await batch(store, EVENTS[:1]), position="")
    later = [event(2, worker_id="a", position="4-0"), *EVENTS[1:]]
    mine = await batch(store, later)
    groups = GroupStore(store, "ops")
    [claimed], _ = await groups.part_of(worker_key(EVENTS[0])).claim(limit=1, lease_ms=1_000, now_ms=START_MS)
    assert claimed.group.key == worker_key(EVENTS[0])
    await groups.part_of(claimed.group.key).save(mine[1][:1], now_ms=START_MS)
    assert await written(store, *mine) is Written.CHANGED
    assert await stored(store, redis) == (1, 1, "0-1")
