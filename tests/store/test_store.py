"""The store's promises one by one, on Valkey and on Redis, at exact milliseconds."""

import asyncio
import json
import zlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from alerts.store.group_store import GroupStore
from alerts.store.receivers import ReceiverStore
from monitor.errors import StoreUnavailableError
from monitor.events import EVENT_METADATA_BYTES, Event
from monitor.liveness import EnvironmentHealth, EventKind, Liveness, Trigger
from monitor.ownership import Bid
from monitor.store import InstallationError, SchemaError, Store, StoreFullError, StoreRefusedError
from monitor.store.results import (
    DAMAGED,
    NOT_ALLOWED,
    OVER_BYTES,
    OVER_ENVIRONMENTS,
    OVER_TIMINGS,
    OVER_WORKERS,
    REFUSED,
    STORED,
    Want,
)
from monitor.store.settings import EnvironmentRule
from monitor.workers import Disconnect, Evidence, Rejection, WorkerKey, partition_of
from tests.support import servers
from tests.support.store_indexes import check_indexes
from tests.support.stores import (
    DEV,
    GRACE_MS,
    INTERVAL_MS,
    ManualClock,
    acked,
    alert_store,
    beat,
    claimed,
    opened,
    outbox_of,
    settings,
)

W = WorkerKey("acme", "w")
HISTORY_KEYS = {
    "{ls.shared:0}:meta",
    "{ls:0}:meta",
    "{ls:0}:outbox",
    "{ls:0}:history:acme",
    "{ls:0}:history_lengths",
    "{ls:0}:history_began",
}
UNKNOWN_W = WorkerKey("acme", "unknown")


async def events_of(store: Store) -> list[Event]:
    events: list[Event] = []
    for partition in range(store.partitions):
        some = (await store.history(partition, "acme", after="", limit=1_000, newest_first=False)).events
        events += some
    return events


async def kinds(store: Store) -> list[str]:
    return [event.kind.removeprefix("worker.") for event in await events_of(store)]


def goodbye(trigger: Trigger, **changes: object) -> Disconnect:
    values: dict[str, object] = {"reason": "shutdown", "exit_code": 0, "error_message": None, "allowed": None}
    return Disconnect(key=W, trigger=trigger, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("off", "expected"), [(-1, Liveness.ALIVE), (0, Liveness.STALE), (1, Liveness.STALE)])
async def test_p8_a_sweep_expires_from_the_deadline_on_and_not_a_millisecond_before(
    store_url: str, off: int, expected: Liveness
) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat()])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS + off)
        result = await store.sweep(0, limit=10)
        assert result.now_ms == t + INTERVAL_MS + GRACE_MS + off
        _, _, worker = await store.get(W)
        assert worker is not None
        assert worker.stored is expected


@pytest.mark.parametrize(
    ("off", "expected"),
    [(-1, ["registered"]), (0, ["registered", "stale", "recovered"]), (1, ["registered", "stale", "recovered"])],
)
async def test_p8_a_beat_before_the_deadline_is_on_time_and_one_at_it_first_records_the_outage(
    store_url: str, off: int, expected: list[str]
) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat()])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS + off)
        await store.beat(0, [beat()])
        await store.sweep(0, limit=10)
        assert await kinds(store) == expected


async def test_p8_a_beat_on_time_is_not_followed_by_down_and_up_though_a_sweep_races_it(store_url: str) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat()])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS - 1)
        await store.beat(0, [beat()])
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS)
        await asyncio.gather(store.sweep(0, limit=10), store.beat(0, [beat()]), store.sweep(0, limit=10))
        assert await kinds(store) == ["registered"]


async def test_p3_one_outage_one_event_with_five_sweepers(store_url: str) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat(f"w{k}") for k in range(200)])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS)
        stores = [await Store.open(settings(store_url, daemon=f"d{k}")) for k in range(5)]

        async def drain(one: Store) -> int:
            moved = 0
            while True:
                result = await one.sweep(0, limit=7)
                moved += len(result.moved)
                if not result.more:
                    return moved

        assert sum(await asyncio.gather(*map(drain, stores))) == 200
        for one in stores:
            await one.close()
        stale = [event for event in await events_of(store) if event.kind is EventKind.STALE]
        assert len(stale) == len({event.worker_id for event in stale}) == 200


async def test_p9_last_seen_does_not_go_back_when_the_store_s_clock_does(store_url: str) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat()])).now_ms
        await ManualClock(store_url).set(t + 100_000)
        first = (await store.beat(0, [beat()])).now_ms
        assert first == t + 100_000
        async with Redis.from_url(store_url) as redis:
            await redis.hincrby("{ls:0}:meta", "skew", -50_000)
        second = (await store.beat(0, [beat()])).now_ms
        assert second >= first
        # The step is absorbed, so time goes on instead of standing still until it is made up for.
        async with asyncio.timeout(5):
            while (await store.beat(0, [beat()])).now_ms <= second:
                pass


@pytest.mark.parametrize(("late_ms", "kind"), [(5_000, EventKind.STOPPED), (5_001, EventKind.STALE)])
async def test_a_straggler_s_beat_after_a_clean_stop_falls_back_to_stopped(
    store_url: str, late_ms: int, kind: EventKind
) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))).now_ms
        await clock.set(t + late_ms)
        await store.beat(0, [beat()])
        await clock.set(t + late_ms + INTERVAL_MS + GRACE_MS)
        census = await store.count_workers("acme")
        await store.sweep(0, limit=10)
        events = await events_of(store)
        assert [event.kind for event in events][-2:] == [EventKind.RESUMED, kind]
        assert events[-1].due_ms == t + late_ms + INTERVAL_MS + GRACE_MS
        assert census.environments == (await store.count_workers("acme")).environments
        # A worker that lives on and then falls silent, long after that stop, is stale.
        await store.beat(0, [beat()])
        now_ms = (await store.sweep(0, limit=10)).now_ms
        await clock.set(now_ms + INTERVAL_MS + GRACE_MS)
        await store.sweep(0, limit=10)
        assert (await events_of(store))[-1].kind is EventKind.STALE


async def test_a_straggler_that_goes_on_beating_is_an_ordinary_worker_again(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        t = (await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))).now_ms
        await store.beat(0, [beat()])
        await clock.set(t + 6_000)
        await store.beat(0, [beat()])
        await clock.set(t + 6_000 + INTERVAL_MS + GRACE_MS)
        await store.sweep(0, limit=10)
        assert (await kinds(store))[-2:] == ["resumed", "stale"]


async def test_disconnects_follow_the_table(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat()])
        crash = goodbye(Trigger.DISCONNECT_FAILURE, reason="crash", exit_code=137, error_message="out of memory")
        assert (await store.disconnect(crash)).outcome == STORED
        assert (await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))).outcome == REFUSED
        failed = (await events_of(store))[-1]
        assert (failed.kind, failed.reason, failed.exit_code, failed.error_message) == (
            EventKind.FAILED,
            "crash",
            137,
            "out of memory",
        )
        await store.beat(0, [beat()])
        await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))
        assert await kinds(store) == ["registered", "failed", "recovered", "stopped"]


async def test_fields_keep_their_last_value_until_they_are_given_again_and_null_is_a_value(store_url: str) -> None:
    async with opened(store_url) as store:
        full = beat(
            status="busy",
            tasks_processed=7,
            current_task_id="t1",
            metadata_json='{"a":1}',
            system_info_json='{"pid":1}',
            logs_json='["x"]',
            logs_cut=True,
            interval_ms=20_000,
            grace_ms=2_000,
        )
        assert (await store.beat(0, [full])).outcomes == [(STORED, 20_000)]
        await store.beat(0, [beat(environment=None)])
        _, _, worker = await store.get(W)
        assert worker is not None
        assert (worker.status, worker.tasks_processed, worker.current_task_id) == ("busy", 7, "t1")
        assert (worker.metadata_json, worker.system_info_json, worker.logs_json) == ('{"a":1}', '{"pid":1}', '["x"]')
        assert worker.logs_cut
        assert (worker.interval_ms, worker.grace_ms) == (20_000, 2_000)
        assert worker.environment_name == "prod"

        nulls = beat(current_task_id=None, metadata_json="{}", system_info_json=None, logs_json=None, interval_ms=None)
        await store.beat(0, [nulls])
        _, _, worker = await store.get(W)
        assert worker is not None
        assert (worker.current_task_id, worker.metadata_json) == (None, "{}")
        assert (worker.system_info_json, worker.logs_json) == (None, None)
        assert (worker.interval_ms, worker.grace_ms) == (INTERVAL_MS, 2_000)


async def test_an_integer_of_any_length_comes_back_as_it_was(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat(tasks_processed=10**40 + 1)])
        _, _, worker = await store.get(W)
        assert worker is not None
        assert worker.tasks_processed == 10**40 + 1


async def test_a_new_interval_applies_from_the_next_beat_in_either_direction(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        t = (await store.beat(0, [beat(interval_ms=600_000)])).now_ms
        await clock.set(t + INTERVAL_MS + GRACE_MS)
        assert (await store.sweep(0, limit=10)).moved == []
        t = (await store.beat(0, [beat(interval_ms=1_000, grace_ms=1_000)])).now_ms
        await clock.set(t + 2_000)
        assert [moved.due_ms for moved in (await store.sweep(0, limit=10)).moved] == [t + 2_000]


async def test_bounds_that_were_changed_hold_from_the_next_beat_on_for_what_was_declared_before(store_url: str) -> None:
    async def timings(beats: int = 1, **bounds: int) -> list[tuple[int, int]]:
        found = []
        async with opened(store_url, **bounds) as store:
            for _ in range(beats):
                result = await store.beat(0, [beat()])
                _, _, worker = await store.get(W)
                assert worker is not None
                assert worker.deadline_ms == result.now_ms + worker.interval_ms + worker.grace_ms
                assert result.outcomes == [(STORED, worker.interval_ms)]
                found.append((worker.interval_ms, worker.grace_ms))
            await check_indexes(store_url)
        return found

    async with opened(store_url) as store:
        await store.beat(0, [beat(interval_ms=600_000, grace_ms=2_000)])
    assert await timings(2, max_interval_ms=120_000, min_grace_ms=5_000) == [(120_000, 5_000)] * 2
    assert await timings(max_grace_ms=1_000) == [(600_000, 1_000)]
    assert await timings(min_interval_ms=700_000) == [(700_000, 2_000)]
    # Bounds are of what is declared: what is usual is the operator's own.
    async with opened(store_url) as store:
        await store.beat(0, [beat(interval_ms=None, grace_ms=None)])
    assert await timings(max_interval_ms=1_000, max_grace_ms=1_000) == [(INTERVAL_MS, GRACE_MS)]


async def test_an_environment_s_own_interval_holds_for_its_workers_also_when_a_beat_names_none(store_url: str) -> None:
    rules = (EnvironmentRule(match="prod-*-eu", interval_ms=1_000, grace_ms=1_500), DEV)
    async with opened(store_url, rules=rules) as store:
        result = await store.beat(
            0, [beat(environment="prod-x-eu"), beat("v", environment="prod-eu"), beat("u", environment="dev")]
        )
        assert [interval for _, interval in result.outcomes] == [1_000, INTERVAL_MS, DEV.interval_ms]
        assert (await store.beat(0, [beat(environment=None)])).outcomes == [(STORED, 1_000)]
    async with opened(store_url, rules=()) as store:  # the configuration has changed
        assert (await store.beat(0, [beat(environment=None)])).outcomes == [(STORED, INTERVAL_MS)]


async def test_of_the_rules_that_match_an_environment_the_first_one_counts(store_url: str) -> None:
    rules = (
        EnvironmentRule(match="prod-eu", interval_ms=1_000, grace_ms=1_500),
        EnvironmentRule(match="prod*", interval_ms=2_000, grace_ms=2_500),
        EnvironmentRule(match="*", interval_ms=3_000, grace_ms=3_500),
    )
    async with opened(store_url, rules=rules) as store:
        result = await store.beat(0, [beat(name, environment=name) for name in ("prod-eu", "prod-us", "qa")])
        assert [interval for _, interval in result.outcomes] == [1_000, 2_000, 3_000]


async def test_p28_a_batch_reports_the_shortest_grace_among_its_workers(store_url: str) -> None:
    async with opened(store_url) as store:
        batch = [beat("a", grace_ms=70_000), beat("b", grace_ms=2_000), beat("c", grace_ms=80_000)]
        for _ in range(2):  # when they register, and as ordinary beats
            assert (await store.beat(0, batch)).least_grace_ms == 2_000
        assert (await store.beat(0, [beat("c"), beat("a")])).least_grace_ms == 70_000


async def test_a_beat_after_a_failure_is_no_straggler_s(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        await store.beat(0, [beat()])
        await store.disconnect(goodbye(Trigger.DISCONNECT_FAILURE))
        seen = (await store.beat(0, [beat()])).now_ms
        await clock.set(seen + INTERVAL_MS + GRACE_MS)
        await store.sweep(0, limit=10)
        assert await kinds(store) == ["registered", "failed", "recovered", "stale"]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "", True),
        ("", "a", False),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*b*", "abc", True),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "acb", False),
        ("*ab", "aab", True),
        ("a.c", "abc", False),
        ("%a*", "%abc", True),
        ("**", "x", True),
        ("ü*", "über", True),
    ],
)
async def test_globs_know_one_wildcard(store_url: str, pattern: str, name: str, *, matches: bool) -> None:
    async with opened(store_url, rules=(EnvironmentRule(match=pattern, interval_ms=1_234, grace_ms=1_000),)) as store:
        result = await store.beat(0, [beat(environment=name)])
        assert (result.outcomes[0][1] == 1_234) is matches


async def test_quotas_stop_new_workers_and_environments_and_known_ones_go_on(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=2, environments_per_tenant=2) as store:
        result = await store.beat(0, [beat("a"), beat("b", environment="qa"), beat("c"), beat("a", environment="dev")])
        assert [outcome for outcome, _ in result.outcomes] == [STORED, STORED, OVER_WORKERS, OVER_ENVIRONMENTS]
        # Another tenant has room of its own; a known worker may move into a known environment.
        more = await store.beat(0, [beat("c", tenant="umbrella"), beat("b"), beat("a", environment="dev")])
        assert [outcome for outcome, _ in more.outcomes] == [STORED, STORED, STORED]
        await store.delete(WorkerKey("acme", "b"), allowed=None, reason="deleted")
        assert (await store.beat(0, [beat("c")])).outcomes[0][0] == STORED


async def test_the_share_of_each_partition_keeps_a_tenant_within_its_quotas(store_url: str) -> None:
    async with opened(store_url, partitions=2, workers_per_tenant=10) as store:
        beats = [beat(f"w{k}") for k in range(100)]
        stored = 0
        for partition in range(2):
            mine = [one for one in beats if store.partition_of(one.key) == partition]
            stored += [outcome for outcome, _ in (await store.beat(partition, mine)).outcomes].count(STORED)
        assert stored == 10
    # A worker takes 300 bytes, and four for each byte of its id.
    async with opened(store_url, partitions=2, bytes_per_tenant=10 * 308, namespace="bytes") as store:
        stored = 0
        for partition in range(2):
            mine = [one for one in (beat(f"{k:02}") for k in range(100)) if store.partition_of(one.key) == partition]
            stored += [outcome for outcome, _ in (await store.beat(partition, mine)).outcomes].count(STORED)
        assert stored == 10


async def test_p24_a_failure_registers_no_worker_in_an_environment_that_its_token_is_not_for(store_url: str) -> None:
    async with opened(store_url) as store:
        report = replace(goodbye(Trigger.DISCONNECT_FAILURE), first_environment="prod")
        assert (await store.disconnect(replace(report, allowed=("qa",)))).outcome == NOT_ALLOWED
        assert (await store.get(W))[2] is None
        assert (await store.disconnect(replace(report, allowed=("qa", "prod")))).outcome == STORED


async def test_p24_a_token_for_one_environment_can_neither_touch_nor_take_over_another_s_worker(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat(environment="prod")])
        only_qa = ("qa",)
        result = await store.beat(
            0,
            [
                beat(environment="qa", allowed=only_qa),
                beat(environment=None, allowed=only_qa),
                beat("v", environment="prod", allowed=only_qa),
                beat("u", environment="qa", allowed=only_qa),
            ],
        )
        assert [outcome for outcome, _ in result.outcomes] == [NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, STORED]
        assert (await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN, allowed=only_qa))).outcome == NOT_ALLOWED
        assert (await store.delete(W, allowed=only_qa, reason="deleted")).outcome == NOT_ALLOWED
        _, _, worker = await store.get(W)
        assert worker is not None
        assert (worker.environment_name, worker.stored) == ("prod", Liveness.ALIVE)


async def test_a_worker_deleted_and_registered_in_one_millisecond_gets_another_generation(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        times, generations = set(), []
        for _ in range(3):
            await clock.freeze()
            times.add((await store.beat(0, [beat()])).now_ms)
            _, _, worker = await store.get(W)
            assert worker is not None
            generations.append(worker.generation)
            await clock.freeze()
            times.add((await store.delete(W, allowed=None, reason="deleted")).now_ms)
        assert len(times) == 1
        assert generations == sorted(set(generations))
        events = await events_of(store)
        assert len({event.event_id for event in events}) == len(events) == 6


async def test_an_event_holds_the_evidence(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        big = json.dumps({"first": "x" * 1_000, "second": "y" * 1_500, "third": 1}, separators=(",", ":"))
        t = (await store.beat(0, [beat(status="busy", current_task_id="t9", metadata_json=big)])).now_ms
        for k in range(1, 11):
            await clock.set(t + 10_000 * k)
            await store.beat(0, [beat()])
        last = t + 100_000
        await clock.set(last + INTERVAL_MS + GRACE_MS + 777)
        await store.sweep(0, limit=10)
        registered, stale = await events_of(store)
        assert registered.seq == 1
        assert stale.seq == 2
        assert (stale.old, stale.new) == (Liveness.ALIVE, Liveness.STALE)
        assert stale.due_ms == last + INTERVAL_MS + GRACE_MS
        assert stale.detected_ms == stale.due_ms + 777
        assert (stale.last_seen_ms, stale.since_ms) == (last, t)
        assert (stale.status, stale.current_task_id) == ("busy", "t9")
        assert stale.recent_gaps_ms == (10_000,) * 8
        assert json.loads(stale.worker_metadata_json) == {"first": "x" * 1_000}
        assert stale.worker_metadata_cut
        assert len(stale.worker_metadata_json.encode()) <= EVENT_METADATA_BYTES
        _, _, worker = await store.get(W)
        assert worker is not None
        assert worker.metadata_json == big
        assert [past.kind for past in worker.transitions] == [EventKind.REGISTERED, EventKind.STALE]


async def test_status_changes_are_events_only_when_asked_for(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat(status="idle"), beat(status="busy")])
        assert await kinds(store) == ["registered"]
    async with opened(store_url, status_events=True) as store:
        await store.beat(0, [beat(status="busy"), beat(status="idle"), beat()])
        last = (await events_of(store))[-1]
        assert await kinds(store) == ["registered", "status_changed"]
        assert (last.old_status, last.status, last.seq) == ("busy", "idle", 2)
        assert (last.old, last.new) == (Liveness.ALIVE, Liveness.ALIVE)


async def test_purge_forgets_after_the_retention_and_not_before(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        t = (await store.beat(0, [beat(f"w{k}") for k in range(25)])).now_ms
        await clock.set(t + INTERVAL_MS + GRACE_MS)
        while (await store.sweep(0, limit=10)).more:
            pass
        since = t + INTERVAL_MS + GRACE_MS
        await clock.set(since + 999)
        assert (await store.purge(0, limit=10, retention_ms=1_000)).moved == []
        await clock.set(since + 1_000)
        forgotten = 0
        while True:
            result = await store.purge(0, limit=10, retention_ms=1_000)
            assert len(result.moved) <= 10
            forgotten += len(result.moved)
            if not result.more:
                break
        assert forgotten == 25
        assert (await store.count_workers(None)).environments == {}
        async with Redis.from_url(store_url) as redis:
            left = {key.decode() async for key in redis.scan_iter()}
        assert left == HISTORY_KEYS


async def test_a_deleted_worker_leaves_nothing_but_its_history(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat(metadata_json='{"secret":"m"}', logs_json='["secret"]')])
        await store.delete(W, allowed=None, reason="deleted")
        _, _, worker = await store.get(W)
        assert worker is None
        async with Redis.from_url(store_url) as redis:
            assert {key.decode() async for key in redis.scan_iter()} == HISTORY_KEYS
        forgotten = (await events_of(store))[-1]
        assert (forgotten.kind, forgotten.reason) == (EventKind.FORGOTTEN, "deleted")
        assert forgotten.worker_metadata_json == "{}"


async def test_lists_find_few_among_many_by_liveness_and_environment(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store:
        clock = ManualClock(store_url)
        t = (await store.beat(0, [beat(f"old{k}", environment="qa") for k in range(3)])).now_ms
        for start in range(0, 1_000, 250):
            await store.beat(0, [beat(f"{k:04}") for k in range(start, start + 250)])
        await clock.set(t + INTERVAL_MS + GRACE_MS - 1)
        for start in range(0, 1_000, 250):
            await store.beat(0, [beat(f"{k:04}") for k in range(start, start + 250)])
        await clock.set(t + INTERVAL_MS + GRACE_MS + 10_000)
        overdue = Want(alive=False, late=False, overdue=True, down=False)
        page = await store.list_workers(0, "acme", after="", limit=2, environments=None, want=overdue)
        assert [worker.key.worker_id for worker in page.workers] == ["old0", "old1"]
        rest = await store.list_workers(0, "acme", after=page.last, limit=2, environments=None, want=overdue)
        assert ([worker.key.worker_id for worker in rest.workers], rest.last) == (["old2"], "")
        qa = await store.list_workers(0, "acme", after="", limit=10, environments=("qa",), want=None)
        assert len(qa.workers) == 3
        # Too many to gather: the caller gets the plain order and filters.
        alive = await store.list_workers(0, "acme", after="", limit=10, environments=("prod",), want=None)
        assert (len(alive.workers), alive.last) == (10, "0009")
        assert (await store.list_workers(0, "umbrella", after="", limit=10, environments=None, want=None)).workers == []


async def test_the_router_s_lease_is_fenced_and_its_cursor_moves_only_for_its_holder(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat("a"), beat("b"), beat("c")])
        old, first = await claimed(store, limit=2)
        assert [event.worker_id for event in first.events] == ["a", "b"]
        async with opened(store_url, daemon="d2") as other:
            assert (await other.lease(0, bid=Bid.OWN)).token == 0
            assert await acked(store, old, first.events[0].position)
            await store.lease(0, bid=Bid.NONE)
            new, second = await claimed(other, limit=10)
            assert new > old
            assert [event.worker_id for event in second.events] == ["b", "c"]
            assert not await acked(store, old, first.events[1].position)
            assert await store.claim(0, token=old, limit=10) is None
            assert await acked(other, new, second.events[1].position)
            assert (await claimed(other, limit=10))[1].events == []


async def test_p26_what_the_router_has_not_passed_outlives_its_history(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store, Redis.from_url(store_url) as redis:
        for start in range(0, 1_000, 200):
            await store.beat(0, [beat(f"{k:04}") for k in range(start, start + 200)])
        now_ms = (await store.sweep(0, limit=1)).now_ms
        await ManualClock(store_url).set(now_ms + 10_000_000)
        while await store.trim(0, keep_ms=1_000, most=10**9):
            pass
        assert await events_of(store) == []
        token, taken = await claimed(store, limit=1_000)
        assert [event.worker_id for event in taken.events] == [f"{k:04}" for k in range(1_000)]
        await acked(store, token, taken.events[599].position)
        assert 400 <= await redis.xlen("{ls:0}:outbox") <= 500, "the rest, and less than a node of the stream"
        _, taken = await claimed(store, limit=1_000)
        assert [event.worker_id for event in taken.events] == [f"{k:04}" for k in range(600, 1_000)]
        await check_indexes(store_url)


async def test_partitions_hold_their_own_and_another_number_of_them_is_refused(store_url: str) -> None:
    async with opened(store_url, partitions=4) as store:
        for k in range(40):
            one = beat(f"w{k}")
            await store.beat(store.partition_of(one.key), [one])
        census = await store.count_workers("acme")
        assert census.environments["prod"][Liveness.ALIVE] == 40
        assert len({store.partition_of(WorkerKey("acme", f"w{k}")) for k in range(40)}) == 4
    with pytest.raises(SchemaError, match=r"store.partitions = 4, the configuration says 2"):
        await Store.open(settings(store_url, partitions=2))


@pytest.mark.parametrize(
    ("tenant", "worker_id", "crc"),
    [
        ("acme", "w0", zlib.crc32(b"4:acmew0")),
        ("", "w0", zlib.crc32(b"0:w0")),
        ("zoë", "größe", zlib.crc32(b"4:zo\xc3\xabgr\xc3\xb6\xc3\x9fe")),
    ],
)
def test_a_worker_is_in_the_partition_in_which_earlier_releases_stored_it(
    tenant: str, worker_id: str, crc: int
) -> None:
    key = WorkerKey(tenant, worker_id)
    assert [partition_of(key, count) for count in (1, 4, 7)] == [0, crc % 4, crc % 7]


async def test_a_newer_schema_refuses_to_start(store_url: str) -> None:
    async with opened(store_url), Redis.from_url(store_url) as redis:
        await redis.hset("{ls:0}:meta", "schema", "99")
    with pytest.raises(SchemaError, match="version 99"):
        await Store.open(settings(store_url))


async def test_a_store_that_evicts_is_refused_with_the_reason(store_url: str) -> None:
    async with Redis.from_url(store_url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(StoreRefusedError, match="allkeys-lru"):
                await Store.open(settings(store_url))
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")


async def test_a_store_that_lost_the_library_gets_it_again(store_url: str) -> None:
    async with opened(store_url) as store:
        async with Redis.from_url(store_url) as redis:
            await redis.function_flush()
        assert (await store.beat(0, [beat()])).outcomes == [(STORED, INTERVAL_MS)]


async def test_p10_a_store_that_cannot_write_says_so_and_sweeps_on(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        t = (await store.beat(0, [beat()])).now_ms
        await redis.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailableError):
                await store.beat(0, [beat()])
            await ManualClockWithinLimit(redis).set(t + INTERVAL_MS + GRACE_MS)
            assert [moved.kind for moved in (await store.sweep(0, limit=10)).moved] == [EventKind.STALE]
        finally:
            await redis.config_set("maxmemory", "0")


class ManualClockWithinLimit:
    """The manual clock of a server that is out of memory: its limit is lifted for the one write."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def set(self, now_ms: int) -> None:
        await self._redis.config_set("maxmemory", "0")
        await self._redis.hset("{ls:0}:meta", "last", str(now_ms))
        await self._redis.config_set("maxmemory", "1")


async def test_p10_a_dead_store_is_an_error_within_the_time_limit() -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with opened(server.url, timeout_s=1.0) as store:
            server.kill()
            async with asyncio.timeout(3):
                with pytest.raises(StoreUnavailableError):
                    await store.beat(0, [beat()])


async def test_p4_state_and_event_are_one_step_even_when_the_store_is_killed_between_two_calls() -> None:
    """Kill the store while sweeps run; what its append-only file holds agrees with itself."""
    with servers.running(servers.valkey_binary(), "--appendfsync", "always") as server:
        async with opened(server.url, workers_per_tenant=10_000) as store:
            for start in range(0, 2_000, 200):
                last = await store.beat(0, [beat(f"{k:04}") for k in range(start, start + 200)])
            await ManualClock(server.url).set(last.now_ms + INTERVAL_MS + GRACE_MS)
            done = 0
            while done < 500:
                done += len((await store.sweep(0, limit=50)).moved)
            racing = asyncio.create_task(store.sweep(0, limit=50))
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await racing
        again = servers.start(servers.valkey_binary(), server.directory, "--appendfsync", "always")
        try:
            async with opened(again.url, workers_per_tenant=10_000) as store:
                census = await store.count_workers("acme")
                stale = [event for event in await _all_events(store) if event.kind is EventKind.STALE]
                swept = census.environments["prod"][Liveness.STALE]
                overdue_unswept = 2_000 - sum(census.environments["prod"].values())
                assert overdue_unswept == 0
                async with Redis.from_url(again.url) as redis:
                    committed = sum(int(count) for count in (await redis.hgetall("{ls:0}:down_counts")).values())
                assert committed == len(stale)
                assert swept >= committed >= 500
        finally:
            again.kill()


async def _all_events(store: Store) -> list[Event]:
    events: list[Event] = []
    while True:
        after = events[-1].position if events else ""
        some = (await store.history(0, "acme", after=after, limit=1_000, newest_first=False)).events
        if not some:
            return events
        events += some


async def test_a_worker_that_goes_from_one_state_of_not_alive_to_another_stays_in_every_index(store_url: str) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat(), beat("v")])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS)
        await store.sweep(0, limit=10)
        await store.disconnect(goodbye(Trigger.DISCONNECT_FAILURE, reason="crash", exit_code=1))
        await check_indexes(store_url)
        await store.delete(WorkerKey("acme", "v"), allowed=None, reason="deleted")
        await check_indexes(store_url)
        assert (await store.beat(0, [beat()])).outcomes == [(STORED, INTERVAL_MS)]
        down = Want(alive=True, late=True, overdue=True, down=True)
        assert len((await store.list_workers(0, "acme", after="", limit=10, environments=None, want=down)).workers) == 1


async def test_a_list_of_few_is_quick_and_in_order_for_ids_of_any_length(store_url: str) -> None:
    """Ids that differ in their last byte only: comparing them in Lua once held the store up for half a second."""
    async with opened(store_url, timeout_s=20.0) as store:
        ids = ["名" * 255 + chr(0x100 + k) for k in range(400)]
        for start in range(0, 400, 100):
            await store.beat(0, [beat(worker) for worker in ids[start : start + 100]])
        async with Redis.from_url(store_url) as redis:
            await redis.config_resetstat()
            found, after = [], ""
            while True:
                page = await store.list_workers(0, "acme", after=after, limit=150, environments=("prod",), want=None)
                found += [worker.key.worker_id for worker in page.workers]
                after = page.last
                if not after:
                    break
            assert found == sorted(ids, key=str.encode)
            # ZRANK counts the calls that order the list: no comparison is made in Lua.
            assert (await redis.info("commandstats"))["cmdstat_zrank"]["calls"] == 1_200


async def test_a_page_ends_early_where_its_workers_report_a_lot_and_misses_none(store_url: str) -> None:
    async with opened(store_url) as store:
        big = json.dumps({"x": "y" * 16_000})
        await store.beat(0, [beat(f"w{k:02}", metadata_json=big) for k in range(40)])
        sizes, found, after = [], [], ""
        while True:
            page = await store.list_workers(0, "acme", after=after, limit=250, environments=None, want=None)
            sizes.append(len(page.workers))
            found += [worker.key.worker_id for worker in page.workers]
            after = page.last
            if not after:
                break
        assert found == [f"w{k:02}" for k in range(40)]
        assert max(sizes) < 20


async def test_a_damaged_record_holds_up_no_other_worker(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        t = (await store.beat(0, [beat("a"), beat("b"), beat("c")])).now_ms
        await redis.hset("{ls:0}:records", "4:acmea", "rubbish")
        result = await store.beat(0, [beat("a"), beat("b")])
        assert [outcome for outcome, _ in result.outcomes] == [DAMAGED, STORED]
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS + 1_000)
        swept = await store.sweep(0, limit=10)
        assert sorted(moved.worker_id for moved in swept.moved) == ["b", "c"]
        assert (swept.damaged, swept.more) == (1, False)
        page = await store.list_workers(0, "acme", after="", limit=10, environments=None, want=None)
        assert [worker.key.worker_id for worker in page.workers] == ["b", "c"]


async def test_an_event_of_a_kind_that_this_release_does_not_know_stops_nothing(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.beat(0, [beat("a")])
        entries: Any = await redis.xrevrange("{ls:0}:outbox", count=1)
        fields = dict(entries[0][1])
        packed = fields[b"event"].replace(b"worker.registered", b"worker.undreamtof")
        await redis.xadd("{ls:0}:outbox", {**fields, b"event": packed})
        outbox = await outbox_of(store)
        taken = await outbox.claim(0, 10)
        assert taken is not None
        assert [event.kind for event in taken.events] == [EventKind.REGISTERED]
        assert await acked(store, taken.token, taken.events[-1].position)
        unreadable = await outbox.claim(0, 10)
        assert unreadable is not None
        assert (unreadable.events, bool(unreadable.last)) == ([], True)
        assert await acked(store, unreadable.token, unreadable.last)
        await store.beat(0, [beat("b")])
        last = await outbox.claim(0, 10)
        assert last is not None
        assert [event.worker_id for event in last.events] == ["b"]


@pytest.mark.parametrize("damage", [True, 5, "text"])
@pytest.mark.parametrize("place", [-2, -1], ids=["outage", "rejected"])
async def test_an_event_with_a_damaged_part_stops_no_other(store_url: str, place: int, damage: object) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.beat(0, [beat("a")])
        entries: Any = await redis.xrevrange("{ls:0}:outbox", count=1)
        fields = dict(entries[0][1])
        values = msgspec.msgpack.decode(fields[b"event"])
        values += [False] * (25 - len(values))
        values[place] = damage
        await redis.xadd("{ls:0}:outbox", {**fields, b"event": msgspec.msgpack.encode(values)})
        await store.beat(0, [beat("b")])
        taken = await (await outbox_of(store)).claim(0, 10)
        assert taken is not None
        assert {event.worker_id for event in taken.events} == {"a", "b"}


WEEK_MS = 7 * 86_400_000


async def register(store: Store, tenant: str, count: int, first: int = 0) -> None:
    for start in range(first, first + count, 100):
        stop = min(start + 100, first + count)
        await store.beat(0, [beat(f"{k:04}", tenant=tenant) for k in range(start, stop)])


async def trimmed(store: Store, store_url: str, *, most: int, keep_ms: int = WEEK_MS) -> dict[str, list[str]]:
    """The ids in the histories of all tenants, after trimming."""
    while await store.trim(0, keep_ms=keep_ms, most=most):
        pass
    await check_indexes(store_url)
    async with Redis.from_url(store_url) as redis:
        tenants: list[Any] = await redis.zrange("{ls:0}:history_lengths", 0, -1)
    found = {}
    for tenant in sorted(name.decode() for name in tenants):
        events = (await store.history(0, tenant, after="", limit=10_000, newest_first=False)).events
        assert {event.tenant for event in events} == {tenant}
        found[tenant] = [event.worker_id for event in events]
    return found


def ids(first: int, last: int) -> list[str]:
    return [f"{k:04}" for k in range(first, last)]


async def test_p29_registrations_of_a_tenant_push_out_no_history_but_its_own(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store:
        await register(store, "quiet", 7)
        await register(store, "noisy", 1_500)
        await register(store, "quiet", 3, first=7)
        await register(store, "noisy", 1_500, first=1_500)
        left = await trimmed(store, store_url, most=1_000)
        assert left == {"noisy": ids(2_010, 3_000), "quiet": ids(0, 10)}


async def test_p29_a_position_in_the_history_counts_no_event_of_another_tenant(store_url: str) -> None:
    async with opened(store_url) as store:
        others = [beat(f"{k}", tenant="other") for k in range(5)]
        t = (await store.beat(0, [*others, beat("a"), beat("b")])).now_ms
        assert [event.position for event in await events_of(store)] == [f"{t}-0", f"{t}-1"]


async def test_p26_a_tenant_alone_has_the_whole_history_and_loses_its_oldest(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store:
        await register(store, "acme", 1_000)
        assert await trimmed(store, store_url, most=1_000) == {"acme": ids(0, 1_000)}
        await register(store, "acme", 1_234, first=1_000)
        assert await trimmed(store, store_url, most=1_000) == {"acme": ids(1_234, 2_234)}


async def test_p29_of_a_full_history_the_longest_is_shortened_down_to_an_equal_share(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store:
        for tenant, count in {"a": 900, "b": 100, "c": 800, "d": 40}.items():
            await register(store, tenant, count)
        left = await trimmed(store, store_url, most=1_000)
        assert (left["b"], left["d"], sum(map(len, left.values()))) == (ids(0, 100), ids(0, 40), 1_000)
        assert abs(len(left["a"]) - len(left["c"])) <= 100, "what one call drops at most"
        assert (left["a"][-1], left["c"][-1]) == ("0899", "0799")
        # Where all have more than a share each is left with one.
        assert {tenant: len(kept) for tenant, kept in (await trimmed(store, store_url, most=160)).items()} == {
            **dict.fromkeys("abcd", 40)
        }


async def test_p26_age_ends_every_tenant_s_history_and_leaves_nothing_of_it(store_url: str) -> None:
    async with opened(store_url, workers_per_tenant=10_000) as store, Redis.from_url(store_url) as redis:
        await register(store, "gone", 3)
        await register(store, "both", 250)
        t = (await store.sweep(0, limit=1)).now_ms
        await ManualClock(store_url).set(t + 1_000)
        await register(store, "both", 2, first=250)
        await ManualClock(store_url).set(t + WEEK_MS + 500)
        assert await trimmed(store, store_url, most=10**9) == {"both": ids(250, 252)}
        assert not await redis.exists("{ls:0}:history:gone")
        await ManualClock(store_url).set(t + 2 * WEEK_MS)
        assert await trimmed(store, store_url, most=10**9) == {}


async def test_two_namespaces_on_one_database_know_nothing_of_each_other(store_url: str) -> None:
    async with opened(store_url) as plain, opened(store_url, namespace="blue", partitions=2) as blue:
        assert (await plain.beat(0, [beat()])).outcomes == [(STORED, INTERVAL_MS)]
        partition = blue.partition_of(W)
        assert (await blue.get(W))[2] is None
        await blue.beat(partition, [beat(status="busy")])
        _, _, worker = await plain.get(W)
        assert worker is not None
        assert worker.status == "active"
        queues = [alert_store(store_url), alert_store(store_url, namespace="blue", partitions=2)]
        known = [ReceiverStore(queue) for queue in queues]
        for one in known:
            assert (await one.register(["ops"]))[0] == []
        assert (await known[1].register(["other"]))[0] == ["ops"]
        assert (await known[0].register(["ops"]))[0] == []
        assert await GroupStore(queues[0], "ops").disable("410")
        assert not (await known[1].stats(["ops"], now_ms=0))[0].disabled
        for queue in queues:
            await queue.close()
    async with Redis.from_url(store_url, decode_responses=True) as redis:
        keys: Any = await redis.keys("*")
    assert {key for key in keys if "blue" in key} == {
        key for key in keys if key.startswith(("{blue.ls:", "{blue.ls.shared:"))
    }
    assert {key.partition("}")[0] for key in keys} >= {"{ls:0", "{blue.ls:0", "{blue.ls:1", "{blue.ls.shared:1"}


async def test_another_installation_on_the_same_store_is_refused_and_one_that_changes_its_keys_is_not(
    store_url: str,
) -> None:
    async with opened(store_url, installation=("k1", "k2")):
        pass
    # Keys are replaced one after another, and replicas come in any order.
    for known in (("k2", "k3"), ("k1",), ("k4", "k3"), ("k4",), ()):
        async with opened(store_url, installation=known):
            pass
    with pytest.raises(InstallationError, match=r"another installation, k1: .*store\.namespace.*\"k1\""):
        await Store.open(settings(store_url, installation=("k5",)))
    async with opened(store_url, installation=("k5",), namespace="other"), opened(store_url, installation=("k1",)):
        pass
    # Also where nothing can be written.
    async with Redis.from_url(store_url) as redis:
        await redis.function_flush()
        await redis.config_set("maxmemory", "1")
        try:
            with pytest.raises(InstallationError):
                await Store.open(settings(store_url, installation=("k5",)))
            await (await Store.open(settings(store_url, installation=("k4",)))).close()
        finally:
            await redis.config_set("maxmemory", "0")


async def test_p26_what_a_tenant_s_workers_take_is_bounded_and_what_adds_nothing_goes_on(store_url: str) -> None:
    def heavy(worker: str, size: int) -> Any:
        return beat(worker, metadata_json='{"a":"' + "x" * size + '"}')

    async with opened(store_url, bytes_per_tenant=10_000) as store:

        async def outcomes(*beats: Any) -> list[int]:
            found = [outcome for outcome, _ in (await store.beat(0, beats)).outcomes]
            await check_indexes(store_url)  # what is counted is what is there
            return found

        # One call, in which a worker comes twice: 304 bytes for each, and what it brings.
        assert await outcomes(heavy("a", 5_000), heavy("b", 3_000), heavy("a", 5_500)) == [STORED] * 3
        assert await outcomes(heavy("c", 1_000), heavy("b", 4_000)) == [OVER_BYTES, OVER_BYTES]
        _, _, worker = await store.get(WorkerKey("acme", "b"))
        assert worker is not None
        assert len(worker.metadata_json) == 3_008
        # Light beats of known workers, and what takes less, go on; another tenant has its own.
        assert await outcomes(beat("b"), heavy("b", 2_000), beat("b", status="busy")) == [STORED] * 3
        assert await outcomes(beat(tenant="umbrella", metadata_json='{"a":"' + "x" * 9_000 + '"}')) == [STORED]
        assert await outcomes(heavy("c", 500)) == [STORED]
        # What is gone counts no more.
        await store.delete(WorkerKey("acme", "a"), allowed=None, reason="deleted")
        assert await outcomes(heavy("d", 5_000)) == [STORED]
    # A lowered quota holds for what grows only.
    async with opened(store_url, bytes_per_tenant=1_000) as store:
        result = await store.beat(0, [beat("b"), heavy("b", 10), heavy("b", 50)])
        assert [outcome for outcome, _ in result.outcomes] == [STORED, STORED, OVER_BYTES]


async def test_p26_a_tenant_s_timings_are_bounded_and_those_that_it_has_go_on(store_url: str) -> None:
    async with opened(store_url, timings_per_tenant=3) as store:
        beats = [beat("a"), beat("b", interval_ms=1_000), beat("c", interval_ms=2_000), beat("w", interval_ms=3_000)]
        outcomes = [STORED, STORED, STORED, OVER_TIMINGS]
        assert [outcome for outcome, _ in (await store.beat(0, beats)).outcomes] == outcomes
        assert [outcome for outcome, _ in (await store.beat(0, beats)).outcomes] == outcomes
        # A known one keeps what it had, and may take what others have; another tenant has its own.
        again = [
            *(beat("a", interval_ms=3_000), beat("a", grace_ms=5_000), beat("a"), beat("a", interval_ms=2_000)),
            beat("a", tenant="other", interval_ms=9_000),
        ]
        outcomes = [OVER_TIMINGS, OVER_TIMINGS, STORED, STORED, STORED]
        assert [outcome for outcome, _ in (await store.beat(0, again)).outcomes] == outcomes
        # A timing that no worker uses any more makes room. Stragglers are accepted above the limit.
        assert (await store.beat(0, [beat("w", interval_ms=3_000)])).outcomes == [(STORED, 3_000)]
        assert (await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))).outcome == STORED
        assert [outcome for outcome, _ in (await store.beat(0, [beat("w")])).outcomes] == [STORED]
        await check_indexes(store_url)


async def test_p26_a_full_store_takes_the_evidence_that_a_beat_came_for_which_it_had_no_room(store_url: str) -> None:
    """Near its limit a store takes pulses, which are small, and refuses beats, which are not: it is not blind."""
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.beat(0, [beat()])
        await redis.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreFullError):
                await store.beat(0, [beat()])
            refused = [
                Evidence(key=key, allowed=None, rejection=Rejection.OVERLOADED, subject="svc") for key in (W, UNKNOWN_W)
            ]
            await store.evidence(0, refused)
            _, _, worker = await store.get(W)
            assert worker is not None
            assert worker.rejected is not None
            assert worker.rejected.reason == Rejection.OVERLOADED.value
            assert (await store.get(UNKNOWN_W))[2] is None
        finally:
            await redis.config_set("maxmemory", "0")


async def test_p26_a_start_on_a_full_store_works_so_that_it_can_recover(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        t = (await store.beat(0, [beat()])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS)
        await redis.config_set("maxmemory", "1")
        try:
            async with opened(store_url) as again:
                assert len((await again.sweep(0, limit=10)).moved) == 1
                with pytest.raises(StoreFullError):
                    await again.beat(0, [beat()])
        finally:
            await redis.config_set("maxmemory", "0")


async def test_p26_a_start_on_a_full_store_that_lacks_the_library_waits_for_room(store_url: str) -> None:
    async with Redis.from_url(store_url) as redis:
        try:
            async with opened(store_url) as store:
                await store.beat(0, [beat()])
            await redis.function_flush()  # as another release finds it
            await redis.config_set("maxmemory", "1")
            with pytest.raises(SchemaError, match="partitions = 1"):
                await Store.open(settings(store_url, partitions=2))
            async with opened(store_url) as again:
                for call in (again.beat(0, [beat()]), again.sweep(0, limit=10), again.get(W)):
                    with pytest.raises(StoreFullError):
                        await call
                await redis.config_set("maxmemory", "0")
                assert (await again.beat(0, [beat()])).outcomes == [(STORED, INTERVAL_MS)]
            await redis.flushall()
            await redis.function_flush()
            await redis.config_set("maxmemory", "1")
            with pytest.raises(StoreFullError):  # there is nothing of ours to go on with
                await Store.open(settings(store_url, partitions=2))
        finally:
            await redis.config_set("maxmemory", "0")


@pytest.mark.parametrize("exit_code", [2**63 - 1, -(2**63), 2**53 + 1, 0])
async def test_an_exit_code_comes_back_as_it_was(store_url: str, exit_code: int) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat()])
        await store.disconnect(goodbye(Trigger.DISCONNECT_FAILURE, exit_code=exit_code))
        assert (await events_of(store))[-1].exit_code == exit_code


async def test_the_flag_of_cut_logs_follows_the_logs(store_url: str) -> None:
    async with opened(store_url) as store:
        for cut in (True, False):
            await store.beat(0, [beat(logs_json='["x"]', logs_cut=cut)])
            _, _, worker = await store.get(W)
            assert worker is not None
            assert worker.logs_cut is cut


async def test_a_worker_s_transitions_begin_with_its_registration_until_there_are_too_many(store_url: str) -> None:
    async with opened(store_url, status_events=True) as store:
        await store.beat(0, [beat(status="a"), beat(status="b")])
        await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))
        _, _, worker = await store.get(W)
        assert worker is not None
        assert [(past.kind, past.seq) for past in worker.transitions] == [
            (EventKind.REGISTERED, 1),
            (EventKind.STOPPED, 3),
        ]
        for _ in range(10):
            await store.beat(0, [beat()])
            await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))
        _, _, worker = await store.get(W)
        assert worker is not None
        assert len(worker.transitions) == 16
        assert worker.transitions[-1].seq == worker.seq


async def test_a_batch_of_many_transitions_has_an_answer_for_each_beat_in_order(store_url: str) -> None:
    async with opened(store_url) as store:
        beats = [beat(f"{k:03}", environment="dev-1" if k % 2 else "prod") for k in range(200)]
        registered = await store.beat(0, beats)
        expected = [(STORED, DEV.interval_ms if k % 2 else INTERVAL_MS) for k in range(200)]
        assert registered.outcomes == expected
        assert [moved.worker_id for moved in registered.moved] == [f"{k:03}" for k in range(200)]
        assert (await store.beat(0, beats)).outcomes == expected

        # Late for all of them: each beat records the outage that it ends, and its end.
        await ManualClock(store_url).set(registered.now_ms + INTERVAL_MS + GRACE_MS + 60_000)
        late = await store.beat(0, beats)
        assert late.outcomes == expected
        assert [(moved.worker_id, moved.kind) for moved in late.moved] == [
            (f"{k:03}", kind) for k in range(200) for kind in (EventKind.STALE, EventKind.RECOVERED)
        ]
        await check_indexes(store_url)


async def test_beats_of_one_worker_in_one_batch_apply_one_after_the_other(store_url: str) -> None:
    async with opened(store_url) as store:
        await store.beat(0, [beat(status="busy", tasks_processed=1, current_task_id="a")])
        result = await store.beat(
            0,
            [
                beat(status="idle", tasks_processed=2, current_task_id=None),
                beat(environment="dev-1", status="käse=1 2:x"),
                beat("other"),
                beat(environment=None, tasks_processed=3),
                beat(environment="prod", metadata_json='{"a":1}'),
                beat(environment=None, current_task_id="=b"),
            ],
        )
        assert [outcome for outcome, _ in result.outcomes] == [STORED] * 6
        assert [interval for _, interval in result.outcomes] == [
            INTERVAL_MS,
            DEV.interval_ms,
            INTERVAL_MS,
            DEV.interval_ms,
            INTERVAL_MS,
            INTERVAL_MS,
        ]
        _, _, worker = await store.get(beat().key)
        assert worker is not None
        assert (worker.status, worker.tasks_processed, worker.current_task_id) == ("käse=1 2:x", 3, "=b")
        assert (worker.environment_name, worker.metadata_json) == ("prod", '{"a":1}')
        assert len(worker.recent_gaps_ms) == 5
        await check_indexes(store_url)


async def test_p22_a_sweep_counts_as_full_when_its_last_chunk_is_done(store_url: str) -> None:
    async with opened(store_url) as store:
        clock = ManualClock(store_url)
        t = (await store.beat(0, [beat(f"w{k}") for k in range(5)])).now_ms
        assert not (await store.sweep(0, limit=2)).more
        _, full = await store.swept(0)
        await clock.set(t + INTERVAL_MS + GRACE_MS)
        for _ in range(2):
            assert (await store.sweep(0, limit=2)).more
            assert (await store.swept(0))[1] == full
        last = await store.sweep(0, limit=2)
        assert not last.more
        assert (await store.swept(0))[1] == last.now_ms


async def test_a_sweep_that_finds_no_worker_ends_however_small_its_limit(store_url: str) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat()])).now_ms
        await ManualClock(store_url).set(t + INTERVAL_MS)
        await store.beat(0, [beat()])
        await ManualClock(store_url).set(t + INTERVAL_MS + GRACE_MS)  # what its first beat alone would have made due
        chunks = [await store.sweep(0, limit=1) for _ in range(2)]
        assert [(len(chunk.moved), chunk.more) for chunk in chunks] == [(0, True), (0, False)]


async def test_a_truncated_record_is_damaged_and_not_taken_for_another(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.beat(0, [beat("a"), beat("b")])
        raw = await redis.hget("{ls:0}:records", "4:acmea")
        assert raw is not None
        for size in (0, 1, 24, 60, 87):
            await redis.hset("{ls:0}:records", "4:acmea", raw[:size])
            result = await store.beat(0, [beat("b"), beat("a"), beat("b")])
            assert [outcome for outcome, _ in result.outcomes] == [STORED, DAMAGED, STORED]


@pytest.mark.parametrize(("off", "silent"), [(-1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("interval_ms", "grace_ms"), [(20_000, 50_000), (50_000, 20_000)])
async def test_p16_a_worker_is_silent_after_the_longer_of_interval_and_grace(
    store_url: str, interval_ms: int, grace_ms: int, off: int, silent: int
) -> None:
    async with opened(store_url) as store:
        t = (await store.beat(0, [beat("a", interval_ms=interval_ms, grace_ms=grace_ms)])).now_ms
        await ManualClock(store_url).set(t + 10_000)
        await store.beat(0, [beat("b", interval_ms=interval_ms, grace_ms=grace_ms)])
        await ManualClock(store_url).set(t + 50_000 + off)
        assert await store.environment_health("acme", "prod") == EnvironmentHealth(expected=2, silent=silent, down=0)


async def test_p16_the_health_of_an_environment_counts_the_overdue_and_no_worker_that_is_down_or_elsewhere(
    store_url: str,
) -> None:
    async with opened(store_url, partitions=3) as store:
        clock = ManualClock(store_url, 3)

        async def beats(*workers: str, **changes: object) -> int:
            now_ms = 0
            for worker in workers:
                one = beat(worker, **changes)  # type: ignore[arg-type]
                now_ms = (await store.beat(store.partition_of(one.key), [one])).now_ms
            return now_ms

        await beats("stale")
        t = await beats("silent", "quiet", "w", "failed", grace_ms=90_000)
        await clock.set(t + INTERVAL_MS + GRACE_MS)
        for partition in range(3):
            await store.sweep(partition, limit=10)
        await beats("well", "swift", "w")
        await beats("swift", interval_ms=1_000)
        await beats("well", tenant="umbrella")
        await beats("other", environment="prod-2")
        await store.disconnect(goodbye(Trigger.DISCONNECT_CLEAN))
        await store.disconnect(replace(goodbye(Trigger.DISCONNECT_FAILURE), key=WorkerKey("acme", "failed")))
        # "w" has disconnected, and its beat thread is one step behind.
        t = await beats("w")
        assert await store.environment_health("acme", "prod") == EnvironmentHealth(expected=4, silent=2, down=2)
        # No sweep has run: overdue workers are not reported yet, and count as silent.
        await clock.set(t + INTERVAL_MS + 90_000)
        assert await store.environment_health("acme", "prod") == EnvironmentHealth(expected=4, silent=4, down=2)
        assert await store.environment_health("acme", "nowhere") == EnvironmentHealth(expected=0, silent=0, down=0)


async def test_p16_the_health_of_an_environment_counts_a_worker_that_became_stale_in_the_same_millisecond(
    store_url: str,
) -> None:
    async with opened(store_url) as store:
        due_ms = (await store.beat(0, [beat()])).now_ms + INTERVAL_MS + GRACE_MS
        await ManualClock(store_url).set(due_ms)
        await store.sweep(0, limit=10)
        for since_ms, fallen in ((due_ms - 1, 1), (due_ms, 1), (due_ms + 1, 0)):
            found = await store.environment_health("acme", "prod", since_ms)
            assert (found.fallen, found.down) == (fallen, fallen)


async def test_p16_the_health_of_an_environment_counts_workers_that_became_stale_since_a_time(store_url: str) -> None:
    async with opened(store_url, partitions=2) as store:
        clock = ManualClock(store_url, 2)

        async def since(moment_ms: int | None) -> tuple[int, int]:
            found = await store.environment_health("acme", "prod", moment_ms)
            return found.fallen, found.rejected

        async def swept() -> None:
            for partition in range(2):
                await store.sweep(partition, limit=100)

        async def beats(*workers: str) -> int:
            now_ms = 0
            for worker in workers:
                one = beat(worker)
                now_ms = (await store.beat(store.partition_of(one.key), [one])).now_ms
            return now_ms

        t = await beats("a", "b", "c", "refused", "stops", "stops too")
        refused = WorkerKey("acme", "refused")
        await clock.set(t + INTERVAL_MS)
        for worker in ("stops", "stops too"):
            await store.disconnect(replace(goodbye(Trigger.DISCONNECT_CLEAN), key=WorkerKey("acme", worker)))
        await store.evidence(
            store.partition_of(refused),
            [Evidence(key=refused, allowed=None, rejection=Rejection.TOKEN_EXPIRED, subject="svc")],
        )
        due_ms = t + INTERVAL_MS + GRACE_MS
        await clock.set(due_ms + 1_000)
        assert await since(due_ms - INTERVAL_MS) == (0, 0)  # they are overdue, and no sweep has recorded that yet
        await swept()
        assert await since(due_ms - INTERVAL_MS) == (3, 1)
        assert await since(due_ms + 1) == (0, 1)  # since when beats are refused is not known
        assert await since(None) == (0, 0)
        assert (await store.environment_health("acme", "prod")).down == 4
        await beats("a", "refused")
        assert await since(due_ms - INTERVAL_MS) == (2, 0)
        await store.disconnect(replace(goodbye(Trigger.DISCONNECT_FAILURE), key=WorkerKey("acme", "b")))
        for moment_ms, down in ((None, 2), (due_ms - INTERVAL_MS, 2), (due_ms + 2_000, 0)):
            found = await store.environment_health("acme", "prod", moment_ms)
            assert (found.expected, found.down) == (2, down)  # of six, two have stopped
        assert (await store.environment_health("acme", "nowhere", 0)).fallen == 0
