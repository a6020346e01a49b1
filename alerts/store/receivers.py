"""The names of receivers in the store: each call is one function of ``receivers.lua``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.store.tags import shard_base

if TYPE_CHECKING:
    from collections.abc import Iterable

    from alerts.store.port import StorePort
    from monitor.durability import Confirmation

_RECEIVERS: Final = shard_base(0)


class ReceiverStore:
    """Stores the names of configured receivers, so that a removed one is noticed.

    Both methods are idempotent and raise ``StoreUnavailableError`` if the call may not have been executed.
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
