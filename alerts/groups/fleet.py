"""Interface to the worker store, besides events: health of environments and outages of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from monitor.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentHealth:
    """Health of a tenant's environment when a notification is created.

    ``expected``: workers that should send beats. ``silent``: those of them that have missed beats. Stale, failed and
    stopped workers count in neither, so a worker that was just reported as down is not included.

    ``fallen``: workers that have become stale since the requested moment, notified or not. ``rejected``: workers that
    are stale and whose beats are rejected, no matter since when. Both are 0 if no moment was requested. ``down``:
    workers that are stale or failed, since the requested moment if there was one; None: unknown.
    """

    expected: int
    silent: int
    fallen: int = 0
    rejected: int = 0
    down: int | None = None

    def size(self, down: int) -> int:
        """Number of workers, given that ``down`` workers are down according to the events.

        A worker that is back but whose event is not routed yet is already in ``expected``. It counts once.
        """
        return self.expected + (down if self.down is None else min(down, self.down))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOutage:
    """One outage of a worker, as recorded in the worker store.

    ``goes_on``: the worker is still down and was not back in between. ``before``: number of outages that began between
    the requested moment and this outage. The store may have forgotten old ones; it remembers at least seven.
    """

    goes_on: bool
    before: int


class Fleet(Protocol):
    """The workers of all tenants. A recorded event is visible here at once, even before it is routed."""

    async def environment_health(self, tenant: str, environment: str, since_ms: int | None = None) -> EnvironmentHealth:
        """Health of a tenant's environment. ``since_ms``: fallen workers count from then on; None: none count."""

    async def outage(self, event: Event, since_ms: int = 0) -> WorkerOutage:
        """The outage that an event reports. ``since_ms``: earlier outages count from then on."""
