"""The sweeper: applies the transitions of passed deadlines, in bounded chunks.

The store decides which (``store/lua/sweep.lua``, ``expire_if_due`` in ``workers.lua``). Any number of sweepers may run
on one store: each transition is one atomic step there and happens once (P3). A worker's own next beat would find the
same transition; a sweep only detects it early.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.events import Moved
from monitor.ownership import Ownership
from monitor.store import Store, SweepResult

OnMoved = Callable[[list[Moved]], None]
Work = Callable[[int], Coroutine[None, None, None]]

log = structlog.get_logger(__name__)

PURGE_CHUNK: Final = 100
TRIMS_PER_PASS: Final = 20_000
"""More than a pass needs when nothing lags. The bound makes a pass end, so that trimming does not delay retention."""
AT_ONCE: Final = 8
"""Maximum partitions of a pass at a time: one that is slow does not hold up the others."""
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


class _Passes:
    """Passes of one kind, which may overlap: a partition is in one of them at a time."""

    def __init__(self) -> None:
        self.busy: set[int] = set()
        self.places = asyncio.Semaphore(AT_ONCE)
        self.chunks = asyncio.Lock()
        """Held for all chunks but a partition's first: many partitions leave as much to beats as one."""


class Sweeper:
    """Passes over the partitions that are this daemon's by ``ownership``, or over all without.

    A pass leaves out a partition that an earlier one is still at. ``on_moved`` is called with the transitions of each
    committed chunk.
    """

    def __init__(
        self, store: Store, settings: SweepSettings, *, on_moved: OnMoved, ownership: Ownership | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._on_moved = on_moved
        self._is_to_sweep: Callable[[int], object] = ownership.is_to_sweep if ownership else lambda _: True
        self._is_ours: Callable[[int], object] = ownership.token if ownership else lambda _: True
        self._sweeps, self._tidies = _Passes(), _Passes()
        self._unavailable: set[int] = set()
        self._blind: set[int] = set()

    async def sweep(self) -> None:
        """Run one pass: expire everything that is due now."""
        await self._each(self._sweeps, self._sweep, self._is_to_sweep)

    async def tidy(self) -> None:
        """Run one housekeeping pass: forget workers past retention, trim the history."""
        await self._each(self._tidies, self._tidy, self._is_ours)

    async def _each(self, passes: _Passes, work: Work, is_ours: Callable[[int], object]) -> None:
        found = [one for one in range(self._store.partitions) if one not in passes.busy and is_ours(one)]
        passes.busy.update(found)
        ended = await asyncio.gather(*(self._one(passes, work, one) for one in found), return_exceptions=True)
        for error in filter(None, ended):
            raise error

    async def _one(self, passes: _Passes, work: Work, partition: int) -> None:
        """Work on a partition. One that is unavailable is logged once, and the next pass retries."""
        try:
            async with passes.places:
                await work(partition)
        except StoreUnavailableError as error:
            if partition not in self._unavailable:
                log.warning("sweep.store_unavailable", partition=partition, error=str(error))
            self._unavailable.add(partition)
        else:
            if partition in self._unavailable:
                log.info("sweep.resumed", partition=partition)
            self._unavailable.discard(partition)
        finally:
            passes.busy.discard(partition)

    async def _sweep(self, partition: int) -> None:
        await self._chunks(self._sweeps, partition, partial(self._store.sweep, partition, limit=self._settings.chunk))

    async def _tidy(self, partition: int) -> None:
        retention_ms, keep_ms = self._settings.retention_ms, self._settings.event_retention_ms
        purge = partial(self._store.purge, partition, limit=PURGE_CHUNK, retention_ms=retention_ms)
        await self._chunks(self._tidies, partition, purge)
        for _ in range(TRIMS_PER_PASS):
            began_s = monotonic_s()
            most = -(-self._settings.events // self._store.partitions)
            if not await self._store.trim(partition, keep_ms=keep_ms, most=most):
                return
            await _pause(monotonic_s() - began_s)

    async def _chunks(self, passes: _Passes, partition: int, call: Callable[[], Awaitable[SweepResult]]) -> None:
        began_s = monotonic_s()
        more = self._more(partition, await call())
        while more:
            took_s = monotonic_s() - began_s
            async with passes.chunks:
                await _pause(took_s)
                began_s = monotonic_s()
                more = self._more(partition, await call())

    def _more(self, partition: int, result: SweepResult) -> bool:
        if result.blind and partition not in self._blind:
            # Due workers can't be judged. ``pulse`` logs the length of the window when it ends.
            log.warning("sweep.blind", partition=partition)
        (self._blind.add if result.blind else self._blind.discard)(partition)
        if result.damaged:
            log.error("sweep.damaged_records", partition=partition, count=result.damaged)
        if result.moved:
            self._on_moved(result.moved)
        return result.more


async def _pause(took_s: float) -> None:
    # Beats are served between two chunks, here and in the store, and get at least half of the time: with more beats
    # a chunk takes longer, and the pause grows with it.
    await asyncio.sleep(min(took_s, LONGEST_PAUSE_S))
