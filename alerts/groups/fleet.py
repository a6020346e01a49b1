"""Interface to the worker store, besides events: health of environments and outages of workers."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from monitor.events import Event
from monitor.liveness import EnvironmentHealth


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOutage:
    """One outage of a worker, as recorded in the worker store.

    ``is_ongoing``: the worker is still down and was not back in between. ``before``: number of outages that began
    between the requested moment and this outage. The store may have forgotten old ones; it remembers at least seven.
    """

    is_ongoing: bool
    before: int


class StoredWorker(NamedTuple):
    """A worker as the worker store keeps it; None: it has no record, or no transitions."""

    record: bytes | None
    transitions: bytes | None


class Fleet(Protocol):
    """The workers of all tenants. A recorded event is visible here at once, even before it is routed."""

    async def environment_health(self, tenant: str, environment: str, since_ms: int | None = None) -> EnvironmentHealth:
        """Health of a tenant's environment. ``since_ms``: fallen workers count from then on; None: none count."""

    async def outage(self, event: Event, since_ms: int = 0, *, stored: StoredWorker | None = None) -> WorkerOutage:
        """The outage that an event reports.

        ``since_ms``: earlier outages count from then on. ``stored``: the event's worker; None: it is read.
        """
