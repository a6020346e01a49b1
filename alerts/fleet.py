"""What alerts ask of the worker store, beside its events: how things stand now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from alerts.wording import Standing
    from monitor.events import Event


class Fleet(Protocol):
    """The workers of all tenants. An event that is recorded shows here at once, routed or not."""

    async def standing(self, tenant: str, environment: str, since_ms: int | None = None) -> Standing:
        """How an environment of a tenant stands. ``since_ms``: from when on it is counted who has fallen; None: nobody
        is.
        """

    async def goes_on(self, event: Event) -> bool:
        """Whether the outage that an event told of is not over: its worker is down, and was not back in between."""
