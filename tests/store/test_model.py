"""Does everything to the function library and to a plain model, in any order, and compares all that they say."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from alerts.groups.classify import DOWN, qualified
from alerts.routing.router import Router
from alerts.routing.routes import ReceiverTraits, Route
from alerts.store.group_store import GroupStore, Want
from alerts.store.incidents import IncidentStore
from alerts.store.routing import RoutingStore
from monitor.blindness import GAP_MS
from monitor.events import Event
from monitor.liveness import EventKind, Liveness, Trigger
from monitor.store import Store
from monitor.store.results import OVER_WORKERS, STORED, UNKNOWN
from monitor.workers import KEEP, Beat, Disconnect, Evidence, Rejection, WorkerKey
from tests.support import servers, stores
from tests.support.store_indexes import check_indexes
from tests.support.store_model import Model, ModelEvent

TENANTS = ("acme", "umbrella")
KEYS = st.builds(WorkerKey, st.sampled_from(TENANTS), st.sampled_from(["a", "b", "a/b", "ü"]))
MAX_WORKERS = 3
RETENTION_MS = 200_000
BACK_IN_MS = st.sampled_from([1, 4_000, 45_000, 95_000, 150_000, 400_000])
"""Absences shorter and longer than deadlines and the retention."""
GOODBYES = st.tuples(st.sampled_from([Trigger.DISCONNECT_CLEAN, Trigger.DISCONNECT_FAILURE]), st.none()) | st.tuples(
    st.just(Trigger.DISCONNECT_CLEAN), BACK_IN_MS
)

BEATS = st.builds(
    Beat,
    key=KEYS,
    environment_name=st.sampled_from([None, "prod", "dev-1"]),
    first_environment=st.just("default"),
    allowed=st.none(),
    interval_ms=st.sampled_from([KEEP, KEEP, KEEP, None, 20_000]),
    grace_ms=st.sampled_from([KEEP, KEEP, KEEP, None, 1_000]),
    status=st.sampled_from([KEEP, "busy"]),
    metadata_json=st.sampled_from([KEEP, "{}", '{"a":1}']),
)

DAEMONS = ("d0", "d1")
RUNNING = st.sampled_from([["d0"], ["d1"], ["d0", "d1"], ["d0", "d1"]])
REFUSED = st.builds(
    Evidence,
    key=KEYS,
    allowed=st.none(),
    rejection=st.sampled_from([Rejection.TOKEN_EXPIRED, Rejection.OVERLOADED]),
    subject=st.sampled_from(["svc-a", "svc-b"]),
)
DURATIONS_MS = st.sampled_from([1, 999, 4_000, 5_000, 6_000, 15_000, 29_999, 60_000, 90_000, 250_000])


_Method = TypeVar("_Method", bound="Callable[..., None]")
ACTIONS: list[tuple[str, bool, dict[str, st.SearchStrategy[Any]]]] = []
"""Each with the name of its method, whether it needs a worker, and what to draw for it."""
INVARIANTS: list[str] = []
STEPS: Final = 25
SEEDS: Final = 5
EXAMPLES: Final = 6
"""With each seed; the first is as small as can be."""


def action(*, known: bool = False, **drawn: st.SearchStrategy[Any]) -> Callable[[_Method], _Method]:
    """A method that may be the next step. ``known``: only if there is a worker."""

    def register(method: _Method) -> _Method:
        ACTIONS.append((method.__name__, known, drawn))
        return method

    return register


def invariant(method: _Method) -> _Method:
    """A method that is called after each step."""
    INVARIANTS.append(method.__name__)
    return method


class StoreMachine:
    """Five sweepers, one clock, and every order there is."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.runner = asyncio.Runner()
        self.context = servers.running(self.binary, "--appendonly", "no")
        self.server = self.context.__enter__()
        self.sweepers = [
            self.run(Store.open(stores.settings(self.server.url, daemon=f"d{k}", workers_per_tenant=MAX_WORKERS)))
            for k in range(5)
        ]
        self.store = self.sweepers[0]
        self.clock = stores.ManualClock(self.server.url)
        self.model = Model(
            expected={"dev-1": (stores.DEV.interval_ms, stores.DEV.grace_ms)},
            default=(stores.INTERVAL_MS, stores.GRACE_MS),
            max_workers=MAX_WORKERS,
        )
        self.seen: dict[WorkerKey, tuple[int, int, int]] = {}
        self.has_trimmed = False
        self.alerts = stores.alert_store(self.server.url)
        self.incidents, self.groups = IncidentStore(self.alerts), GroupStore(self.alerts, "ops")
        self.router = Router(
            partition=0,
            source=self.run(stores.outbox_of(self.store)),
            batches=RoutingStore(self.alerts),
            incidents=self.incidents,
            mass_failures=None,
            groups={"ops": self.groups},
            traits={"ops": ReceiverTraits()},
            routes=[Route(receivers=("ops",))],
            now_ms=self.store.clock.now_ms,
            on_queued=lambda *_: None,
        )

    def play(self, data: st.DataObject) -> None:
        """Make ``STEPS`` steps. Each action is as probable: a state machine leaves some out, and little happens."""
        for _ in range(STEPS):
            name, _, drawn = data.draw(st.sampled_from([one for one in ACTIONS if self.model.workers or not one[1]]))
            getattr(self, name)(**{key: data.draw(strategy) for key, strategy in drawn.items()})
            for check in INVARIANTS:
                getattr(self, check)()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def close(self) -> None:
        for store in (*self.sweepers, self.alerts):
            self.run(store.close())
        self.runner.close()
        self.context.__exit__(None, None, None)

    @action(beats=st.lists(BEATS, min_size=1, max_size=6), taker=st.integers(0, len(DAEMONS) - 1))
    def batch(self, beats: list[Beat], taker: int) -> None:
        self.batch_of(beats, taker)

    def batch_of(self, beats: list[Beat], taker: int = 0) -> None:
        result = self.run(self.sweepers[taker].beat(0, beats))
        for beat, (outcome, _) in zip(beats, result.outcomes, strict=True):
            stored = self.model.beat(beat, result.now_ms, daemon=DAEMONS[taker])
            assert (outcome == STORED) is stored
        for beat, (outcome, interval_ms) in zip(beats[-1:], result.outcomes[-1:], strict=True):
            if outcome == STORED:
                assert interval_ms == self.model.workers[beat.key].interval_ms

    @action(key=KEYS, said=GOODBYES)
    def disconnect(self, key: WorkerKey, said: tuple[Trigger, int | None]) -> None:
        self.leave(key, *said)

    @action(known=True, data=st.data(), back_in_ms=BACK_IN_MS, straggles=st.booleans())
    def announce_an_absence(self, data: st.DataObject, back_in_ms: int, *, straggles: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.workers, key=str)))
        self.leave(key, Trigger.DISCONNECT_CLEAN, back_in_ms)
        if straggles:
            self.batch_of([data.draw(BEATS.map(lambda beat: msgspec.structs.replace(beat, key=key)))])

    def leave(self, key: WorkerKey, trigger: Trigger, back_in_ms: int | None) -> None:
        goodbye = Disconnect(
            key=key,
            allowed=None,
            trigger=trigger,
            reason="shutdown",
            exit_code=0,
            error_message=None,
            back_in_ms=back_in_ms,
            first_environment="dev-1",
        )
        result = self.run(self.store.disconnect(goodbye))
        if key in self.model.workers:
            assert result.outcome != UNKNOWN
            self.model.leave(key, trigger, result.now_ms, back_in_ms=back_in_ms)
        elif trigger is Trigger.DISCONNECT_CLEAN:
            assert result.outcome == UNKNOWN
        else:
            stored = self.model.register_failed(key, result.now_ms, environment="dev-1", daemon=DAEMONS[0])
            assert result.outcome == (STORED if stored else OVER_WORKERS)

    @action(ms=DURATIONS_MS)
    def advance(self, ms: int) -> None:
        self.run(self.clock.set(self.now_ms() + ms))

    @action(known=True, data=st.data(), off=st.sampled_from([-1, 0, 1]))
    def advance_to_a_deadline(self, data: st.DataObject, off: int) -> None:
        due = self.a_moment(data) + off
        if due > self.now_ms():
            self.run(self.clock.set(due))

    @action(known=True, data=st.data(), off=st.sampled_from([-1, 0, 1]), daemons=RUNNING)
    def run_to_a_deadline(self, data: st.DataObject, off: int, daemons: list[str]) -> None:
        self.go_on_until(self.a_moment(data) + off, daemons)

    @action(ms=DURATIONS_MS, daemons=RUNNING)
    def run_on(self, ms: int, daemons: list[str]) -> None:
        self.go_on_until(self.now_ms() + ms, daemons)

    @action(ms=DURATIONS_MS, daemons=RUNNING)
    def outage(self, ms: int, daemons: list[str]) -> None:
        self.outage_of(ms, daemons)

    def outage_of(self, ms: int, daemons: list[str]) -> None:
        self.run(self.clock.set(self.now_ms() + ms))
        self.go_on_until(0, daemons)

    @action(number=st.integers(0, len(DAEMONS) - 1), ends=st.booleans())
    def pulse(self, number: int, *, ends: bool) -> None:
        self.pulse_of(DAEMONS[number], ends=ends)

    def now_ms(self) -> int:
        now_ms, _, _ = self.run(self.store.get(WorkerKey("no-tenant", "x")))
        assert isinstance(now_ms, int)
        return now_ms

    def a_moment(self, data: st.DataObject) -> int:
        """A deadline, or the end of an absence or of refused beats, as it would be if the monitor ran on."""
        key = data.draw(st.sampled_from(sorted(self.model.workers, key=str)))
        now_ms = self.now_ms()
        worker = self.model.workers[key]
        return self.model.moment(worker, now_ms) or worker.deadline

    def pulse_of(self, daemon: str, *, ends: bool) -> None:
        result = self.run(self.sweepers[DAEMONS.index(daemon)].pulse(0, ends=ends))
        self.model.pulse(daemon, result.now_ms, ends=ends)
        assert result.windows == len(self.model.ended_windows)
        assert result.window == (self.model.ended_windows[-1] if self.model.ended_windows else None)

    def go_on_until(self, until_ms: int, daemons: list[str]) -> None:
        """These daemons pulse now, and until then: a pulse of which only the time differs overwrites the one before."""
        for daemon in daemons:
            self.pulse_of(daemon, ends=False)
        if self.model.pulse_ms is not None and until_ms > self.model.pulse_ms + 100:
            self.model.goes_on_until(until_ms, daemons)
            self.run(self._write_pulses(until_ms, daemons))

    async def _write_pulses(self, now_ms: int, daemons: list[str]) -> None:
        async with Redis.from_url(self.server.url) as redis:
            await redis.hset("{ls:0}:meta", mapping={"last": now_ms, "pulse": now_ms})
            for daemon in daemons:
                known: Any = await redis.hget("{ls:0}:pulses", daemon)
                await redis.hset("{ls:0}:pulses", daemon, now_ms.to_bytes(6) + known[6:])

    @action(refused=REFUSED)
    def refuse(self, refused: Evidence) -> None:
        self.evidence(refused)

    @action(known=True, data=st.data())
    def refuse_a_known_one(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.workers, key=str)))
        self.evidence(msgspec.structs.replace(data.draw(REFUSED), key=key))

    @action(
        known=True,
        data=st.data(),
        beats=st.booleans(),
        before_ms=st.sampled_from([200, 5_000, 14_000, 29_000]),
        off=st.sampled_from([-1, 0, 1, 40_000]),
        daemons=RUNNING,
        outage_ms=st.sampled_from([0, 0, 2_000, 600_000]),
    )
    def refuse_until_a_moment(
        self, data: st.DataObject, before_ms: int, off: int, daemons: list[str], outage_ms: int, *, beats: bool
    ) -> None:
        """Its beats are refused shortly before its deadline, or the end of what else there is; then comes what may."""
        key = data.draw(st.sampled_from(sorted(self.model.workers, key=str)))
        self.go_on_until(0, daemons)
        if beats:
            self.batch_of([data.draw(BEATS.map(lambda beat: msgspec.structs.replace(beat, key=key)))])
        moment_ms = self.model.moment(self.model.workers[key], self.now_ms())
        if moment_ms is None:
            return
        self.go_on_until(moment_ms - before_ms, daemons)
        self.evidence(msgspec.structs.replace(data.draw(REFUSED), key=key))
        self.go_on_until(moment_ms + off, daemons)
        if outage_ms:
            self.outage_of(outage_ms, daemons)

    def evidence(self, refused: Evidence) -> None:
        self.run(self.store.evidence(0, [refused]))
        if refused.key in self.model.workers:
            _, _, worker = self.run(self.store.get(refused.key))
            at_ms = worker.last_seen_ms if worker.rejected is None else worker.rejected.at_ms
            self.model.evidence(refused, at_ms)

    @action(known=True, data=st.data(), step_ms=st.sampled_from([10_000, 29_000]), daemons=RUNNING)
    def refuse_for_long(self, data: st.DataObject, step_ms: int, daemons: list[str]) -> None:
        """Its beats are refused again and again, until no further transition follows."""
        key = data.draw(st.sampled_from(sorted(self.model.workers, key=str)))
        for _ in range(8):
            self.go_on_until(self.now_ms() + step_ms, daemons)
            self.evidence(msgspec.structs.replace(data.draw(REFUSED), key=key))
            self.sweep_by_several(10)

    @action(limit=st.integers(1, 10))
    def sweep_by_several(self, limit: int) -> None:
        """At once, from five connections, until none has more to do; every expiry is checked against its own time."""

        async def all_of_them() -> list[Any]:
            async def one(store: Store) -> list[Any]:
                results = []
                while True:
                    result = await store.sweep(0, limit=limit)
                    results.append(result)
                    if not result.more:
                        return results

            return [r for results in await asyncio.gather(*map(one, self.sweepers)) for r in results]

        now_ms = self.now_ms()
        if self.model.pulse_ms is not None and GAP_MS - 500 < now_ms - self.model.pulse_ms <= GAP_MS:
            self.go_on_until(0, ["d0"])  # or the monitor might be blind for some of them
        results = sorted(self.run(all_of_them()), key=lambda result: result.now_ms)
        for result in results:
            assert result.damaged == 0
            for moved in result.moved:
                self.model.expire(WorkerKey(moved.tenant, moved.worker_id), result.now_ms)
            assert not (result.blind and result.moved)
            assert not result.blind or self.model.is_blind(result.now_ms)
        first = results[0].now_ms
        if not self.model.is_blind(results[-1].now_ms):
            assert [key for key in self.model.workers if self.model.is_due(key, first)] == []
            self.take_over_bases([result.now_ms for result in results])

    def take_over_bases(self, times: list[int]) -> None:
        """Of workers whose daemon is away: which sweeper came first, and in which millisecond, decides."""
        for key, expected in self.model.workers.items():
            base_ms, _ = self.model.due(expected, times[0])
            if expected.liveness is Liveness.ALIVE and base_ms > expected.base_ms:
                _, _, worker = self.run(self.store.get(key))
                found = worker.late_ms - worker.interval_ms
                assert found in {self.model.due(expected, now_ms)[0] for now_ms in times}
                expected.move_base(found)

    @action()
    def route(self) -> None:
        """What the events since the last time leave in the partition: the incidents, and the groups at a receiver.

        Nothing is delivered, so the group of a worker that is down waits with its newest outage, and of one that is
        back none waits.
        """

        async def routed() -> None:
            while await self.router.step():
                pass

        self.run(routed())
        for tenant in TENANTS:
            page = self.run(self.incidents.page(tenant, limit=1_000))
            stored = Counter((one.worker_id, one.opened_ms, one.updated, one.closed_by) for one in page.incidents)
            outages = self.model.outages(tenant)
            assert stored == Counter((one.key.worker_id, one.due_ms, one.kind, one.ended_by) for one in outages)
            down = {one.key.worker_id: one for one in outages if one.ended_by is None}
            keys = [
                f"w{qualified(tenant, key.worker_id)}" for key in sorted(self.seen, key=str) if key.tenant == tenant
            ]
            for want, seen in zip(keys, self.run(self.groups.read([Want(group=key) for key in keys])), strict=True):
                pending = [] if seen.group is None else seen.group.pending
                names = {event.worker_id for event in pending}
                newest = [event for event in pending if event.kind in DOWN]
                expected = next((one for name, one in down.items() if want == f"w{qualified(tenant, name)}"), None)
                assert (seen.group is None) is (expected is None), want
                if expected is not None:
                    assert names == {expected.key.worker_id}
                    assert [(event.kind, event.seq) for event in newest] == [(expected.kind, expected.seq)]

    @action(key=KEYS)
    def delete(self, key: WorkerKey) -> None:
        result = self.run(self.store.delete(key, allowed=None, reason="deleted"))
        assert (result.outcome == UNKNOWN) is (key not in self.model.workers)
        if key in self.model.workers:
            self.model.forget(key, result.now_ms, expire=True)

    @action()
    def purge(self) -> None:
        while True:
            result = self.run(self.store.purge(0, limit=2, retention_ms=RETENTION_MS))
            for moved in result.moved:
                key = WorkerKey(moved.tenant, moved.worker_id)
                if moved.kind is EventKind.FORGOTTEN:
                    assert self.model.is_purged(key, RETENTION_MS, result.now_ms)
                    self.model.forget(key, result.now_ms, expire=False)
                else:
                    self.model.expire(key, result.now_ms)
            if not result.more:
                keys = self.model.workers
                assert [key for key in keys if self.model.is_purged(key, RETENTION_MS, result.now_ms)] == []
                return

    def history(self, tenant: str) -> list[Event]:
        events: list[Event] = []
        while True:
            after = events[-1].position if events else ""
            some = self.run(self.store.history(0, tenant, after=after, limit=100, newest_first=False)).events
            if not some:
                return events
            events += some

    @action(keep_ms=st.sampled_from([60_000, 10**13]), most=st.sampled_from([3, 12, 10**9]))
    def trim(self, keep_ms: int, most: int) -> None:
        before = {tenant: len(events) for tenant in TENANTS if (events := self.history(tenant))}
        while self.run(self.store.trim(0, keep_ms=keep_ms, most=most)):
            self.has_trimmed = True
        after = {tenant: len(self.history(tenant)) for tenant in before}
        assert sum(after.values()) <= most
        if keep_ms > 60_000:
            assert sum(after.values()) == min(sum(before.values()), most)
            assert all(after[tenant] >= min(length, most // len(before)) for tenant, length in before.items())

    @invariant
    def the_stream_has_the_events_of_the_model(self) -> None:
        events = [event for tenant in TENANTS for event in self.history(tenant)]
        stored = [
            ModelEvent(
                kind=event.kind,
                key=WorkerKey(event.tenant, event.worker_id),
                environment=event.environment_name,
                generation=event.generation,
                seq=event.seq,
                old=event.old,
                new=event.new,
                due_ms=event.due_ms,
                last_seen_ms=event.last_seen_ms,
                since_ms=event.since_ms,
                metadata=event.worker_metadata_json,
                rejected=None
                if event.rejected_reason is None
                else (event.rejected_reason, event.rejected_ms, event.rejected_subject),
                windows=event.outage_windows,
                uncredited=event.outage_uncredited,
            )
            for event in events
        ]
        # Workers expired by one call have no order among themselves; each worker's own story has.
        for key in {event.key for event in self.model.events} | {event.key for event in stored}:
            left, whole = ([e for e in some if e.key == key] for some in (stored, self.model.events))
            assert left == (whole[len(whole) - len(left) :] if self.has_trimmed else whole)
        assert len({event.event_id for event in events}) == len(events)

    @invariant
    def every_worker_reads_as_the_model_says(self) -> None:
        for key, expected in self.model.workers.items():
            now_ms, _, worker = self.run(self.store.get(key))
            assert worker is not None
            assert (worker.stored, worker.back_ms) == (expected.liveness, expected.back_ms)
            assert worker.straggler is expected.straggler
            assert (worker.environment_name, worker.interval_ms, worker.grace_ms) == (
                expected.environment,
                expected.interval_ms,
                expected.grace_ms,
            )
            assert (worker.generation, worker.seq) == (expected.generation, expected.seq)
            assert (worker.last_seen_ms, worker.since_ms) == (expected.last_seen_ms, expected.since_ms)
            assert (worker.status, worker.metadata_json) == (expected.status, expected.metadata)
            assert list(worker.recent_gaps_ms) == expected.gaps
            read = worker.rejected and (worker.rejected.reason, worker.rejected.at_ms, worker.rejected.subject)
            assert read == expected.refused
            assert worker.liveness(now_ms) is self.model.liveness(expected, now_ms)
            if expected.liveness is Liveness.ALIVE:
                assert worker.deadline_ms == self.model.due(expected, now_ms)[1].deadline_ms
            before = self.seen.get(key)
            mark = (worker.generation, worker.seq, worker.last_seen_ms)
            assert before is None or mark >= before
            self.seen[key] = mark
            assert worker.transitions[-1].kind is not EventKind.FORGOTTEN
            assert now_ms >= worker.last_seen_ms

    @invariant
    def every_index_says_what_the_records_say(self) -> None:
        self.run(check_indexes(self.server.url))

    @invariant
    def lists_and_counts_agree_with_the_model(self) -> None:
        for tenant in TENANTS:
            census = self.run(self.store.count_workers(tenant))
            expected: Counter[tuple[str, Liveness]] = Counter()
            is_waited_for = False  # only since its daemon has gone: the next sweep says so to the counts
            for key, worker in self.model.workers.items():
                if key.tenant == tenant:
                    is_waited_for |= self.model.due(worker, census.now_ms)[0] > worker.base_ms
                    expected[worker.environment, self.model.liveness(worker, census.now_ms)] += 1
            counted = {
                (name, liveness): count
                for name, counts in census.environments.items()
                for liveness, count in counts.items()
                if count
            }
            assert counted == dict(expected) or is_waited_for
            assert all(count > 0 for count in counted.values())
            ids, after = [], ""
            while True:
                page = self.run(self.store.list_workers(0, tenant, after=after, limit=2, environments=None, want=None))
                ids += [worker.key.worker_id for worker in page.workers]
                after = page.last
                if not after:
                    break
            assert ids == sorted((key.worker_id for key in self.model.workers if key.tenant == tenant), key=str.encode)


@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_p3_p4_p8_p9_the_function_library_does_what_the_model_says(name: str) -> None:
    binary = servers.valkey_binary() if name == "valkey" else servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH")

    def any_sequence(data: st.DataObject) -> None:
        machine = StoreMachine(binary)
        try:
            machine.play(data)
        finally:
            machine.close()

    quick = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for number in range(SEEDS):  # one seed alone soon repeats itself
        seed(number)(quick(given(st.data())(any_sequence)))()
