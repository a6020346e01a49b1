"""The event history of a tenant: oldest first for pollers, or newest first.

Each partition keeps a stream for each tenant, in the order of commits. A page merges a tenant's streams by time. The
cursor holds the position reached in each stream, so that no event is skipped or repeated while others are recorded.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from litestar import get

from monitor.api.errors import ParameterError
from monitor.api.query import Query, bad_cursor, decode_cursor, encode_cursor, narrowed
from monitor.api.requests import reads
from monitor.api.responses import list_answer
from monitor.events import rfc3339
from monitor.liveness import EventKind

if TYPE_CHECKING:
    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.response.base import ASGIResponse

    from monitor.api.services import Services
    from monitor.auth import Principal
    from monitor.events import Event
    from monitor.store import Store

PARAMETERS: Final = ("environment", "worker_id", "type", "order", "cursor", "limit")
ORDERS: Final = ("asc", "desc")
SCAN_CALLS: Final = 10
SCAN_EVENTS: Final = 200
"""Events of a tenant that one call scans. A request makes at most ``SCAN_CALLS``, but at least one per partition."""

_POSITION: Final = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Filter of the event history. None: no restriction."""

    tenant: str
    environments: tuple[str, ...] | None
    worker_ids: tuple[str, ...] | None
    kinds: frozenset[str] | None

    def holds(self, event: Event) -> bool:
        """Whether the event passes the filter."""
        return (
            event.tenant == self.tenant
            and (self.environments is None or event.environment_name in self.environments)
            and (self.worker_ids is None or event.worker_id in self.worker_ids)
            and (self.kinds is None or event.kind in self.kinds)
        )


def _is_position(text: str) -> bool:
    return _POSITION.fullmatch(text) is not None and _at(text) > (0, 0)  # 0-0 is before every event


def _at(position: str) -> tuple[int, int]:
    ms, _, n = position.partition("-")
    return int(ms), int(n)


class _Reading:
    """Builds one page. ``after[p]`` is the position reached in partition ``p``; '': not read yet."""

    def __init__(self, selection: Selection, limit: int, after: list[str], *, newest_first: bool) -> None:
        self.selection = selection
        self.limit = limit
        self.after = after
        self.newest_first = newest_first
        self.found: list[Event] = []
        self.ended = False
        self.now_ms = 0
        self.swept_ms: int | None = None

    async def fill(self, store: Store) -> None:
        tenant = self.selection.tenant
        for _ in range(max(SCAN_CALLS // store.partitions, 1)):
            answers = await asyncio.gather(
                *(
                    store.history(partition, tenant, after=after, limit=SCAN_EVENTS, newest_first=self.newest_first)
                    for partition, after in enumerate(self.after)
                )
            )
            for now_ms, swept_ms, _ in answers:
                self.now_ms = max(self.now_ms, now_ms)
                self.swept_ms = swept_ms if self.swept_ms is None else min(self.swept_ms, swept_ms)
            self._merge([events for _, _, events in answers])
            if self.ended or len(self.found) >= self.limit:
                return

    def _merge(self, chunks: list[list[Event]]) -> None:
        """Take events in order, up to the point that every partition has been read to."""
        if self.newest_first:
            self._pin()
        cut_short = [_at(chunk[-1].position) for chunk in chunks if len(chunk) == SCAN_EVENTS]
        horizon = (max(cut_short) if self.newest_first else min(cut_short)) if cut_short else None
        merged = sorted(
            ((_at(event.position), event.partition, event) for chunk in chunks for event in chunk),
            key=lambda item: item[:2],
            reverse=self.newest_first,
        )
        for at, partition, event in merged:
            if horizon is not None and (at < horizon if self.newest_first else at > horizon):
                return
            if len(self.found) == self.limit:
                return
            self.after[partition] = event.position
            if self.selection.holds(event):
                self.found.append(event)
        self.ended = not cut_short

    def _pin(self) -> None:
        """Fix the start of a newest-first reading: later pages exclude events recorded after the first page."""
        self.after = [place or f"{self.now_ms + 1}-0" for place in self.after]


def _places(cursor: str | None, order: str, partitions: int) -> list[str]:
    if cursor is None:
        return [""] * partitions
    match decode_cursor(cursor):
        case [str(given), *places] if (
            given == order
            and len(places) == partitions
            and all(isinstance(place, str) and (not place or _is_position(place)) for place in places)
        ):
            return places
        case _:
            raise bad_cursor(cursor)


def routes(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @get("/api/v1/events")
    @reads(services)
    async def events(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        query = Query(request.scope, PARAMETERS)
        order = query.single("order") or ORDERS[0]
        if order not in ORDERS:
            raise ParameterError("order", order, f"one of {', '.join(ORDERS)} is expected")
        selection = Selection(
            tenant=principal.tenant,
            environments=narrowed(query.any_of("environment"), principal.environments),
            worker_ids=narrowed(
                query.any_of("worker_id"), None if principal.worker_id is None else (principal.worker_id,)
            ),
            kinds=query.words("type", frozenset(EventKind)),
        )
        places = _places(query.single("cursor"), order, services.store.partitions)
        reading = _Reading(selection, query.limit(), places, newest_first=order == "desc")
        await reading.fill(services.store)
        at_end = reading.ended and reading.newest_first
        return await list_answer(
            "events",
            reading.found,
            lambda event: {"type": event.kind.value, "timestamp": rfc3339(event.detected_ms), "data": event.data()},
            cursor=None if at_end else encode_cursor([order, *reading.after]),
            state=services.health.monitor_state(reading.now_ms, reading.swept_ms or 0),
        )

    return [events]
