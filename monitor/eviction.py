"""Whether the store has begun to evict keys: its policy may change while it runs, and a failover may lead to another.

A start refuses such a server. One that becomes so is a reason why the monitor is degraded, and beats go on: nothing is
lost before its memory is full, and whoever is told can still set it right.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from monitor.reasons import Reason
from monitor.store import StoreUnavailableError

if TYPE_CHECKING:
    from monitor.store import Store

log = structlog.get_logger(__name__)

CHECK_S: Final = 5.0
"""How often the store is asked."""


class EvictionWatch:
    """Asks the store now and then, and says once that it evicts and once that it does so no more."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._policy: str | None = None

    async def run(self) -> NoReturn:
        """Ask for ever; ends by being cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_S)

    async def check(self) -> None:
        """Ask once. A store that does not answer is a reason of its own, and changes nothing here."""
        try:
            policy = await self._store.evicting_policy()
        except StoreUnavailableError:
            return
        if policy == self._policy:
            return
        self._policy = policy
        if policy is None:
            log.info("store.evicts_no_more")
        else:
            log.error("store.evicts", maxmemory_policy=policy, remedy="set maxmemory-policy to 'noeviction'")

    def reasons(self) -> list[Reason]:
        """Why the monitor is degraded."""
        return [] if self._policy is None else [Reason.STORE_EVICTS]
