"""What holds though the daemon is killed, at each point between an event and its outcome, and at any moment."""

import asyncio
import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import pytest
import redis
from aiohttp import web
from standardwebhooks import Webhook

from alerts.store.group_store import GroupStore
from tests.support import alerts_process, servers
from tests.support.alerts_fakes import SECRET, START_MS, Hook, nid_of, until, webhook_server
from tests.support.failpoints import POINTS, VARIABLE, failpoint
from tests.support.stores import alert_store

CONCURRENCY: Final = 8
"""Attempts in flight at one receiver: the number of outcomes that a crash may leave unknown."""
PARTITIONS: Final = (1, 4, 16)
LATER_MS: Final = 60_000
"""Longer than a lease."""


class Crashing:
    """A daemon's alerting half that is started again after each death."""

    def __init__(self, store_url: str, hook: Hook, *, workers: int, partitions: int) -> None:
        self._partitions = partitions
        self.store_url, self.durability = store_url, "fsync"
        self.hook = hook
        self._workers = workers
        self.deaths = 0
        self._starts = 0

    async def run(
        self, failpoint_text: str = "", *, kill_when: Callable[[], bool] | None = None, stage: int = 0
    ) -> bool:
        """Run until the process has sent every notification, or dies; return whether it has sent all.

        ``kill_when``: whether it is to be killed now. ``stage``: of
        ``alerts_process.stream``.
        """
        start_ms = START_MS + self._starts * LATER_MS
        self._starts += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.alerts_process",
            *(self.store_url, self.hook.url),
            *map(str, (start_ms, stage, self._workers, self._partitions, self.durability)),
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, VARIABLE: failpoint_text},
        )
        try:
            if kill_when is not None:
                await until(lambda: kill_when() or process.returncode is not None, timeout_s=60)
            else:
                async with asyncio.timeout(60):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        self.deaths += process.returncode != 0
        return process.returncode == 0

    def check_downs(self) -> None:
        """P5: each death has arrived, and nothing else."""
        assert set(self.hook.ids()) == {nid_of(item) for item in alerts_process.stream(self._workers, 0)}

    def check_ends(self) -> int:
        """P7 and P18: each worker has one DOWN and then one RESOLVED, however often each was sent.

        One that was back before its DOWN has arrived has nothing, or the RESOLVED of a DOWN that was begun at a death.
        Returns how many there are of the latter.
        """
        seen: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for headers, body in self.hook.requests:
            message = json.loads(body)
            seen[message["data"]["worker_id"]].append((message["type"], headers["webhook-id"]))
        both, begun = ["worker.recovered", "worker.stale"], 0
        for worker in {f"w{number}" for number in range(self._workers)} | seen.keys():
            types = [kind for kind, _ in seen[worker]]
            assert types == sorted(types, reverse=True), worker
            found = sorted(kind for kind, _ in set(seen[worker]))
            begun += found == both[:1]
            assert found == both or (worker[0] != "w" and found == both[:1]), worker
        return begun

    def check_copies(self) -> int:
        """P6: copies of a notification are equal. Returns how many came beside the first of each."""
        bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        for headers, body in self.hook.requests:
            bodies[headers["webhook-id"]].add(body)
            # The time of these tests is not now, which is all that is wrong with the signature.
            timestamp_s = int(headers["webhook-timestamp"])
            assert headers["webhook-signature"] == _signature(headers["webhook-id"], timestamp_s, body)
        assert {len(some) for some in bodies.values()} == {1}
        return len(self.hook.requests) - len(bodies)


def _signature(nid: str, timestamp_s: int, body: bytes) -> str:
    return Webhook(SECRET).sign(nid, datetime.fromtimestamp(timestamp_s, UTC), body.decode())


@pytest.mark.parametrize("partitions", PARTITIONS)
@pytest.mark.parametrize("point", POINTS)
async def test_p5_p6_p7_p18_killed_at_each_point_each_down_and_then_its_resolved_arrives(
    point: str, partitions: int
) -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with webhook_server() as hook:
            crashing = Crashing(server.url, hook, workers=30, partitions=partitions)
            assert not await crashing.run(f"{point}:1")
            assert await crashing.run()
            crashing.check_downs()
            before = len(hook.requests)
            assert not await crashing.run(f"{point}:1", stage=1)
            assert (len(hook.requests) > before) == (point in {"delivery.sent", "delivery.recorded"})
            # What was being sent is over at this start.
            assert not await crashing.run(f"{point}:1", stage=alerts_process.LAST)
            assert await crashing.run(stage=alerts_process.LAST)
            # A DOWN without a recorded attempt is cancelled when it is over, and no RESOLVED follows (P18).
            begun = crashing.check_ends()
            assert begun == 0 or point in POINTS[POINTS.index("delivery.begun") :]
            assert crashing.check_copies() <= crashing.deaths * CONCURRENCY


@pytest.mark.parametrize("partitions", PARTITIONS)
async def test_p5_p6_p7_p18_killed_at_random_with_1000_transitions_in_flight(partitions: int) -> None:
    chance = random.Random(4)  # noqa: S311 - a plan, not a secret
    with servers.running(servers.valkey_binary()) as server:
        async with webhook_server() as hook:
            crashing = Crashing(server.url, hook, workers=1_000, partitions=partitions)
            for stage in (0, alerts_process.LAST):
                before = len(hook.requests)
                for goal in sorted(chance.sample(range(1, 900), 3)):
                    assert not await crashing.run(kill_when=partial(_has, hook, before + goal), stage=stage)
                assert not await crashing.run(f"*:{chance.randint(20, 60)}", stage=stage)
                while not await crashing.run(stage=stage):
                    pass
                if not stage:
                    crashing.check_downs()
            assert crashing.check_ends() <= crashing.deaths * CONCURRENCY
            assert crashing.check_copies() <= crashing.deaths * CONCURRENCY


def _has(hook: Hook, requests: int) -> bool:
    return len(hook.requests) >= requests


@pytest.mark.parametrize("partitions", PARTITIONS)
async def test_p23_a_replica_that_takes_over_knows_all_that_was_sent_and_each_down_gets_its_resolved(
    partitions: int,
) -> None:
    def waits() -> int:
        return int(old.info("commandstats").get("cmdstat_wait", {"calls": 0})["calls"])

    waits_then: list[int] = []

    async def answer(_: web.Request, number: int) -> web.Response:
        if number == 20:  # from now on the replica gets nothing
            new.replicaof("no", "one")
            waits_then.append(waits())
        return web.Response(status=204)

    with (
        servers.with_a_replica() as (primary, replica),
        redis.Redis.from_url(primary.url) as old,
        redis.Redis.from_url(replica.url) as new,
    ):
        async with webhook_server(answer) as hook:
            crashing = Crashing(primary.url, hook, workers=40, partitions=partitions)
            crashing.durability = "replicas:1"
            # The attempts of a first claim that is not confirmed would have been made by the third one.
            assert not await crashing.run(kill_when=lambda: bool(waits_then) and waits() >= waits_then[0] + 3)
            primary.kill()
            store = alert_store(replica.url, partitions=partitions)
            groups = GroupStore(store, "ops")
            assert len(hook.requests) > 20
            assert [nid for nid in hook.ids() if await groups.notification(nid) is None] == []
            await store.close()
            crashing.store_url, crashing.durability = replica.url, "memory"
            for stage in (0, alerts_process.LAST):
                assert await crashing.run(stage=stage)
            crashing.check_ends()
            crashing.check_copies()


def test_an_unknown_failpoint_is_refused_by_name() -> None:
    for text in ("router.nowhere:1", "router.taken", "router.taken:x"):
        with pytest.raises(ValueError, match=VARIABLE):
            failpoint({VARIABLE: text})
    failpoint({})("router.taken")
