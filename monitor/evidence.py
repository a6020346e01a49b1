"""Refused beats as evidence of life (P11): gathered beside the requests and given to the store, a little at a time.

What is noted is worth less than any beat: nothing waits for it, little is kept of it, and what does not fit is dropped
and counted. The store decides what it means for a worker, and for unknown ones it means nothing.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from monitor.clock import monotonic_s
from monitor.store import StoreUnavailableError
from monitor.workers import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from monitor.metrics import Metrics
    from monitor.store import Store
    from monitor.workers import Evidence, WorkerKey

MOST_PENDING: Final = 10_000
LOT: Final = 512
LOTS_OF_A_PARTITION: Final = 16
"""Calls to one partition in one turn, one after another: a store that is slow gets few."""
TURN_S: Final = 0.25
SPACING_S: Final = 0.75
"""How soon there may be more evidence of one worker. Shorter than the shortest interval and grace, so that a worker of
those that is refused each time is kept by each try."""
OLDEST_S: Final = 2.0
"""What waited for longer is dropped: the store takes evidence for what happens now."""

LOST_S: Final = 1.0
"""So long after evidence of our own fault was dropped some has been: nobody knows of those workers that they live."""

_Of = tuple["WorkerKey", tuple[str, ...] | None]
"""Whose evidence, and from what token: one of a token that does not cover the worker must not stand in the way."""


class Recorder:
    """Belongs to one event loop, in which its owner has ``run`` run."""

    def __init__(self, store: Store, *, metrics: Metrics, elapsed_s: Callable[[], float] = monotonic_s) -> None:
        self._store = store
        self._metrics = metrics
        self._elapsed_s = elapsed_s
        self._pending: dict[_Of, tuple[Evidence, float]] = {}
        self._young: dict[_Of, float] = {}
        self._old: dict[_Of, float] = {}
        """When there was evidence last, in two generations, so that what is over is forgotten without a search."""
        self._turn_s = 0.0
        self._ours_s = self._given_s = math.inf
        """When the first of what is our fault was noted: of what is pending, and of what is being given now."""
        self._lost_s = -math.inf
        """When such evidence was dropped last."""
        self._any = asyncio.Event()

    def note(self, evidence: Evidence) -> None:
        """Take evidence, or drop it. Never waits and never raises."""
        now_s = self._elapsed_s()
        if now_s >= self._turn_s:
            self._old, self._young = self._young, {}
            self._turn_s = now_s + SPACING_S
        of = (evidence.key, evidence.allowed)
        is_ours = _is_ours(evidence)
        pending = self._pending.get(of)
        if pending is not None:
            if is_ours:  # it is worth more than what the worker did wrong
                self._pending[of] = (evidence, pending[1])
                self._ours_s = min(self._ours_s, now_s)
            return
        last_s = self._young.get(of) or self._old.get(of)
        if last_s is not None and now_s < last_s + SPACING_S:
            return
        if len(self._pending) >= MOST_PENDING or len(self._young) >= MOST_PENDING:
            self._metrics.evidence(dropped=1)
            if is_ours:
                self._lost_s = now_s
            return
        self._pending[of] = (evidence, now_s)
        self._young[of] = now_s
        if is_ours:
            self._ours_s = min(self._ours_s, now_s)
        self._any.set()

    def oldest_s(self) -> float:
        """For how long evidence of our own fault has waited for the store, in seconds; 0 where none does.

        Infinite where some was dropped a moment ago: of those workers nobody knows that they live.
        """
        now_s = self._elapsed_s()
        if now_s < self._lost_s + LOST_S:
            return math.inf
        return max(now_s - min(self._ours_s, self._given_s), 0.0)

    async def run(self) -> None:
        """Give the store what was noted, until cancelled."""
        while True:
            await self._any.wait()
            await asyncio.sleep(TURN_S)
            await self.flush()

    async def flush(self) -> None:
        """Give the store what is pending now; what can't be given is dropped."""
        pending, self._pending = self._pending, {}
        self._given_s, self._ours_s = self._ours_s, math.inf
        self._any.clear()
        by_partition: dict[int, list[tuple[Evidence, float]]] = {}
        # What is our fault comes first: it moves deadlines.
        for one in sorted(pending.values(), key=lambda one: not _is_ours(one[0])):
            by_partition.setdefault(self._store.partition_of(one[0].key), []).append(one)
        given: list[Evidence] = []
        for partition, found in by_partition.items():
            given += await self._give(partition, found)
        if sum(map(_is_ours, given)) < sum(_is_ours(evidence) for evidence, _ in pending.values()):
            self._lost_s = self._elapsed_s()
        self._given_s = math.inf
        self._metrics.evidence(recorded=len(given), dropped=len(pending) - len(given))

    async def _give(self, partition: int, found: list[tuple[Evidence, float]]) -> list[Evidence]:
        """What the store has taken."""
        given: list[Evidence] = []
        for lot in _lots(found[: LOTS_OF_A_PARTITION * LOT]):
            since_s = self._elapsed_s() - OLDEST_S
            young = [evidence for evidence, noted_s in lot if noted_s >= since_s]
            if not young:
                continue
            try:
                await self._store.evidence(partition, young)
            except StoreUnavailableError:
                # Its trouble is told elsewhere, and the span of it is credited to all workers (P1).
                return given
            given += young
        return given


def _is_ours(evidence: Evidence) -> bool:
    return evidence.rejection is Rejection.OVERLOADED


def _lots(found: list[tuple[Evidence, float]]) -> Iterator[list[tuple[Evidence, float]]]:
    for start in range(0, len(found), LOT):
        yield found[start : start + LOT]
