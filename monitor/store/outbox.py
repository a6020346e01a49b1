"""The event stream for the router: one reader per partition at a time, under a fenced lease."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final

from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.reasons import Reason

if TYPE_CHECKING:
    from monitor.events import Event
    from monitor.store.store import Store

LEASE_MS: Final = 2_000
"""How long a partition is without a router after its router was killed."""
ROUTING_LAG_S: Final = 10.0


class Outbox:
    """Claims and acknowledges events for one daemon. Belongs to one event loop."""

    def __init__(self, store: Store, *, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._tokens: dict[int, int] = {}
        self._ages_ms: dict[int, int] = {}
        self._looked_s = dict.fromkeys(range(store.partitions), monotonic_s())

    async def claim(self, partition: int, limit: int) -> list[Event] | None:
        """Return the oldest unacknowledged events; None while another daemon has the lease.

        Where durability is ``replicas:N``, the replicas have these events (P23). In a failover the events may come from
        the old primary while the groups are written on the new one, which then has the events too. The primary that
        confirms them must be the one that they were read from: one call does both.

        Raises:
            StoreUnavailableError: no answer, or the replicas do not confirm; claim again.
        """
        claim = partial(self._store.claim, partition, owner=self._owner, lease_ms=LEASE_MS, limit=limit)
        taken = await claim()
        if taken.events and self._store.settings.durability.replicas:
            taken = await claim(confirmed=True)
        self._tokens[partition] = taken.token
        self._ages_ms[partition] = taken.age_ms
        self._looked_s[partition] = monotonic_s()
        if taken.token and taken.last and not taken.events:
            # No entry was readable, so the router has no event to acknowledge.
            await self.ack(partition, taken.last)
        return taken.events if taken.token else None

    async def ack(self, partition: int, position: str) -> bool:
        """Move the cursor to ``position``; False if another process has the lease by now.

        Raises:
            StoreUnavailableError: no answer; the same events may come again.
        """
        return await self._store.ack(partition, token=self._tokens[partition], position=position)

    async def release(self) -> None:
        """Release every lease, so that another daemon can continue at once."""
        for partition, token in self._tokens.items():
            if token:
                with contextlib.suppress(StoreUnavailableError):  # then the lease expires
                    await self._store.release(partition, token=token)
        self._tokens.clear()

    def lag_s(self) -> float:
        """Return the age of the oldest event not yet claimed, plus the time since the last poll, in seconds."""
        now_s = monotonic_s()
        return max(now_s - at_s + self._ages_ms.get(partition, 0) / 1_000 for partition, at_s in self._looked_s.items())

    def reasons(self) -> list[str]:
        """Return why the monitor is degraded: events wait for too long, or the router does not poll for events."""
        return [Reason.ROUTING_LAG] if self.lag_s() > ROUTING_LAG_S else []
