"""The monitor's own outages: the arithmetic as tables and properties, and the function library held against it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from monitor.blindness import BEHIND_MS, DAEMONS_KEPT, GAP_MS, SHORT_CREDITS, WINDOW_AGE_MS, WINDOWS_KEPT, Cause, Window
from monitor.events import Moved
from monitor.liveness import EventKind, Liveness, Trigger
from monitor.store import Store
from monitor.workers import Disconnect, Evidence, Rejected, Rejection, Worker, WorkerKey
from tests.support import servers
from tests.support.deadlines import credited
from tests.support.fleets import events_of
from tests.support.store_indexes import check_indexes
from tests.support.stores import GRACE_MS, INTERVAL_MS, beat, opened

REACH_MS = INTERVAL_MS + GRACE_MS
KEY = WorkerKey("acme", "w")


def _windows(*spans: tuple[int, int]) -> tuple[Window, ...]:
    return tuple(Window(begin_ms=begin, end_ms=end) for begin, end in spans)


def _credited(due_ms: int, *spans: tuple[int, int], reach_ms: int = 90, interval_ms: int = 30) -> tuple[int, int]:
    return credited(due_ms, allowance_ms=reach_ms, interval_ms=interval_ms, windows=_windows(*spans))


# Arithmetic: an interval of 30 and a grace of 60


MOVED: list[tuple[int, list[tuple[int, int]], tuple[int, int]]] = [
    (100, [], (100, 0)),
    (100, [(10, 50)], (140, 0)),
    (100, [(10, 500)], (590, 0)),
    # Open at the begin of the window, or not.
    (100, [(99, 150)], (240, 0)),
    (100, [(100, 150)], (100, 0)),
    (100, [(101, 150)], (100, 0)),
    # A window that ended long before leaves the deadline where it is.
    (100, [(0, 9)], (100, 0)),
    (100, [(0, 10)], (100, 0)),
    (100, [(0, 11)], (101, 0)),
    # One window moves it past the begin of the next.
    (100, [(50, 90), (170, 300)], (390, 0)),
    (100, [(50, 80), (170, 300)], (170, 0)),
    # Short windows, of less than an interval, move it three times.
    (100, [(20, 30), (40, 50), (60, 70)], (160, 0)),
    (100, [(20, 30), (40, 50), (60, 70), (80, 90)], (160, 1)),
    (100, [(20, 30), (40, 50), (60, 70), (80, 90), (100, 110)], (160, 2)),
    (100, [(20, 30), (40, 50), (60, 70), (80, 90), (100, 130)], (220, 1)),
    (100, [(20, 49), (60, 89), (100, 129), (140, 169)], (219, 1)),
    (100, [(20, 50), (60, 90), (100, 130), (140, 170)], (260, 0)),
    # Those that don't move it are not counted.
    (1_000, [(0, 5), (10, 15), (20, 25), (30, 35), (980, 990)], (1_080, 0)),
    # One that doesn't move it, being over in the millisecond of the beat, is none of the three.
    (100, [(0, 10), (20, 30), (40, 50), (60, 70)], (160, 0)),
    (100, [(0, 10), (20, 30), (40, 50), (60, 70), (80, 90)], (160, 1)),
]


@pytest.mark.parametrize(("due_ms", "spans", "expected"), MOVED)
def test_the_arithmetic_of_the_model_is_right(
    due_ms: int, spans: Sequence[tuple[int, int]], expected: tuple[int, int]
) -> None:
    assert _credited(due_ms, *spans) == expected


async def _moved_by_the_library(store: Store, redis: Redis, due_ms: int, spans: Sequence[tuple[int, int]]) -> int:
    await store.beat(0, [beat(interval_ms=30, grace_ms=60)])
    _, _, worker = await store.get(KEY)
    assert worker is not None
    zero_ms = worker.last_seen_ms + 90 - due_ms
    windows = [(zero_ms + begin_ms, zero_ms + end_ms, "no_pulse") for begin_ms, end_ms in spans]
    await redis.set("{ls:0}:windows", cast("bytes", msgpack.packb(windows)))
    _, _, worker = await store.get(KEY)
    await redis.delete("{ls:0}:windows")
    assert worker is not None
    return worker.deadline_ms - zero_ms


async def test_p1_a_deadline_that_was_open_is_moved_to_an_interval_and_a_grace_after_the_window(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        for due_ms, spans, (expected_ms, _) in MOVED:
            assert await _moved_by_the_library(store, redis, due_ms, spans) == expected_ms, (due_ms, spans)


SPANS = st.lists(st.integers(0, 2_000), max_size=24, unique=True).map(
    lambda cuts: list(zip(sorted(cuts)[::2], sorted(cuts)[1::2], strict=False))
)


@given(spans=SPANS, due_ms=st.integers(0, 2_500), later_ms=st.integers(0, 500), interval_ms=st.integers(1, 300))
def test_p1_credit_never_shortens_keeps_order_and_leaves_passed_deadlines_alone(
    spans: list[tuple[int, int]], due_ms: int, later_ms: int, interval_ms: int
) -> None:
    reach_ms = 2 * interval_ms
    moved, _ = _credited(due_ms, *spans, reach_ms=reach_ms, interval_ms=interval_ms)
    later, _ = _credited(due_ms + later_ms, *spans, reach_ms=reach_ms, interval_ms=interval_ms)
    assert due_ms <= moved <= later
    if all(begin >= due_ms for begin, _ in spans):
        assert moved == due_ms


@given(spans=SPANS, due_ms=st.integers(0, 2_500))
def test_p2_no_deadline_is_moved_further_than_an_interval_and_a_grace_past_the_last_window(
    spans: list[tuple[int, int]], due_ms: int
) -> None:
    moved, _ = _credited(due_ms, *spans)
    assert moved <= max([due_ms, *(end + 90 for _, end in spans)])


@given(gap_ms=st.integers(1, 20), length_ms=st.integers(1, 29), due_ms=st.integers(1, 90))
def test_p2_stalls_that_go_on_without_end_do_not_hide_a_death(gap_ms: int, length_ms: int, due_ms: int) -> None:
    step = gap_ms + length_ms
    stalls = [(k * step, k * step + length_ms) for k in range(1_000)]
    moved, _ = _credited(due_ms, *stalls)
    assert moved <= due_ms + SHORT_CREDITS * step + 90


# The library against it


class Monitor:
    """One daemon on a store, with a clock by hand: while it ``runs`` it pulses, else it does not."""

    def __init__(self, store: Store, redis: Redis) -> None:
        self._redis = redis
        self.now_ms = store.clock.now_ms()
        self.windows = 0
        self.store = self.held(store)

    def held(self, store: Store) -> Store:
        """A store of which every call is made in the millisecond at which the clock stands."""
        return cast("Store", _Held(store, self))

    async def hold(self) -> None:
        # As `ManualClock` does, on a connection that stays: a test of minutes takes hundreds of pulses.
        await self._redis.hset("{ls:0}:meta", mapping={"last": str(self.now_ms), "skew": str(-(10**12))})

    async def at(self, now_ms: int) -> "Monitor":
        """The next calls are at this time; nothing happens until then."""
        assert now_ms >= self.now_ms
        self.now_ms = now_ms
        return self

    async def pulse(self, *, ends: bool = False) -> tuple[Window, Cause] | None:
        result = await self.store.pulse(0, ends=ends)
        assert result.now_ms == self.now_ms
        if result.windows == self.windows or result.window is None or result.cause is None:
            return None
        self.windows = result.windows
        assert result.window.end_ms == self.now_ms
        return result.window, result.cause

    async def runs(self, until_ms: int) -> None:
        """Pulse every half a second, and at the end."""
        while self.now_ms < until_ms:
            await self.at(min(self.now_ms + 500, until_ms))
            assert await self.pulse() is None

    async def outage(self, until_ms: int) -> Window:
        """No pulse until then."""
        found = await (await self.at(until_ms)).pulse()
        assert found is not None
        return found[0]

    async def beat(self, **changes: Any) -> int:
        result = await self.store.beat(0, [beat(**changes)])
        assert result.moved == [] or result.moved[0].kind is EventKind.REGISTERED
        return result.now_ms

    async def swept(self) -> list[tuple[EventKind, int]]:
        """What a sweep now moves, and when it was due."""
        result = await self.store.sweep(0, limit=100)
        assert not (result.moved and result.blind)
        return [(moved.kind, moved.due_ms) for moved in result.moved]

    async def worker(self) -> Worker:
        _, _, worker = await self.store.get(KEY)
        assert worker is not None
        return worker

    async def liveness(self) -> Liveness:
        """What every way of reading says of the worker."""
        now_ms, _, worker = await self.store.get(KEY)
        assert worker is not None
        page = await self.store.list_workers(0, "acme", after="", limit=10, environments=None, want=None)
        census = await self.store.count_workers("acme")
        [counted] = [liveness for liveness, count in census.environments["prod"].items() if count]
        seen = {worker.liveness(now_ms), page.workers[0].liveness(page.now_ms), counted}
        assert len(seen) == 1
        return seen.pop()


class _Held:
    def __init__(self, store: Store, monitor: Monitor) -> None:
        self._store, self._monitor = store, monitor

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._monitor.hold()
            return await getattr(self._store, name)(*args, **kwargs)

        return call

    @property
    def partitions(self) -> int:
        return self._store.partitions


@asynccontextmanager
async def monitor(url: str) -> AsyncIterator[Monitor]:
    """A daemon that pulses; in the end every index fits its records."""
    async with opened(url) as store, Redis.from_url(url) as redis:
        m = Monitor(store, redis)
        assert await m.pulse() is None
        yield m
    await check_indexes(url)


@asynccontextmanager
async def another(m: Monitor, url: str, daemon: str) -> AsyncIterator[Store]:
    """One more daemon, under the same clock."""
    async with opened(url, daemon=daemon) as store:
        yield m.held(store)


@pytest.mark.parametrize("outage_ms", [1_000, 60_000, 250_000, 86_400_000])
async def test_p1_p2_after_an_outage_a_worker_has_its_interval_and_grace_again(store_url: str, outage_ms: int) -> None:
    async with monitor(store_url) as m:
        await m.at(m.now_ms + 100)
        seen = await m.beat()
        await m.runs(seen + 1_000)
        back = m.now_ms + outage_ms
        await m.at(back)
        assert await m.swept() == []
        assert await m.liveness() in {Liveness.ALIVE, Liveness.LATE}
        assert await m.outage(back) == Window(begin_ms=back - outage_ms, end_ms=back)
        due = max(back, seen if outage_ms < GAP_MS else back) + REACH_MS
        assert (await m.worker()).deadline_ms == due
        await m.runs(due - 1)
        assert await m.swept() == []
        assert await m.liveness() is Liveness.LATE
        await m.runs(due)
        assert await m.liveness() is Liveness.STALE
        assert await m.swept() == [(EventKind.STALE, due)]
        assert await m.swept() == []
        event = (await events_of(m.store))[-1]
        assert (event.outage_ms, event.outage_until_ms, event.outage_windows) == (outage_ms, back, 1)
        assert event.outage_uncredited == 0


async def test_p1_a_worker_that_beats_again_in_time_after_an_outage_has_no_event(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.outage(m.now_ms + 3_600_000)
        await m.runs(m.now_ms + REACH_MS - 1)
        await m.beat()
        await m.runs(m.now_ms + INTERVAL_MS)
        assert await m.swept() == []
        assert [event.kind for event in await events_of(m.store)] == [EventKind.REGISTERED]


@pytest.mark.parametrize("first", ["sweep", "beat", "leave", "forget", "purge", "evidence"])
async def test_p1_whatever_comes_first_after_an_outage_expires_no_worker(store_url: str, first: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.at(m.now_ms + 3_600_000)
        store = m.store
        match first:
            case "sweep":
                assert (await store.sweep(0, limit=100)).blind
            case "beat":
                await m.beat()
            case "leave":
                moved = (await store.disconnect(goodbye())).moved
                assert [(one.kind, one.due_ms) for one in moved] == [(EventKind.STOPPED, m.now_ms)]
                return
            case "forget":
                moved = (await store.delete(KEY, allowed=None, reason="deleted")).moved
                assert [one.kind for one in moved] == [EventKind.FORGOTTEN]
                return
            case "purge":
                assert (await store.purge(0, limit=10, retention_ms=1_000)).moved == []
            case "evidence":
                await store.evidence(0, [refused()])
        assert await m.liveness() in {Liveness.ALIVE, Liveness.LATE}
        assert [event.kind for event in await events_of(store)] == [EventKind.REGISTERED]
        assert await m.pulse() is not None


async def test_p2_a_deadline_that_had_passed_before_the_outage_is_reported_at_once(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + REACH_MS)  # and no sweep
        back = m.now_ms + 250_000
        assert await m.outage(back) == Window(begin_ms=seen + REACH_MS, end_ms=back)
        assert await m.liveness() is Liveness.STALE
        assert await m.swept() == [(EventKind.STALE, seen + REACH_MS)]
        event = (await events_of(m.store))[-1]
        assert (event.outage_ms, event.outage_until_ms, event.detected_ms) == (250_000, back, back)


async def test_p2_a_worker_that_was_silent_before_and_after_an_outage_is_reported_by_its_late_beat_too(
    store_url: str,
) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.outage(m.now_ms + 250_000)
        due = m.now_ms + REACH_MS
        await m.runs(due + 5_000)
        result = await m.store.beat(0, [beat()])
        assert [(one.kind, one.due_ms) for one in result.moved] == [
            (EventKind.STALE, due),
            (EventKind.RECOVERED, m.now_ms),
        ]


async def test_p2_stalls_move_a_deadline_three_times_and_the_death_says_so(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        for _ in range(5):
            await m.runs(m.now_ms + 9_000)
            await m.outage(m.now_ms + 1_000)
        due = seen + 3 * 10_000 + REACH_MS
        assert (await m.worker()).deadline_ms == due
        await m.runs(due)
        assert await m.swept() == [(EventKind.STALE, due)]
        event = (await events_of(m.store))[-1]
        assert (event.outage_ms, event.outage_windows, event.outage_uncredited) == (5_000, 5, 2)


async def test_p2_stalls_of_a_daemon_that_says_that_it_is_behind_move_a_deadline_three_times_too(
    store_url: str,
) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        for _ in range(5):
            await m.runs(m.now_ms + 8_000)
            for _ in range(4):
                await m.at(m.now_ms + 500)
                await m.store.pulse(0, behind=True)
            m.windows = (await m.store.pulse(0)).windows
        due = seen + 3 * 10_000 + REACH_MS
        await m.runs(due - 1)
        assert await m.swept() == []
        await m.runs(due)
        assert await m.swept() == [(EventKind.STALE, due)]


async def test_p1_pauses_between_pulses_that_are_short_enough_are_no_outage(store_url: str) -> None:
    async with monitor(store_url) as m:
        for _ in range(10):
            await m.at(m.now_ms + GAP_MS)
            assert await m.pulse() is None
        await m.at(m.now_ms + GAP_MS + 1)
        assert await m.pulse() == (Window(begin_ms=m.now_ms - GAP_MS - 1, end_ms=m.now_ms), Cause.NO_PULSE)


async def test_without_any_pulse_there_is_nothing_to_go_by(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        m = Monitor(store, redis)
        seen = await m.beat()
        await m.at(seen + 10 * REACH_MS)
        assert await m.swept() == [(EventKind.STALE, seen + REACH_MS)]


async def test_p1_the_start_of_the_last_daemon_is_the_end_of_a_window_however_quick_it_was(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as second, opened(store_url, daemon="d3") as third:
        seen = await m.beat()
        await m.runs(m.now_ms + 1_000)
        assert await m.pulse(ends=True) is None
        gone = m.now_ms
        await m.at(gone + 300)
        result = await second.pulse(0, ends=False)
        assert (result.window, result.cause) == (Window(begin_ms=gone, end_ms=gone + 300), Cause.DAEMON_STARTED)
        assert (await m.worker()).deadline_ms == gone + 300 + REACH_MS > seen + REACH_MS
        await m.at(gone + 400)
        assert (await third.pulse(0, ends=False)).windows == 1  # the second is there


# Real time from here: the server's own clock


async def test_p13_a_step_of_the_store_s_clock_is_an_outage_and_not_a_mass_death(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.pulse(0, ends=False)
        await store.beat(0, [beat()])
        # As after a failover to a server whose clock is ten minutes ahead: only the time differs.
        await redis.hincrby("{ls:0}:meta", "skew", 600_000)
        assert (await store.sweep(0, limit=100)).blind
        result = await store.pulse(0, ends=False)
        assert result.window is not None
        assert 590_000 < result.window.end_ms - result.window.begin_ms < 610_000
        assert (await store.get(KEY))[2].deadline_ms == result.now_ms + REACH_MS  # type: ignore[union-attr]
        await redis.hincrby("{ls:0}:meta", "skew", -1_200_000)
        again = await store.pulse(0, ends=False)
        assert again.now_ms >= result.now_ms
        assert (again.windows, again.blind_ms) == (1, result.blind_ms)
        assert (await store.sweep(0, limit=100)).moved == []


async def test_p13_a_step_back_is_absorbed_and_made_good_slowly_without_time_going_back(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        first = await store.pulse(0, ends=False)
        async with Redis.from_url(store_url) as clock:
            seconds, micros = await clock.time()
        # As after a step back of ten minutes: the store has seen a time that its server has still to reach.
        ahead = seconds * 1_000 + micros // 1_000 + 600_000
        await redis.hset("{ls:0}:meta", mapping={"last": ahead, "pulse": ahead})
        times, skews = [ahead], []
        for _ in range(20):
            result = await store.pulse(0, ends=False)
            times.append(result.now_ms)
            skews.append(result.skew_ms)
            # As if half a second had passed.
            await redis.hincrby("{ls:0}:meta", "skew", 500)
        assert times == sorted(times)
        assert result.windows == first.windows
        healed = [before + 500 - after for before, after in pairwise(skews)]
        assert all(0 <= ms <= 12 for ms in healed)
        assert sum(healed) >= 19 * 8


async def test_p13_a_restarted_store_is_blind_until_the_next_pulse_however_quick_it_was() -> None:
    with tempfile.TemporaryDirectory(prefix="ls-") as name:
        server = servers.start(servers.valkey_binary(), Path(name), "--appendfsync", "always")
        try:
            async with monitor(server.url) as m:
                seen = await m.beat(interval_ms=1_000, grace_ms=1_000)
                await m.runs(seen + 2_000)
            server.kill()
            server = servers.start(servers.valkey_binary(), Path(name), "--appendfsync", "always")
            async with opened(server.url) as store:
                now_ms = (await store.sweep(0, limit=100)).now_ms
                assert now_ms - seen - 2_000 <= GAP_MS, "the restart itself took longer than a gap: nothing was shown"
                assert (await store.sweep(0, limit=100)).blind
                result = await store.pulse(0, ends=False)
                assert (result.cause, result.window and result.window.begin_ms) == (Cause.STORE_RESTARTED, seen + 2_000)
                # It had passed before.
                assert [one.due_ms for one in (await store.sweep(0, limit=100)).moved] == [seen + 2_000]
        finally:
            server.kill()


# One daemon of several


async def _other(m: Monitor, other: Store, until_ms: int) -> None:
    """The other daemon pulses until then, and ours does not."""
    while m.now_ms < until_ms:
        await m.at(min(m.now_ms + 500, until_ms))
        assert (await other.pulse(0, ends=False)).windows == m.windows


async def test_p1_the_daemon_that_took_the_last_beat_was_away_and_its_workers_are_waited_for_once(
    store_url: str,
) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen = await m.beat()
        await other.beat(0, [beat("of-other")])
        gone = m.now_ms
        await _other(m, other, seen + REACH_MS)
        # A sweep finds both due: one of them only since its daemon has gone.
        assert [one.worker_id for one in (await other.sweep(0, limit=100)).moved] == ["of-other"]
        due = gone + REACH_MS + REACH_MS
        worker = await m.worker()
        assert (worker.last_seen_ms, worker.deadline_ms) == (seen, due)
        await check_indexes(store_url)
        await _other(m, other, due - 1)
        assert (await other.sweep(0, limit=100)).moved == []
        await _other(m, other, due)
        assert [one.due_ms for one in (await other.sweep(0, limit=100)).moved] == [due]


async def test_p1_a_daemon_that_was_paused_credits_its_workers_when_it_is_back(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen = await m.beat()
        await _other(m, other, m.now_ms + 60_000)
        back = m.now_ms
        assert await m.pulse() is None
        while m.now_ms < seen + REACH_MS:
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        assert (await m.store.sweep(0, limit=100)).moved == []
        assert (await m.worker()).deadline_ms == back + REACH_MS
        while m.now_ms < back + REACH_MS:
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        assert [one.due_ms for one in (await m.store.sweep(0, limit=100)).moved] == [back + REACH_MS]


async def test_p1_a_gap_of_a_daemon_that_goes_on_is_credited_as_it_goes_on(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen = await m.beat()
        while m.now_ms < seen + 40_000:
            await m.at(m.now_ms + 500)
            assert await m.pulse() is None
            await other.pulse(0, ends=False)
        gone = m.now_ms
        # The sweep comes while the daemon has been away for less than an interval and grace; it is back later.
        await _other(m, other, seen + REACH_MS)
        assert (await other.sweep(0, limit=100)).moved == []
        assert (await m.worker()).deadline_ms == seen + REACH_MS + REACH_MS
        await _other(m, other, seen + REACH_MS + REACH_MS)
        assert (await other.sweep(0, limit=100)).moved == []
        due = gone + REACH_MS + REACH_MS
        assert (await m.worker()).deadline_ms == due
        await _other(m, other, due)
        assert [one.due_ms for one in (await other.sweep(0, limit=100)).moved] == [due]


async def test_p1_a_beat_that_was_refused_because_of_us_leaves_the_credit_for_a_gap(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen = await m.beat()
        while m.now_ms < seen + 2_000:
            await m.at(m.now_ms + 500)
            assert await m.pulse() is None
            await other.pulse(0, ends=False)
            if m.now_ms == seen + 1_000:
                await other.evidence(0, [refused(rejection=Rejection.OVERLOADED)])
        gone = m.now_ms
        assert (await m.worker()).deadline_ms == seen + 1_000 + REACH_MS
        await _other(m, other, gone + REACH_MS)
        assert (await other.sweep(0, limit=100)).moved == []
        await _other(m, other, gone + REACH_MS + REACH_MS)
        assert [one.due_ms for one in (await other.sweep(0, limit=100)).moved] == [gone + REACH_MS + REACH_MS]


async def test_p1_a_second_gap_of_a_daemon_is_credited_no_more(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen = await m.beat()
        await _other(m, other, seen + 60_000)
        first = m.now_ms
        assert await m.pulse() is None
        while m.now_ms < first + REACH_MS - 20_000:
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        assert (await other.sweep(0, limit=100)).moved == []
        await _other(m, other, first + REACH_MS)
        assert [one.due_ms for one in (await other.sweep(0, limit=100)).moved] == [first + REACH_MS]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(("off_ms", "is_credited"), [(-1, True), (0, False)])
async def test_p2_a_deadline_at_which_its_daemon_was_still_there_is_moved_by_nothing_after_it(
    store_url: str, off_ms: int, *, is_credited: bool, behind: bool
) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0)
        due = await m.beat() + REACH_MS
        while m.now_ms < due + off_ms:
            await _other(m, other, min(m.now_ms + 500, due + off_ms))
            await m.pulse()
        while m.now_ms < due + 2_000:
            await _other(m, other, m.now_ms + 500)
            if behind:
                await m.store.pulse(0, behind=True)
        moved = (await other.sweep(0, limit=100)).moved
        assert [one.due_ms for one in moved] == ([] if is_credited else [due])


async def test_p28_a_worker_bound_to_a_daemon_that_is_behind_is_not_reported_while_the_daemon_says_so(
    store_url: str,
) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0)
        overdue = await m.beat()
        while m.now_ms < overdue + 2_000:
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        await other.beat(0, [beat("of-other")])
        seen = (await m.store.beat(0, [beat("bound")])).now_ms
        while m.now_ms < overdue + REACH_MS:  # one was due before its daemon was behind
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        moved = []
        while m.now_ms < seen + 5 * REACH_MS:
            await _other(m, other, m.now_ms + 500)
            await m.store.pulse(0, behind=True)
            moved += (await other.sweep(0, limit=100)).moved
        assert [one.worker_id for one in moved] == ["w", "of-other"]
        _, _, bound = await m.store.get(WorkerKey("acme", "bound"))
        assert bound is not None
        assert bound.liveness(m.now_ms) in {Liveness.ALIVE, Liveness.LATE}
        reported_ms = m.now_ms
        while m.now_ms < reported_ms + REACH_MS:
            assert (await other.sweep(0, limit=100)).moved == []
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        assert [one.worker_id for one in (await other.sweep(0, limit=100)).moved] == ["bound"]
        assert (await other.pulse(0)).windows == m.windows, "the other daemon was there all the time"
        await check_indexes(store_url)


@pytest.mark.parametrize("sweeps", [True, False])
async def test_p1_a_daemon_that_was_behind_and_then_killed_is_waited_for_from_its_end_on(
    store_url: str, *, sweeps: bool
) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0)
        await m.pulse()
        moved: list[Moved] = []

        async def others_go_on(until_ms: int, *, pulses: bool = False, behind: bool = False) -> None:
            while m.now_ms < until_ms:
                await _other(m, other, min(m.now_ms + 500, until_ms))
                if behind:
                    await m.store.pulse(0, behind=True)
                elif pulses:
                    await m.pulse()
                if sweeps:
                    moved.extend((await other.sweep(0, limit=100)).moved)

        seen = (await m.store.beat(0, [beat("bound")])).now_ms
        await others_go_on(seen + INTERVAL_MS + 1_000, behind=True)
        await others_go_on(m.now_ms + 5_000, pulses=True)
        gone = m.now_ms
        await others_go_on(gone + 2 * REACH_MS - 1)
        assert moved == []
        await _other(m, other, gone + 2 * REACH_MS)
        moved += (await other.sweep(0, limit=100)).moved
        assert [(one.worker_id, one.due_ms) for one in moved] == [("bound", gone + 2 * REACH_MS)]


@pytest.mark.parametrize(
    ("behind_ms", "every_ms", "from_ms"),
    [
        (500, 4_000, 0),
        # Longer than a gap, and shorter than the interval.
        (2_000, 22_000, 0),
        (INTERVAL_MS - 500, 45_000, 0),
        # At each deadline the daemon is behind again.
        (2_000, INTERVAL_MS, 1_000),
        (INTERVAL_MS - 3_000, INTERVAL_MS, 1_000),
    ],
)
async def test_p2_hiccups_of_a_daemon_hide_no_death(
    store_url: str, behind_ms: int, every_ms: int, from_ms: int
) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0)
        seen = await m.beat()
        moved: list[Moved] = []
        while m.now_ms < seen + 3 * REACH_MS and not moved:
            await _other(m, other, m.now_ms + 500)
            if 0 < (m.now_ms - seen + from_ms) % every_ms <= behind_ms:
                await m.store.pulse(0, behind=True)
            else:
                await m.pulse()
            if (m.now_ms - seen) % 1_000 == 0:
                moved += (await other.sweep(0, limit=100)).moved
        assert [one.due_ms <= seen + 2 * REACH_MS + BEHIND_MS for one in moved] == [True], "once it is waited for"


@pytest.mark.parametrize(("behind_ms", "is_credited"), [(INTERVAL_MS - 1, False), (INTERVAL_MS, True)])
async def test_p2_a_spell_that_is_over_counts_if_it_was_no_shorter_than_the_interval(
    store_url: str, behind_ms: int, *, is_credited: bool
) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:

        async def goes_on(until_ms: int, *, behind: bool = False) -> None:
            while m.now_ms < until_ms:
                await _other(m, other, min(m.now_ms + 500, until_ms))
                await (m.store.pulse(0, behind=True) if behind else m.pulse())

        await other.pulse(0)
        seen = await m.beat()
        await _other(m, other, seen + 60_000)  # the gap that counts once: what follows is none any more
        await goes_on(seen + REACH_MS)
        assert (await other.sweep(0, limit=100)).moved == []
        gap_due, ended = seen + 60_500 + REACH_MS, m.now_ms + behind_ms
        await goes_on(ended, behind=True)
        await goes_on(gap_due)
        moved = (await other.sweep(0, limit=100)).moved
        assert [one.due_ms for one in moved] == ([] if is_credited else [gap_due])
        await goes_on(ended + 500 + REACH_MS)  # with the next pulse it is over
        moved += (await other.sweep(0, limit=100)).moved
        assert [one.due_ms for one in moved] == [ended + 500 + REACH_MS if is_credited else gap_due]


async def test_pulses_that_an_older_build_wrote_are_read(store_url: str) -> None:
    async with monitor(store_url) as m, Redis.from_url(store_url) as redis:
        seen = await m.beat()
        await m.pulse()
        for daemon, packed in (await redis.hgetall("{ls:0}:pulses")).items():
            await redis.hset("{ls:0}:pulses", daemon, packed[:25])
        await m.runs(seen + REACH_MS)
        assert await m.swept() == [(EventKind.STALE, seen + REACH_MS)]


async def test_p1_a_daemon_that_was_killed_in_an_outage_of_all_is_waited_for_beyond_its_end(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        seen = await m.beat()
        await other.beat(0, [beat("of-other")])
        gone = m.now_ms
        await m.at(gone + 20_000)  # the store is away; and when it is back, one of the daemons is not
        back = (await other.pulse(0, ends=False)).now_ms
        m.windows += 1
        await _other(m, other, back + REACH_MS)
        assert [one.worker_id for one in (await other.sweep(0, limit=100)).moved] == ["of-other"]
        worker = await m.worker()
        assert (worker.last_seen_ms, worker.deadline_ms) == (seen, back + REACH_MS + REACH_MS)
        await _other(m, other, back + REACH_MS + REACH_MS)
        assert [one.due_ms for one in (await other.sweep(0, limit=100)).moved] == [back + REACH_MS + REACH_MS]


async def test_p1_a_daemon_that_comes_back_later_than_the_others_is_waited_for_from_then(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as other:
        await other.pulse(0, ends=False)
        await m.beat()
        await m.at(m.now_ms + 20_000)
        back = (await other.pulse(0, ends=False)).now_ms
        m.windows += 1
        await _other(m, other, back + 30_000)
        assert await m.pulse() is None
        own = m.now_ms
        while m.now_ms < back + REACH_MS:
            await _other(m, other, m.now_ms + 500)
            await m.pulse()
        assert (await m.store.sweep(0, limit=100)).moved == []
        assert (await m.worker()).deadline_ms == own + REACH_MS


async def test_p2_a_new_daemon_after_the_only_one_leaves_no_more_credit_than_the_window(store_url: str) -> None:
    async with monitor(store_url) as m, another(m, store_url, "d2") as second:
        await m.beat()
        await m.at(m.now_ms + 5_000)
        assert (await second.pulse(0, ends=False)).windows == 1
        m.windows = 1
        due = m.now_ms + REACH_MS
        await _other(m, second, due)
        assert [one.due_ms for one in (await second.sweep(0, limit=100)).moved] == [due]


# Beside deadlines


async def test_p1_an_announced_absence_that_ends_in_an_outage_is_waited_for_again(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye(back_in_ms=120_000))
        back = m.now_ms + 120_000
        await m.outage(back + 60_000)
        worker = await m.worker()
        assert (worker.back_ms, worker.missed_ms) == (back, back + 60_000 + REACH_MS)
        assert await m.swept() == []
        assert await m.liveness() is Liveness.STOPPED
        await m.runs(back + 60_000 + REACH_MS)
        assert await m.liveness() is Liveness.STALE
        assert await m.swept() == [(EventKind.STALE, back + 60_000 + REACH_MS)]


async def test_p26_retention_counts_time_outside_blind_windows(store_url: str) -> None:
    retention_ms = 600_000
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye())
        stopped = m.now_ms
        await m.runs(stopped + 10_000)
        await m.outage(m.now_ms + 10 * retention_ms)
        await m.runs(stopped + 11 * retention_ms - 1)
        assert (await m.store.purge(0, limit=10, retention_ms=retention_ms)).moved == []
        assert await m.store.trim(0, keep_ms=retention_ms, most=100) == 0
        await m.runs(m.now_ms + 1)
        moved = (await m.store.purge(0, limit=10, retention_ms=retention_ms)).moved
        assert [one.kind for one in moved] == [EventKind.FORGOTTEN]


async def test_p26_retention_leaves_out_each_of_several_blind_windows(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye())
        stopped = m.now_ms
        for _ in range(3):
            await m.runs(m.now_ms + 10_000)
            await m.outage(m.now_ms + 100_000)
        await m.runs(stopped + 3 * 110_000 + 9_999)  # of these it was there for four times ten seconds, less 1 ms
        assert (await m.store.purge(0, limit=10, retention_ms=40_000)).moved == []
        assert await m.store.trim(0, keep_ms=40_000, most=100) == 0
        await m.runs(m.now_ms + 1)
        moved = (await m.store.purge(0, limit=10, retention_ms=40_000)).moved
        assert [one.kind for one in moved] == [EventKind.FORGOTTEN]


async def test_p16_after_an_outage_no_worker_counts_as_silent_before_there_was_time_to_beat(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.outage(m.now_ms + 3_600_000)
        longer = max(INTERVAL_MS, GRACE_MS)
        assert (await m.store.environment_health("acme", "prod")).silent == 0
        await m.runs(m.now_ms + longer)
        assert (await m.store.environment_health("acme", "prod")).silent == 1


# What is remembered


async def _stored(url: str) -> list[tuple[int, int]]:
    async with Redis.from_url(url) as redis:
        packed = await redis.get("{ls:0}:windows")
    return [(begin, end) for begin, end, *_ in msgpack.unpackb(packed)] if packed else []


async def test_p26_windows_are_bounded_in_number_and_the_closest_become_one(store_url: str) -> None:
    async with monitor(store_url) as m:
        begun: list[tuple[int, int]] = []
        for k in range(WINDOWS_KEPT + 1):
            for _ in range(1 if k == 40 else 2):
                await m.at(m.now_ms + GAP_MS)
                await m.pulse()
            window = await m.outage(m.now_ms + 1_000)
            begun.append((window.begin_ms, window.end_ms))
        stored = await _stored(store_url)
        assert len(stored) == WINDOWS_KEPT
        assert stored == [*begun[:39], (begun[39][0], begun[40][1]), *begun[41:]]
        assert all(end < begin for (_, end), (begin, _) in pairwise(stored))
        await m.at(m.now_ms + WINDOW_AGE_MS)
        await m.pulse()
        assert len(await _stored(store_url)) == 1


async def test_p26_daemons_that_have_gone_are_bounded_in_number(store_url: str) -> None:
    async with monitor(store_url) as m:
        for k in range(2 * DAEMONS_KEPT):
            async with another(m, store_url, f"gone-{k}") as one:
                await m.at(m.now_ms + 100)
                await one.pulse(0, ends=True)
                await m.pulse()
        async with Redis.from_url(store_url) as redis:
            names = {name if isinstance(name, str) else name.decode() for name in await redis.hkeys("{ls:0}:pulses")}
        assert "d1" in names
        assert len(names) <= DAEMONS_KEPT + 2
        assert f"gone-{2 * DAEMONS_KEPT - 1}" in names


def _missed(seen_ms: int, spans: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """How much of the time since then the monitor was blind, until when, and in how many windows."""
    since = [(max(begin, seen_ms), end) for begin, end in spans if end > seen_ms]
    return sum(end - begin for begin, end in since), since[-1][1] if since else 0, len(since)


async def test_p1_the_library_moves_deadlines_to_the_same_moments(_empty_valkey: servers.Server) -> None:  # noqa: PT019
    for due_ms, spans, (moved_ms, uncredited) in MOVED:
        _empty_valkey.empty()
        async with opened(_empty_valkey.url) as store, Redis.from_url(_empty_valkey.url) as redis:
            m = Monitor(store, redis)
            start = m.now_ms + 1_000_000
            seen = await (await m.at(start + due_ms * 1_000 - REACH_MS)).beat()
            windows = [(start + begin * 1_000, start + end * 1_000) for begin, end in spans]
            await redis.set("{ls:0}:windows", msgpack.packb(windows))
            due = start + moved_ms * 1_000
            await m.at(max([due, *(end for _, end in windows)]))
            assert (await m.worker()).deadline_ms == due
            assert await m.swept() == [(EventKind.STALE, due)]
            event = (await events_of(store))[-1]
            missed = _missed(seen, windows)
            assert (event.outage_ms, event.outage_until_ms, event.outage_windows) == missed
            assert event.outage_uncredited == (uncredited if missed[2] else 0)


# On a grid that interval and grace are multiples of, moments meet in the very millisecond.
STEPS_MS = st.sampled_from([1, 10_000])


@given(data=st.data(), step_ms=STEPS_MS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_library_moves_deadlines_as_the_arithmetic_says(
    _empty_valkey: servers.Server,  # noqa: PT019 - hypothesis passes it by name
    data: st.DataObject,
    step_ms: int,
) -> None:
    moments = st.integers(0, 600_000 // step_ms).map(lambda number: number * step_ms)
    cuts = data.draw(st.lists(moments, max_size=16, unique=True), label="cuts")
    seen_ms = data.draw(st.lists(moments, min_size=1, max_size=12), label="seen_ms")
    now_ms = data.draw(st.integers(600_000 // step_ms + 1, 10**6 // step_ms), label="now_ms") * step_ms
    _empty_valkey.empty()
    asyncio.run(_moved_as_said(_empty_valkey.url, sorted(cuts), seen_ms, now_ms))


async def _moved_as_said(url: str, cuts: list[int], seen_ms: list[int], now_ms: int) -> None:
    async with opened(url) as store, Redis.from_url(url) as redis:
        m = Monitor(store, redis)
        start = m.now_ms + 1_000_000
        spans = [(start + begin, start + end) for begin, end in zip(cuts[::2], cuts[1::2], strict=False)]
        for k, seen in sorted(enumerate(seen_ms), key=lambda pair: pair[1]):
            await m.at(start + seen)
            await m.store.beat(0, [beat(f"w{k}")])
        await redis.set("{ls:0}:windows", msgpack.packb(spans))
        await m.at(start + now_ms)
        dues = {
            f"w{k}": credited(
                start + seen + REACH_MS, allowance_ms=REACH_MS, interval_ms=INTERVAL_MS, windows=_windows(*spans)
            )
            for k, seen in enumerate(seen_ms)
        }
        due = {name for name, credit in dues.items() if credit.deadline_ms <= m.now_ms}
        census = await m.store.count_workers(None)
        assert census.environments["prod"][Liveness.STALE] == len(due)
        found = await m.store.list_workers(0, "acme", after="", limit=100, environments=None, want=None)
        assert {one.key.worker_id: one.deadline_ms for one in found.workers} == {
            name: credit.deadline_ms for name, credit in dues.items()
        }
        moved = (await m.store.sweep(0, limit=100)).moved
        assert {one.worker_id: one.due_ms for one in moved} == {name: dues[name].deadline_ms for name in due}
        for event in await events_of(m.store):
            if event.kind is EventKind.STALE:
                missed = _missed(event.last_seen_ms, spans)
                assert (event.outage_ms, event.outage_until_ms, event.outage_windows) == missed
                assert event.outage_uncredited == (dues[event.worker_id].uncredited if missed[2] else 0)
        # When the next sweep looks again is no later than the next deadline, and no earlier if this one has looked.
        bound = min((credit.deadline_ms for name, credit in dues.items() if name not in due), default=None)
        bounds: list[Any] = await redis.zrange("{ls:0}:bounds_alive", 0, -1, withscores=True)
        first_ms = start + min(seen_ms) + REACH_MS
        assert [score for _, score in bounds] == (
            [] if bound is None else [bound if first_ms <= m.now_ms else first_ms]
        )
    await check_indexes(url)


# Refused beats as evidence of life (P11)


def refused(worker: str = "w", rejection: Rejection = Rejection.TOKEN_EXPIRED, **changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "key": WorkerKey("acme", worker),
        "allowed": None,
        "rejection": rejection,
        "subject": "svc-a",
    }
    return Evidence(**{**values, **changes})


def goodbye(back_in_ms: int | None = None) -> Disconnect:
    return Disconnect(
        key=KEY,
        allowed=None,
        trigger=Trigger.DISCONNECT_CLEAN,
        reason="shutdown",
        exit_code=0,
        error_message=None,
        back_in_ms=back_in_ms,
    )


async def test_p11_a_worker_whose_beats_are_refused_is_reported_as_rejected_and_then_as_silent(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat(grace_ms=10_000)
        reach_ms = INTERVAL_MS + 10_000
        await m.runs(seen + INTERVAL_MS)
        await m.store.evidence(0, [refused()])
        first = m.now_ms
        assert (await m.worker()).rejected == Rejected(reason="token expired", at_ms=first, subject="svc-a")
        await m.runs(seen + reach_ms)
        assert await m.swept() == [(EventKind.REJECTED, seen + reach_ms)]
        assert await m.liveness() is Liveness.STALE
        await check_indexes(store_url)
        # It goes on being refused: it is alive.
        await m.runs(m.now_ms + 10_000)
        await m.store.evidence(0, [refused(rejection=Rejection.SCOPE_MISSING)])
        last = m.now_ms
        await m.runs(first + reach_ms + 1)
        assert await m.swept() == []
        await m.runs(last + reach_ms - 1)
        assert await m.swept() == []
        await m.runs(last + reach_ms)
        assert await m.swept() == [(EventKind.STALE, last + reach_ms)]
        assert await m.swept() == []
        rejected, silent = (await events_of(m.store))[-2:]
        assert (rejected.kind, rejected.old, rejected.new) == (EventKind.REJECTED, Liveness.ALIVE, Liveness.STALE)
        assert (rejected.reason, rejected.rejected_reason, rejected.rejected_ms) == (
            "token expired",
            "token expired",
            first,
        )
        assert (silent.old, silent.new, silent.seq) == (Liveness.STALE, Liveness.STALE, rejected.seq + 1)
        assert (silent.reason, silent.rejected_ms) == ("rejected beats ended", last)
        # It is silent since then, and retention counts from there.
        assert (await m.worker()).since_ms == last + reach_ms
        assert (await m.store.purge(0, limit=10, retention_ms=1)).moved == []
        result = await m.store.beat(0, [beat()])
        assert [one.kind for one in result.moved] == [EventKind.RECOVERED]
        assert (await m.worker()).rejected is None


async def _goes_on_refused(m: Monitor, until_ms: int, rejection: Rejection = Rejection.TOKEN_EXPIRED) -> None:
    """A refused beat every 10 s, and a sweep after each."""
    while m.now_ms < until_ms:
        await m.runs(min(m.now_ms + 10_000, until_ms))
        await m.store.evidence(0, [refused(rejection=rejection, subject="svc-b")])
        await m.swept()


async def test_p11_three_intervals_and_the_grace_after_its_last_accepted_beat_a_rejected_worker_is_stale_too(
    store_url: str,
) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await _goes_on_refused(m, seen + 149_999)  # 3 x 30 s + 60 s
        assert [event.kind for event in await events_of(m.store)][1:] == [EventKind.REJECTED]
        assert (await m.store.purge(0, limit=10, retention_ms=1)).moved == []
        await m.runs(seen + 150_000)
        assert await m.swept() == [(EventKind.STALE, seen + 150_000)]
        rejected, silent = (await events_of(m.store))[-2:]
        assert (rejected.rejected_subject, silent.rejected_subject) == ("svc-b", "svc-b")
        assert (silent.old, silent.new, silent.reason) == (
            Liveness.STALE,
            Liveness.STALE,
            "no heartbeat accepted for 3 intervals",
        )
        assert (silent.rejected_reason, silent.rejected_ms) == ("token expired", seen + 149_999)
        # That was said once; what is refused later changes nothing.
        await _goes_on_refused(m, seen + 400_000)
        assert len(await events_of(m.store)) == 3
        result = await m.store.beat(0, [beat()])
        assert [one.kind for one in result.moved] == [EventKind.RECOVERED]
        # The next three intervals begin with that beat.
        await _goes_on_refused(m, result.now_ms + 149_999)
        assert [event.kind for event in await events_of(m.store)][4:] == [EventKind.REJECTED]


@pytest.mark.parametrize(
    ("off_ms", "reason"), [(0, "rejected beats ended"), (1, "no heartbeat accepted for 3 intervals")]
)
async def test_p11_refused_beats_whose_time_ends_at_the_limit_have_ended(
    store_url: str, off_ms: int, reason: str
) -> None:
    async with monitor(store_url) as m:
        limit = await m.beat() + 150_000
        await m.runs(limit - REACH_MS + off_ms)
        await m.store.evidence(0, [refused()])
        await m.runs(limit)
        await m.swept()
        stale = (await events_of(m.store))[-1]
        assert (stale.kind, stale.due_ms, stale.reason) == (EventKind.STALE, limit, reason)


async def test_p1_p11_an_outage_of_the_monitor_is_no_interval_without_an_accepted_beat(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await _goes_on_refused(m, seen + 140_000)
        await m.outage(seen + 1_000_000)
        await _goes_on_refused(m, seen + 1_000_000 + REACH_MS - 1)
        assert [event.kind for event in await events_of(m.store)][1:] == [EventKind.REJECTED]
        await m.runs(seen + 1_000_000 + REACH_MS)
        assert await m.swept() == [(EventKind.STALE, seen + 1_000_000 + REACH_MS)]


async def test_p28_a_rejected_worker_does_not_become_stale_by_what_we_refuse_for_our_own_fault(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await _goes_on_refused(m, seen + 135_000)
        await _goes_on_refused(m, seen + 405_000, Rejection.OVERLOADED)
        assert [event.kind for event in await events_of(m.store)][1:] == [EventKind.REJECTED]
        # Its own faults move nothing beyond the limit again.
        await _goes_on_refused(m, seen + 405_000 + REACH_MS - 1)
        assert len(await events_of(m.store)) == 2
        await m.runs(seen + 405_000 + REACH_MS)
        assert await m.swept() == [(EventKind.STALE, seen + 405_000 + REACH_MS)]


async def test_p11_a_refused_beat_long_before_the_deadline_does_not_make_a_silent_worker_alive(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.at(m.now_ms + 1)
        await m.store.evidence(0, [refused()])
        await m.runs(m.now_ms + 1)
        await m.at(m.now_ms + 1)
        again = await m.beat()
        assert (await m.worker()).rejected is None
        await m.runs(again + REACH_MS)
        assert await m.swept() == [(EventKind.STALE, again + REACH_MS)]
        assert seen < again


@pytest.mark.parametrize(("off_ms", "kind"), [(0, EventKind.STALE), (1, EventKind.REJECTED)])
async def test_p11_a_beat_that_is_refused_counts_from_the_millisecond_after_an_accepted_one(
    store_url: str, off_ms: int, kind: EventKind
) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.at(seen + off_ms)
        await m.store.evidence(0, [refused()])
        rejected = Rejected(reason="token expired", at_ms=seen + 1, subject="svc-a")
        assert (await m.worker()).rejected == (rejected if off_ms else None)
        await m.runs(seen + REACH_MS)
        assert await m.swept() == [(kind, seen + REACH_MS)]


async def test_p11_evidence_revives_or_registers_no_worker_and_stays_within_what_a_token_covers(store_url: str) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.evidence(
            0, [refused("unknown"), refused(allowed=("dev",)), refused(key=WorkerKey("umbrella", "w"))]
        )
        assert (await m.worker()).rejected is None
        assert (await m.store.get(WorkerKey("acme", "unknown")))[2] is None
        await m.runs(m.now_ms + REACH_MS)
        assert [kind for kind, _ in await m.swept()] == [EventKind.STALE]
        await m.store.evidence(0, [refused()])
        assert await m.liveness() is Liveness.STALE
        assert (await m.worker()).rejected is not None
        await m.runs(m.now_ms + 2 * REACH_MS)
        assert await m.swept() == []


async def test_p28_a_beat_that_we_were_too_busy_for_moves_the_deadline(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + REACH_MS - 1)
        await m.store.evidence(0, [refused(rejection=Rejection.OVERLOADED)])
        due = m.now_ms + REACH_MS
        worker = await m.worker()
        assert (worker.last_seen_ms, worker.deadline_ms) == (seen, due)
        await check_indexes(store_url)
        await m.runs(due - 1)
        assert await m.swept() == []
        await m.runs(due)
        assert await m.swept() == [(EventKind.STALE, due)]


@pytest.mark.parametrize("late_ms", [0, 500])
async def test_p2_a_beat_that_we_were_too_busy_for_after_the_deadline_moves_it_no_more(
    store_url: str, late_ms: int
) -> None:
    async with monitor(store_url) as m:
        due = await m.beat() + REACH_MS
        await m.runs(due + late_ms)  # and no sweep
        await m.store.evidence(0, [refused(rejection=Rejection.OVERLOADED)])
        assert await m.liveness() is Liveness.STALE
        assert (await m.worker()).deadline_ms == due
        assert await m.swept() == [(EventKind.REJECTED, due)], "it had passed; by now it is known to be alive"


@pytest.mark.parametrize("late_ms", [0, 500])
async def test_p2_a_beat_that_we_were_too_busy_for_after_an_absence_ended_prolongs_it_no_more(
    store_url: str, late_ms: int
) -> None:
    async with monitor(store_url) as m:
        await m.beat()
        await m.store.disconnect(goodbye(back_in_ms=60_000))
        back = m.now_ms + 60_000
        await m.runs(back + late_ms)  # and no sweep
        await m.store.evidence(0, [refused(rejection=Rejection.OVERLOADED)])
        assert (await m.worker()).missed_ms == back
        assert await m.swept() == [(EventKind.STALE, back)]


@pytest.mark.parametrize("late_ms", [0, 500])
async def test_p11_a_refused_beat_after_the_refused_beats_had_ended_does_not_revive_the_worker(
    store_url: str, late_ms: int
) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        await m.runs(seen + INTERVAL_MS)
        await m.store.evidence(0, [refused()])
        ends = m.now_ms + REACH_MS
        await m.runs(seen + REACH_MS)
        assert await m.swept() == [(EventKind.REJECTED, seen + REACH_MS)]
        await m.runs(ends + late_ms)  # and no sweep
        await m.store.evidence(0, [refused()])
        assert await m.swept() == [(EventKind.STALE, ends)]


async def test_p11_a_rejected_worker_is_not_purged_while_it_is_known_to_be_alive(store_url: str) -> None:
    async with monitor(store_url) as m:
        seen = await m.beat()
        for _ in range(3):
            await m.runs(m.now_ms + REACH_MS // 2)
            await m.store.evidence(0, [refused()])
            await m.swept()
        assert (await m.store.purge(0, limit=10, retention_ms=1)).moved == []
        assert m.now_ms > seen + REACH_MS
        await m.store.disconnect(goodbye())
        assert [event.kind for event in await events_of(m.store)][-2:] == [EventKind.REJECTED, EventKind.STOPPED]
