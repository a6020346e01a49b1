"""The race at the deadline (P8): every order of the store's operations, one millisecond before it, at it, and after it.

Each function of the store is one atomic step, so what can happen when many daemons act at once is an order of such
steps. All orders of small sets of them are made on a real store, at exact moments, against a model of thirty lines.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, permutations
from typing import Final

import pytest
from redis.asyncio import Redis

from monitor.events import Moved
from monitor.liveness import EventKind, Trigger
from monitor.store import Store
from monitor.store.results import STORED
from monitor.workers import Disconnect, WorkerKey
from tests.support.fleets import events_of
from tests.support.stores import beat, opened

INTERVAL_MS: Final = 1_000
GRACE_MS: Final = 1_000
REACH_MS: Final = INTERVAL_MS + GRACE_MS
PULSE_MS: Final = 700
"""The longest without a gap."""
CASE_MS: Final = 10_000
"""From one case to the next."""
AROUND: Final = (-1, 0, 1)

BEATS: Final = ("beat 1", "beat 2")
SWEEPS: Final = ("sweep 1", "sweep 2")
PULSES: Final = ("pulse 1", "pulse 2")
ALL: Final = (*BEATS, *SWEEPS, *PULSES, "leave", "purge", "forget")
TRIPLES: Final = tuple(permutations([one for one in ALL if one != "sweep 2"], 3))
MANY: Final = tuple(permutations((*BEATS, *SWEEPS)))
"""The beat by two lanes and the sweep by two sweepers, which is the race as it is run in the field."""


@dataclass(kw_only=True)
class Model:
    """One worker, as the documents say it. ``blind``: nothing expires around this deadline."""

    due_ms: int
    blind: bool = False
    state: str | None = "alive"
    since_ms: int = 0
    kinds: list[str] = field(default_factory=lambda: ["worker.registered"])

    def _to(self, state: str | None, kind: str, since_ms: int) -> None:
        self.state, self.since_ms = state, since_ms
        self.kinds.append(kind)

    def expire(self, now_ms: int) -> None:
        if self.state == "alive" and now_ms >= self.due_ms and not self.blind:
            self._to("stale", "worker.stale", self.due_ms)

    def do(self, what: str, now_ms: int) -> None:
        if what in PULSES:
            return
        if what == "purge":  # of who has not been alive for no time at all
            if self.state in {"stale", "stopped"} and self.since_ms <= now_ms:
                self._to(None, "worker.forgotten", now_ms)
            return
        self.expire(now_ms)
        if what in BEATS:
            came = {None: "registered", "stale": "recovered", "stopped": "resumed"}
            if self.state in came:
                self._to("alive", f"worker.{came[self.state]}", now_ms)
            self.due_ms = now_ms + REACH_MS
        elif what == "leave" and self.state in {"alive", "stale"}:
            self._to("stopped", "worker.stopped", now_ms)
        elif what == "forget" and self.state is not None:
            self._to(None, "worker.forgotten", now_ms)


class Bench:
    """A store whose next call happens at an exact millisecond, and two daemons on it."""

    def __init__(self, redis: Redis, first: Store, second: Store) -> None:
        self._redis = redis
        self.stores = {"1": first, "2": second}
        self.now_ms = 0
        self.server = ""

    async def do(self, what: str, key: WorkerKey) -> list[Moved]:
        """One operation, at ``now_ms``: the server's own clock is far behind, and time does not go back."""
        await self._redis.hset("{ls:0}:meta", mapping={"last": str(self.now_ms), "skew": str(-(10**12))})
        return await self.call(what, key)

    async def call(self, what: str, key: WorkerKey) -> list[Moved]:
        """One operation, now; what it has moved."""
        name, _, lane = what.partition(" ")
        store = self.stores[lane or "1"]
        match name:
            case "beat":
                beats = [beat(key.worker_id, interval_ms=INTERVAL_MS, grace_ms=GRACE_MS)]
                result = await store.beat(0, beats)
                assert [outcome for outcome, _ in result.outcomes] == [STORED]
                return result.moved
            case "sweep":
                return (await store.sweep(0, limit=10)).moved
            case "pulse":
                await store.pulse(0, ends=False)
                return []
            case "purge":
                return (await store.purge(0, limit=10, retention_ms=0)).moved
            case "forget":
                return (await store.delete(key, allowed=None, reason="deleted")).moved
            case _:
                return (await store.disconnect(goodbye(key))).moved


def goodbye(key: WorkerKey) -> Disconnect:
    return Disconnect(
        key=key,
        allowed=None,
        trigger=Trigger.DISCONNECT_CLEAN,
        reason="shutdown",
        exit_code=0,
        error_message=None,
        back_in_ms=None,
    )


@pytest.fixture
async def bench(store_url: str) -> AsyncIterator[Bench]:
    async with (
        Redis.from_url(store_url) as redis,
        opened(store_url, daemon="d1") as first,
        opened(store_url, daemon="d2") as second,
    ):
        made = Bench(redis, first, second)
        made.server = str((await redis.info("server")).get("server_name", "redis"))
        yield made


async def awake(bench: Bench, key: WorkerKey, begin_ms: int) -> Model:
    """Both daemons pulse up to the deadline."""
    await _registered(bench, key, begin_ms, *PULSES)
    for since_ms in range(PULSE_MS, REACH_MS, PULSE_MS):
        bench.now_ms = begin_ms + since_ms
        for pulse in PULSES:
            await bench.do(pulse, key)
    return Model(due_ms=begin_ms + REACH_MS)


async def without_pulses(bench: Bench, key: WorkerKey, begin_ms: int) -> Model:
    """No daemon has ever pulsed: there is nothing to go by."""
    await _registered(bench, key, begin_ms)
    return Model(due_ms=begin_ms + REACH_MS)


async def blind(bench: Bench, key: WorkerKey, begin_ms: int) -> Model:
    """No daemon has pulsed since the worker's beat: its deadline is moved, whether or not one pulses again."""
    await _registered(bench, key, begin_ms, *PULSES)
    return Model(due_ms=begin_ms + REACH_MS, blind=True)


async def taker_is_away(bench: Bench, key: WorkerKey, begin_ms: int) -> Model:
    """The daemon that took the worker's beat has not pulsed since, the other one has."""
    await _registered(bench, key, begin_ms, *PULSES)
    for since_ms in range(PULSE_MS, REACH_MS, PULSE_MS):
        bench.now_ms = begin_ms + since_ms
        await bench.do("pulse 2", key)
    return Model(due_ms=begin_ms + REACH_MS, blind=True)


async def _registered(bench: Bench, key: WorkerKey, begin_ms: int, *pulses: str) -> None:
    bench.now_ms = begin_ms
    for pulse in pulses:
        await bench.do(pulse, key)
    await bench.do("beat 1", key)


SCENES: Final = (awake, without_pulses, blind, taker_is_away)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("orders", [MANY, TRIPLES], ids=["four at once", "three of all"])
async def test_p8_in_every_order_around_the_deadline_one_sequence_of_events_is_reported_and_it_is_the_model_s(
    bench: Bench, scene: object, orders: Sequence[tuple[str, ...]]
) -> None:
    if orders is TRIPLES and "valkey" not in bench.server:
        orders = orders[::20]  # it is slower, and one library serves both
    if scene is without_pulses:
        orders = [order for order in orders if not {*order} & {*PULSES}]
    begin_ms = (await bench.stores["1"].swept(0))[0] + CASE_MS
    expected: dict[str, list[str]] = {}
    for order in orders:
        for offsets in combinations_with_replacement(AROUND, len(order)):
            key = WorkerKey("acme", f"w{len(expected)}")
            model: Model = await scene(bench, key, begin_ms)  # type: ignore[operator]
            due_ms = model.due_ms
            answered: list[EventKind] = []
            for what, offset in zip(order, offsets, strict=True):
                bench.now_ms = due_ms + offset
                answered += [one.kind for one in await bench.do(what, key) if one.worker_id == key.worker_id]
                model.do(what, due_ms + offset)
            steps = list(zip(order, offsets, strict=True))
            assert answered == model.kinds[1:], steps
            _check_race(steps, answered, is_blind=model.blind)
            # The next case has the store for itself.
            if model.state is not None:
                await bench.do("forget", key)
                model.do("forget", bench.now_ms)
            expected[key.worker_id] = model.kinds
            begin_ms += CASE_MS
    await _check_history(bench, expected)


def _check_race(steps: list[tuple[str, int]], answered: list[EventKind], *, is_blind: bool) -> None:
    """P3, P8 once more, without the model."""
    stale = answered.count(EventKind.STALE)
    assert stale <= (0 if is_blind else 1), steps
    on_time = [what in BEATS and offset < 0 for what, offset in steps]
    if any(on_time) and "leave" not in {what for what, _ in steps[: on_time.index(True)]}:
        assert stale == 0, steps
        assert EventKind.RECOVERED not in answered, steps


async def _check_history(bench: Bench, expected: dict[str, list[str]]) -> None:
    reported: dict[str, list[str]] = {}
    numbers: dict[str, list[int]] = {}
    ids: Counter[str] = Counter()
    for event in await events_of(bench.stores["2"]):
        reported.setdefault(event.worker_id, []).append(event.kind)
        numbers.setdefault(f"{event.worker_id}/{event.generation}", []).append(event.seq)
        ids[event.event_id] += 1
    assert reported == expected
    assert {name: seen for name, seen in numbers.items() if seen != list(range(1, len(seen) + 1))} == {}
    assert ids.most_common(1)[0][1] == 1


async def test_p1_p2_p8_after_blindness_the_moved_deadline_is_as_sharp(bench: Bench) -> None:
    """The same race at the deadline that the window has moved: the worker is dead, and reported once."""
    begin_ms = (await bench.stores["1"].swept(0))[0] + CASE_MS
    expected: dict[str, list[str]] = {}
    away_ms = 5 * REACH_MS
    for order in MANY:
        for offsets in combinations_with_replacement(AROUND, len(order)):
            key = WorkerKey("acme", f"w{len(expected)}")
            await blind(bench, key, begin_ms)
            back_ms = begin_ms + away_ms
            for since_ms in range(0, REACH_MS, PULSE_MS):
                bench.now_ms = back_ms + since_ms
                for what in (*PULSES, *SWEEPS):
                    assert await bench.do(what, key) == []
            model = Model(due_ms=back_ms + REACH_MS)
            for what, offset in zip(order, offsets, strict=True):
                bench.now_ms = back_ms + REACH_MS + offset
                await bench.do(what, key)
                model.do(what, back_ms + REACH_MS + offset)
            await bench.do("forget", key)
            model.do("forget", bench.now_ms)
            expected[key.worker_id] = model.kinds
            begin_ms += away_ms + CASE_MS
    await _check_history(bench, expected)


async def test_p3_p8_sweeps_and_beats_that_really_run_at_once_report_one_sequence_of_events(bench: Bench) -> None:
    """Not in turn but from four connections: the store decides the order, and each is one of the above."""
    begin_ms = (await bench.stores["1"].swept(0))[0] + CASE_MS
    stories: Counter[tuple[EventKind, ...]] = Counter()
    for number in range(200):
        key = WorkerKey("acme", f"w{number}")
        await awake(bench, key, begin_ms)
        bench.now_ms = begin_ms + REACH_MS
        await bench.do("pulse 1", key)
        results = await asyncio.gather(*(bench.call(what, key) for what in (*SWEEPS, *BEATS)))
        stories[tuple(sorted(one.kind for moved in results for one in moved))] += 1
        bench.now_ms += 1_000  # time went on by itself
        await bench.do("forget", key)
        begin_ms += CASE_MS
    assert set(stories) == {(EventKind.RECOVERED, EventKind.STALE)}
