"""Pages of lists over one, four and 256 partitions: short cursors, nothing twice, nothing left out, bounded work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from monitor.api.workers import PAGE_CALLS, PAGE_WORKERS
from tests.support import api, stores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.api import Api

LONGEST_CURSOR = 512


@pytest.fixture(params=[1, 4, 256])
async def lastseen(request: pytest.FixtureRequest, store_url: str) -> AsyncIterator[Api]:
    async with api.running(store_url, partitions=request.param, workers_per_tenant=1_000_000) as running:
        yield running


pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
alone = pytest.mark.parametrize("lastseen", [1], indirect=True)


async def register(lastseen: Api, names: Iterable[str]) -> None:
    """Register workers, straight in the store."""
    beats: dict[int, list[Any]] = {}
    for beat in map(stores.beat, names):
        beats.setdefault(lastseen.store.partition_of(beat.key), []).append(beat)
    for partition, some in beats.items():
        for start in range(0, len(some), 256):
            await lastseen.store.beat(partition, some[start : start + 256])


def in_order(lastseen: Api, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (lastseen.store.partition_of(stores.beat(name).key), name))


async def calls(store_url: str) -> int:
    """How many functions the server has called."""
    async with Redis.from_url(store_url) as redis:
        return int((await redis.info("commandstats"))["cmdstat_fcall"]["calls"])


async def test_one_request_lists_a_few_workers_of_many_partitions(lastseen: Api) -> None:
    names = [f"w{n}" for n in range(5)]
    await register(lastseen, names)
    for query in ("", "?limit=10", "?text=w", "?liveness=alive", "?environment=prod&status=&text=w"):
        page = await lastseen.json(f"{api.WORKERS}{query}")
        listed = [worker["worker_id"] for worker in page["workers"]]
        assert listed == ([] if "status" in query else in_order(lastseen, names))
        assert page["next_cursor"] is None


@pytest.mark.parametrize("query", ["limit=1", "limit=7&liveness=alive", "limit=60&text=w", "limit=1000"])
async def test_a_list_has_every_worker_once_by_partition_and_id(lastseen: Api, query: str) -> None:
    names = [f"w{n:03}" for n in range(120 if query == "limit=1" else 500)]
    await register(lastseen, names)
    assert await lastseen.ids(query) == in_order(lastseen, names)


async def test_a_worker_that_is_there_throughout_is_listed_once_while_others_come_and_go(lastseen: Api) -> None:
    staying = [f"s{n:03}" for n in range(300)]
    going = [f"g{n:03}" for n in range(300)]
    await register(lastseen, staying + going)
    found: list[str] = []
    cursor = ""
    while True:
        page = await lastseen.json(f"{api.WORKERS}?limit=40{cursor}")
        found += [worker["worker_id"] for worker in page["workers"]]
        if page["next_cursor"] is None:
            break
        assert len(page["next_cursor"]) <= LONGEST_CURSOR
        cursor = f"&cursor={page['next_cursor']}"
        await register(lastseen, [f"n{len(found)}-{n}" for n in range(5)])
        for _ in range(20 if going else 0):
            await lastseen.client.delete(f"{api.WORKERS}/{going.pop()}")
    assert sorted(name for name in found if name[0] == "s") == staying
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("lastseen", [256], indirect=True)
async def test_p29_a_request_for_a_list_does_a_bounded_amount_of_work(lastseen: Api, store_url: str) -> None:
    await register(lastseen, [f"w{n:04}" for n in range(2 * PAGE_CALLS * PAGE_WORKERS)])
    before = await calls(store_url)
    page = await lastseen.json(f"{api.WORKERS}?text=none")
    assert page["workers"] == []
    assert page["next_cursor"] is not None
    assert await calls(store_url) - before < 150
    assert await lastseen.ids("text=w4999") == ["w4999"]


@alone
async def test_one_partition_is_asked_as_often_as_the_page_needs(lastseen: Api, store_url: str) -> None:
    await register(lastseen, [f"w{n:04}" for n in range(PAGE_CALLS * PAGE_WORKERS + 120)])
    for query, expected in (("limit=100", 2), ("limit=120", 3), ("text=none", PAGE_CALLS)):
        before = await calls(store_url)
        page = await lastseen.json(f"{api.WORKERS}?{query}")
        assert page["next_cursor"] is not None
        assert await calls(store_url) - before == expected


@pytest.mark.parametrize("lastseen", [4], indirect=True)
async def test_partitions_that_fill_a_page_are_not_asked_at_once(lastseen: Api, store_url: str) -> None:
    await register(lastseen, [f"w{n:04}" for n in range(1_000)])
    before = await calls(store_url)
    assert len((await lastseen.json(f"{api.WORKERS}?limit=200"))["workers"]) == 200
    assert await calls(store_url) - before == 4
