"""Limits on beats per second, in the three forms in which a beat comes in, and a store that is too slow (P28)."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from monitor.api.admission import LONGEST_S, Admission, BeatRates
from monitor.api.rejected_beats import RejectedBeats
from monitor.api.shared import Shared
from monitor.clock import monotonic_s
from monitor.daemon.config.model import Config
from monitor.daemon.processes.supervisor import divided
from monitor.daemon.settings import beat_rates
from monitor.errors import IntakeFullError
from monitor.intake.queue import SPREAD_S, Intake
from monitor.rate_limit import NS, Rate
from monitor.workers import Evidence, Rejection, WorkerKey
from tests.intake.test_faults import LONG_S, answers, site
from tests.support import api
from tests.support.fleets import Connection
from tests.support.proxies import Way
from tests.support.stores import beat, opened

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

BATCH = f"{api.WORKERS}/heartbeats"
START_NS = 10**15


class Clock:
    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns


@asynccontextmanager
async def limited(
    url: str, *, worker: Rate | None = None, tenant: Rate | None = None
) -> AsyncIterator[tuple[api.Api, Clock]]:
    clock = Clock()
    admission = Admission(BeatRates(worker=worker, tenant=tenant, batch=10_000), now_ns=clock)
    async with api.running(url, services={"admission": admission}) as running:
        yield running, clock


async def batch(lastseen: api.Api, *worker_ids: str, tenant: str = "acme", **headers: str) -> Any:
    beats = [{"worker_id": name, "environment_name": "prod"} for name in worker_ids]
    return await lastseen.client.post(BATCH, json=beats, headers={**lastseen.auth(tenant), **headers})


def is_refused(answer: Any, retry_after: int) -> bool:
    return bool(
        answer.status_code == 429
        and answer.headers["retry-after"] == str(retry_after)
        and answer.headers["content-type"] == "application/problem+json"
        and answer.json()["title"] == "Too Many Requests"
    )


async def test_p28_a_worker_over_its_rate_waits_as_long_as_retry_after_says_and_others_do_not(store_url: str) -> None:
    async with limited(store_url, worker=Rate(per_s=1, burst=3)) as (lastseen, clock):
        statuses = [(await lastseen.beat("w")).status_code for _ in range(3)]
        assert statuses == [204] * 3
        assert is_refused(await lastseen.beat("w"), 1)
        by_id = await lastseen.client.post(f"{api.WORKERS}/w/heartbeat", json={})
        assert is_refused(by_id, 1), "the same worker in the other form"
        assert (await lastseen.beat("v")).status_code == 204
        assert (await lastseen.beat("w", tenant="globex")).status_code == 204
        clock.now_ns += NS
        assert (await lastseen.beat("w")).status_code == 204
        assert (await lastseen.beat("w")).status_code == 429
        text = (await lastseen.client.get("/metrics")).text
        assert 'lastseen_beats_total{outcome="rate_limited"} 3.0' in text


async def test_p28_a_refused_beat_changes_nothing(store_url: str) -> None:
    async with limited(store_url, worker=Rate(per_s=1, burst=1)) as (lastseen, _):
        await lastseen.beat("w", tasks_processed=1)
        assert (await lastseen.beat("w", tasks_processed=2)).status_code == 429
        assert (await lastseen.json(f"{api.WORKERS}/w"))["tasks_processed"] == 1


async def test_p28_what_is_wrong_with_a_beat_is_reported_before_its_rate(store_url: str) -> None:
    async with limited(store_url, worker=Rate(per_s=1, burst=1)) as (lastseen, _):
        assert (await lastseen.beat("w")).status_code == 204
        assert (await lastseen.beat("w", tasks_processed="many")).status_code == 422
        headers = lastseen.auth(worker_id="other")
        body = {"worker_id": "w", "environment_name": "prod"}
        assert (await lastseen.client.post(api.BEAT, json=body, headers=headers)).status_code == 403


async def test_p28_a_tenant_over_its_rate_takes_nothing_from_another(store_url: str) -> None:
    async with limited(store_url, tenant=Rate(per_s=2, burst=4)) as (lastseen, clock):
        assert [(await lastseen.beat(f"w{number}")).status_code for number in range(5)] == [204] * 4 + [429]
        assert (await lastseen.beat("w", tenant="globex")).status_code == 204
        clock.now_ns += NS
        assert [(await lastseen.beat(f"w{number}")).status_code for number in range(3)] == [204, 204, 429]


async def test_p28_a_batch_counts_for_its_tenant_and_is_taken_whole_or_not_at_all(store_url: str) -> None:
    async with limited(store_url, tenant=Rate(per_s=1, burst=4)) as (lastseen, clock):
        assert (await batch(lastseen, "a", "b", "c")).json()["stored"] == 3
        assert is_refused(await batch(lastseen, "d", "e", "f"), 2)
        assert await lastseen.ids() == ["a", "b", "c"]
        assert (await batch(lastseen, "d", tenant="globex")).json()["stored"] == 1
        clock.now_ns += 2 * NS
        assert (await batch(lastseen, "d", "e", "f")).json()["stored"] == 3
        assert await lastseen.ids() == ["a", "b", "c", "d", "e", "f"]


async def test_p28_a_batch_larger_than_the_burst_is_taken_after_a_pause(store_url: str) -> None:
    async with limited(store_url, tenant=Rate(per_s=1, burst=2)) as (lastseen, clock):
        names = [f"w{number}" for number in range(10)]
        assert (await batch(lastseen, *names)).json()["stored"] == 10
        assert is_refused(await lastseen.beat("w1"), 9)
        clock.now_ns += 9 * NS
        assert (await lastseen.beat("w1")).status_code == 204


async def test_p28_workers_over_their_rate_are_rejected_by_index_and_the_rest_is_stored(store_url: str) -> None:
    async with limited(store_url, worker=Rate(per_s=1, burst=1)) as (lastseen, clock):
        assert (await lastseen.beat("b")).status_code == 204
        answer = (await batch(lastseen, "a", "b", "c", "a", "b")).json()
        assert (answer["stored"], answer["superseded"]) == (2, 1)
        assert [(one["index"], one["worker_id"], one["status"]) for one in answer["rejected"]] == [
            (1, "b", 429),
            (4, "b", 429),
        ]
        assert "limits.worker_beats_per_second" in answer["rejected"][0]["detail"]
        assert await lastseen.ids() == ["a", "b", "c"]
        clock.now_ns += NS
        assert (await batch(lastseen, "a", "b", "c")).json() == {"stored": 3, "superseded": 0, "rejected": []}


async def test_p28_a_wait_is_reported_in_whole_seconds_and_within_bounds(store_url: str) -> None:
    assert store_url
    admission = Admission(BeatRates(worker=None, tenant=Rate(per_s=1, burst=1), batch=100_000), now_ns=lambda: NS)
    assert admission.batch_refused("acme", 100_000) is None
    refused = admission.batch_refused("acme", 1)
    assert refused is not None
    assert refused.retry_after_s == LONGEST_S
    admission = Admission(BeatRates(worker=Rate(per_s=3, burst=1), tenant=None, batch=1), now_ns=lambda: NS)
    key = WorkerKey("acme", "w")
    assert admission.refused(key) is None
    refused = admission.refused(key)
    assert refused is not None
    assert refused.retry_after_s == 1


@pytest.mark.parametrize(("passed_ms", "retry_after_s"), [(0, 2), (1, 2), (400, 2), (999, 2), (1_000, 1), (1_999, 1)])
async def test_p28_a_retry_after_the_given_wait_is_taken(store_url: str, passed_ms: int, retry_after_s: int) -> None:
    assert store_url
    clock = Clock()
    admission = Admission(BeatRates(worker=None, tenant=Rate(per_s=2, burst=1), batch=4), now_ns=clock)
    assert admission.batch_refused("acme", 4) is None
    clock.now_ns += passed_ms * NS // 1_000
    refused = admission.batch_refused("acme", 1)
    assert refused is not None
    assert refused.retry_after_s == retry_after_s
    clock.now_ns += retry_after_s * NS
    assert admission.batch_refused("acme", 1) is None


@pytest.mark.parametrize(
    ("limits", "processes", "worker", "tenant"),
    [
        ({}, 1, Rate(per_s=20, burst=100), None),
        ({}, 4, Rate(per_s=20, burst=100), None),
        ({"worker_beats_per_second": 0}, 1, None, None),
        (
            {"tenant_beats_per_second": 10, "tenant_beats_burst": 90},
            4,
            Rate(per_s=20, burst=100),
            Rate(per_s=3, burst=23),
        ),
    ],
)
def test_p28_each_process_lets_a_worker_through_whole_and_its_part_of_a_tenant(
    store_url: str, limits: Mapping[str, int], processes: int, worker: Rate | None, tenant: Rate | None
) -> None:
    assert store_url
    config = divided(Config.model_validate({"limits": limits}), processes)
    assert beat_rates(config) == BeatRates(worker=worker, tenant=tenant, batch=10_000)


# A store that is too slow -------------------------------------------------------------------------------------------


async def test_p28_retry_after_is_spread_and_short_for_workers_with_a_short_grace(store_url: str) -> None:
    async with opened(store_url, rules=()) as store:
        intake = Intake(store, capacity=0, on_moved=lambda _: None)

        async def retry_after(grace_ms: int | None) -> int:
            with pytest.raises(IntakeFullError) as refused:
                await intake.apply(beat("w") if grace_ms is None else beat("w", grace_ms=grace_ms))
            return refused.value.retry_after_s

        assert sorted([await retry_after(None) for _ in SPREAD_S]) == [1, 2, 3]
        assert sorted([await retry_after(60_000) for _ in SPREAD_S]) == [1, 2, 3]
        assert [await retry_after(1_000) for _ in SPREAD_S] == [1, 1, 1]
    async with opened(store_url, grace_ms=5_000, rules=()) as store:
        intake = Intake(store, capacity=0, on_moved=lambda _: None)
        assert [await retry_after(None) for _ in SPREAD_S] == [1, 1, 1]


async def test_p28_what_waiting_beats_bring_with_them_is_bounded_in_bytes(store_url: str) -> None:
    async with opened(store_url, timeout_s=LONG_S) as store:
        intake = Intake(store, capacity=1_000, capacity_bytes=10_000, on_moved=lambda _: None, lanes=1)
        large = json.dumps({"filler": "x" * 3_000})
        waiting = [asyncio.create_task(intake.apply(beat(f"w{number}", metadata_json=large))) for number in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(IntakeFullError):
            await intake.apply(beat("small"))
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(one, int) for one in answers) == 4, "the one that reaches the bound still comes in"
        assert await intake.apply(beat("small")), "and there is room again"


async def test_p28_bodies_that_come_slowly_share_a_bounded_room_and_give_it_back(store_url: str) -> None:
    shared = Shared(body_bytes=30_000, batch_bytes=0)
    room = shared.bodies
    noted: list[Evidence] = []
    async with (
        api.running(store_url, services={"shared": shared, "rejected_beats": RejectedBeats(noted.append)}) as lastseen,
        api.served(lastseen.app) as port,
    ):
        token = api.token(lastseen.store.clock.now_ms())

        async def begin(worker_id: str, *, size: int) -> Connection:
            connection = await Connection.to(port, token)
            request = connection.request("POST", f"{api.WORKERS}/{worker_id}/heartbeat", {}, "x: y")
            head = request.removesuffix(b"{}").replace(b"content-length: 2", b"content-length: %d" % (size + 2))
            connection.writer.write(head + b" " * size)
            return connection

        slow = [await begin(f"slow-{number}", size=10_000) for number in range(3)]
        async with asyncio.timeout(20):
            while room.free > 0:  # noqa: ASYNC110 - no event signals a change
                await asyncio.sleep(0)
        more = await begin("one-more", size=1)
        whole = await Connection.to(port, token)
        assert (await whole.beat("whole")).status == 204, "what comes whole needs no room"
        for connection in slow:
            connection.writer.write(b"{}")
            assert (await connection.reply()).status == 204
        more.writer.write(b"{}")
        assert (await more.reply()).is_refusal
        assert [(one.key.worker_id, one.rejection) for one in noted] == [("one-more", Rejection.OVERLOADED)]
        assert room.free == 30_000
        for connection in (*slow, more, whole):
            connection.close()


async def test_p28_a_queue_that_has_waited_for_half_the_time_limit_is_full_however_short(store_url: str) -> None:
    async with site(store_url, lanes=1, timeout_s=2.0) as lastseen:
        first = await lastseen.connect()
        assert (await first.beat("known")).status == 204
        lastseen.proxy.stall(Way.ANSWERS)
        calls = lastseen.proxy.seen(b"_beat\r\n")
        flying = await lastseen.send("flying")
        await lastseen.proxy.until(lambda: lastseen.proxy.seen(b"_beat\r\n") > calls, "a call to the store")
        begun_s = monotonic_s()
        waiting = await lastseen.send("waiting")
        refused = 0
        while not refused and monotonic_s() < begun_s + 1.9:
            asked_s = monotonic_s()
            reply = await asyncio.wait({asyncio.create_task((await lastseen.connect()).beat("next"))}, timeout=0.2)
            refused = sum(task.result().status == 503 for task in reply[0])
        assert refused
        assert asked_s - begun_s > 0.9, "not before"
        lastseen.proxy.flow()
        assert set((await answers({**flying, **waiting})).values()) <= {204, 503}


async def test_p28_while_the_store_is_slow_beats_are_refused_at_once_and_stored_again_when_it_is_not(
    store_url: str,
) -> None:
    async with site(store_url, capacity=3, lanes=1, timeout_s=LONG_S) as lastseen:
        first = await lastseen.connect()
        assert (await first.beat("known")).status == 204
        lastseen.proxy.stall(Way.ANSWERS)
        calls = lastseen.proxy.seen(b"_beat\r\n")
        flying = await lastseen.send("flying")
        await lastseen.proxy.until(lambda: lastseen.proxy.seen(b"_beat\r\n") > calls, "a call to the store")
        waiting = await lastseen.send("a", "b", "c")
        refused = await answers(await lastseen.send(*(f"over-{number}" for number in range(50))))
        assert set(refused.values()) == {503}
        lastseen.proxy.flow()
        assert set((await answers({**flying, **waiting})).values()) == {204}
        again = await answers(await lastseen.send("over-0", "over-1"))
        assert set(again.values()) == {204}
        assert set(await lastseen.stored()) == {"known", "flying", "a", "b", "c", "over-0", "over-1"}
