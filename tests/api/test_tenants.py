"""P29: what one tenant does takes nothing from another, and is no blindness of the monitor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httpx2
import pytest
import structlog
from litestar.types import Scope as Scope_

from monitor.api.admission import Admission, BeatRates
from monitor.api.errors import BodyTooSlowError
from monitor.api.rejected_beats import RejectedBeats, Seen
from monitor.api.shared import BATCHES_AT_ONCE, READS_AT_ONCE, Places, Shared
from monitor.auth import Principal, Scope
from monitor.errors import IntakeFullError, NoRoomError, OverShareError, StoreUnavailableError
from monitor.intake.evidence import MOST_PENDING, Recorder
from monitor.intake.queue import Intake
from monitor.limit_log import RefusedBeats
from monitor.metrics.registry import Limit, Metrics
from monitor.rate_limit import NS, Rate
from monitor.shares import Shares, Tenants
from monitor.store.coalescing import CoalescedCall
from monitor.store.connection import READERS
from monitor.workers import Beat, Evidence, Rejection, WorkerKey
from tests.core.test_metrics import values
from tests.intake.test_queue import goodbye
from tests.support import api
from tests.support.fleets import Connection
from tests.support.stores import beat, opened
from tests.support.watched import PATIENCE_S, watched

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

BATCH: Final = f"{api.WORKERS}/heartbeats"
WRITE: Final = frozenset({Scope.HEARTBEAT_WRITE.value})


@dataclass
class Site:
    """The HTTP side behind a real server, two known tenants, and what was noted."""

    http: api.Api
    port: int
    shared: Shared
    met: list[tuple[Limit, str]]
    noted: list[Evidence] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    @property
    def rejections(self) -> list[tuple[str, Rejection]]:
        return [(one.key.worker_id, one.rejection) for one in self.noted]

    async def begin(self, path: str, body: bytes, *, whole: int, tenant: str = "acme", **token: Any) -> Connection:
        """A request of which the server has received a part of the body."""
        made = api.token(self.http.store.clock.now_ms(), tenant, **token)
        connection = await Connection.to(self.port, made)
        self.connections.append(connection)
        head = connection.request("POST", path, {}, "x: y").removesuffix(b"{}")
        connection.writer.write(head.replace(b"content-length: 2", b"content-length: %d" % whole) + body)
        return connection


@asynccontextmanager
async def site(url: str, **sizes: Any) -> AsyncIterator[Site]:
    met: list[tuple[Limit, str]] = []
    noted: list[Evidence] = []
    lost: list[bool] = []
    values = {"body_bytes": 1_000_000, "batch_bytes": 1_000_000, **sizes}
    shared = Shared(**values, hit=lambda limit, who: met.append((limit, who)))
    rejected_beats = RejectedBeats(noted.append, lost=lambda: lost.append(True))
    async with (
        api.running(url, services={"shared": shared, "rejected_beats": rejected_beats}) as running,
        api.served(running.app) as port,
    ):
        for tenant in ("acme", "globex"):
            await running.client.get(f"{api.WORKERS}/none", headers=running.auth(tenant))
        made = Site(http=running, port=port, shared=shared, met=met, noted=noted, lost=lost)
        yield made
        for connection in made.connections:
            connection.close()
            await connection.writer.wait_closed()


async def until(shares: Shares, free: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while shares.free != free:  # noqa: ASYNC110 - no event signals a change
            await asyncio.sleep(0)


# Bodies -------------------------------------------------------------------------------------------------------------


async def test_p29_unfinished_bodies_of_one_tenant_leave_room_for_another(store_url: str) -> None:
    async with site(store_url, body_bytes=64_000) as lastseen:
        bodies = lastseen.shared.bodies
        path = f"{api.WORKERS}/hostile/heartbeat"
        for number in range(1, 5):
            await lastseen.begin(path, b" " * 8_000, whole=9_000)
            await until(bodies, 64_000 - 8_000 * number)
        over = await lastseen.begin(api.BEAT, b'{"worker_id":"w"' + b" " * 8_000, whole=9_000)
        reply = await over.reply()
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert b"the tenant's share of bytes of unfinished bodies is used up" in reply.body
        assert lastseen.rejections == [("w", Rejection.OVER_SHARE)], "what was read of it is evidence"
        own = b'{"worker_id":"v","environment_name":"prod"'
        other = await lastseen.begin(api.BEAT, own + b" " * 8_000, whole=len(own) + 8_001, tenant="globex")
        await until(bodies, 32_000 - len(own) - 8_000)
        other.writer.write(b"}")
        assert (await other.reply()).status == 204
        assert lastseen.met == [(Limit.BODY_BYTES, "acme")]
        assert not lastseen.lost


async def test_p29_only_when_everything_is_full_is_it_503_and_the_monitor_blind(store_url: str) -> None:
    async with site(store_url, body_bytes=10) as lastseen:
        lastseen.shared.bodies.acquire("others", 10)
        named = await lastseen.begin(api.BEAT, b'{"worker_id":"w"', whole=9_000)
        assert (await named.reply()).status == 503
        assert (lastseen.rejections, lastseen.lost) == ([("w", Rejection.OVERLOADED)], [])
        nameless = await lastseen.begin(api.BEAT, b'{"status":', whole=9_000)
        assert (await nameless.reply()).status == 503
        assert lastseen.lost == [True]
        restricted = await lastseen.begin(api.BEAT, b'{"status":', whole=9_000, worker_id="v")
        assert (await restricted.reply()).status == 503
        assert lastseen.rejections[1:] == [("v", Rejection.OVERLOADED)], "the token names the only worker it can be"
        assert lastseen.lost == [True]


async def test_p11_a_body_whose_client_goes_away_is_evidence_of_what_came(store_url: str) -> None:
    async with site(store_url) as lastseen:
        for path, body in ((api.BEAT, b'{"worker_id":"w","env'), (BATCH, b'[{"worker_id":"a"},{"worker_id":"b"},{')):
            gone = await lastseen.begin(path, body, whole=9_000)
            await asyncio.sleep(0)
            gone.close()
        async with asyncio.timeout(PATIENCE_S):
            while len(lastseen.noted) < 3:  # noqa: ASYNC110 - no event signals a change
                await asyncio.sleep(0)
        assert sorted(lastseen.rejections) == [(name, Rejection.INCOMPLETE) for name in ("a", "b", "w")]
        assert not lastseen.lost


async def test_p11_a_body_that_came_too_slowly_is_evidence_of_what_came(store_url: str) -> None:
    assert store_url
    noted: list[Evidence] = []
    rejected_beats = RejectedBeats(noted.append)
    principal = Principal(subject="s", tenant="acme", scopes=WRITE, worker_id=None, environments=None)
    seen = Seen(scope=cast("Scope_", {}), principal=principal, read=[b'{"worker', b'_id":"w","'])
    rejected_beats.beat_refused(BodyTooSlowError("slow"), seen)
    assert [(one.key.worker_id, one.rejection) for one in noted] == [("w", Rejection.INCOMPLETE)]


# Batches ------------------------------------------------------------------------------------------------------------


async def test_p29_bytes_of_batches_are_held_by_tenant_as_sent_and_inflated(store_url: str) -> None:
    async with site(store_url, batch_bytes=100_000) as lastseen:
        first = await lastseen.begin(BATCH, b"[" + b" " * 49_999, whole=60_000)
        await until(lastseen.shared.batch_bytes, 50_000)
        second = await lastseen.begin(BATCH, b'[{"worker_id":"a"},', whole=60_000, worker_id="a")
        assert (await second.reply()).status == 429
        assert lastseen.rejections == [("a", Rejection.OVER_SHARE)]
        third = await lastseen.begin(BATCH, b"[", whole=2, tenant="globex")
        await until(lastseen.shared.batch_bytes, 49_999)
        third.writer.write(b"]")
        assert (await third.reply()).status == 200
        first.close()
        await until(lastseen.shared.batch_bytes, 100_000)
        assert lastseen.met == [(Limit.BATCH_BYTES, "acme")]
        assert not lastseen.lost


async def test_p29_a_tenant_that_holds_its_share_of_batch_places_waits_and_others_do_not(store_url: str) -> None:
    body = b'[{"worker_id":"w","environment_name":"prod"}]'
    async with site(store_url, wait_s=0.05) as lastseen, AsyncExitStack() as stack:
        client, batches = lastseen.http.client, lastseen.shared.batches

        async def send(tenant: str) -> httpx2.Response:
            return await client.post(BATCH, content=body, headers=lastseen.http.auth(tenant))

        for _ in range(BATCHES_AT_ONCE // 2):
            await stack.enter_async_context(batches.place("acme"))
        refused = await send("acme")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert lastseen.rejections == [("w", Rejection.OVER_SHARE)]
        assert (await send("globex")).status_code == 200
        for number in range(BATCHES_AT_ONCE // 2):
            await stack.enter_async_context(batches.place(f"other-{number}"))
        assert (await send("globex")).status_code == 503
        assert lastseen.rejections[1:] == [("w", Rejection.OVERLOADED)]
        assert not lastseen.lost, "all of its ids were noted"


@pytest.mark.parametrize(
    ("body", "is_lost"),
    [
        (b'[{"worker_id":"a"},{"worker_id":"b"}]', False),
        (b"[" + b",".join(b'{"worker_id":"w%d"}' % number for number in range(1_001)) + b"]", True),
        (b'[{"worker_id":"a","logs":"' + b"x" * 70_000 + b'"}]', True),
    ],
)
@pytest.mark.parametrize("error", [NoRoomError("full"), OverShareError("yours")])
async def test_p29_a_refused_batch_is_lost_only_if_all_was_full_and_not_all_ids_were_noted(
    store_url: str,
    body: bytes,
    is_lost: bool,  # noqa: FBT001 - a parameter of the test
    error: Exception,
) -> None:
    assert store_url
    lost: list[bool] = []
    rejected_beats = RejectedBeats(lambda _: None, lost=lambda: lost.append(True))
    principal = Principal(subject="s", tenant="acme", scopes=WRITE, worker_id=None, environments=None)
    rejected_beats.batch_refused(error, Seen(scope=cast("Scope_", {"headers": []}), principal=principal, body=body))
    assert lost == [True] * (is_lost and isinstance(error, NoRoomError))


async def test_p29_looks_into_refused_bodies_are_counted_by_tenant(store_url: str) -> None:
    assert store_url
    noted: list[Evidence] = []
    rejected_beats = RejectedBeats(noted.append, now_ns=lambda: NS)
    for tenant in ("acme", "globex"):
        principal = Principal(subject="s", tenant=tenant, scopes=WRITE, worker_id=None, environments=None)
        for number in range(600):
            rejected_beats.record_body(principal, Rejection.OVER_SHARE, b'{"worker_id":"w%d"}' % number)
    assert len(noted) == 1_000


# Places -------------------------------------------------------------------------------------------------------------


def places(total: int, *, waiting: int = 10, wait_s: float = PATIENCE_S) -> Places:
    tenants = Tenants()
    tenants.add("a")
    tenants.add("b")
    made = (Shares(count, tenants, what="places") for count in (total, waiting))
    return Places(*made, wait_s=wait_s)


async def test_p29_a_place_that_is_given_back_goes_to_the_first_that_may_have_it(store_url: str) -> None:
    assert store_url
    made, order = places(2), []
    leave = {name: asyncio.Event() for name in ("a1", "a2", "b1", "b2", "a3")}

    async def hold(name: str) -> None:
        async with made.place(name[0]):
            order.append(name)
            await leave[name].wait()

    tasks = {}
    for name in leave:
        tasks[name] = asyncio.create_task(hold(name))
        await asyncio.sleep(0)
    assert order == ["a1", "b1"], "each has one of two"
    leave["b1"].set()
    await tasks["b1"]
    await asyncio.sleep(0)
    assert order == ["a1", "b1", "b2"], "the first tenant has its share"
    tasks["a2"].cancel()
    leave["a1"].set()
    await asyncio.wait((tasks["a1"], tasks["a2"]))
    await asyncio.sleep(0)
    assert order == ["a1", "b1", "b2", "a3"]
    for event in leave.values():
        event.set()
    await asyncio.gather(tasks["a3"], tasks["b2"])
    async with made.place("a"), made.place("b"):
        pass


async def test_p29_the_error_after_too_long_a_wait_for_a_place_says_whose_fault_it_is(store_url: str) -> None:
    assert store_url
    made = places(2, wait_s=0.01)
    async with made.place("a"):
        with pytest.raises(OverShareError):
            async with made.place("a"):
                pass
        async with made.place("b"):
            with pytest.raises(NoRoomError):
                async with made.place("c"):
                    pass


# Reads --------------------------------------------------------------------------------------------------------------

READS: Final = [
    ("GET", api.WORKERS, None),
    ("GET", f"{api.WORKERS}/w", None),
    ("GET", "/api/v1/status", None),
    ("GET", "/api/v1/events", None),
    ("GET", "/api/v1/incidents", None),
    ("GET", "/api/v1/incidents/inc_1", None),
    ("POST", "/api/v1/incidents/inc_1/ack", {}),
    ("GET", "/api/v1/silences", None),
    ("GET", "/api/v1/silences/sil_1", None),
    ("DELETE", "/api/v1/silences/sil_1", None),
    ("POST", "/api/v1/silences", {"matchers": {"worker_id": "w"}, "for_seconds": 60}),
    ("GET", "/api/v1/deliveries", None),
    ("GET", "/api/v1/deliveries/ntf_1", None),
    ("POST", "/api/v1/deliveries/ntf_1/replay", {}),
    ("POST", "/api/v1/deliveries/ntf_1/drop", {}),
    ("GET", "/api/v1/events/e1/outcomes", None),
    ("GET", "/api/v1/receivers", None),
]


async def test_p29_reads_of_one_tenant_leave_places_for_another_and_are_no_trouble_of_the_store(store_url: str) -> None:
    async with site(store_url, wait_s=0.01) as lastseen, AsyncExitStack() as stack:
        client, reads = lastseen.http.client, lastseen.shared.reads
        await lastseen.http.sweep()

        async def statuses(tenant: str) -> set[int]:
            headers = lastseen.http.auth(tenant)
            answers = [await client.request(how, path, json=body, headers=headers) for how, path, body in READS]
            assert "store" not in " ".join(one.text for one in answers if one.status_code in {429, 503})
            return {answer.status_code for answer in answers}

        for _ in range(READS_AT_ONCE // 2):
            await stack.enter_async_context(reads.place("acme"))
        assert await statuses("acme") == {429}
        assert not await statuses("globex") & {429, 503}
        for number in range(READS_AT_ONCE // 2):
            await stack.enter_async_context(reads.place(f"other-{number}"))
        assert await statuses("globex") == {503}
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert (await lastseen.http.beat("w")).status_code == 204


async def test_p29_large_answers_that_one_tenant_does_not_take_leave_room_for_another(store_url: str) -> None:
    async with site(store_url, answer_bytes=400_000) as lastseen:
        client, answers = lastseen.http.client, lastseen.shared.answers
        for tenant in ("acme", "globex"):
            for number in range(6):
                metadata = {"x": "y" * 15_000}
                await lastseen.http.beat(f"w{number}", tenant=tenant, worker_metadata=metadata)
        answers.acquire("acme", 150_000)
        refused = await client.get(api.WORKERS)
        assert refused.status_code == 429
        assert refused.json()["detail"] == "the tenant's share of bytes of large answers is used up"
        taken = await client.get(api.WORKERS, headers=lastseen.http.auth("globex"))
        assert len(taken.json()["workers"]) == 6
        assert answers.free == 250_000
        assert lastseen.met == [(Limit.ANSWER_BYTES, "acme")]


async def test_p29_reads_that_take_all_connections_for_reads_hold_up_neither_health_nor_alerts(store_url: str) -> None:
    async with api.running(store_url, timeout_s=0.3) as lastseen, AsyncExitStack() as stack:
        await lastseen.beat("w")
        await lastseen.sweep()
        for _ in range(READERS):
            await stack.enter_async_context(lastseen.store.connection._reads)
        refused = await lastseen.client.get(api.WORKERS)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["detail"] == "too many reads at once"
        assert (await lastseen.client.get("/healthz")).json() == {"status": "ok", "reasons": []}
        assert 'lastseen_workers{liveness="alive"} 1.0' in (await lastseen.client.get("/metrics")).text
        _, _, worker = await lastseen.store.inside().get(WorkerKey("acme", "w"))
        assert worker is not None
        assert (await lastseen.store.inside().environment_health("acme", "prod")).expected == 1
        silence = {"matchers": {"worker_id": "w"}, "for_seconds": 60}
        added = await lastseen.client.post("/api/v1/silences", json=silence)
        assert added.status_code == 201, "it is there"
        assert added.json()["warnings"] == ["could not check whether any worker matches"]


async def test_p29_concurrent_callers_of_the_health_share_one_call(store_url: str) -> None:
    assert store_url
    begun: list[int] = []
    gate = asyncio.Event()

    async def call() -> int:
        begun.append(len(begun))
        await gate.wait()
        if len(begun) == 2:
            raise StoreUnavailableError("no")
        return begun[-1]

    coalesced = CoalescedCall(call, name="call")
    first = asyncio.create_task(coalesced())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(coalesced()) for _ in range(1_000)]
    await asyncio.sleep(0)
    later[0].cancel()
    gate.set()
    assert await first == 0
    ended = await asyncio.gather(*later[1:], return_exceptions=True)
    assert {type(one) for one in ended} == {StoreUnavailableError}, "they did not ask before the first had begun"
    assert begun == [0, 1]
    assert await coalesced() == 2


# The intake ---------------------------------------------------------------------------------------------------------


def of_tenant(tenant: str, worker_id: str, **changes: Any) -> Beat:
    return beat(worker_id, tenant=tenant, **changes)


def known(*names: str) -> Tenants:
    made = Tenants()
    for name in names:
        made.add(name)
    return made


async def test_p29_a_tenant_may_fill_half_of_the_queue_and_the_next_one_finds_room(store_url: str) -> None:
    refused: list[str] = []
    async with watched(store_url) as store:
        intake = Intake(
            store,
            capacity=10,
            lanes=1,
            on_moved=lambda _: None,
            tenants=known("acme", "globex"),
            on_refused=refused.append,
        )
        store.gate.clear()
        tasks = [asyncio.create_task(intake.apply(of_tenant("acme", "flying")))]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        tasks += [asyncio.create_task(intake.apply(of_tenant("acme", f"w{number}"))) for number in range(5)]
        await asyncio.sleep(0)
        for order in (intake.apply(of_tenant("acme", "over")), intake.apply(goodbye("w1"))):
            with pytest.raises(OverShareError, match="the tenant's share"):
                await order
        tasks += [asyncio.create_task(intake.apply(of_tenant("globex", f"w{number}"))) for number in range(2)]
        await asyncio.sleep(0)
        assert refused == ["acme"] * 2
        store.gate.set()
        assert all(isinstance(one, int) for one in await asyncio.gather(*tasks))


async def test_p29_of_what_waiting_beats_bring_a_tenant_may_have_half(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = Intake(
            store,
            capacity=1_000,
            capacity_bytes=10_000,
            lanes=1,
            on_moved=lambda _: None,
            tenants=known("acme", "globex"),
        )
        large = {"metadata_json": '"' + "x" * 2_000 + '"'}
        store.gate.clear()
        tasks = [asyncio.create_task(intake.apply(of_tenant("acme", "flying")))]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        tasks += [asyncio.create_task(intake.apply(of_tenant("acme", f"w{number}", **large))) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverShareError):
            await intake.apply(of_tenant("acme", "over", **large))
        tasks.append(asyncio.create_task(intake.apply(of_tenant("globex", "w", **large))))
        await asyncio.sleep(0)
        store.gate.set()
        assert all(isinstance(one, int) for one in await asyncio.gather(*tasks))


async def test_p29_what_a_tenant_had_waiting_counts_no_more_when_it_is_stored(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = Intake(
            store,
            capacity=1_000,
            capacity_bytes=10_000,
            lanes=1,
            on_moved=lambda _: None,
            tenants=known("acme", "globex"),
        )
        large = {"metadata_json": '"' + "x" * 2_000 + '"'}
        for tenant, other in (("acme", "globex"), ("globex", "acme")):
            store.gate.clear()
            store.called.clear()
            tasks = [asyncio.create_task(intake.apply(of_tenant(tenant, "flying")))]
            await asyncio.wait_for(store.called.wait(), PATIENCE_S)
            tasks += [
                asyncio.create_task(intake.apply(of_tenant(tenant, f"w{number}", **large))) for number in range(3)
            ]
            await asyncio.sleep(0)
            begun_s = asyncio.get_running_loop().time()
            errors: list[BaseException | None] = [OverShareError("")]
            while any(errors):  # what is held is counted 20 times a second
                assert asyncio.get_running_loop().time() - begun_s < PATIENCE_S, "the other tenant has nothing waiting"
                tasks.append(asyncio.create_task(intake.apply(of_tenant(other, "w", **large))))
                done, _ = await asyncio.wait(tasks[-1:], timeout=0.01)
                errors = [tasks.pop().exception() for _ in done]
            with pytest.raises(OverShareError):
                await intake.apply(of_tenant(tenant, "over", **large))
            store.gate.set()
            assert all(isinstance(one, int) for one in await asyncio.gather(*tasks))


async def test_p29_a_slow_queue_is_full_first_for_the_tenant_that_fills_it(store_url: str) -> None:
    async with watched(store_url, timeout_s=0.8) as store:
        intake = Intake(store, capacity=1_000, lanes=1, on_moved=lambda _: None, tenants=known("acme", "globex"))
        loop = asyncio.get_running_loop()
        store.gate.clear()
        tasks = [asyncio.create_task(intake.apply(of_tenant("acme", "flying")))]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        tasks += [asyncio.create_task(intake.apply(of_tenant("acme", f"w{number}"))) for number in range(3)]
        await asyncio.sleep(0)
        begun_s = loop.time()
        errors: list[type[BaseException | None]] = []
        while not errors:
            more = asyncio.create_task(intake.apply(of_tenant("acme", "more")))
            done, _ = await asyncio.wait((more,), timeout=0.01)
            tasks += [] if done else [more]
            errors = [type(one.exception()) for one in done]
        assert errors == [OverShareError]
        assert 0.35 < loop.time() - begun_s < 0.6
        tasks.append(asyncio.create_task(intake.apply(of_tenant("globex", "w"))))
        await asyncio.sleep(0)
        assert not tasks[-1].done(), "it is taken in"
        store.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(tasks[-1].result(), int)


async def test_p28_a_tenant_alone_may_have_the_whole_queue_and_is_then_answered_503(store_url: str) -> None:
    async with watched(store_url) as store:
        intake = Intake(store, capacity=4, lanes=1, on_moved=lambda _: None, tenants=known("acme"))
        store.gate.clear()
        tasks = [asyncio.create_task(intake.apply(of_tenant("acme", "flying")))]
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        tasks += [asyncio.create_task(intake.apply(of_tenant("acme", f"w{number}"))) for number in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(IntakeFullError):
            await intake.apply(of_tenant("acme", "over"))
        store.gate.set()
        await asyncio.gather(*tasks)


# Evidence -----------------------------------------------------------------------------------------------------------


async def test_p28_p29_evidence_of_a_share_that_is_used_up_moves_the_workers_own_deadline(store_url: str) -> None:
    async with api.running(store_url) as lastseen:
        for tenant in ("acme", "globex"):
            assert (await lastseen.beat("w", tenant=tenant)).status_code == 204
        worker = await lastseen.json(f"{api.WORKERS}/w")
        await lastseen.advance(int(1_000 * worker["interval_seconds"]))
        key = WorkerKey("acme", "w")
        evidence = [Evidence(key=key, allowed=None, rejection=Rejection.OVER_SHARE, subject="s")]
        await lastseen.store.evidence(lastseen.store.partition_of(key), evidence)
        later = await lastseen.json(f"{api.WORKERS}/w")
        assert later["deadline"] > worker["deadline"]
        assert later["rejected"]["reason"] == "the tenant's share is used up"
        other = await lastseen.json(f"{api.WORKERS}/w", **lastseen.auth("globex"))
        assert other["deadline"] == worker["deadline"] or other["rejected"] is None


async def test_p29_evidence_of_one_tenant_leaves_places_for_another_and_hides_no_deaths(store_url: str) -> None:
    async with opened(store_url) as store:
        now_s, metrics = 100.0, Metrics(version="test")
        recorder = Recorder(store, metrics=metrics, tenants=known("acme", "globex"), elapsed_s=lambda: now_s)

        def note(tenant: str, number: int) -> None:
            key = WorkerKey(tenant, f"w{number}")
            recorder.note(Evidence(key=key, allowed=None, rejection=Rejection.OVERLOADED, subject="s"))

        for number in range(2 * MOST_PENDING):
            note("acme", number)
        assert recorder.oldest_s() == 0, "what was dropped was above its share: the monitor is not blind"
        for number in range(MOST_PENDING // 4):
            note("globex", number)
        assert recorder.oldest_s() == 0
        for tenant in range(100):
            for number in range(1_000):
                note(f"t{tenant}", number)
        note("late", 1)
        assert recorder.oldest_s() > 1_000, "now all of it is used up"
        await recorder.flush()
        now_s += 2
        for _ in range(3):
            recorded = values(metrics)["lastseen_evidence_total,outcome=recorded"]
            for number in range(MOST_PENDING // 2):
                note("acme", number)
            assert recorder.oldest_s() == 0
            await recorder.flush()
            recorded = values(metrics)["lastseen_evidence_total,outcome=recorded"] - recorded
            assert recorded == MOST_PENDING // 2, "its share is its own again and again"
            now_s += 1


# Disconnects and the log --------------------------------------------------------------------------------------------


async def test_p29_disconnects_pass_the_rates_of_beats_apart_from_beats(store_url: str) -> None:
    rates = BeatRates(worker=Rate(per_s=1, burst=2), tenant=Rate(per_s=1, burst=6), batch=10)
    noted: list[Evidence] = []
    services = {"admission": Admission(rates, now_ns=lambda: NS), "rejected_beats": RejectedBeats(noted.append)}
    async with api.running(store_url, services=services) as lastseen:

        async def disconnect(worker_id: str, tenant: str = "acme") -> httpx2.Response:
            body = {"reason": "crash", "exit_code": 1}
            path = f"{api.WORKERS}/{worker_id}/disconnect"
            return await lastseen.client.post(path, json=body, headers=lastseen.auth(tenant))

        assert [(await lastseen.beat("w")).status_code for _ in range(3)] == [204, 204, 429]
        noted.clear()
        assert [(await disconnect("w")).status_code for _ in range(2)] == [204, 204], "beats have not used it up"
        with structlog.testing.capture_logs() as lines:
            refused = await disconnect("w")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert not noted, "who says that it has died is not alive"
        assert [(one["event"], one["worker_id"], one["reason"]) for one in lines] == [
            ("beat.refused", "w", "disconnect rate limited")
        ]
        await lastseen.beat("v")
        assert [(await disconnect("v")).status_code for _ in range(2)] == [204, 429], "of the tenant's six"
        assert (await disconnect("u", "globex")).status_code == 204


async def test_a_refused_beat_is_logged_once_for_its_worker_and_reason(store_url: str) -> None:
    async with api.running(store_url, workers_per_tenant=1) as lastseen:
        await lastseen.beat("w")
        narrow = lastseen.auth(worker_id="w")
        bodies = [
            {"worker_id": "new", "environment_name": "prod"},
            {"worker_id": "bad"},
            {"worker_id": "other", "environment_name": "prod"},
        ]
        with structlog.testing.capture_logs() as lines:
            for _ in range(10):
                await lastseen.client.post(api.BEAT, json=bodies[0])
                await lastseen.client.post(BATCH, json=bodies[:2])
                await lastseen.client.post(api.BEAT, json=bodies[2], headers=narrow)
                await lastseen.client.post(api.BEAT, json=bodies[2], headers={"authorization": "Bearer a.b.c"})
                await lastseen.client.post(BATCH, content=b"no json", headers={"content-type": "application/json"})
        named = [(one["tenant"], one["worker_id"], one["reason"]) for one in lines if one["event"] == "beat.refused"]
        assert named == [
            ("acme", "new", "over a quota"),
            ("acme", "bad", "malformed body"),
            ("acme", None, "forbidden"),
            (None, None, "malformed"),
            ("acme", None, "malformed body"),
        ]


async def test_p29_log_lines_about_refused_beats_are_bounded_by_tenant(store_url: str) -> None:
    assert store_url
    now_ns = NS
    refused = RefusedBeats(now_ns=lambda: now_ns)
    with structlog.testing.capture_logs() as lines:
        for number in range(1_000):
            refused.log("acme", f"w{number}", "quota")
        assert len(lines) == 20
        refused.log("globex", "w1", "quota")
        assert len(lines) == 21, "a worker of the same name under another tenant is another one"
        now_ns += 5 * NS
        refused.log("acme", "w1", "quota")
        assert len(lines) == 21, "it was logged already"
        refused.log("acme", "w1", "rate limited")
        assert len(lines) == 22
        for hours in (1, 2):
            now_ns += 3_600 * NS
            refused.log("acme", "w1", "quota")
            assert len(lines) == 22 + hours, "an hour later it is logged again"
