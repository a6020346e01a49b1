"""What alerts ask of the worker store, beside its events: how things stand now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from monitor.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentHealth:
    """How the environment of a tenant stands when a notification is made.

    ``expected`` workers are to send beats, and ``silent`` of them have missed theirs. Those that are stale, failed
    or stopped are in neither; so a worker that has just been reported as down is none of them.

    ``fallen`` have become stale since the moment that was asked for, whether they have been told of or not, and
    ``rejected`` are stale and send beats that are refused, since whenever; 0 where no moment was. ``down`` are stale or
    failed, since that moment or, where none was, since whenever; None: that is not known.
    """

    expected: int
    silent: int
    fallen: int = 0
    rejected: int = 0
    down: int | None = None

    def size(self, down: int) -> int:
        """How many workers there are when ``down`` are, by the events. Those that are back, with the event on its way,
        are expected again, and count once.
        """
        return self.expected + (down if self.down is None else min(down, self.down))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOutage:
    """One outage of a worker, as the worker store knows it.

    ``goes_on``: the worker is down, and was not back in between. ``before``: how many others began since the moment
    that was asked for and before it, as far as that is known, which is at least seven.
    """

    goes_on: bool
    before: int


class Fleet(Protocol):
    """The workers of all tenants. An event that is recorded shows here at once, routed or not."""

    async def environment_health(self, tenant: str, environment: str, since_ms: int | None = None) -> EnvironmentHealth:
        """How an environment of a tenant stands. ``since_ms``: from when on it is counted who has fallen; None: nobody
        is.
        """

    async def outage(self, event: Event, since_ms: int = 0) -> WorkerOutage:
        """How it stands with the outage that an event tells of. ``since_ms``: from when on others before it count."""
