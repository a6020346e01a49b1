"""Watches the store's eviction policy: it may change at runtime, and a failover may lead to a server with another one.

At startup the daemon refuses a server that evicts. At runtime an evicting policy degrades the monitor, and beats go
on: nothing is lost before the memory is full, so the operator can still correct the policy.
"""

import asyncio
from typing import Final, NoReturn

import structlog

from monitor.errors import StoreUnavailableError
from monitor.reasons import Reason
from monitor.store import Store

log = structlog.get_logger(__name__)

CHECK_S: Final = 5.0
"""How often the store is polled."""


class EvictionWatch:
    """Polls the store's eviction policy and logs each change once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._policy: str | None = None

    async def run(self) -> NoReturn:
        """Poll until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_S)

    async def check(self) -> None:
        """Poll once. An unavailable store is a reason of its own and changes nothing here."""
        try:
            policy = await self._store.connection.evicting_policy()
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
        """Return why the monitor is degraded."""
        return [] if self._policy is None else [Reason.STORE_EVICTS]
