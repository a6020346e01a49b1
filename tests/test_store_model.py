"""A state machine that does everything to the function library and to a plain model, and compares all they say."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from monitor.liveness import EventKind, Liveness, Trigger
from monitor.store import Store
from monitor.store.store import STORED, UNKNOWN
from monitor.workers import KEEP, Beat, Disconnect, WorkerKey
from tests import servers, stores
from tests.store_indexes import check_indexes
from tests.store_model import Model, ModelEvent

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from monitor.events import Event

KEYS = st.builds(WorkerKey, st.sampled_from(["acme", "umbrella"]), st.sampled_from(["a", "b", "a/b", "ü"]))
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


class StoreMachine(RuleBasedStateMachine):
    """Five sweepers, one clock, and every order there is."""

    binary: Path

    def __init__(self) -> None:
        super().__init__()
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

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        for store in self.sweepers:
            self.run(store.close())
        self.runner.close()
        self.context.__exit__(None, None, None)

    @rule(beats=st.lists(BEATS, min_size=1, max_size=6))
    def batch(self, beats: list[Beat]) -> None:
        self.batch_of(beats)

    def batch_of(self, beats: list[Beat]) -> None:
        result = self.run(self.store.beat(0, beats))
        for beat, (outcome, _) in zip(beats, result.outcomes, strict=True):
            stored = self.model.beat(beat, result.now_ms)
            assert (outcome == STORED) is stored
        for beat, (outcome, interval_ms) in zip(beats[-1:], result.outcomes[-1:], strict=True):
            if outcome == STORED:
                assert interval_ms == self.model.workers[beat.key].interval_ms

    @rule(key=KEYS, said=GOODBYES)
    def disconnect(self, key: WorkerKey, said: tuple[Trigger, int | None]) -> None:
        self.leave(key, *said)

    @precondition(lambda self: self.model.workers)
    @rule(data=st.data(), back_in_ms=BACK_IN_MS, straggles=st.booleans())
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
        )
        result = self.run(self.store.leave(goodbye))
        assert (result.outcome == UNKNOWN) is (key not in self.model.workers)
        if key in self.model.workers:
            self.model.leave(key, trigger, result.now_ms, back_in_ms=back_in_ms)

    @rule(ms=st.sampled_from([1, 999, 4_000, 5_000, 6_000, 15_000, 29_999, 60_000, 90_000, 250_000]))
    def advance(self, ms: int) -> None:
        now_ms, _, _ = self.run(self.store.one(WorkerKey("nobody", "x")))
        self.run(self.clock.set(now_ms + ms))

    @precondition(lambda self: self.model.workers)
    @rule(data=st.data(), off=st.sampled_from([-1, 0, 1]))
    def advance_to_a_deadline(self, data: st.DataObject, off: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.workers, key=str)))
        worker = self.model.workers[key]
        due = data.draw(st.sampled_from([worker.deadline, worker.back_ms or worker.deadline])) + off
        now_ms, _, _ = self.run(self.store.one(key))
        if due > now_ms:
            self.run(self.clock.set(due))

    @rule(limit=st.integers(1, 10))
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

        results = sorted(self.run(all_of_them()), key=lambda result: result.now_ms)
        for result in results:
            assert result.damaged == 0
            for moved in result.moved:
                self.model.expire(WorkerKey(moved.tenant, moved.worker_id), result.now_ms)
        first = results[0].now_ms
        assert [key for key in self.model.workers if self.model.is_due(key, first)] == []

    @rule(key=KEYS)
    def delete(self, key: WorkerKey) -> None:
        result = self.run(self.store.forget(key, allowed=None, reason="deleted"))
        assert (result.outcome == UNKNOWN) is (key not in self.model.workers)
        if key in self.model.workers:
            self.model.forget(key, result.now_ms, expire=True)

    @rule()
    def purge(self) -> None:
        while True:
            result = self.run(self.store.purge(0, limit=2, retention_ms=RETENTION_MS))
            for moved in result.moved:
                key = WorkerKey(moved.tenant, moved.worker_id)
                assert self.model.is_purged(key, RETENTION_MS, result.now_ms)
                if moved.kind is EventKind.FORGOTTEN:
                    self.model.forget(key, result.now_ms, expire=False)
                else:
                    self.model.expire(key, result.now_ms)
            if not result.more:
                keys = self.model.workers
                assert [key for key in keys if self.model.is_purged(key, RETENTION_MS, result.now_ms)] == []
                return

    @invariant()
    def the_stream_tells_the_model_s_story(self) -> None:
        events: list[Event] = []
        after = ""
        while True:
            _, _, some = self.run(self.store.history(0, after=after, limit=100, newest_first=False))
            events += some
            if not some:
                break
            after = some[-1].position
        told = [
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
            )
            for event in events
        ]
        # Workers expired by one call have no order among themselves; each worker's own story has.
        for key in {event.key for event in self.model.events} | {event.key for event in told}:
            assert [e for e in told if e.key == key] == [e for e in self.model.events if e.key == key]
        assert len({event.event_id for event in events}) == len(events)

    @invariant()
    def every_worker_reads_as_the_model_says(self) -> None:
        for key, expected in self.model.workers.items():
            now_ms, _, worker = self.run(self.store.one(key))
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
            before = self.seen.get(key)
            mark = (worker.generation, worker.seq, worker.last_seen_ms)
            assert before is None or mark >= before
            self.seen[key] = mark
            assert worker.transitions[-1].kind is not EventKind.FORGOTTEN
            assert now_ms >= worker.last_seen_ms

    @invariant()
    def every_index_says_what_the_records_say(self) -> None:
        self.run(check_indexes(self.server.url))

    @invariant()
    def lists_and_counts_agree_with_the_model(self) -> None:
        for tenant in ("acme", "umbrella"):
            census = self.run(self.store.census(tenant))
            expected: Counter[tuple[str, Liveness]] = Counter()
            for key, worker in self.model.workers.items():
                if key.tenant == tenant:
                    _, _, read = self.run(self.store.one(key))
                    expected[worker.environment, read.liveness(census.now_ms)] += 1
            told = {
                (name, liveness): count
                for name, counts in census.environments.items()
                for liveness, count in counts.items()
                if count
            }
            assert told == dict(expected)
            ids, after = [], ""
            while True:
                page = self.run(self.store.page(0, tenant, after=after, limit=2, environments=None, want=None))
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

    class Machine(StoreMachine):
        pass

    Machine.binary = binary
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
