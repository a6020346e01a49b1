"""A store that records each writing call, and holds calls back on request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from monitor.liveness import Liveness
from monitor.store import Store, StoreSettings
from monitor.store.results import BeatsResult, ChangeResult
from monitor.workers import Beat, Disconnect, WorkerKey
from tests.support.stores import settings

PATIENCE_S: Final = 20.0
"""Time limit of a test's wait for an expected change."""


class WatchedStore(Store):
    """The store, and a note of each writing call. ``gate`` holds the calls back while it is closed."""

    def __init__(self, settings: StoreSettings) -> None:
        super().__init__(settings)
        self.calls: list[list[str]] = []
        self.called = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.bug: Exception | None = None

    async def _pass(self, workers: list[str]) -> None:
        self.calls.append(workers)
        self.called.set()
        await self.gate.wait()
        if self.bug is not None:
            raise self.bug

    async def beat(self, partition: int, beats: Sequence[Beat]) -> BeatsResult:
        await self._pass([one.key.worker_id for one in beats])
        return await super().beat(partition, beats)

    async def disconnect(self, disconnect: Disconnect) -> ChangeResult:
        await self._pass([f"disconnect {disconnect.key.worker_id}"])
        return await super().disconnect(disconnect)

    async def delete(self, key: WorkerKey, *, allowed: tuple[str, ...] | None, reason: str) -> ChangeResult:
        await self._pass([f"delete {key.worker_id}"])
        return await super().delete(key, allowed=allowed, reason=reason)


@asynccontextmanager
async def watched(url: str, **changes: Any) -> AsyncIterator[WatchedStore]:
    store = await WatchedStore.open(settings(url, **{"timeout_s": PATIENCE_S, **changes}))
    assert isinstance(store, WatchedStore)
    try:
        yield store
    finally:
        await store.close()


async def alive(store: Store) -> int:
    """How many workers are alive."""
    environments = (await store.count_workers("acme")).environments
    return sum(counts[Liveness.ALIVE] for counts in environments.values())
