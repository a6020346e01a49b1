"""What operators and dashboards read: the list, one worker, the counts, the history, and removal."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from monitor.api.query import decode_cursor, encode_cursor
from monitor.auth import Scope
from monitor.events import Event, rfc3339
from tests.support import api, stores
from tests.support.api import Api

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

REACH_MS = stores.INTERVAL_MS + stores.GRACE_MS


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Api]:
    async with api.running(store_url, partitions=3, workers_per_tenant=100_000) as running:
        yield running


async def fill(lastseen: Api, count: int, **changes: Any) -> list[str]:
    """Register workers, straight in the store."""
    names = [f"w{n:05d}" for n in range(count)]
    for partition in range(lastseen.store.partitions):
        beats = [stores.beat(name, **changes) for name in names]
        mine = [beat for beat in beats if lastseen.store.partition_of(beat.key) == partition]
        for start in range(0, len(mine), 256):
            await lastseen.store.beat(partition, mine[start : start + 256])
    return names


@pytest.mark.parametrize("swept", [(0, 2), (1,), (1, 2)])
async def test_p27_the_sweep_lags_where_one_partition_of_several_was_not_swept(
    lastseen: Api, swept: tuple[int, ...]
) -> None:
    await fill(lastseen, 30)
    await lastseen.sweep()
    began_ms = lastseen.store.clock.now_ms()
    assert (await lastseen.client.get("/healthz")).json() == {"status": "ok", "reasons": []}
    await lastseen.advance(20_000)
    for partition in swept:
        await lastseen.store.sweep(partition, limit=1_000)
    answer = await lastseen.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "degraded", "reasons": ["sweep_lag"]})
    for path in (api.WORKERS, "/api/v1/events", "/api/v1/status"):
        monitor = (await lastseen.json(path))["monitor"]
        assert (monitor["degraded"], monitor["reasons"]) == (True, ["sweep_lag"]), path
        assert 19.0 < monitor["last_sweep_age_seconds"] < 60, path
    text = (await lastseen.client.get("/metrics")).text
    [lag] = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("lastseen_sweep_lag_seconds ")]
    assert lag > 19.0
    assert lastseen.store.clock.now_ms() > began_ms


async def test_a_worker_is_shown_in_the_words_of_the_design(lastseen: Api) -> None:
    await lastseen.beat("w", "prod", status="busy", worker_metadata={"z": "ü"}, logs=["a"], tasks_processed=2)
    worker = await lastseen.json("/api/v1/workers/w")
    listed = await lastseen.json(api.WORKERS)
    assert set(worker) - set(listed["workers"][0]) == {"transitions", "recent_gaps_seconds", "monitor"}
    assert {name: worker[name] for name in listed["workers"][0]} == listed["workers"][0]
    assert set(listed["workers"][0]) == {
        *("tenant", "worker_id", "environment_name", "liveness", "status", "tasks_processed", "current_task_id"),
        *("worker_metadata", "system_info", "system_info_cut", "logs", "logs_cut", "last_seen", "deadline"),
        *("interval_seconds", "grace_seconds", "registered_at", "generation", "seq", "since"),
        *("back_at", "rejected"),
    }
    assert worker["worker_metadata"] == {"z": "ü"}
    assert worker["logs"] == ["a"]
    assert worker["system_info"] is None
    assert (worker["interval_seconds"], worker["grace_seconds"]) == (30, 60)
    assert worker["registered_at"] == worker["last_seen"] == worker["since"]
    assert [past["type"] for past in worker["transitions"]] == ["worker.registered"]
    assert set(worker["monitor"]) == {"degraded", "reasons", "last_sweep_age_seconds"}


async def test_with_a_stuck_sweeper_a_dead_worker_reads_stale_and_the_monitor_degraded(lastseen: Api) -> None:
    await lastseen.sweep()
    await lastseen.beat("w", "prod")
    before = await lastseen.json("/api/v1/status")
    assert before["monitor"]["degraded"] is False
    assert before["counts"]["alive"] == 1
    at_ms = (await lastseen.store.get(stores.beat("w").key))[2]
    assert at_ms is not None
    last_seen = at_ms.last_seen_ms

    await lastseen.clock.set(last_seen + stores.INTERVAL_MS)
    late = await lastseen.json("/api/v1/workers/w")
    assert (late["liveness"], late["since"]) == ("late", rfc3339(last_seen + stores.INTERVAL_MS))

    await lastseen.clock.set(last_seen + REACH_MS)
    worker = await lastseen.json("/api/v1/workers/w")
    assert worker["liveness"] == "stale"
    assert worker["since"] == worker["deadline"] == rfc3339(last_seen + REACH_MS)
    assert await lastseen.ids("liveness=stale") == ["w"]
    assert await lastseen.ids("liveness=alive&liveness=late") == []
    status = await lastseen.json("/api/v1/status")
    assert status["counts"] == {"alive": 0, "late": 0, "stale": 1, "stopped": 0, "failed": 0}
    for answer in (worker, status, await lastseen.json(api.WORKERS), await lastseen.json("/api/v1/events")):
        assert answer["monitor"]["degraded"] is True
        assert answer["monitor"]["reasons"] == ["sweep_lag"]
        assert answer["monitor"]["last_sweep_age_seconds"] >= REACH_MS / 1000 - 1
    healthz = await lastseen.client.get("/healthz")
    assert (healthz.status_code, healthz.json()["reasons"]) == (503, ["sweep_lag"])
    assert (await lastseen.client.get("/readyz")).status_code == 200

    await lastseen.sweep()
    swept = await lastseen.json("/api/v1/workers/w")
    assert (swept["liveness"], swept["monitor"]["degraded"]) == ("stale", False)
    assert (await lastseen.client.get("/healthz")).status_code == 200


async def test_p22_a_worker_that_announced_its_absence_reads_stopped_until_then_and_stale_after_without_a_sweep(
    lastseen: Api,
) -> None:
    await lastseen.beat("w", "prod")
    goodbye = {"reason": "shutdown", "back_in_seconds": 600}
    assert (await lastseen.client.post("/api/v1/workers/w/disconnect", json=goodbye)).status_code == 204
    read = (await lastseen.store.get(stores.beat("w").key))[2]
    assert read is not None
    assert read.back_ms is not None

    await lastseen.clock.set(read.since_ms + 590_000)
    worker = await lastseen.json("/api/v1/workers/w")
    assert (worker["liveness"], worker["since"]) == ("stopped", rfc3339(read.since_ms))
    assert worker["back_at"] == rfc3339(read.since_ms + 600_000)
    assert [one["back_at"] for one in (await lastseen.json(api.WORKERS))["workers"]] == [worker["back_at"]]

    await lastseen.clock.set(read.back_ms)
    worker = await lastseen.json("/api/v1/workers/w")
    assert (worker["liveness"], worker["since"], worker["back_at"]) == ("stale", rfc3339(read.back_ms), None)
    assert await lastseen.ids("liveness=stale") == ["w"]
    assert await lastseen.ids("liveness=stopped") == []
    counts = {"alive": 0, "late": 0, "stale": 1, "stopped": 0, "failed": 0}
    assert (await lastseen.json("/api/v1/status"))["counts"] == counts

    await lastseen.sweep()
    swept = await lastseen.json("/api/v1/workers/w")
    assert (swept["liveness"], swept["since"], swept["back_at"]) == ("stale", rfc3339(read.back_ms), None)
    assert (await lastseen.json("/api/v1/status"))["counts"] == counts
    event = (await lastseen.json("/api/v1/events"))["events"][-1]
    assert event["type"] == "worker.stale"
    assert (event["data"]["old"], event["data"]["reason"]) == ("stopped", "did not return as planned")
    assert event["data"]["due_at"] == rfc3339(read.back_ms)


async def test_p22_every_list_and_every_status_is_of_the_same_liveness_before_a_sweep_and_after(lastseen: Api) -> None:
    async def leave(worker_id: str, **body: Any) -> None:
        path = f"{api.WORKERS}/{worker_id}/disconnect"
        assert (await lastseen.client.post(path, json=body)).status_code == 204

    for worker_id in ("back", "failed", "stale", "stopped", "straggler"):
        await lastseen.beat(worker_id, "prod")
    await leave("back", reason="shutdown", back_in_seconds=10)
    await leave("failed", reason="crash", exit_code=1)
    await leave("stopped", reason="shutdown")
    await leave("straggler", reason="shutdown")
    await lastseen.beat("straggler", "prod")
    await lastseen.advance(stores.GRACE_MS)
    await lastseen.beat("late", "prod")
    await lastseen.advance(stores.INTERVAL_MS + 1_000)
    await lastseen.beat("alive", "prod")
    expected = {
        "alive": {"alive"},
        "late": {"late"},
        "stale": {"back", "stale"},
        "stopped": {"stopped", "straggler"},
        "failed": {"failed"},
    }
    for _ in range(2):
        for some in (*((one,) for one in expected), ("alive", "late"), ("late", "stale"), ("stopped", "failed")):
            query = "&".join(f"liveness={one}" for one in some)
            assert set(await lastseen.ids(query)) == set().union(*(expected[one] for one in some)), query
        assert (await lastseen.json("/api/v1/status"))["counts"] == {one: len(names) for one, names in expected.items()}
        for liveness, names in expected.items():
            for name in names:
                own = lastseen.auth(worker_id=name)
                assert (await lastseen.json(f"{api.WORKERS}/{name}"))["liveness"] == liveness
                assert await lastseen.ids(f"liveness={liveness}", **own) == [name]
                assert (await lastseen.json("/api/v1/status", **own))["counts"][liveness] == 1, name
        await lastseen.sweep()


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
async def test_a_worker_present_throughout_appears_exactly_once(lastseen: Api, limit: int) -> None:
    names = await fill(lastseen, 60 if limit == 1 else 1_200)
    assert sorted(await lastseen.ids(f"limit={limit}")) == names


async def test_workers_that_come_and_go_disturb_no_other_page(lastseen: Api) -> None:
    names = await fill(lastseen, 300)
    gone, found, cursor = set(names[::7]), [], ""
    for turn in range(1_000):
        page = await lastseen.json(f"{api.WORKERS}?limit=20{cursor}")
        assert len(page["workers"]) <= 20
        found += [worker["worker_id"] for worker in page["workers"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        for name in sorted(gone)[turn * 3 : turn * 3 + 3]:
            assert (await lastseen.client.delete(f"{api.WORKERS}/{name}")).status_code == 204
        await lastseen.beat(f"new{turn}")
        await lastseen.beat(names[turn], status="busy")
    stayed = [name for name in found if name in set(names) - gone]
    assert sorted(stayed) == sorted(set(names) - gone)
    assert len(found) == len(set(found))


async def test_filters_hold_together_and_repeated_ones_are_alternatives(lastseen: Api) -> None:
    for number, environment in enumerate(["prod", "stage", "dev-1"] * 4):
        await lastseen.beat(f"Node-{number}", environment, status="busy" if number % 2 else "idle")
    await lastseen.client.post("/api/v1/workers/Node-0/disconnect", json={"reason": "crash"})
    await lastseen.client.post("/api/v1/workers/Node-3/disconnect", json={"reason": "shutdown"})
    assert sorted(await lastseen.ids("environment=prod")) == ["Node-0", "Node-3", "Node-6", "Node-9"]
    assert sorted(await lastseen.ids("environment=prod&status=busy&limit=1")) == ["Node-3", "Node-9"]
    assert sorted(await lastseen.ids("environment=prod&environment=stage&text=Node-1&text=-9")) == [
        "Node-1",
        "Node-10",
        "Node-9",
    ]
    assert await lastseen.ids("text=node") == []
    assert sorted(await lastseen.ids("liveness=failed&liveness=stopped")) == ["Node-0", "Node-3"]
    assert len(await lastseen.ids("liveness=alive")) == 10
    assert await lastseen.ids("liveness=alive&environment=nowhere") == []


async def test_rare_matches_come_in_short_pages_and_bounded_work(lastseen: Api) -> None:
    names = await fill(lastseen, 9_000)
    page = await lastseen.json(f"{api.WORKERS}?text=08999")
    assert page["next_cursor"] is not None or page["workers"]
    assert await lastseen.ids("text=08999") == [names[8999]]


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/api/v1/workers", "limit=0", "'limit' is '0'"),
        ("/api/v1/workers", "limit=1001", "'limit' is '1001'"),
        ("/api/v1/workers", "limit=%C2%B2", "'limit' is '²'"),
        ("/api/v1/workers", "limit=5&limit=6", "more than once"),
        ("/api/v1/workers", "liveness=dead", "'liveness' is 'dead'"),
        ("/api/v1/workers", "livenes=stale", "'livenes' is 'stale'"),
        ("/api/v1/workers", "text=%FF", "UTF-8"),
        ("/api/v1/workers", "cursor=x", "'cursor' is 'x'"),
        ("/api/v1/workers", "cursor=WzMsIiJd", "'cursor'"),
        ("/api/v1/workers", "cursor=Wy0xLCIiXQ", "'cursor'"),
        ("/api/v1/workers", "cursor=WzAsIlx1ZDgwMCJd", "'cursor'"),
        ("/api/v1/workers", "&".join("text=a" for _ in range(101)), "at most 100"),
        ("/api/v1/events", "order=up", "'order' is 'up'"),
        ("/api/v1/events", "type=worker.died", "'type' is 'worker.died'"),
        ("/api/v1/events", "cursor=WyJhc2MiLCIxIl0", "'cursor'"),
        *(
            ("/api/v1/events", f"cursor={encode_cursor(['asc', *numbers])}", "'cursor'")
            for numbers in ((1,), (0, 0, 0), (10**15, 0, 0), (1, 3, 0), (1, -1, 0), (1, 0, -1), (1, 0, 10**15))
        ),
        ("/api/v1/events", f"cursor={encode_cursor(['asc', 1, 0, '0'])}", "'cursor'"),
        ("/api/v1/events", f"cursor={encode_cursor(['desc'])}", "'cursor'"),
        ("/api/v1/status", "tenant=other", "'tenant' is 'other'"),
    ],
)
async def test_a_parameter_that_cannot_be_used_is_named(lastseen: Api, path: str, query: str, named: str) -> None:
    answer = await lastseen.client.get(f"{path}?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.json()["detail"]


async def test_a_token_for_some_environments_or_one_worker_sees_only_those(lastseen: Api) -> None:
    for number in range(6):
        await lastseen.beat(f"p{number}", "prod")
    await lastseen.beat("s", "stage")
    stage, bound = lastseen.auth(environments=("stage", "qa")), lastseen.auth(worker_id="p1")
    for headers, name, environment in ((stage, "s", "stage"), (bound, "p1", "prod")):
        assert await lastseen.ids("", **headers) == [name]
        assert await lastseen.ids("liveness=alive", **headers) == [name]
        assert await lastseen.ids("environment=elsewhere", **headers) == []
        status = await lastseen.json("/api/v1/status", **headers)
        assert (status["total"], [one["environment_name"] for one in status["environments"]]) == (1, [environment])
        listed = (await poll(lastseen, **headers))["events"]
        assert [event["data"]["worker_id"] for event in listed] == [name]
        assert (await lastseen.json(f"{api.WORKERS}/{name}", **headers))["worker_id"] == name
        assert (await lastseen.client.get(f"{api.WORKERS}/p2", headers=headers)).status_code == 404
        assert (await lastseen.client.delete(f"{api.WORKERS}/p2", headers=headers)).status_code == 404
        assert (await lastseen.client.delete(f"{api.WORKERS}/{name}", headers=headers)).status_code == 204
    assert await lastseen.ids("environment=prod", **stage) == []
    assert (await lastseen.json("/api/v1/status"))["total"] == 5


async def test_the_status_counts_by_environment_in_the_order_of_names(lastseen: Api) -> None:
    for number in range(8):
        await lastseen.beat(f"w{number}", "b" if number % 2 else "a")
    await lastseen.client.post("/api/v1/workers/w0/disconnect", json={"reason": "shutdown"})
    status = await lastseen.json("/api/v1/status")
    assert status["tenant"] == "acme"
    assert [(one["environment_name"], one["total"]) for one in status["environments"]] == [("a", 4), ("b", 4)]
    assert status["environments"][0]["counts"] == {"alive": 3, "late": 0, "stale": 0, "stopped": 1, "failed": 0}
    assert status["counts"] == {"alive": 7, "late": 0, "stale": 0, "stopped": 1, "failed": 0}
    assert status["total"] == 8


async def poll(lastseen: Api, query: str = "", **headers: str) -> Any:
    """A page of the events, when every partition has stored a later time than theirs, as pulses do."""
    await lastseen.advance(1)
    return await lastseen.json(f"/api/v1/events?{query}", **headers)


async def history(lastseen: Api, query: str, *, pages: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    for _ in range(pages):
        page = await poll(lastseen, f"{query}{cursor}")
        found += page["events"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    return found


async def test_the_history_holds_every_event_once_in_both_directions(lastseen: Api) -> None:
    await fill(lastseen, 300)
    await fill(lastseen, 300, tenant="other")
    await lastseen.advance(REACH_MS)
    await lastseen.sweep()
    forwards = await history(lastseen, "limit=70", pages=60)
    backwards = await history(lastseen, "limit=70&order=desc", pages=60)
    assert len(forwards) == len(backwards) == 600
    ids = [event["data"]["event_id"] for event in forwards]
    assert len(set(ids)) == 600
    assert set(ids) == {event["data"]["event_id"] for event in backwards}
    assert [event["timestamp"] for event in forwards] == sorted(event["timestamp"] for event in forwards)
    assert [event["timestamp"] for event in backwards] == sorted((e["timestamp"] for e in forwards), reverse=True)
    assert forwards[0]["type"] == "worker.registered"
    assert backwards[0]["type"] == "worker.stale"
    assert backwards[0]["data"]["tenant"] == "acme"


async def beats_in_turn(lastseen: Api, *workers: tuple[str, str]) -> None:
    """Beats of (worker, environment) in different milliseconds: within one, partitions have an order of their own."""
    for name, environment in workers:
        await lastseen.advance(1)
        await lastseen.beat(name, environment)


async def test_a_poller_goes_on_where_it_was_and_a_reader_backwards_comes_to_an_end(lastseen: Api) -> None:
    await beats_in_turn(lastseen, ("a", "prod"), ("b", "prod"))
    page = await poll(lastseen)
    assert [event["data"]["worker_id"] for event in page["events"]] == ["a", "b"]
    backwards = await lastseen.json("/api/v1/events?order=desc&limit=1")
    assert [event["data"]["worker_id"] for event in backwards["events"]] == ["b"]
    for _ in range(2):
        page = await poll(lastseen, f"cursor={page['next_cursor']}")
        assert page["events"] == []
    await beats_in_turn(lastseen, ("c", "prod"), ("d", "prod"), ("e", "prod"))
    page = await poll(lastseen, f"cursor={page['next_cursor']}")
    assert [event["data"]["worker_id"] for event in page["events"]] == ["c", "d", "e"]
    rest = await lastseen.json(f"/api/v1/events?order=desc&cursor={backwards['next_cursor']}")
    assert [event["data"]["worker_id"] for event in rest["events"]] == ["a"]
    assert rest["next_cursor"] is None
    mixed = await lastseen.client.get(f"/api/v1/events?order=asc&cursor={backwards['next_cursor']}")
    assert mixed.status_code == 422


async def own(lastseen: Api, partition: int) -> list[Event]:
    return (await lastseen.store.history(partition, "acme", after="", limit=100, newest_first=False)).events


async def test_p29_the_history_of_a_tenant_is_read_at_once_however_much_others_have(lastseen: Api) -> None:
    await lastseen.beat("first", "prod")
    await fill(lastseen, 2_500, tenant="noisy")
    await lastseen.beat("last", "prod")
    page = await poll(lastseen)
    assert [event["data"]["worker_id"] for event in page["events"]] == ["first", "last"]


async def test_a_cursor_of_the_history_does_not_reveal_when_other_tenants_have_events(lastseen: Api) -> None:
    await beats_in_turn(lastseen, ("a", "prod"))
    page = await poll(lastseen)
    assert [event["data"]["worker_id"] for event in page["events"]] == ["a"]
    for number in range(5):
        await fill(lastseen, 3, tenant=f"other-{number}")
        await lastseen.advance(1)
        again = await poll(lastseen, f"cursor={page['next_cursor']}")
        assert (again["events"], again["next_cursor"]) == ([], page["next_cursor"])
    # It names an event of the tenant's own, by a count of its own; and nothing is lost or comes twice.
    (event,) = [event for part in range(lastseen.store.partitions) for event in await own(lastseen, part)]
    _, ms, partition, n = decode_cursor(page["next_cursor"])
    assert (f"{ms}-{n}", partition, n) == (event.position, event.partition, 0)
    found = []
    for number in range(6):
        await lastseen.beat(f"b{number}", "prod")
        await fill(lastseen, 2, tenant=f"more-{number}")
        if number % 2:
            await lastseen.sweep()
        page = await poll(lastseen, f"cursor={page['next_cursor']}")
        found += [event["data"]["worker_id"] for event in page["events"]]
    assert sorted(found) == [f"b{number}" for number in range(6)]


async def test_the_history_is_filtered_by_environment_worker_and_type(lastseen: Api) -> None:
    await beats_in_turn(lastseen, ("a", "prod"), ("b", "stage"), ("c", "prod"))
    await lastseen.client.post("/api/v1/workers/a/disconnect", json={"reason": "crash", "exit_code": 3})
    failed = await history(lastseen, "type=worker.failed", pages=1)
    assert [(event["data"]["worker_id"], event["data"]["exit_code"]) for event in failed] == [("a", 3)]
    assert set(failed[0]) == {"type", "timestamp", "data"}
    assert len(await history(lastseen, "worker_id=a&worker_id=b", pages=1)) == 3
    both = await history(lastseen, "environment=prod&type=worker.registered", pages=1)
    assert [event["data"]["worker_id"] for event in both] == ["a", "c"]


async def test_a_deleted_worker_is_gone_at_once_and_its_next_beat_starts_anew(lastseen: Api) -> None:
    await lastseen.beat("w", worker_metadata={"a": 1})
    first = await lastseen.json("/api/v1/workers/w")
    refused = await lastseen.client.delete("/api/v1/workers/w", headers=lastseen.auth(scopes=(Scope.WORKERS_READ,)))
    assert refused.status_code == 403
    gone = await lastseen.client.delete("/api/v1/workers/w")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await lastseen.client.get("/api/v1/workers/w")).status_code == 404
    assert (await lastseen.client.delete("/api/v1/workers/w")).status_code == 404
    await lastseen.beat("w")
    second = await lastseen.json("/api/v1/workers/w")
    assert second["generation"] > first["generation"]
    assert second["worker_metadata"] == {}


async def test_the_metrics_show_the_fleet_and_the_sweep(lastseen: Api) -> None:
    await lastseen.beat("w")
    await lastseen.beat("v")
    await lastseen.client.post("/api/v1/workers/v/disconnect", json={"reason": "crash"})
    lastseen.services.metrics.delivery("ops", "delivered", "")
    await lastseen.sweep()
    answer = await lastseen.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        'lastseen_beats_total{outcome="stored"} 2.0',
        'lastseen_beats_total{outcome="invalid"} 0.0',
        'lastseen_workers{liveness="alive"} 1.0',
        'lastseen_workers{liveness="failed"} 1.0',
        'lastseen_workers{liveness="stale"} 0.0',
        'lastseen_transitions_total{event="worker.registered"} 2.0',
        'lastseen_deliveries_total{outcome="delivered",receiver="ops"} 1.0',
        'lastseen_build_info{version="test"} 1.0',
    ):
        assert line in answer.text.splitlines()
    lag = next(line for line in answer.text.splitlines() if line.startswith("lastseen_sweep_lag_seconds"))
    assert 0 <= float(lag.split()[1]) < 5
    modern = await lastseen.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


async def test_metrics_and_schema_need_no_token_where_that_is_configured(store_url: str) -> None:
    async with api.running(store_url, services={"anonymous": ("/metrics",)}) as lastseen:
        del lastseen.client.headers["authorization"]
        assert (await lastseen.client.get("/metrics")).status_code == 200
        assert (await lastseen.client.get("/schema")).status_code == 401
    async with api.running(store_url, services={"anonymous": ("/schema",)}) as lastseen:
        del lastseen.client.headers["authorization"]
        assert (await lastseen.client.get("/metrics")).status_code == 401
        assert (await lastseen.client.get("/schema/openapi.json")).json()["openapi"] == "3.1.0"


async def test_a_daemon_that_stops_is_not_ready_and_still_alive(lastseen: Api) -> None:
    await lastseen.sweep()
    assert (await lastseen.client.get("/readyz")).status_code == 200
    lastseen.services.health.stopping = True
    ready = await lastseen.client.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["stopping"])
    assert (await lastseen.client.get("/livez")).status_code == 200


async def test_reasons_from_elsewhere_are_shown_everywhere(lastseen: Api) -> None:
    await lastseen.sweep()
    lastseen.services.health.add_reasons(lambda: ["delivery_lag"])
    assert (await lastseen.json("/api/v1/status"))["monitor"]["reasons"] == ["delivery_lag"]
    assert (await lastseen.client.get("/healthz")).json()["reasons"] == ["delivery_lag"]
    assert 'lastseen_degraded{reason="delivery_lag"} 1.0' in (await lastseen.client.get("/metrics")).text


async def test_a_count_of_the_fleet_that_is_kept_for_a_while_does_not_read_as_a_sweep_that_lags(lastseen: Api) -> None:
    await lastseen.sweep()
    await lastseen.advance(600_000)
    assert 'lastseen_degraded{reason="sweep_lag"} 1.0' in (await lastseen.client.get("/metrics")).text
    await lastseen.sweep()
    text = (await lastseen.client.get("/metrics")).text
    assert 'lastseen_degraded{reason="sweep_lag"} 0.0' in text
    assert lag_of(text) < 5


def lag_of(exposition: str) -> float:
    lines = [line for line in exposition.splitlines() if line.startswith("lastseen_sweep_lag_seconds ")]
    return float(lines[0].split()[1])
