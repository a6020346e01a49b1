"""What the store knows of receivers: their names, and the status of their queues, over all partitions."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from alerts.store.port import StorePort
from alerts.store.tags import bases_of, shard_base
from monitor.durability import Confirmation

_RECEIVERS: Final = shard_base(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Queue status of one receiver.

    ``lag_ms``: age of the notification that is longest in flight, regardless of its attempts, or time since the group
    that is longest due became due, whichever is longer.
    """

    receiver: str
    queued: int
    lag_ms: int
    dead: int
    open_dead_letters: int
    """Dead letters that are not delivered, over, replayed or dropped (P31)."""
    open_in: tuple[str, ...]
    """The bases of the partitions and shards that have them."""
    groups: int
    disabled: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """The queue of a receiver in one partition or shard. ``due_ms``: when its first group is due."""

    receiver: str
    due_ms: int
    has_open_dead_letters: bool


class ReceiverStore:
    """Stores the names of configured receivers, so that a removed one is noticed, and knows their queues.

    Every method is idempotent and raises ``StoreUnavailableError`` if a call may not have been executed.
    """

    def __init__(self, store: StorePort) -> None:
        self._store = store

    async def register(self, receivers: Iterable[str]) -> tuple[list[str], Confirmation]:
        """Record the configured receivers.

        Returns the recorded names that are no longer configured, and whether the record is confirmed.
        """
        names = sorted(receivers)
        known, confirmation = await self._store.call_confirmed("receivers_add", _RECEIVERS, *names)
        return sorted({name.decode() for name in known}.difference(names)), confirmation

    async def remove(self, receiver: str) -> None:
        """Undo ``register`` for a receiver whose queue is empty."""
        await self._store.call("receivers_remove", _RECEIVERS, receiver)

    async def stats(self, receivers: Sequence[str], *, now_ms: int) -> list[Stats]:
        """Queue status of receivers, in their order."""
        tags = bases_of(self._store.partitions)
        parts = await asyncio.gather(*(self._store.call("stats", tag, now_ms, *receivers) for tag in tags))
        found = []
        for name, rows in zip(receivers, zip(*parts, strict=True), strict=True):
            queued, lags_ms, dead, groups, open_dead_letters, disabled = zip(*rows, strict=True)
            reason = next((one for one in disabled if one is not None), None)
            found.append(
                Stats(
                    receiver=name,
                    queued=sum(queued),
                    lag_ms=max(lags_ms),
                    dead=sum(dead),
                    open_dead_letters=sum(open_dead_letters),
                    open_in=tuple(itertools.compress(tags, open_dead_letters)),
                    groups=sum(groups),
                    disabled=None if reason is None else reason.decode(),
                )
            )
        return found

    async def queues(self, tag: str) -> list[QueueState]:
        """The queues of a partition or shard in which a group is due at some time."""
        rows = await self._store.call("queues", tag)
        return [
            QueueState(receiver=name.decode(), due_ms=due_ms, has_open_dead_letters=bool(dead))
            for name, due_ms, dead in rows
        ]
