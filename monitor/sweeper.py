"""The sweeper: applies the transitions of passed deadlines, in bounded chunks.

The store decides which (``store/lua/sweep.lua``, ``expire_if_due`` in ``workers.lua``). Any number of sweepers may run
on one store: each transition is one atomic step there and happens once (P3). A worker's own next beat would find the
same transition; a sweep only detects it early.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from monitor.events import Moved
    from monitor.store import Store, SweepResult

log = structlog.get_logger(__name__)

PURGE_CHUNK: Final = 100
TRIMS_PER_PASS: Final = 20_000
"""More than a pass needs when nothing lags. The bound makes a pass end, so that trimming does not delay retention."""
LONGEST_PAUSE_S: Final = 0.005
"""Between two chunks: a slow store must not stretch a pass without a bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSettings:
    """``chunk``: transitions per call. Times in milliseconds."""

    chunk: int
    retention_ms: int
    event_retention_ms: int
    events: int
    """Maximum events in the history. The outbox keeps events that the router has not passed yet, in addition."""


class Sweeper:
    """Passes over all partitions. Passes of one sweeper must not overlap; those of several may.

    ``on_moved`` is called with the transitions of each committed chunk.
    """

    def __init__(self, store: Store, settings: SweepSettings, *, on_moved: Callable[[list[Moved]], None]) -> None:
        self._store = store
        self._settings = settings
        self._on_moved = on_moved
        self._available = True
        self._blind = False

    async def sweep(self) -> None:
        """Run one pass: expire everything that is due now."""
        with self._guarded():
            for partition in range(self._store.partitions):
                await self._chunks(partial(self._store.sweep, partition, limit=self._settings.chunk))

    async def tidy(self) -> None:
        """Run one housekeeping pass: forget workers past retention, trim the history."""
        purge = partial(self._store.purge, limit=PURGE_CHUNK, retention_ms=self._settings.retention_ms)
        with self._guarded():
            for partition in range(self._store.partitions):
                await self._chunks(partial(purge, partition))
                await self._trim(partition)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Guard a pass: an unavailable store is logged once, and the next pass retries."""
        try:
            yield
        except StoreUnavailableError as error:
            if self._available:
                log.warning("sweep.store_unavailable", error=str(error))
            self._available = False
        else:
            if not self._available:
                log.info("sweep.resumed")
            self._available = True

    async def _chunks(self, call: Callable[[], Awaitable[SweepResult]]) -> None:
        while True:
            began_s = monotonic_s()
            result = await call()
            if result.blind and not self._blind:
                # Due workers can't be judged. ``pulse`` logs the length of the window when it ends.
                log.warning("sweep.blind")
            self._blind = result.blind
            if result.damaged:
                log.error("sweep.damaged_records", count=result.damaged)
            if result.moved:
                self._on_moved(result.moved)
            if not result.more:
                return
            await _pause(began_s)

    async def _trim(self, partition: int) -> None:
        for _ in range(TRIMS_PER_PASS):
            began_s = monotonic_s()
            dropped = await self._store.trim(
                partition,
                keep_ms=self._settings.event_retention_ms,
                most=-(-self._settings.events // self._store.partitions),
            )
            if not dropped:
                return
            await _pause(began_s)


async def _pause(began_s: float) -> None:
    # Beats are served between two chunks, here and in the store, and get at least half of the time: with more beats
    # a chunk takes longer, and the pause grows with it.
    await asyncio.sleep(min(monotonic_s() - began_s, LONGEST_PAUSE_S))
