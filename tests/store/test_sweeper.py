"""The sweeper's passes on a real store: bounded, each transition reported once, no failure while the store is away."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from monitor.events import Moved
from monitor.liveness import EventKind, Liveness
from monitor.ownership import Bid, Ownership
from monitor.store import Store, StoreFullError, StoreSettings, SweepResult
from monitor.store.results import STORED
from monitor.sweeper import PURGE_CHUNK, Sweeper, SweepSettings
from tests.support import servers
from tests.support.proxies import Watched
from tests.support.stores import GRACE_MS, INTERVAL_MS, ManualClock, acked, beat, claimed, opened, settings

DEADLINE_MS = INTERVAL_MS + GRACE_MS
RETENTION_MS = 3_600_000
EVENT_RETENTION_MS = 7_200_000


class WatchedStore(Store):
    """The store, and a note of each chunk: (what it was asked for, how many it moved)."""

    def __init__(self, settings: StoreSettings) -> None:
        super().__init__(settings)
        self.sweeps: list[tuple[int, int]] = []
        self.purges: list[tuple[int, int]] = []

    async def sweep(self, partition: int, *, limit: int) -> SweepResult:
        result = await super().sweep(partition, limit=limit)
        self.sweeps.append((limit, len(result.moved)))
        return result

    async def purge(self, partition: int, *, limit: int, retention_ms: int) -> SweepResult:
        result = await super().purge(partition, limit=limit, retention_ms=retention_ms)
        self.purges.append((limit, len(result.moved)))
        return result


class SlowStore(Watched, Store):
    """A store whose partition 0 answers a sweep when ``gate`` is open, and a note of all that were swept and purged."""

    def __init__(self, settings: StoreSettings) -> None:
        Watched.__init__(self)
        Store.__init__(self, settings)
        self.gate = asyncio.Event()
        self.begun = 0
        self.sweeps: list[int] = []
        self.purges: list[int] = []

    async def sweep(self, partition: int, *, limit: int) -> SweepResult:
        if partition == 0:
            self.begun += 1
            await self.gate.wait()
        result = await super().sweep(partition, limit=limit)
        self.sweeps.append(partition)
        self.changed()
        return result

    async def purge(self, partition: int, *, limit: int, retention_ms: int) -> SweepResult:
        self.purges.append(partition)
        return await super().purge(partition, limit=limit, retention_ms=retention_ms)


def sweeper_on(store: Store, moved: list[Moved], *, chunk: int = 7) -> Sweeper:
    values = SweepSettings(chunk=chunk, retention_ms=RETENTION_MS, event_retention_ms=EVENT_RETENTION_MS, events=10**6)
    return Sweeper(store, values, on_moved=moved.extend)


async def registered(store: Store, count: int) -> int:
    """Workers ``w000`` and so on, each in its partition; the store's time of the last of them."""
    now_ms = 0
    for start in range(0, count, 200):
        beats = [beat(f"w{k:03}") for k in range(start, min(count, start + 200))]
        for partition in range(store.partitions):
            own = [one for one in beats if store.partition_of(one.key) == partition]
            now_ms = max(now_ms, (await store.beat(partition, own)).now_ms)
    return now_ms


async def test_a_pass_expires_a_hundred_workers_seven_at_a_time_and_reports_each_once(store_url: str) -> None:
    store = await WatchedStore.open(settings(store_url))
    assert isinstance(store, WatchedStore)
    moved: list[Moved] = []
    sweeper = sweeper_on(store, moved)
    t = await registered(store, 100)
    await sweeper.sweep()
    assert moved == []
    store.sweeps.clear()

    await ManualClock(store_url).set(t + DEADLINE_MS)
    await sweeper.sweep()
    assert sorted(move.worker_id for move in moved) == [f"w{k:03}" for k in range(100)]
    assert {(move.kind, move.reason) for move in moved} == {(EventKind.STALE, "deadline passed")}
    assert {limit for limit, _ in store.sweeps} == {7}
    assert [count for _, count in store.sweeps] == [7] * 14 + [2]

    await sweeper.sweep()
    assert len(moved) == 100
    await store.close()


async def test_a_pass_reaches_every_partition(store_url: str) -> None:
    async with opened(store_url, partitions=4) as store:
        moved: list[Moved] = []
        t = await registered(store, 60)
        await ManualClock(store_url, partitions=4).set(t + DEADLINE_MS)
        await sweeper_on(store, moved).sweep()
        assert len({move.worker_id for move in moved}) == len(moved) == 60
        swept = [await store.get(beat(f"w{k:03}").key) for k in range(60)]
        assert {worker.stored for _, _, worker in swept if worker} == {Liveness.STALE}


async def test_p3_two_sweepers_at_once_report_each_worker_once_between_them(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url, daemon="d2") as other:
        moved: list[Moved] = []
        t = await registered(one, 100)
        await ManualClock(store_url).set(t + DEADLINE_MS)
        await asyncio.gather(sweeper_on(one, moved).sweep(), sweeper_on(other, moved).sweep())
        assert sorted(move.worker_id for move in moved) == [f"w{k:03}" for k in range(100)]


async def test_a_store_that_is_away_is_said_once_and_so_is_its_return() -> None:
    # Synced every second, a server may answer a write before it is in the file: while a sync is running.
    always = ("--appendfsync", "always")
    with servers.running(servers.valkey_binary(), *always) as server:
        async with opened(server.url, timeout_s=1.0) as store:
            moved: list[Moved] = []
            sweeper = sweeper_on(store, moved)
            t = await registered(store, 10)
            await ManualClock(server.url).set(t + DEADLINE_MS)
            with capture_logs() as lines:
                server.kill()
                for _ in range(3):
                    await asyncio.wait_for(sweeper.sweep(), 5)
                await asyncio.wait_for(sweeper.tidy(), 5)
                assert [line["event"] for line in lines] == ["sweep.store_unavailable"]
                assert lines[0]["log_level"] == "warning"
                assert lines[0]["error"].startswith("the store ")
                again = servers.start(servers.valkey_binary(), server.directory, *always)
                try:
                    await ManualClock(again.url).set(t + DEADLINE_MS)
                    for _ in range(3):
                        await sweeper.sweep()
                    assert [line["event"] for line in lines] == ["sweep.store_unavailable", "sweep.resumed"]
                    assert len(moved) == 10
                    # And a second outage is said again.
                    again.kill()
                    await asyncio.wait_for(sweeper.sweep(), 5)
                    assert [line["event"] for line in lines][2:] == ["sweep.store_unavailable"]
                finally:
                    again.kill()


async def test_p22_a_damaged_partition_stops_the_sweep_of_no_other_and_is_named(store_url: str) -> None:
    async with opened(store_url, partitions=4) as store, Redis.from_url(store_url) as redis:
        moved: list[Moved] = []
        sweeper = sweeper_on(store, moved)
        t = await registered(store, 60)
        await ManualClock(store_url, partitions=4).set(t + DEADLINE_MS)
        await redis.rename("{ls:0}:meta", "{ls:0}:aside")
        await redis.set("{ls:0}:meta", "damaged")
        with capture_logs() as lines:
            for _ in range(2):
                await sweeper.sweep()
                await sweeper.tidy()
            damaged = [key for key in (beat(f"w{k:03}").key for k in range(60)) if not store.partition_of(key)]
            assert len(moved) == 60 - len(damaged)
            await redis.rename("{ls:0}:aside", "{ls:0}:meta")
            await sweeper.sweep()
        assert len(moved) == 60
        said = [(line["event"], line["partition"]) for line in lines]
        assert said == [("sweep.store_unavailable", 0), ("sweep.resumed", 0)]


async def test_p22_a_slow_partition_delays_the_sweep_of_no_other_and_is_swept_once_at_a_time(store_url: str) -> None:
    store = await SlowStore.open(settings(store_url, partitions=4))
    assert isinstance(store, SlowStore)
    sweeper = sweeper_on(store, [])
    first = asyncio.create_task(sweeper.sweep())
    await store.until(lambda: Counter(store.sweeps) == {1: 1, 2: 1, 3: 1}, "the others")
    await asyncio.wait_for(sweeper.sweep(), 5)
    assert Counter(store.sweeps) == {1: 2, 2: 2, 3: 2}
    assert (store.begun, first.done()) == (1, False)
    store.gate.set()
    await asyncio.wait_for(first, 5)
    await sweeper.sweep()
    assert Counter(store.sweeps) == {0: 2, 1: 3, 2: 3, 3: 3}
    await store.close()


async def test_a_daemon_sweeps_and_tidies_what_it_owns_and_sweeps_what_its_owner_does_not(store_url: str) -> None:
    store = await SlowStore.open(settings(store_url, partitions=2))
    assert isinstance(store, SlowStore)
    store.gate.set()
    elapsed_s = 0.0
    ownership = Ownership("d1", 2, sweep_interval_s=1.0, elapsed_s=lambda: elapsed_s)
    await store.sweep(1, limit=1)
    for partition, bid in enumerate((Bid.OWN, Bid.NONE)):
        ownership.note(partition, bid, await store.lease(partition, bid=bid))
    values = SweepSettings(chunk=7, retention_ms=RETENTION_MS, event_retention_ms=EVENT_RETENTION_MS, events=10)
    sweeper = Sweeper(store, values, on_moved=lambda _: None, ownership=ownership)
    store.sweeps.clear()
    await sweeper.sweep()
    await sweeper.tidy()
    assert (store.sweeps, store.purges) == ([0], [0])
    elapsed_s = 1.6
    await sweeper.sweep()
    await sweeper.tidy()
    assert (sorted(store.sweeps), store.purges) == ([0, 0, 1], [0, 0])
    await store.close()


async def test_an_error_that_is_not_the_store_s_is_not_swallowed(store_url: str) -> None:
    def broken(_: list[Moved]) -> None:
        raise KeyError("a bug")

    async with opened(store_url) as store:
        t = await registered(store, 3)
        await ManualClock(store_url).set(t + DEADLINE_MS)
        values = SweepSettings(chunk=7, retention_ms=RETENTION_MS, event_retention_ms=EVENT_RETENTION_MS, events=10**6)
        with pytest.raises(KeyError, match="a bug"):
            await Sweeper(store, values, on_moved=broken).sweep()


async def test_tidy_forgets_after_the_retention_a_hundred_at_a_time(store_url: str) -> None:
    store = await WatchedStore.open(settings(store_url))
    assert isinstance(store, WatchedStore)
    moved: list[Moved] = []
    sweeper = sweeper_on(store, moved, chunk=1_000)
    clock = ManualClock(store_url)
    t = await registered(store, 250)
    await clock.set(t + DEADLINE_MS)
    await sweeper.sweep()
    since = max(move.due_ms for move in moved)
    first = min(move.due_ms for move in moved)
    moved.clear()
    await clock.set(first + RETENTION_MS - 1)
    await sweeper.tidy()
    assert moved == []
    store.purges.clear()
    await clock.set(since + RETENTION_MS)
    await sweeper.tidy()
    assert len({move.worker_id for move in moved}) == len(moved) == 250
    assert {(move.kind, move.reason) for move in moved} == {(EventKind.FORGOTTEN, "retention passed")}
    assert store.purges == [(PURGE_CHUNK, 100), (PURGE_CHUNK, 100), (PURGE_CHUNK, 50)]
    assert (await store.count_workers(None)).environments == {}
    await store.close()


async def test_tidy_leaves_the_living_alone_however_old_they_are(store_url: str) -> None:
    async with opened(store_url) as store:
        moved: list[Moved] = []
        clock = ManualClock(store_url)
        long: dict[str, Any] = {"interval_ms": 10 * RETENTION_MS}
        t = (await store.beat(0, [beat(**long)])).now_ms
        await clock.set(t + 5 * RETENTION_MS)
        await sweeper_on(store, moved).tidy()
        assert moved == []


async def test_p26_tidy_ends_the_history_by_age_and_not_what_the_router_has_still_to_pass(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store:
        moved: list[Moved] = []
        sweeper = sweeper_on(store, moved, chunk=1_000)
        t = await registered(store, 2_500)
        await ManualClock(store_url).set(t + DEADLINE_MS)
        await sweeper.sweep()
        assert len(moved) == 2_500
        positions = await all_positions(store)
        assert len(positions) == 5_000
        await ManualClock(store_url).set(t + DEADLINE_MS // 2 + EVENT_RETENTION_MS)
        await sweeper.tidy()  # makes 2,500 events more
        left = await all_positions(store)
        assert len(left) == 5_000
        assert left[:2_500] == positions[2_500:], "of those that are no older than the retention none has gone"
        _, taken = await claimed(store, limit=10_000)
        assert len(taken.events) == 7_500


async def all_positions(store: Store) -> list[str]:
    positions: list[str] = []
    while True:
        after = positions[-1] if positions else ""
        some = (await store.history(0, "acme", after=after, limit=1_000, newest_first=False)).events
        if not some:
            return positions
        positions += [event.position for event in some]


async def test_p26_one_pass_of_housekeeping_drops_all_that_is_too_many_however_fast_it_came(store_url: str) -> None:
    count, kept = 120_000, 1_000
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        t = (await store.beat(0, [beat()])).now_ms
        for start in range(0, count, 10_000):
            pipeline = redis.pipeline(transaction=False)
            for number in range(start, start + 10_000):
                pipeline.xadd("{ls:0}:history:acme", {"event": "x", "gaps": "x"}, id=f"{t + 1}-{number}")
            pipeline.hincrby("{ls:0}:meta", "events", 10_000)
            pipeline.zincrby("{ls:0}:history_lengths", 10_000, "acme")
            await pipeline.execute()
        values = SweepSettings(chunk=7, retention_ms=RETENTION_MS, event_retention_ms=EVENT_RETENTION_MS, events=kept)
        await Sweeper(store, values, on_moved=lambda _: None).tidy()
        left: Any = await redis.xrange("{ls:0}:history:acme")
        assert (len(left), left[-1][0].decode()) == (kept, f"{t + 1}-{count - 1}")
        assert len((await claimed(store, limit=10))[1].events) == 1


async def test_p26_a_full_store_makes_room_for_itself_by_retention_and_trimming(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=3_000) as store, Redis.from_url(store_url) as redis:
        moved: list[Moved] = []
        sweeper = sweeper_on(store, moved, chunk=200)
        t = 0
        for start in range(0, 2_000, 100):
            beats = [beat(f"w{k:04}", metadata_json=f'"{"x" * 2_000}"') for k in range(start, start + 100)]
            t = (await store.beat(0, beats)).now_ms
        clock = ManualClock(store_url)
        await clock.set(t + DEADLINE_MS)
        await sweeper.sweep()
        assert len(moved) == 2_000
        token, taken = await claimed(store, limit=10_000)
        await acked(store, token, taken.last)
        await clock.set(t + DEADLINE_MS + EVENT_RETENTION_MS + 1)
        try:
            await redis.config_set("maxmemory", (await redis.info("memory"))["used_memory"] - 1_000_000)
            with pytest.raises(StoreFullError):
                await store.beat(0, [beat("new")])
            await sweeper.tidy()
            assert (await store.beat(0, [beat("new")])).outcomes == [(STORED, INTERVAL_MS)]
            _, left = await claimed(store, limit=3_000)
            forgotten = [event for event in left.events if event.kind is EventKind.FORGOTTEN]
            assert len(forgotten) == 2_000, "what the router has not passed is kept"
        finally:
            await redis.config_set("maxmemory", 0)


async def test_p26_the_history_of_all_partitions_together_holds_no_more_events_than_it_may(store_url: str) -> None:
    async with opened(store_url, partitions=4) as store:
        await registered(store, 400)
        values = SweepSettings(chunk=7, retention_ms=RETENTION_MS, event_retention_ms=EVENT_RETENTION_MS, events=40)
        await Sweeper(store, values, on_moved=lambda _: None).tidy()
        kept = [await store.history(k, "acme", after="", limit=1_000, newest_first=False) for k in range(4)]
        assert [len(page.events) for page in kept] == [10] * 4


async def test_a_monitor_that_is_blind_says_so_once_and_again_when_it_is_blind_again(store_url: str) -> None:
    async with opened(store_url) as store:
        sweeper, clock = sweeper_on(store, []), ManualClock(store_url)
        await registered(store, 1)
        with capture_logs() as lines:
            for times in (1, 2):
                now_ms = (await store.pulse(0, ends=False)).now_ms
                await sweeper.sweep()
                await clock.set(now_ms + DEADLINE_MS)
                for _ in range(3):
                    await sweeper.sweep()
                assert [line["event"] for line in lines] == ["sweep.blind"] * times
