"""Refused beats as evidence of life (P11): collected in memory and sent to the store in small batches.

Evidence is worth less than any beat: no request waits for it, little of it is kept, and what does not fit is dropped
and counted. The store decides what evidence means for a worker; for unknown workers it is ignored.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Final

from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.metrics.registry import Metrics
from monitor.shares import Tenants, over_share
from monitor.store import Store
from monitor.workers import Evidence, Rejection, WorkerKey

MOST_PENDING: Final = 10_000
LOT: Final = 512
LOTS_OF_A_PARTITION: Final = 16
"""Calls to one partition in one round, one after another: a slow store gets few."""
TURN_S: Final = 0.1
SPACING_S: Final = 0.75
"""Minimum time between two pieces of evidence of one worker. It is shorter than the shortest interval plus grace, so
that each try of a worker whose beats are always refused keeps it alive."""
OLDEST_S: Final = 2.0
"""Evidence that waited longer is dropped: the store dates evidence at its arrival."""

LOST_S: Final = 1.0
"""How long a drop of evidence of our own fault counts: meanwhile the affected workers may look dead."""

_Of = tuple["WorkerKey", tuple[str, ...] | None]
"""The worker and the environments of the token: evidence of a token that does not cover the worker must not replace
other evidence."""


class _Notes:
    """Pending and recent evidence of one priority. Each tenant has a share of the capacity."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._held: Counter[str] = Counter()
        """Entries in the younger generation, by tenant."""
        self.pending: dict[_Of, tuple[Evidence, float]] = {}
        self._young: dict[_Of, float] = {}
        self._old: dict[_Of, float] = {}
        """Time of the last evidence, in two generations, so that old entries are dropped without a search."""
        self._turn_s = 0.0

    def take(self, evidence: Evidence, now_s: float) -> bool:
        """Take evidence; False: no capacity. Evidence of a worker noted a moment ago is not noted again."""
        if now_s >= self._turn_s:
            self._old, self._young = self._young, {}
            self._held.clear()
            self._turn_s = now_s + SPACING_S
        of = (evidence.key, evidence.allowed)
        last_s = self._young.get(of) or self._old.get(of)
        if of in self.pending or (last_s is not None and now_s < last_s + SPACING_S):
            return True
        free, tenant = MOST_PENDING - len(self._young), evidence.key.tenant
        if len(self.pending) >= MOST_PENDING or not free or self.is_over_share(tenant):
            return False
        self._held[tenant] += 1
        self.pending[of] = (evidence, now_s)
        self._young[of] = now_s
        return True

    def is_over_share(self, tenant: str) -> bool:
        """Whether the tenant has used its share of the capacity."""
        return self._tenants.several and over_share(self._held[tenant], 1, MOST_PENDING - len(self._young))

    def first_s(self) -> float:
        """Return when the oldest pending evidence was noted; infinite for none."""
        return next((noted_s for _, noted_s in self.pending.values()), math.inf)


class Recorder:
    """Collects evidence and sends it. Belongs to one event loop; the owner starts ``run``."""

    def __init__(
        self,
        store: Store,
        *,
        metrics: Metrics,
        tenants: Tenants | None = None,
        elapsed_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._elapsed_s = elapsed_s
        tenants = tenants or Tenants()
        self._ours = _Notes(tenants)
        self._others = _Notes(tenants)
        """Two queues: refusals caused by us (priority) and all others."""
        self._given_s = math.inf
        """When the oldest evidence of our own fault now being sent was noted."""
        self._lost_s = -math.inf
        """When such evidence was last dropped."""
        self._any = asyncio.Event()

    def note(self, evidence: Evidence) -> None:
        """Take evidence, or drop it. Never waits and never raises."""
        is_ours = evidence.rejection is Rejection.OVERLOADED
        if (self._ours if is_ours else self._others).take(evidence, self._elapsed_s()):
            self._any.set()
            return
        self._metrics.evidence(dropped=1)
        # One tenant's excess must not make the monitor count as blind for all others (P29).
        if is_ours and not self._ours.is_over_share(evidence.key.tenant):
            self.lost()

    def lost(self) -> None:
        """Note that a worker was refused for our fault and no evidence of it was recorded."""
        self._lost_s = self._elapsed_s()

    def oldest_s(self) -> float:
        """Return how long evidence of our own fault has waited for the store, in seconds; 0 for none.

        Infinite if such evidence was dropped a moment ago: the monitor does not know that those workers live.
        """
        now_s = self._elapsed_s()
        if now_s < self._lost_s + LOST_S:
            return math.inf
        return max(now_s - min(self._ours.first_s(), self._given_s), 0.0)

    async def run(self) -> None:
        """Send evidence to the store until cancelled."""
        while True:
            await self._any.wait()
            await asyncio.sleep(TURN_S)
            await self.flush()

    async def flush(self) -> None:
        """Send all pending evidence now. What can't be sent is dropped."""
        self._given_s = self._ours.first_s()
        ours, self._ours.pending = self._ours.pending, {}
        others, self._others.pending = self._others.pending, {}
        self._any.clear()
        by_partition: dict[int, list[tuple[Evidence, float]]] = {}
        # Refusals for our own fault come first: they move deadlines, and outweigh other evidence of the same worker.
        for one in [*ours.values(), *(one for of, one in others.items() if of not in ours)]:
            by_partition.setdefault(self._store.partition_of(one[0].key), []).append(one)
        given: list[Evidence] = []
        for partition, found in by_partition.items():
            given += await self._give(partition, found)
        if sum(one.rejection is Rejection.OVERLOADED for one in given) < len(ours):
            self.lost()
        self._given_s = math.inf
        self._metrics.evidence(recorded=len(given), dropped=sum(map(len, by_partition.values())) - len(given))

    async def _give(self, partition: int, found: list[tuple[Evidence, float]]) -> list[Evidence]:
        """Send evidence to one partition. Return what the store has taken."""
        given: list[Evidence] = []
        for start in range(0, min(len(found), LOTS_OF_A_PARTITION * LOT), LOT):
            since_s = self._elapsed_s() - OLDEST_S
            young = [evidence for evidence, noted_s in found[start : start + LOT] if noted_s >= since_s]
            if not young:
                continue
            try:
                await self._store.evidence(partition, young)
            except StoreUnavailableError:
                # The outage is logged elsewhere, and its span is credited to all workers (P1).
                return given
            given += young
        return given
