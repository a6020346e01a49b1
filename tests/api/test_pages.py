"""Pages of lists over one, four and 256 partitions: short cursors, nothing twice, nothing left out, bounded work."""

import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from redis.asyncio import Redis

from monitor.api.workers import PAGE_CALLS, PAGE_WORKERS
from tests.support import api, stores
from tests.support.api import Api

LONGEST_CURSOR = 512
EVENTS = "/api/v1/events"


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


async def page_of(lastseen: Api, query: str, cursor: str | None) -> tuple[list[str], str | None]:
    page = await lastseen.json(f"{EVENTS}?{query}" + ("" if cursor is None else f"&cursor={cursor}"))
    assert page["next_cursor"] is None or len(page["next_cursor"]) <= LONGEST_CURSOR
    stamps = [event["timestamp"] for event in page["events"]]
    assert stamps == sorted(stamps, reverse="desc" in query)
    return [event["data"]["event_id"] for event in page["events"]], page["next_cursor"]


async def all_events(lastseen: Api, query: str) -> list[str]:
    found, cursor = await page_of(lastseen, query, None)
    while cursor is not None:
        some, cursor = await page_of(lastseen, query, cursor)
        if not some and "desc" not in query:
            break
        assert set(some).isdisjoint(found)
        found += some
    return found


async def stored_events(lastseen: Api) -> list[str]:
    found = []
    for partition in range(lastseen.store.partitions):
        page = await lastseen.store.history(partition, "acme", after="", limit=10_000, newest_first=False)
        found += [event.event_id for event in page.events]
    return found


@pytest.mark.parametrize("limit", [7, 100])
async def test_a_cursor_is_short_and_none_is_left_out_of_events_of_all_partitions_in_one_millisecond(
    lastseen: Api, limit: int
) -> None:
    partitions = lastseen.store.partitions
    await lastseen.advance(10_000)  # time stands still there
    await register(lastseen, [f"w{n}" for n in range(max(3 * partitions, 60) if limit == 100 else 60)])
    await lastseen.advance(1)
    stored = await stored_events(lastseen)
    forwards = await all_events(lastseen, f"limit={limit}")
    backwards = await all_events(lastseen, f"limit={limit}&order=desc")
    assert sorted(forwards) == sorted(stored)
    assert backwards == forwards[::-1]


async def set_time(store_url: str, partition: int, field: str, ms: int) -> None:
    async with Redis.from_url(store_url) as redis:
        await redis.hset(f"{{ls:{partition}}}:meta", field, str(ms))


def worker_in(lastseen: Api, partition: int, number: int) -> str:
    return next(
        name
        for name in (f"w{number}-{k}" for k in range(10_000))
        if lastseen.store.partition_of(stores.beat(name).key) == partition
    )


@pytest.mark.parametrize("lastseen", [2], indirect=True)
async def test_an_event_of_a_partition_whose_clock_is_behind_is_not_passed(lastseen: Api, store_url: str) -> None:
    now_ms = lastseen.store.clock.now_ms()
    await set_time(store_url, 0, "last", now_ms + 60_000)
    await set_time(store_url, 1, "last", now_ms + 20_000)
    await register(lastseen, [worker_in(lastseen, 0, 1)])
    early, cursor = await page_of(lastseen, "order=asc", None)
    await register(lastseen, [worker_in(lastseen, 1, 2)])
    later, cursor = await page_of(lastseen, "order=asc", cursor)
    assert early == []
    assert len(later) == 1  # of the partition that is behind: its time comes first
    await lastseen.clock.set(now_ms + 60_001)
    last, cursor = await page_of(lastseen, "order=asc", cursor)
    assert sorted(later + last) == sorted(await stored_events(lastseen))
    assert len(await all_events(lastseen, "order=desc&limit=1")) == 2


@pytest.mark.parametrize("lastseen", [2], indirect=True)
async def test_an_event_that_is_recorded_after_a_step_back_of_the_server_s_clock_is_not_passed(lastseen: Api) -> None:
    await register(lastseen, [worker_in(lastseen, 1, 1)])
    await register(lastseen, [worker_in(lastseen, 0, 2)])
    early, cursor = await page_of(lastseen, "order=asc", None)  # at a time that no partition stores
    await lastseen.clock.freeze()
    await register(lastseen, [worker_in(lastseen, 1, 3)])
    await lastseen.advance(10)
    later, _ = await page_of(lastseen, "order=asc", cursor)
    assert sorted(early + later) == sorted(await stored_events(lastseen))


class Course:
    """A poller, and what happens between its reads, at random."""

    def __init__(self, lastseen: Api, store_url: str, seed: int) -> None:
        self.lastseen = lastseen
        self.url = store_url
        self.rng = random.Random(seed)  # noqa: S311 - a course that can be repeated
        self.number = 0
        self.found: list[str] = []
        self.cursor: str | None = None

    def partition(self) -> int:
        return self.rng.randrange(self.lastseen.store.partitions)

    async def an_event(self) -> None:
        self.number += 1
        await register(self.lastseen, [worker_in(self.lastseen, self.partition(), self.number)])

    async def events(self) -> None:
        self.number += 1
        await register(self.lastseen, [f"m{self.number}-{k}" for k in range(10)])

    async def one_clock_runs_ahead(self) -> None:
        partition = self.partition()
        page = await self.lastseen.store.history(partition, "acme", after="", limit=1, newest_first=True)
        now_ms = max(page.now_ms, page.written_ms) + self.rng.choice([0, 1, 1_000, 20_000])
        await set_time(self.url, partition, "last", now_ms)

    async def one_clock_steps_back(self) -> None:
        await set_time(self.url, self.partition(), "skew", -(10**12))

    async def what_was_read_is_trimmed(self) -> None:
        if set(await stored_events(self.lastseen)) <= set(self.found):
            while await self.lastseen.store.trim(self.partition(), keep_ms=10**12, most=3):
                pass

    async def poll(self) -> int:
        some, self.cursor = await page_of(self.lastseen, f"limit={self.rng.choice([1, 3, 50])}", self.cursor)
        self.found += some
        return len(some)

    async def list_newest_first(self) -> None:
        before = await stored_events(self.lastseen)
        listed, cursor = await page_of(self.lastseen, "order=desc&limit=5", None)
        while cursor is not None:
            await self.rng.choice([self.an_event, self.one_clock_steps_back])()
            some, cursor = await page_of(self.lastseen, "order=desc&limit=5", cursor)
            assert set(some).isdisjoint(listed)
            listed += some
        assert set(before) <= set(listed)


@pytest.mark.parametrize("lastseen", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("seed", range(4))
async def test_a_poller_gets_each_event_once_whatever_happens_between_its_reads(
    lastseen: Api, store_url: str, seed: int
) -> None:
    course = Course(lastseen, store_url, seed)
    happens = (
        *(course.an_event, course.an_event, course.events, course.poll, course.poll, course.list_newest_first),
        *(course.one_clock_runs_ahead, course.one_clock_steps_back, course.what_was_read_is_trimmed),
    )
    recorded: set[str] = set()
    for _ in range(100):
        await course.rng.choice(happens)()
        recorded |= set(await stored_events(lastseen))
    await lastseen.advance(10_000_000)
    while await course.poll():
        pass
    assert len(set(course.found)) == len(course.found)
    assert set(course.found) == recorded
