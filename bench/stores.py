"""Stores for the benches that speak to one directly: a server as the daemon runs it, and a clock that can be put on."""

import asyncio
import contextlib
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from bench.harness import directory
from monitor import logs
from monitor.embedded import EmbeddedStore
from monitor.store import Store, StoreSettings
from monitor.workers import Beat, WorkerKey

INTERVAL_MS: Final = 3_600_000
GRACE_MS: Final = 3_600_000
DEADLINE_MS: Final = INTERVAL_MS + GRACE_MS
"""Long enough that nothing expires but by the clock being put on."""
TENANT: Final = "bench"


def servers() -> dict[str, str | None]:
    """The servers that can be measured here, by name, as ``running`` takes them."""
    found: dict[str, str | None] = {"valkey": None}
    if redis := shutil.which("redis-server"):
        found["redis"] = redis
    return found


@contextlib.contextmanager
def running(binary: str | None = None) -> Iterator[str]:
    """An empty store server with the daemon's settings; its URL. None: the one that Lastseen carries. Main thread."""
    with directory() as place:
        logs.configure(level="warning", form="console", stream=sys.stderr)
        server = EmbeddedStore(place, binary=binary)
        url = server.start()
        try:
            yield url
        finally:
            asyncio.run(server.stop())


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What the server says of itself, and its clock."""

    redis: Redis

    async def info(self, section: str) -> dict[str, Any]:
        """A section of INFO."""
        return dict(await self.redis.info(section))

    async def cpu_s(self) -> float:
        """CPU seconds of the thread that runs the commands."""
        cpu = await self.info("cpu")
        return float(cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"])

    async def put_clock_on(self, now_ms: int) -> None:
        """The store's next call happens at ``now_ms``; its clock runs on from there."""
        await self.redis.hset("{ls:0}:meta", "last", str(now_ms))

    async def watch_calls(self) -> None:
        """Forget the slow calls seen so far, and note those that follow."""
        await self.redis.config_set("slowlog-log-slower-than", "500")
        await self.redis.config_set("slowlog-max-len", "100000")
        await self.redis.slowlog_reset()

    async def longest_call_ms(self) -> float:
        """The longest time that one function call has kept all other calls waiting since ``watch_calls``."""
        slow = [entry for entry in await self.redis.slowlog_get(100_000) if b"FCALL" in entry["command"].upper()]
        return max((entry["duration"] / 1_000 for entry in slow), default=0.0)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, Server]]:
    """The real store on this server, without quotas that matter."""
    settings = StoreSettings(
        url=url,
        partitions=1,
        daemon="bench-1",
        timeout_s=10.0,
        interval_ms=INTERVAL_MS,
        grace_ms=GRACE_MS,
        rules=(),
        workers_per_tenant=100_000_000,
        environments_per_tenant=1_000,
        status_events=False,
    )
    async with Redis.from_url(url) as redis:
        store = await Store.open(settings)
        try:
            yield store, Server(redis=redis)
        finally:
            await store.close()


def worker_id(number: int) -> str:
    """36 characters, in no order."""
    return str(uuid.UUID(int=(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128))


def beat(number: int, *, tasks: int = 0) -> Beat:
    """What the published contract asks for of one worker, without metadata."""
    return Beat(
        key=WorkerKey(TENANT, worker_id(number)),
        environment_name="prod",
        first_environment="default",
        allowed=None,
        status="active",
        tasks_processed=tasks,
        current_task_id=f"task-{tasks:06}",
    )


async def beat_all(store: Store, beats: Sequence[Beat], *, per_call: int) -> int:
    """Send beats one call after the other; the store's time of the last."""
    now_ms = 0
    for start in range(0, len(beats), per_call):
        now_ms = (await store.beat(0, beats[start : start + per_call])).now_ms
    return now_ms
