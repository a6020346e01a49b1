"""Correct answers under faults: the real HTTP server over a real store, with a proxy between them that injects faults.

Whatever the fault, a beat that was answered 2xx is in the store. Every other beat was refused within the time limit.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from monitor.api.app import create_app
from monitor.api.fast_path import FastPath
from monitor.events import Moved
from monitor.http.server import HttpServer, listen
from monitor.intake.queue import LANES, Intake
from monitor.liveness import EventKind, Liveness
from monitor.store import Store
from monitor.sweeper import Sweeper, SweepSettings
from tests.support import api
from tests.support.fleets import Connection, Reply, beating, check_kept, events_of, tasks_of
from tests.support.proxies import BOTH, CutAnswer, CutRequest, Proxy, Way, proxied
from tests.support.stores import GRACE_MS, INTERVAL_MS, ManualClock, beat, opened

BEAT: Final = b"_beat\r\n"
DISCONNECT: Final = b"_disconnect\r\n"
DELETE: Final = b"_delete\r\n"
SWEEP: Final = b"_sweep\r\n"
TIMEOUT_S: Final = 0.5
LONG_S: Final = 20.0
"""A time limit that no test reaches: what is answered meanwhile was not answered because of it."""
FLEET: Final = 24
PARTITIONS: Final = 2
MANY: Final[dict[str, Any]] = {"workers_per_tenant": 1_000_000, "partitions": PARTITIONS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A server whose store is behind a proxy, and the way past it."""

    proxy: Proxy
    port: int
    token: str
    direct: Store
    connections: list[Connection] = field(default_factory=list)
    """Those that were made here; they are closed in the end."""

    async def connect(self) -> Connection:
        connection = await Connection.to(self.port, self.token)
        self.connections.append(connection)
        return connection

    async def turned(self) -> None:
        """Return when the server has read what was sent to it before."""
        connection = await Connection.to(self.port, self.token)
        assert (await connection.ask("GET", "/livez")).status == 200
        connection.close()

    async def stored(self) -> dict[str, int]:
        return await tasks_of(self.direct)

    async def kinds(self, worker_id: str) -> list[EventKind]:
        return [event.kind for event in await events_of(self.direct) if event.worker_id == worker_id]

    async def send(self, *worker_ids: str) -> dict[str, asyncio.Task[Reply]]:
        """A beat of each, over a connection of its own, which the server has read."""
        tasks = {name: asyncio.create_task((await self.connect()).beat(name)) for name in worker_ids}
        await self.turned()
        return tasks


@asynccontextmanager
async def site(
    url: str,
    *,
    capacity: int = 10_000,
    lanes: int = LANES,
    connections: int = 1_000,
    with_fast_path: bool = True,
    kernel_bytes: int | None = None,
    **settings: Any,
) -> AsyncIterator[Site]:
    """A server as the daemon has it. ``kernel_bytes``: so much the kernel holds for each connection, about."""
    settings = {"timeout_s": TIMEOUT_S, **settings}
    async with proxied(url) as proxy, opened(proxy.url, **settings) as store, opened(url, **settings) as direct:
        services = api.make_services(store)
        intake = Intake(store, capacity=capacity, lanes=lanes, on_moved=services.metrics.moved)
        services = api.make_services(store, intake=intake)
        listener = listen("127.0.0.1", 0)
        if kernel_bytes is not None:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                listener.setsockopt(socket.SOL_SOCKET, option, kernel_bytes)
        server = HttpServer(
            create_app(services),
            connections=connections,
            shutdown_timeout_ms=2_000,
            fast_path=FastPath(services) if with_fast_path else None,
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await asyncio.wait_for(server.accepting.wait(), 10)
            token = api.token(store.clock.now_ms())
            running = Site(proxy=proxy, port=listener.getsockname()[1], token=token, direct=direct)
            try:
                yield running
            finally:
                for connection in running.connections:
                    connection.close()
        finally:
            await proxy.heal()
            server.should_exit = True
            await serving
            await intake.drain()


async def answers(tasks: dict[str, asyncio.Task[Reply]]) -> dict[str, int]:
    """What each was answered; a refusal has to say when to come again."""
    replies = {name: await task for name, task in tasks.items()}
    assert all(reply.is_refusal for reply in replies.values() if reply.status != 204), replies
    return {name: reply.status for name, reply in replies.items()}


# One fault at a time ------------------------------------------------------------------------------------------------


def slow(proxy: Proxy) -> None:
    proxy.delay_s = dict.fromkeys(BOTH, 0.02)


async def refused(proxy: Proxy) -> None:
    await proxy.refuse()
    proxy.cut()


FAULTS: Final[dict[str, Callable[[Proxy], Awaitable[None] | None]]] = {
    "cut before the store has it": lambda proxy: proxy.plan(CutRequest(match=BEAT)),
    "cut in the middle of the request": lambda proxy: proxy.plan(CutRequest(match=BEAT, passed_bytes=50)),
    "cut after the write": lambda proxy: proxy.plan(CutAnswer(match=BEAT)),
    "cut in the middle of the answer": lambda proxy: proxy.plan(CutAnswer(match=BEAT, passed_bytes=5)),
    "black hole": lambda proxy: proxy.stall(),
    "requests held": lambda proxy: proxy.stall(Way.REQUESTS),
    "answers held": lambda proxy: proxy.stall(Way.ANSWERS),
    "refused": refused,
}


PASSING: Final[dict[str, Callable[[Proxy], None]]] = {
    "cut": lambda proxy: proxy.cut(),
    "the way to the store ends": lambda proxy: proxy.half_close(Way.REQUESTS),
    "the way back ends": lambda proxy: proxy.half_close(Way.ANSWERS),
}
"""Short faults."""


async def begin(fault: Callable[[Proxy], Awaitable[None] | None], proxy: Proxy) -> None:
    begun = fault(proxy)
    if begun is not None:
        await begun


@pytest.mark.parametrize("with_fast_path", [True, False])
@pytest.mark.parametrize("name", FAULTS)
async def test_p10_a_fault_refuses_what_it_keeps_from_the_store_and_ends_without_a_restart(
    store_url: str,
    name: str,
    with_fast_path: bool,  # noqa: FBT001 - a case of the test
) -> None:
    async with site(store_url, with_fast_path=with_fast_path, **MANY) as lastseen:
        async with beating(lastseen.port, lastseen.token, size=FLEET, timeout_s=TIMEOUT_S) as fleet:
            await begin(FAULTS[name], lastseen.proxy)
            await fleet.more(3, 503)
            await lastseen.proxy.heal()
        await check_kept(fleet, lastseen.direct)


async def test_p10_a_slow_network_refuses_nothing(store_url: str) -> None:
    async with site(store_url, timeout_s=LONG_S, **MANY) as lastseen:
        async with beating(lastseen.port, lastseen.token, size=FLEET, timeout_s=LONG_S) as fleet:
            slow(lastseen.proxy)
            await fleet.more(10)
        assert fleet.answers[503] == 0
        await check_kept(fleet, lastseen.direct)


@pytest.mark.parametrize("name", PASSING)
async def test_p10_connections_that_are_lost_again_and_again_lose_no_beat(store_url: str, name: str) -> None:
    async with site(store_url, **MANY) as lastseen:
        async with beating(lastseen.port, lastseen.token, size=FLEET, timeout_s=TIMEOUT_S) as fleet:
            for _ in range(30):
                PASSING[name](lastseen.proxy)
                await fleet.more(1)
        await check_kept(fleet, lastseen.direct)


@pytest.mark.parametrize("seed", range(4))
async def test_p10_no_sequence_of_faults_loses_an_acknowledged_beat(store_url: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a plan, not a secret
    faults = {**FAULTS, **PASSING, "slow": slow}
    async with site(store_url, **MANY) as lastseen:
        async with beating(lastseen.port, lastseen.token, size=FLEET, timeout_s=TIMEOUT_S, seed=seed) as fleet:
            for _ in range(12):
                await begin(faults[chance.choice(sorted(faults))], lastseen.proxy)
                if chance.random() < 0.6:
                    await fleet.more(chance.randint(1, 2))
                if chance.random() < 0.5:
                    await lastseen.proxy.heal()
                    await fleet.more(1)
            await lastseen.proxy.heal()
        assert fleet.answers[503] > 0
        await check_kept(fleet, lastseen.direct)


# An unknown outcome -------------------------------------------------------------------------------------------------


async def test_p9_p10_a_beat_whose_answer_is_lost_is_refused_and_sending_it_again_is_harmless(store_url: str) -> None:
    async with site(store_url) as lastseen:
        connection = await lastseen.connect()
        lastseen.proxy.plan(CutAnswer(match=BEAT))
        assert (await connection.beat("w", tasks_processed=7)).is_refusal
        assert await lastseen.stored() == {"w": 7}
        [before] = [worker for worker in [await one(lastseen.direct, "w")] if worker]
        assert (await connection.beat("w", tasks_processed=7)).is_refusal
        await lastseen.proxy.heal()
        assert (await connection.beat("w", tasks_processed=7)).status == 204
        after = await one(lastseen.direct, "w")
        assert (after.generation, after.seq) == (before.generation, before.seq)
        assert after.last_seen_ms >= before.last_seen_ms
        assert await lastseen.kinds("w") == [EventKind.REGISTERED]


async def one(store: Store, worker_id: str) -> Any:
    _, _, worker = await store.get(beat(worker_id).key)
    assert worker is not None
    return worker


async def test_p9_what_a_healed_network_delivers_late_takes_nothing_back(store_url: str) -> None:
    async with site(store_url) as lastseen:
        connection = await lastseen.connect()
        assert (await connection.beat("w")).status == 204
        lastseen.proxy.stall(Way.REQUESTS)
        assert (await connection.beat("w")).is_refusal
        assert (await connection.beat("new")).is_refusal
        await lastseen.proxy.heal()
        for _ in range(20):
            last = await one(lastseen.direct, "w")
            assert (await connection.beat("w")).status == 204
            now = await one(lastseen.direct, "w")
            assert (now.generation, now.seq) == (last.generation, last.seq)
            assert now.last_seen_ms >= last.last_seen_ms
        assert await lastseen.kinds("w") == [EventKind.REGISTERED]
        assert (await lastseen.kinds("new")) in ([], [EventKind.REGISTERED])


# Which requests are refused -----------------------------------------------------------------------------------------


async def test_exactly_the_members_of_a_failed_batch_are_refused_and_later_beats_are_taken(store_url: str) -> None:
    async with site(store_url, timeout_s=LONG_S, lanes=1) as lastseen:
        lastseen.proxy.stall()
        first = await lastseen.send("first")
        await lastseen.proxy.until(lambda: lastseen.proxy.seen(b"first"), "the first call")
        rest = await lastseen.send("a", "doomed", "b")
        lastseen.proxy.plan(CutRequest(match=b"doomed"))
        lastseen.proxy.flow()
        answered = await answers(first | rest)
        members = {name for name in answered for command in lastseen.proxy.cut_commands if name.encode() in command}
        assert {"doomed"} < members < set(answered)
        assert answered == {name: 503 if name in members else 204 for name in answered}
        assert await answers(await lastseen.send("later")) == {"later": 204}
        assert set(await lastseen.stored()) == (set(answered) | {"later"}) - members


async def test_a_client_that_goes_away_takes_no_other_client_of_its_batch_with_it(store_url: str) -> None:
    async with site(store_url, timeout_s=LONG_S) as lastseen:
        lastseen.proxy.stall()
        gone = [await lastseen.connect() for _ in range(4)]
        tasks: dict[str, asyncio.Task[Reply]] = {}
        for number, connection in enumerate(gone):
            body = {"worker_id": f"gone-{number}", "environment_name": "prod"}
            connection.send("POST", api.BEAT, body)
            tasks |= await lastseen.send(f"stays-{number}")
        gone[0].close()
        gone[1].writer.transport.abort()
        gone[2].writer.write_eof()
        gone[3].send("GET", "/livez", None)  # is not even gone
        await lastseen.turned()
        lastseen.proxy.flow()
        assert await answers(tasks) == dict.fromkeys(tasks, 204)
        assert set(await lastseen.stored()) >= {*tasks, "gone-3"}
        assert ((await gone[3].reply()).status, (await gone[3].reply()).status) == (204, 200)


async def test_p28_a_full_intake_refuses_at_once_and_takes_beats_again_when_the_store_does(store_url: str) -> None:
    async with site(store_url, capacity=5, timeout_s=LONG_S, lanes=1) as lastseen:
        lastseen.proxy.stall()
        tasks = await lastseen.send("first")
        await lastseen.proxy.until(lambda: lastseen.proxy.seen(b"first"), "the first call")
        for number in range(20):
            tasks |= await lastseen.send(f"w-{number}")
        # Nothing has come from the store, and its time limit is far away.
        answered = await answers({name: task for name, task in tasks.items() if task.done()})
        assert set(answered.values()) == {503}
        assert 1 + len(answered) + 5 in {len(tasks), len(tasks) + 1}
        lastseen.proxy.flow()
        kept = await answers({name: task for name, task in tasks.items() if name not in answered})
        assert set(kept.values()) == {204}
        assert set(await lastseen.stored()) == set(kept)
        again = await answers(await lastseen.send(*answered))
        assert 204 in again.values()
        for name in answered:
            assert await answers(await lastseen.send(name)) == {name: 204}


# Disconnects and deletions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [CutRequest(match=DISCONNECT), CutAnswer(match=DISCONNECT)])
async def test_p10_a_disconnect_that_is_not_known_to_be_stored_is_refused_and_is_recorded_once(
    store_url: str, cut: CutRequest | CutAnswer
) -> None:
    path = "/api/v1/workers/w/disconnect"
    async with site(store_url) as lastseen:
        connection = await lastseen.connect()
        assert (await connection.beat("w")).status == 204
        lastseen.proxy.plan(cut)
        assert (await connection.ask("POST", path, {"reason": "crash", "exit_code": 1})).is_refusal
        await lastseen.proxy.heal()
        assert (await connection.ask("POST", path, {"reason": "crash", "exit_code": 1})).status == 204
        assert await lastseen.kinds("w") == [EventKind.REGISTERED, EventKind.FAILED]


@pytest.mark.parametrize(("cut", "again"), [(CutRequest(match=DELETE), 204), (CutAnswer(match=DELETE), 404)])
async def test_an_erasure_is_sent_at_most_once(store_url: str, cut: CutRequest | CutAnswer, again: int) -> None:
    async with site(store_url) as lastseen:
        connection = await lastseen.connect()
        assert (await connection.beat("w")).status == 204
        lastseen.proxy.plan(cut)
        assert (await connection.ask("DELETE", f"{api.WORKERS}/w")).is_refusal
        assert lastseen.proxy.seen(DELETE) == 1
        await lastseen.proxy.heal()
        assert (await connection.ask("DELETE", f"{api.WORKERS}/w")).status == again
        assert await lastseen.kinds("w") == [EventKind.REGISTERED, EventKind.FORGOTTEN]


# The sweeper --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_p3_a_sweep_whose_answers_are_lost_records_each_silence_once(store_url: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a plan, not a secret
    names = {f"w{k:03}" for k in range(300)}
    values = SweepSettings(chunk=20, retention_ms=3_600_000, event_retention_ms=3_600_000, events=1_000_000)
    async with (
        proxied(store_url) as proxy,
        opened(proxy.url, timeout_s=0.2, **MANY) as store,
        opened(store_url, **MANY) as direct,
    ):
        for partition in range(PARTITIONS):
            own = [one for one in map(beat, sorted(names)) if direct.partition_of(one.key) == partition]
            last = await direct.beat(partition, own)
        await ManualClock(store_url, PARTITIONS).set(last.now_ms + INTERVAL_MS + GRACE_MS)
        moved: list[Moved] = []
        sweeper = Sweeper(store, values, on_moved=moved.extend)
        plans = (
            CutRequest(match=SWEEP),
            CutAnswer(match=SWEEP, skip=1),
            CutAnswer(match=SWEEP, passed_bytes=9),
            CutAnswer(match=SWEEP, skip=2, times=1),
        )
        for _ in range(12):
            proxy.plan(chance.choice(plans))
            if chance.random() < 0.2:
                proxy.stall(chance.choice(BOTH))
            await sweeper.sweep()
            await proxy.heal()
        await sweeper.sweep()
        counts = (await direct.count_workers("acme")).environments["prod"]
        assert {state: count for state, count in counts.items() if count} == {Liveness.STALE: len(names)}
        events = [(event.worker_id, event.kind, event.seq) for event in await events_of(direct)]
        expected = [(name, kind, seq) for name in names for seq, kind in enumerate(_OF_A_DEAD_WORKER, 1)]
        assert sorted(events) == sorted(expected)
        reported = [move.worker_id for move in moved]
        assert len(reported) == len(set(reported))
        assert proxy.cut_commands


_OF_A_DEAD_WORKER: Final = (EventKind.REGISTERED, EventKind.STALE)
