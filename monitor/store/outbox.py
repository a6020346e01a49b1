"""The event stream as the router reads it: one reader per partition at a time, under a fenced lease."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from monitor.clock import monotonic_s
from monitor.reasons import Reason
from monitor.store.errors import StoreUnavailableError

if TYPE_CHECKING:
    from monitor.events import Event
    from monitor.store.store import Store

LEASE_MS: Final = 2_000
"""How long a router's partition waits for its router after that one was killed."""
ROUTING_LAG_S: Final = 10.0


class Outbox:
    """Reads and acks on behalf of one daemon. Belongs to one event loop."""

    def __init__(self, store: Store, *, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._tokens: dict[int, int] = {}
        self._ages_ms: dict[int, int] = {}
        self._looked_s = dict.fromkeys(range(store.partitions), monotonic_s())

    async def claim(self, partition: int, limit: int) -> list[Event] | None:
        """The oldest events that were not acked; None while another daemon has the lease.

        Raises:
            StoreUnavailableError: no answer; take again.
        """
        taken = await self._store.claim(partition, owner=self._owner, lease_ms=LEASE_MS, limit=limit)
        self._tokens[partition] = taken.token
        self._ages_ms[partition] = taken.age_ms
        self._looked_s[partition] = monotonic_s()
        if taken.token and taken.last and not taken.events:
            # Nothing of it could be understood, so nobody will ack it.
            await self.ack(partition, taken.last)
        return taken.events if taken.token else None

    async def ack(self, partition: int, position: str) -> bool:
        """Pass everything up to ``position``; False when the lease has gone to somebody else.

        Raises:
            StoreUnavailableError: no answer; the same events may come again.
        """
        return await self._store.ack(partition, token=self._tokens[partition], position=position)

    async def release(self) -> None:
        """Give every lease back, so that another daemon goes on at once."""
        for partition, token in self._tokens.items():
            if token:
                with contextlib.suppress(StoreUnavailableError):  # then it runs out by itself
                    await self._store.release(partition, token=token)
        self._tokens.clear()

    def lag_s(self) -> float:
        """How long the oldest event that was not handed over has waited, in seconds, or nobody has looked for any."""
        now_s = monotonic_s()
        return max(now_s - at_s + self._ages_ms.get(partition, 0) / 1_000 for partition, at_s in self._looked_s.items())

    def reasons(self) -> list[str]:
        """Why routing is not well: events wait for longer than they should, or nobody has looked for any."""
        return [Reason.ROUTING_LAG] if self.lag_s() > ROUTING_LAG_S else []
