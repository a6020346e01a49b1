"""Where the monitor's own outages, refused beats, announced absences and the store's clock meet each other."""

from itertools import pairwise

from redis.asyncio import Redis

from monitor.blindness import SLEW
from monitor.liveness import EventKind, Liveness
from monitor.workers import Rejection
from tests.store.test_blindness import KEY, REACH_MS, Monitor, another, goodbye, monitor, refused
from tests.support.store_indexes import check_indexes
from tests.support.stores import INTERVAL_MS, beat, opened

# Refused beats


async def test_p11_an_outage_after_its_deadline_does_not_make_a_rejected_worker_silent(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + REACH_MS - 1_000)
        await m.store.evidence(0, [refused()])
        await m.runs(seen + REACH_MS)  # and no sweep
        await m.outage(m.now_ms + 3_600_000)
        back = m.now_ms
        assert await m.swept() == [(EventKind.REJECTED, seen + REACH_MS)]
        await m.runs(back + REACH_MS - 1)
        assert await m.swept() == []
        await m.runs(back + REACH_MS)
        assert await m.swept() == [(EventKind.STALE, back + REACH_MS)]


async def test_p25_what_is_recorded_of_a_rejected_worker_does_not_depend_on_when_a_sweep_comes(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + INTERVAL_MS)
        await m.store.evidence(0, [refused()])
        ends = m.now_ms + REACH_MS
        await m.runs(ends + 5_000)
        assert await m.swept() == [(EventKind.REJECTED, seen + REACH_MS), (EventKind.STALE, ends)]
        assert await m.swept() == []


# Announced absences


async def _straggling(m: Monitor, *, back_in_ms: int) -> tuple[int, int]:
    """A worker that is away, and whose beat thread was a step behind: its last beat, and when it is back."""
    await m.beat()
    await m.store.disconnect(goodbye(back_in_ms=back_in_ms))
    back = m.now_ms + back_in_ms
    await m.runs(m.now_ms + 1_000)
    await m.store.beat(0, [beat()])
    return m.now_ms, back


async def test_p2_a_beat_that_we_were_too_busy_for_does_not_lose_an_announced_absence(store_url: str) -> None:
    async with monitor(store_url) as m:
        _, back = await _straggling(m, back_in_ms=REACH_MS + 5_000)
        await m.runs(m.now_ms + 50_000)
        await m.store.evidence(0, [refused(rejection=Rejection.OVERLOADED)])
        due = m.now_ms + REACH_MS
        await m.runs(back)
        assert (await m.store.sweep(0, limit=100)).damaged == 0
        assert await m.liveness() is Liveness.LATE
        await check_indexes(store_url)
        await m.runs(due)
        assert await m.liveness() is Liveness.STALE
        assert await m.swept() == [(EventKind.STOPPED, due), (EventKind.STALE, due)]


async def test_p2_the_absence_of_a_worker_whose_daemon_has_gone_is_not_lost(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen, back = await _straggling(m, back_in_ms=REACH_MS + 5_000)
        while m.now_ms < seen + 3 * REACH_MS:
            await m.at(m.now_ms + 500)
            await other.pulse(0, ends=False)
            if m.now_ms == back:
                assert await m.liveness() is Liveness.ALIVE
            result = await other.sweep(0, limit=100)
            assert result.damaged == 0
            if result.moved:
                assert [one.kind for one in result.moved] == [EventKind.STOPPED, EventKind.STALE]
                return
        raise AssertionError("it was not reported as missed")


async def test_p28_a_worker_that_is_back_while_we_are_too_busy_is_not_missed(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye(back_in_ms=60_000))
        await m.runs(m.now_ms + 50_000)
        await m.store.evidence(0, [refused(rejection=Rejection.OVERLOADED)])
        due = m.now_ms + REACH_MS
        await check_indexes(store_url)
        await m.runs(due - 1)
        assert await m.swept() == []
        await m.runs(due)
        assert await m.swept() == [(EventKind.STALE, due)]


async def test_p2_no_worker_is_forgotten_that_is_still_waited_for_because_of_an_outage(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye(back_in_ms=60_000))
        back = m.now_ms + 60_000
        await m.runs(back - 1_000)
        await m.outage(m.now_ms + 10_000)
        due = m.now_ms + REACH_MS
        await m.runs(due - 1)
        # Retention has passed since the announced return. The worker is reported missing only at its moved deadline.
        result = await m.store.purge(0, limit=10, retention_ms=10_000)
        assert (result.moved, result.more) == ([], False)
        await check_indexes(store_url)
        await m.runs(due)
        assert await m.swept() == [(EventKind.STALE, due)]
        await m.runs(due + 10_000)
        moved = (await m.store.purge(0, limit=10, retention_ms=10_000)).moved
        assert [one.kind for one in moved] == [EventKind.FORGOTTEN]


async def test_p26_an_absence_that_an_outage_prolonged_is_retained_from_its_moved_end_on(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye(back_in_ms=60_000))
        await m.runs(m.now_ms + 59_000)
        await m.outage(m.now_ms + 10_000)
        due = m.now_ms + REACH_MS
        # No sweep comes by: it is the purge that finds out. Its retention has only begun then.
        await m.runs(due + 9_999)
        result = await m.store.purge(0, limit=10, retention_ms=10_000)
        assert [(one.kind, one.due_ms) for one in result.moved] == [(EventKind.STALE, due)]
        assert await m.liveness() is Liveness.STALE
        await check_indexes(store_url)
        await m.runs(due + 10_000)
        moved = (await m.store.purge(0, limit=10, retention_ms=10_000)).moved
        assert [one.kind for one in moved] == [EventKind.FORGOTTEN]


# The store's clock


async def test_p13_time_is_made_good_at_the_same_rate_by_any_number_of_daemons(store_url: str) -> None:
    daemons, apart_ms, rounds = 25, 10, 8
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        m = Monitor(store, redis)
        skews: list[int] = []
        await redis.hset("{ls:0}:meta", mapping={"last": m.now_ms + 600_000})
        for _ in range(rounds * daemons):
            skews.append((await store.pulse(0, ends=False)).skew_ms)
            # As if some time had passed; really, next to none has.
            await redis.hincrby("{ls:0}:meta", "skew", apart_ms)
        healed = sum(before + apart_ms - after for before, after in pairwise(skews))
        passed = rounds * daemons * apart_ms
        assert 0.8 * passed / SLEW <= healed <= 2 * passed / SLEW + 1


async def test_p13_time_is_made_good_in_a_busy_store_too(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await redis.hset("{ls:0}:meta", mapping={"last": store.clock.now_ms() + 600_000})
        skew = (await store.pulse(0, ends=False)).skew_ms
        await redis.hincrby("{ls:0}:meta", "skew", 500)
        after = (await store.pulse(0, ends=False)).skew_ms
        assert after < skew + 500
        last = 0
        for _ in range(20):
            now_ms = (await store.beat(0, [beat()])).now_ms
            assert now_ms >= last
            last = now_ms
        assert int(await redis.hget("{ls:0}:meta", "skew") or 0) == after
        assert (await store.get(KEY))[2] is not None
