"""The event history of a tenant: oldest first for pollers, or newest first.

Each partition keeps a stream for each tenant, in the order of commits. A page merges a tenant's streams by time. The
cursor holds the position reached in each stream, so that no event is skipped or repeated while others are recorded.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from litestar import get
from litestar.params import QueryParameter

from monitor.api.endpoints import DEFAULT_LIMIT, Caller, Cursor, Limit, any_of, in_json, needs
from monitor.api.query import bad_cursor, decode_cursor, encode_cursor, narrowed
from monitor.auth import Scope
from monitor.events import EventData, Time, rfc3339
from monitor.health import MonitorState
from monitor.liveness import EventKind

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

    from monitor.api.services import Services
    from monitor.events import Event
    from monitor.store import Store

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


class EventAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the history."""

    type: EventKind
    timestamp: Time
    data: EventData


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the event history."""

    events: list[EventAnswer]
    next_cursor: str | None
    monitor: MonitorState


def event_of(event: Event) -> EventAnswer:
    """The answer for an event."""
    return EventAnswer(type=event.kind, timestamp=rfc3339(event.detected_ms), data=event.data())


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
            # Later pages exclude events recorded after the first page.
            self.after = [place or f"{self.now_ms + 1}-0" for place in self.after]
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


def event_handlers(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @get(
        "/api/v1/events",
        opt=needs(Scope.WORKERS_READ),
        summary="List the event history; oldest first there is always a next cursor, for polling",
        response_description="A page",
    )
    async def list_events(  # noqa: PLR0917 - the parameters of the request, which are given by name
        request: Caller,
        environment: Annotated[list[str] | None, any_of("Events of workers that were in this environment.")] = None,
        worker_id: Annotated[list[str] | None, any_of("Events of this worker.")] = None,
        kinds: Annotated[list[EventKind] | None, any_of("Events of this type.", name="type")] = None,
        order: Annotated[Literal["asc", "desc"], QueryParameter(description="Oldest or newest first.")] = "asc",
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> EventList:
        caller = request.user
        selection = Selection(
            tenant=caller.tenant,
            environments=narrowed(environment, caller.environments),
            worker_ids=narrowed(worker_id, None if caller.worker_id is None else (caller.worker_id,)),
            kinds=None if kinds is None else frozenset(kinds),
        )
        places = _places(cursor, order, services.store.partitions)
        reading = _Reading(selection, limit, places, newest_first=order == "desc")
        async with services.shared.reads.place(caller.tenant):
            await reading.fill(services.store)
        at_end = reading.ended and reading.newest_first
        return EventList(
            events=await in_json(event_of, reading.found),
            next_cursor=None if at_end else encode_cursor([order, *reading.after]),
            monitor=services.health.monitor_state(reading.now_ms, reading.swept_ms or 0),
        )

    return [list_events]
