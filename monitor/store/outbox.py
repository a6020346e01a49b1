"""The event stream for the router: only the owner of a partition reads it, fenced by the token of its lease."""

from functools import partial
from typing import Final

from monitor.clock import monotonic_s
from monitor.events import Taken
from monitor.ownership import Ownership
from monitor.reasons import Reason
from monitor.store.store import Store

ROUTING_LAG_S: Final = 10.0


class Outbox:
    """Claims events for one daemon. Belongs to one event loop."""

    def __init__(self, store: Store, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._looked_s = dict.fromkeys(range(store.partitions), monotonic_s())

    async def claim(self, partition: int, limit: int) -> Taken | None:
        """Return the oldest unacknowledged events; None, without a call, while another daemon owns the partition.

        Where durability is ``replicas:N``, the replicas have these events (P23). In a failover the events may come from
        the old primary while the groups are written on the new one, which then has the events too. The primary that
        confirms them must be the one that they were read from: one call does both.

        Raises:
            StoreUnavailableError: no answer, or the replicas do not confirm; claim again.
        """
        token = self._ownership.token(partition)
        claim = partial(self._store.claim, partition, token=token, limit=limit)
        taken = await claim() if token else None
        if taken and taken.events and self._store.settings.durability.replicas:
            taken = await claim(confirmed=True)
        self._looked_s[partition] = monotonic_s()
        return taken

    def owns(self, partition: int) -> bool:
        """Return whether this daemon owns a partition."""
        return self._ownership.token(partition) > 0

    def lag_s(self) -> float:
        """Return the age of the oldest event that no daemon has routed yet, or the time since the last poll here."""
        now_s = monotonic_s()
        return max(max(now_s - at_s, self._ownership.unrouted_s(one)) for one, at_s in self._looked_s.items())

    def reasons(self) -> list[str]:
        """Return why the monitor is degraded: events wait for too long, or the router does not poll for events."""
        return [Reason.ROUTING_LAG] if self.lag_s() > ROUTING_LAG_S else []
