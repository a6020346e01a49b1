"""P5 and P6 though the daemon is killed: at each point between an event and its outcome, and at any moment."""

import asyncio
import os
import random
import sys
from collections import defaultdict
from datetime import UTC, datetime
from typing import Final

import pytest
from standardwebhooks import Webhook

from tests.support import alerts_process, servers
from tests.support.alerts_fakes import SECRET, START_MS, Hook, nid_of, until, webhook_server
from tests.support.failpoints import POINTS, VARIABLE, failpoint

CONCURRENCY: Final = 8
"""Attempts in flight at one receiver: the number of outcomes that a crash may leave unknown."""
PARTITIONS: Final = (1, 4, 16)
LATER_MS: Final = 60_000
"""Longer than a lease."""


class Crashing:
    """A daemon's alerting half that is started again after each death."""

    def __init__(self, store_url: str, hook: Hook, *, workers: int, partitions: int) -> None:
        self._partitions = partitions
        self._store_url = store_url
        self.hook = hook
        self._workers = workers
        self.deaths = 0
        self._starts = 0

    async def run(self, failpoint_text: str = "", *, kill_at: int | None = None) -> bool:
        """Run until the process has sent every notification, or dies; return whether it has sent all.

        ``kill_at``: the number of requests at the receiver after which the process is killed.
        """
        start_ms = START_MS + self._starts * LATER_MS
        self._starts += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.alerts_process",
            self._store_url,
            self.hook.url,
            str(start_ms),
            str(self._workers),
            str(self._partitions),
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, VARIABLE: failpoint_text},
        )
        try:
            if kill_at is not None:
                await until(lambda: len(self.hook.requests) >= kill_at or process.returncode is not None, timeout_s=60)
            else:
                async with asyncio.timeout(60):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        self.deaths += process.returncode != 0
        return process.returncode == 0

    def check(self) -> int:
        """The promises; how many copies came beside the first of each."""
        expected = {nid_of(item) for item in alerts_process.deaths(self._workers)}
        assert set(self.hook.ids()) == expected
        bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        for headers, body in self.hook.requests:
            bodies[headers["webhook-id"]].add(body)
            # The time of these tests is not now, which is all that is wrong with the signature.
            timestamp_s = int(headers["webhook-timestamp"])
            assert headers["webhook-signature"] == _signature(headers["webhook-id"], timestamp_s, body)
        assert {len(some) for some in bodies.values()} == {1}
        extra = len(self.hook.requests) - len(expected)
        assert extra <= self.deaths * CONCURRENCY
        return extra


def _signature(nid: str, timestamp_s: int, body: bytes) -> str:
    return Webhook(SECRET).sign(nid, datetime.fromtimestamp(timestamp_s, UTC), body.decode())


@pytest.mark.parametrize("partitions", PARTITIONS)
@pytest.mark.parametrize("point", POINTS)
async def test_p5_p6_killed_at_each_point_every_id_arrives_and_copies_are_equal(point: str, partitions: int) -> None:
    with servers.running(servers.valkey_binary()) as server:
        async with webhook_server() as hook:
            crashing = Crashing(server.url, hook, workers=120, partitions=partitions)
            assert not await crashing.run(f"{point}:1")
            assert await crashing.run()
            crashing.check()


@pytest.mark.parametrize("partitions", PARTITIONS)
async def test_p5_p6_killed_at_random_with_1000_transitions_in_flight_every_id_arrives(partitions: int) -> None:
    chance = random.Random(4)  # noqa: S311 - a plan, not a secret
    with servers.running(servers.valkey_binary()) as server:
        async with webhook_server() as hook:
            crashing = Crashing(server.url, hook, workers=1_000, partitions=partitions)
            for goal in sorted(chance.sample(range(1, 900), 3)):
                assert not await crashing.run(kill_at=goal)
            assert not await crashing.run(f"*:{chance.randint(20, 60)}")
            while not await crashing.run():
                pass
            crashing.check()


def test_an_unknown_failpoint_is_refused_by_name() -> None:
    for text in ("router.nowhere:1", "router.taken", "router.taken:x"):
        with pytest.raises(ValueError, match=VARIABLE):
            failpoint({VARIABLE: text})
    failpoint({})("router.taken")
