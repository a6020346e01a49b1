"""A worker that announces its absence: no alert until then, and one if it is not back."""

from typing import Any

import pytest
from redis.asyncio import Redis

from monitor.events import Event
from monitor.liveness import EventKind, Liveness, Trigger
from monitor.store import Store
from monitor.store.results import REFUSED, STORED, ChangeResult, Want
from monitor.workers import Disconnect, Worker, WorkerKey
from tests.support.store_indexes import check_indexes
from tests.support.stores import GRACE_MS, INTERVAL_MS, ManualClock, beat, opened

W = WorkerKey("acme", "w")
REACH_MS = INTERVAL_MS + GRACE_MS
ABSENCE_MS = 600_000
NOT_BACK = "did not return as planned"


async def leave(store: Store, back_in_ms: int | None = None, *, worker: str = "w", exit_code: int = 0) -> ChangeResult:
    trigger = Trigger.DISCONNECT_FAILURE if exit_code else Trigger.DISCONNECT_CLEAN
    return await store.disconnect(
        Disconnect(
            key=WorkerKey("acme", worker),
            allowed=None,
            trigger=trigger,
            reason="shutdown",
            exit_code=exit_code,
            error_message=None,
            back_in_ms=back_in_ms,
        )
    )


async def history(store: Store) -> list[Event]:
    return (await store.history(0, "acme", after="", limit=1_000, newest_first=False)).events


async def transitions(store: Store) -> list[tuple[str, str]]:
    return [(event.kind.removeprefix("worker."), event.reason) for event in await history(store)]


async def read(store: Store) -> Worker:
    _, _, worker = await store.get(W)
    assert worker is not None
    return worker


async def seen(store: Store) -> set[Liveness]:
    """The liveness of the worker, in every way in which it can be read."""
    now_ms, _, worker = await store.get(W)
    assert worker is not None
    page = await store.list_workers(0, "acme", after="", limit=10, environments=None, want=None)
    down = Want(alive=False, late=False, overdue=True, down=True)
    found = await store.list_workers(0, "acme", after="", limit=10, environments=None, want=down)
    census = await store.count_workers("acme")
    counted = {
        liveness: count for counts in census.environments.values() for liveness, count in counts.items() if count
    }
    assert list(counted.values()) == [1]
    listed = [*page.workers, *found.workers]
    assert all(one.back_ms == worker.back_ms for one in listed)
    return {worker.liveness(now_ms), *(one.liveness(now_ms) for one in listed), *counted}


async def sweep(store: Store, url: str) -> None:
    while True:
        result = await store.sweep(0, limit=10)
        assert result.damaged == 0
        if not result.more:
            break
    await check_indexes(url)


async def keys(url: str) -> set[str]:
    async with Redis.from_url(url) as redis:
        return {key.decode().removeprefix("{ls:0}:") async for key in redis.scan_iter("{ls:0}:*")}


@pytest.mark.parametrize(
    ("off", "liveness"), [(-1, Liveness.STOPPED), (0, Liveness.STALE), (1, Liveness.STALE)], ids=["-1", "0", "+1"]
)
async def test_p17_p22_no_alert_until_the_announced_moment_and_stale_from_it_on(
    store_url: str, off: int, liveness: Liveness
) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat()])).now_ms
        left = await leave(store, ABSENCE_MS)
        back = left.now_ms + ABSENCE_MS
        assert (await seen(store), (await read(store)).back_ms) == ({Liveness.STOPPED}, back)
        await ManualClock(store_url).set(back + off)
        assert await seen(store) == {liveness}  # no sweep has run
        unswept = await read(store)
        await sweep(store, store_url)
        swept = await read(store)
        for worker in (unswept, swept):
            assert worker.liveness(back + off) is liveness
            assert worker.since(back + off) == (left.now_ms if off < 0 else back)
            assert worker.absent_until(back + off) == (back if off < 0 else None)
        if off < 0:
            assert [kind for kind, _ in await transitions(store)] == ["registered", "stopped"]
            return
        stale = (await history(store))[-1]
        assert (stale.kind, stale.reason, stale.old, stale.new) == (
            *(EventKind.STALE, NOT_BACK, Liveness.STOPPED, Liveness.STALE),
        )
        assert (stale.due_ms, stale.detected_ms, stale.since_ms) == (back, back + off, left.now_ms)
        assert (stale.last_seen_ms, stale.interval_ms, stale.grace_ms) == (t, INTERVAL_MS, GRACE_MS)
        assert swept.transitions[-1].reason == NOT_BACK
        await sweep(store, store_url)
        assert len(await history(store)) == 3


async def test_a_beat_before_the_moment_ends_the_absence_and_the_plan(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store, ABSENCE_MS)).now_ms
        await clock.set(t + 300_000)
        last = (await store.beat(0, [beat()])).now_ms
        assert (await read(store)).back_ms is None
        await check_indexes(store_url)
        await clock.set(last + REACH_MS)
        await sweep(store, store_url)
        await clock.set(t + ABSENCE_MS)
        await sweep(store, store_url)
        assert (await transitions(store))[1:] == [
            ("stopped", "shutdown"),
            ("resumed", "beat"),
            ("stale", "deadline passed"),
        ]


async def test_p8_a_beat_at_the_moment_first_records_that_the_worker_was_missed(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat()])
        back = (await leave(store, ABSENCE_MS)).now_ms + ABSENCE_MS
        await ManualClock(store_url).set(back)
        await store.beat(0, [beat()])
        await sweep(store, store_url)
        assert (await transitions(store))[2:] == [("stale", NOT_BACK), ("recovered", "beat")]
        assert [event.due_ms for event in await history(store)][2:] == [back, back]


async def test_the_worker_s_last_word_counts_renewed_or_withdrawn(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store, ABSENCE_MS)).now_ms
        await clock.set(t + 400_000)
        again = await leave(store, ABSENCE_MS)
        assert (again.outcome, again.moved) == (STORED, [])
        assert (await read(store)).back_ms == again.now_ms + ABSENCE_MS
        await check_indexes(store_url)
        await clock.set(t + ABSENCE_MS)
        await sweep(store, store_url)
        assert (await read(store)).stored is Liveness.STOPPED
        # A failure is no word on it: the table has no such move, and the worker is expected as before.
        assert (await leave(store, exit_code=1)).outcome == REFUSED
        assert (await read(store)).back_ms == again.now_ms + ABSENCE_MS
        withdrawn = await leave(store)
        assert (withdrawn.outcome, withdrawn.moved) == (STORED, [])
        assert (await read(store)).back_ms is None
        await check_indexes(store_url)
        assert (await leave(store)).outcome == REFUSED
        await clock.set(t + 10 * ABSENCE_MS)
        await sweep(store, store_url)
        assert [kind for kind, _ in await transitions(store)] == ["registered", "stopped"]
        # Retention counts from the stop again.
        assert len((await store.purge(0, limit=10, retention_ms=9 * ABSENCE_MS)).moved) == 1


async def test_an_announcement_after_the_moment_begins_another_absence(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat()])
        back = (await leave(store, ABSENCE_MS)).now_ms + ABSENCE_MS
        await ManualClock(store_url).set(back + 5)
        again = await leave(store, 1_000)
        assert (again.outcome, [moved.kind for moved in again.moved]) == (STORED, [EventKind.STALE, EventKind.STOPPED])
        assert (await read(store)).back_ms == again.now_ms + 1_000
        await check_indexes(store_url)


async def test_a_stale_worker_can_announce_an_absence_and_a_failed_one_cannot(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        t = (await store.beat(0, [beat(), beat("v")])).now_ms
        await leave(store, worker="v", exit_code=1)
        await clock.set(t + REACH_MS)
        assert [moved.kind for moved in (await leave(store, 60_000)).moved] == [EventKind.STALE, EventKind.STOPPED]
        assert (await leave(store, 60_000, worker="v")).outcome == REFUSED
        _, _, failed = await store.get(WorkerKey("acme", "v"))
        assert failed is not None
        assert (failed.stored, failed.back_ms) == (Liveness.FAILED, None)
        await clock.set(t + 2 * REACH_MS)
        assert [(moved.worker_id, moved.reason) for moved in (await store.sweep(0, limit=10)).moved] == [
            ("w", NOT_BACK)
        ]
        await check_indexes(store_url)


async def test_a_straggler_s_beat_does_not_undo_the_announcement(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store, ABSENCE_MS)).now_ms
        back = t + ABSENCE_MS
        await clock.set(t + 2_000)
        await store.beat(0, [beat()])
        await clock.set(t + 5_000)
        await store.beat(0, [beat()])
        assert (await seen(store), (await read(store)).back_ms) == ({Liveness.ALIVE}, back)
        await check_indexes(store_url)
        for now_ms, liveness in (
            (t + 5_000 + REACH_MS - 1, Liveness.LATE),
            (t + 5_000 + REACH_MS, Liveness.STOPPED),
            (back - 1, Liveness.STOPPED),
            (back, Liveness.STALE),
        ):
            await clock.set(now_ms)
            assert await seen(store) == {liveness}
        await sweep(store, store_url)
        assert await seen(store) == {Liveness.STALE}
        stopped, stale = (await history(store))[-2:]
        assert (stopped.kind, stopped.due_ms) == (EventKind.STOPPED, t + 5_000 + REACH_MS)
        assert (stale.kind, stale.reason, stale.due_ms, stale.since_ms) == (
            *(EventKind.STALE, NOT_BACK, back, stopped.due_ms),
        )


async def test_p25_a_straggler_s_story_is_the_same_when_sweeps_come_by_in_between(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store, ABSENCE_MS)).now_ms
        await clock.set(t + 5_000)
        await store.beat(0, [beat()])
        for now_ms in (t + 5_000 + REACH_MS, t + ABSENCE_MS - 1_000, t + ABSENCE_MS):
            await clock.set(now_ms)
            await sweep(store, store_url)
        stopped, stale = (await history(store))[-2:]
        assert (stopped.kind, stopped.due_ms) == (EventKind.STOPPED, t + 5_000 + REACH_MS)
        assert (stale.reason, stale.due_ms, stale.since_ms) == (NOT_BACK, t + ABSENCE_MS, stopped.due_ms)


@pytest.mark.parametrize(
    ("beyond_ms", "events"),
    [(0, [("stale", "deadline passed")]), (1, [("stopped", "deadline passed"), ("stale", NOT_BACK)])],
)
async def test_a_straggler_that_is_expected_by_its_deadline_is_stale_at_it_and_not_stopped(
    store_url: str, beyond_ms: int, events: list[tuple[str, str]]
) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store, 3_000 + REACH_MS + beyond_ms)).now_ms
        await clock.set(t + 3_000)
        await store.beat(0, [beat()])
        await clock.set(t + 3_000 + REACH_MS - 1)
        await sweep(store, store_url)
        assert [kind for kind, _ in await transitions(store)] == ["registered", "stopped", "resumed"]
        await clock.set(t + 3_000 + REACH_MS + 1_000)
        await sweep(store, store_url)
        assert (await transitions(store))[3:] == events


async def test_a_renewed_announcement_is_a_disconnect_of_its_own_for_stragglers(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store)).now_ms
        await clock.set(t + 60_000)
        again = (await leave(store, ABSENCE_MS)).now_ms
        await clock.set(again + 4_000)
        await store.beat(0, [beat()])
        await clock.set(again + 4_000 + REACH_MS)
        await sweep(store, store_url)
        assert (await read(store)).stored is Liveness.STOPPED
        assert (await read(store)).back_ms == again + ABSENCE_MS


async def test_a_beat_after_the_moment_is_no_straggler_s_however_short_the_absence(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await leave(store, 1_000)).now_ms
        await clock.set(t + 3_000)
        await store.beat(0, [beat()])
        await clock.set(t + 3_000 + REACH_MS)
        await sweep(store, store_url)
        assert [kind for kind, _ in (await transitions(store))[2:]] == ["stale", "recovered", "stale"]


async def test_p26_retention_begins_when_the_absence_ends(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        back = (await leave(store, ABSENCE_MS)).now_ms + ABSENCE_MS
        for now_ms in (back - 1, back + 60_000 - 1):
            await clock.set(now_ms)
            assert (await store.purge(0, limit=10, retention_ms=60_000)).moved == []
        assert (await read(store)).stored is Liveness.STOPPED
        # No sweep has come by all the time: that it was missed is recorded all the same.
        await clock.set(back + 60_000)
        assert not (await store.purge(0, limit=10, retention_ms=60_000)).more
        assert (await transitions(store))[2:] == [("stale", NOT_BACK), ("forgotten", "retention passed")]
        assert await keys(store_url) == {"meta", "outbox", "history:acme", "history_lengths", "history_began"}


async def test_a_deleted_worker_s_absence_leaves_nothing(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat(), beat("v")])
        await leave(store, ABSENCE_MS)
        t = (await leave(store, ABSENCE_MS, worker="v")).now_ms
        await store.delete(W, allowed=None, reason="deleted")
        await check_indexes(store_url)
        await store.delete(WorkerKey("acme", "v"), allowed=None, reason="deleted")
        assert await keys(store_url) == {"meta", "outbox", "history:acme", "history_lengths", "history_began"}
        await store.beat(0, [beat()])
        await leave(store)
        await ManualClock(store_url).set(t + 2 * ABSENCE_MS)
        await sweep(store, store_url)
        assert (await read(store)).stored is Liveness.STOPPED


async def test_p3_many_absences_end_in_bounded_chunks_each_once_and_in_order(store_url: str) -> None:
    async with opened(store_url) as store:
        names = [f"w{k:02}" for k in range(25)]
        await store.beat(0, [beat(name, environment=f"e{k % 3}") for k, name in enumerate(names)])
        for k, name in enumerate(names):
            t = (await leave(store, ABSENCE_MS - 1_000 * k, worker=name)).now_ms
        await ManualClock(store_url).set(t + ABSENCE_MS)
        moved: list[str] = []
        for _ in range(30):
            result = await store.sweep(0, limit=4)
            assert len(result.moved) <= 4
            moved += [one.worker_id for one in result.moved]
            if not result.more:
                break
        assert sorted(moved) == names
        for environment in range(3):
            mine = [name for name in moved if names.index(name) % 3 == environment]
            assert mine == sorted(mine, reverse=True)
        assert (await store.count_workers("acme")).environments["e0"][Liveness.STALE] == 9
        await check_indexes(store_url)


async def test_a_sweep_whose_limit_ends_between_deadlines_and_absences_comes_back_for_them(store_url: str) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat(), beat("a"), beat("b")])).now_ms
        await leave(store, 1_000)
        await ManualClock(store_url).set(t + REACH_MS)
        chunks = [await store.sweep(0, limit=2) for _ in range(3)]
        assert [sorted(moved.worker_id for moved in chunk.moved) for chunk in chunks] == [["a", "b"], ["w"], []]
        assert [chunk.more for chunk in chunks[:1]] == [True]
        assert not chunks[-1].more


async def test_an_ordinary_beat_costs_what_it_did_whichever_workers_are_absent(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.beat(0, [beat(f"w{k}") for k in range(20)])
        for k in range(10):
            await leave(store, ABSENCE_MS, worker=f"w{k}")
        await redis.config_resetstat()
        await store.beat(0, [beat(f"w{k}") for k in range(10, 20)])
        stats: dict[str, Any] = await redis.info("commandstats")
        assert "cmdstat_hmget" in stats
        assert not {"cmdstat_zscore", "cmdstat_zrem", "cmdstat_zrange"} & stats.keys()


async def test_what_an_older_release_left_behind_stops_no_sweep(store_url: str) -> None:
    """It knows nothing of absences: it leaves the end of one when it takes a beat, and when it drops a group."""
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        t = (await store.beat(0, [beat(), beat("v")])).now_ms
        await leave(store, ABSENCE_MS, worker="v")
        await redis.zadd("{ls:0}:absent:1", {"w": t + 1, "unknown": t + 1})
        await redis.zadd("{ls:0}:absent:77", {"gone": t + 1})
        await redis.zadd("{ls:0}:bounds_absent", {"1": t + 1, "77": t + 1})
        await ManualClock(store_url).set(t + 10)
        result = await store.sweep(0, limit=10)
        assert (result.moved, result.damaged, result.more) == ([], 3, False)
        assert (await store.sweep(0, limit=10)).damaged == 0
        await check_indexes(store_url)
        # A stop that announces nothing takes what is left of an older announcement with it.
        await redis.zadd("{ls:0}:absent:1", {"w": t + 60_000})
        await leave(store)
        assert (await read(store)).back_ms is None
        await check_indexes(store_url)
