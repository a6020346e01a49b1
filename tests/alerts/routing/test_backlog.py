"""Ten thousand deaths that wait for the router, in one partition and in 16: from the worker store on."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from alerts.groups.classify import environment_key
from alerts.groups.mass_failure import Rule
from alerts.rendering.payload import Wording
from alerts.routing.routes import ENVIRONMENT_WAIT_MS, Route
from alerts.service import AlertService, AlertSettings
from alerts.store.group_store import Want
from alerts.store.tags import bases_of
from monitor.daemon.alerts import StoredFleet
from monitor.store import Store
from tests.support import servers
from tests.support.alerts_fakes import Inbox, Tally, until
from tests.support.stores import ManualClock, alert_store, beat, opened, outbox_of

WORKERS = 10_000
PARTITIONS = (1, 16)
NAMES = [f"w{number}" for number in range(WORKERS)]


class Backlog:
    """A fleet in a store, whose events no router has read yet."""

    def __init__(self, url: str, store: Store) -> None:
        self.store = store
        self.url = url
        self.clock = ManualClock(url, store.partitions)
        self.now_ms = 0

    async def beat(self) -> None:
        for partition in range(self.store.partitions):
            some = [beat(name, interval_ms=1_000, grace_ms=1_000) for name in NAMES]
            own = [one for one in some if self.store.partition_of(one.key) == partition]
            for at in range(0, len(own), 500):
                self.now_ms = (await self.store.beat(partition, own[at : at + 500])).now_ms

    async def wait(self, span_ms: int) -> None:
        self.now_ms += span_ms
        await self.clock.set(self.now_ms)
        for partition in range(self.store.partitions):
            await self.store.swept(partition)  # its answer carries the time

    async def sweep(self) -> None:
        for partition in range(self.store.partitions):
            while (await self.store.sweep(partition, limit=1_000)).more:
                pass

    @asynccontextmanager
    async def routed(self, ops: Inbox, rule: Rule | None) -> AsyncIterator[AlertService]:
        service = AlertService(
            AlertSettings(
                receivers=[ops],
                routes=[Route(receivers=("ops",), repeat_interval_ms=0)],
                wording=Wording(public_url="", redact=()),
                rule=rule,
            ),
            store=alert_store(self.url, partitions=self.store.partitions),
            source=await outbox_of(self.store),
            partitions=self.store.partitions,
            fleet=StoredFleet(self.store),
            now_ms=self.store.clock.now_ms,
            counts=Tally(),
        )
        await service.start()
        try:
            yield service
        finally:
            await service.stop(1)


@pytest.fixture(params=PARTITIONS, ids=lambda number: f"{number} partitions")
async def backlog(request: pytest.FixtureRequest) -> AsyncIterator[Backlog]:
    with servers.running(servers.valkey_binary()) as server:
        async with opened(server.url, partitions=request.param, workers_per_tenant=1_000_000) as store:
            made = Backlog(server.url, store)
            await made.beat()
            await made.wait(2_100)
            await made.sweep()
            yield made


async def left(url: str, partitions: int, name: str, receiver: str = "ops") -> int:
    """The entries of a hash of the receiver's groups, in all partitions and shards."""
    async with Redis.from_url(url) as redis:
        return sum([await redis.hlen(f"{base}to:{receiver}:{name}") for base in bases_of(partitions)])


async def test_p16_ten_thousand_deaths_and_returns_are_two_notifications(backlog: Backlog) -> None:
    ops = Inbox()
    async with backlog.routed(ops, Rule()) as service:

        async def firing() -> int:
            [seen] = await service.groups["ops"].read([Want(group=environment_key("acme", "prod"))])
            return 0 if seen.group is None else seen.group.firing

        async def all_fire() -> bool:
            return await firing() == WORKERS

        async def none_fires() -> bool:
            return await firing() == 0

        await until(all_fire, timeout_s=60)
        await backlog.wait(ENVIRONMENT_WAIT_MS)
        await until(lambda: bool(ops.accepted))
        await backlog.beat()
        service.wakeup()
        await until(none_fires, timeout_s=60)
        await until(lambda: len(ops.accepted) == 2)
        first = json.loads(ops.accepted[0].body)["data"]
        whole = await service.incidents.get("acme", first["incident_id"])
    assert [one.event_type for one in ops.accepted] == ["group.firing", "group.resolved"]
    assert first["counts"]["firing"] == WORKERS
    assert (whole.members, whole.members_open, whole.is_open) == (WORKERS, 0, False)
    assert await left(backlog.url, backlog.store.partitions, "groups") == 0
    assert await left(backlog.url, backlog.store.partitions, "bodies") == 0


async def test_p5_p6_a_backlog_of_ten_thousand_deaths_is_sent_one_by_one_each_once(backlog: Backlog) -> None:
    ops = Inbox()
    async with backlog.routed(ops, None):
        await until(lambda: len(ops.accepted) >= WORKERS, timeout_s=120)
    counts = Counter(json.loads(one.body)["data"]["worker_id"] for one in ops.accepted)
    assert counts == dict.fromkeys(NAMES, 1)
