"""A real daemon whose way to its store breaks in every way that we know: what it said of each beat stays true."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.asyncio import Redis

from monitor.events import Event
from monitor.store import Store
from monitor.workers import WorkerKey, partition_of
from tests.support.daemons import ANY_PORT, Daemon, Home, call, until
from tests.support.fleets import Connection, beating, check_kept, events_of
from tests.support.proxies import BOTH, CutAnswer, CutRequest, Proxy, Way, proxied
from tests.support.stores import opened

TIMEOUT_S: Final = 0.5
CONFIG: Final = (
    f'{ANY_PORT}[store]\nurl = "%s"\ntimeout = "500ms"\n'
    '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
    '[liveness]\ninterval = "%s"\ngrace = "%s"\nsweep_interval = "200ms"\n'
    "[alerts.mass_failure]\nenabled = false\n"
    "[limits]\nworker_beats_per_second = 0\n"  # these send again at once
)
FAULTS: Final[dict[str, Callable[[Proxy], None]]] = {
    "slow": lambda proxy: proxy.delay_s.update(dict.fromkeys(BOTH, 0.05)),
    "black hole": lambda proxy: proxy.stall(),
    "requests held": lambda proxy: proxy.stall(Way.REQUESTS),
    "answers held": lambda proxy: proxy.stall(Way.ANSWERS),
    "cut before the store has it": lambda proxy: proxy.plan(CutRequest()),
    "cut in the middle of the request": lambda proxy: proxy.plan(CutRequest(passed_bytes=20)),
    "cut after the write": lambda proxy: proxy.plan(CutAnswer()),
    "cut in the middle of the answer": lambda proxy: proxy.plan(CutAnswer(passed_bytes=3)),
    "cut": lambda proxy: proxy.cut(),
    "the way to the store ends": lambda proxy: proxy.half_close(Way.REQUESTS),
    "the way back ends": lambda proxy: proxy.half_close(Way.ANSWERS),
}
"""For every command of every part of the daemon."""


@asynccontextmanager
async def broken(
    home: Home, store_url: str, *, interval: str = "1h", grace: str = "1h"
) -> AsyncIterator[tuple[Daemon, Proxy, Store]]:
    """A daemon on a store behind a proxy, which accepts beats, and the way past the proxy. It ends well."""
    async with proxied(store_url) as proxy:
        home.write(secrets.token_hex(32), "token-secret")
        home.write(CONFIG % (proxy.url, interval, grace))
        daemon = await asyncio.to_thread(home.start)
        async with opened(store_url) as direct:
            yield daemon, proxy, direct
        await proxy.heal()
        assert daemon.process.poll() is None
        assert daemon.lines("request.failed") + daemon.lines("loop.error") + daemon.lines("http.shortcut_failed") == []
        await asyncio.to_thread(daemon.stop)


async def test_p10_no_fault_between_daemon_and_store_loses_an_acknowledged_beat(
    empty_home: Home, store_url: str
) -> None:
    chance = random.Random(3)  # noqa: S311 - a plan, not a secret
    async with broken(empty_home, store_url) as (daemon, proxy, direct):
        async with beating(daemon.port, empty_home.master, size=32, timeout_s=TIMEOUT_S) as fleet:
            for name in chance.sample(sorted(FAULTS), len(FAULTS)):
                FAULTS[name](proxy)
                await fleet.more(2)
                if chance.random() < 0.7:
                    await proxy.heal()
                    await fleet.all_acknowledged()
            await proxy.refuse()
            proxy.cut()
            await fleet.more(1, 503)
            await asyncio.to_thread(until, lambda: call(daemon.url, "GET", "/readyz").status == 503, "not ready")
            assert (await asyncio.to_thread(call, daemon.url, "GET", "/livez")).status == 200
            await proxy.heal()
        assert fleet.answers[503] > 0
        await check_kept(fleet, direct)
        await asyncio.to_thread(until, lambda: call(daemon.url, "GET", "/readyz").status == 200, "ready again")


async def test_p3_a_daemon_whose_answers_are_lost_reports_each_silence_once(empty_home: Home, store_url: str) -> None:
    names = [f"w-{number}" for number in range(40)]
    expected = {name: ["worker.registered", "worker.stale"] for name in names}
    async with broken(empty_home, store_url, interval="1s", grace="1s") as (daemon, proxy, direct):
        connection = await Connection.to(daemon.port, empty_home.master)
        for name in names:
            assert (await connection.beat(name)).status == 204
        connection.close()
        proxy.plan(CutAnswer(match=b"_sweep\r\n"))
        async with asyncio.timeout(30):
            while kinds_of(await events_of(direct)) != expected:
                cuts = len(proxy.cut_commands)
                await proxy.until(lambda cuts=cuts: len(proxy.cut_commands) > cuts, "another sweep")  # type: ignore[misc]
        await proxy.heal()
        sweeps = proxy.seen(b"_sweep\r\n")
        await proxy.until(lambda: proxy.seen(b"_sweep\r\n") > sweeps + 2, "two more sweeps")
        assert kinds_of(await events_of(direct)) == expected
        # And each was delivered once, to the log, whatever became of the answers of the sweeps.
        await asyncio.to_thread(daemon.wait_for, "notification", count=len(names), type="worker.stale")
        notified = [line["worker_id"] for line in daemon.lines("notification", type="worker.stale")]
        assert sorted(notified) == sorted(names)


def kinds_of(events: list[Event]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event.worker_id, []).append(event.kind.value)
    return found


async def test_p22_a_damaged_partition_is_named_and_the_others_take_beats_and_are_swept(
    empty_home: Home, store_url: str
) -> None:
    empty_home.write(secrets.token_hex(32), "token-secret")
    empty_home.write((CONFIG % (store_url, "1s", "1s")).replace("timeout", "partitions = 2\ntimeout", 1))
    daemon = await asyncio.to_thread(empty_home.start)
    names = [next(f"w{n}" for n in range(99) if partition_of(WorkerKey("acme", f"w{n}"), 2) == at) for at in (0, 1)]
    assert [daemon.beat(name).status for name in names] == [204, 204]
    async with Redis.from_url(store_url) as redis:
        await redis.set("{ls:0}:meta", "damaged")
    assert [daemon.beat(name).status for name in names] == [503, 204]
    await asyncio.to_thread(until, lambda: "failing" in daemon.call("GET", "/healthz").json(), "it is named")
    health = daemon.call("GET", "/healthz").json()
    assert (health["failing"], "store_unavailable" in health["reasons"]) == (["partition 0"], True)
    assert daemon.call("GET", "/readyz").status == 200
    await asyncio.to_thread(daemon.wait_for, "worker.stale", worker_id=names[1])
    assert daemon.lines("sweep.store_unavailable", partition=0)
    assert daemon.lines("sweep.store_unavailable", partition=1) == []
    daemon.stop()
