"""The event history of a tenant: oldest first for pollers, or newest first.

Each partition keeps a stream for each tenant, in the order of commits; a position in it is a time of the partition and
a number within the millisecond. A page merges the streams in one order: by time, partition and number. So one place in
that order is the position reached in every stream. It is the cursor, whatever the number of partitions.

Oldest first, no event may be recorded before a place that was passed. The times of partitions differ, and a call that
began earlier may commit later; but a partition commits no event before the newest time that it has stored, and one in
that millisecond gets a higher number. Each answer has that time, read in the same atomic step as the events. A page
ends at the least of (that time, partition) over all partitions, and what is recorded later is behind it. The time of
the reading would not do: it is not stored, so an event may be before it if the server's clock steps back. Pulses store
the time of every partition several times a second, so an event waits no longer for its page. With one partition it
never waits. Newest first, what is recorded later need not appear, so nothing waits.
"""

from dataclasses import dataclass
from heapq import merge
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from monitor.api.endpoints import DEFAULT_LIMIT, Caller, Cursor, Limit, any_of, in_json, needs
from monitor.api.query import bad_cursor, decode_cursor, encode_cursor, narrowed
from monitor.api.services import Services
from monitor.auth import Scope
from monitor.events import Event, EventData, Time, rfc3339
from monitor.health import MonitorState
from monitor.liveness import EventKind
from monitor.pace import Piece, gathered
from monitor.store import Store
from monitor.store.results import History

SCAN_CALLS: Final = 10
SCAN_EVENTS: Final = 200
"""Events of a tenant that one call scans. A request makes at most ``SCAN_CALLS``, but at least one per partition."""

_LARGEST: Final = 10**15
"""Larger than every number in a position."""


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


class _Place(NamedTuple):
    """The place of an event in the order of pages."""

    ms: int
    partition: int
    n: int

    @classmethod
    def of(cls, event: Event) -> "_Place":
        ms, _, n = event.position.partition("-")
        return cls(int(ms), event.partition, int(n))

    def position(self, partition: int, *, newest_first: bool) -> str:
        """The position in a partition's stream after which the events behind this place begin."""
        if partition == self.partition:
            return f"{self.ms}-{self.n}"
        ms = self.ms + (partition < self.partition)
        return f"{ms}-0" if newest_first else f"{ms - 1}-{_LARGEST}"


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
    """Builds one page. ``place`` is the one reached; None: the beginning."""

    def __init__(self, selection: Selection, limit: int, place: _Place | None, *, newest_first: bool) -> None:
        self.selection = selection
        self.limit = limit
        self.place = place
        self.newest_first = newest_first
        self.found: list[Event] = []
        self.ended = False
        self.now_ms = 0
        self.swept_ms = 0

    async def fill(self, store: Store) -> None:
        async def read(partition: int) -> History:
            after = "" if self.place is None else self.place.position(partition, newest_first=self.newest_first)
            return await store.history(
                partition, self.selection.tenant, after=after, limit=SCAN_EVENTS, newest_first=self.newest_first
            )

        for _ in range(max(SCAN_CALLS // store.partitions, 1)):
            pages = await gathered(read, range(store.partitions))
            self.now_ms = max(self.now_ms, *(page.now_ms for page in pages))
            self.swept_ms = min(page.swept_ms for page in pages)
            await self._merge(pages)
            if self.ended or len(self.found) >= self.limit:
                return

    async def _merge(self, pages: list[History]) -> None:
        """Take events in order, up to the place that every partition has been read to."""
        cut_short = [_Place.of(page.events[-1]) for page in pages if len(page.events) == SCAN_EVENTS]
        if self.newest_first:
            end = max(cut_short, default=_Place(0, 0, 0))
        else:
            written = [_Place(page.written_ms, partition, _LARGEST) for partition, page in enumerate(pages)]
            end = min(cut_short + written)
        piece = Piece()
        for event in merge(*(page.events for page in pages), key=_Place.of, reverse=self.newest_first):
            place = _Place.of(event)
            if len(self.found) == self.limit:
                return
            if place < end if self.newest_first else place > end:
                break
            if piece.is_over():
                await piece.rest()
            self.place = place
            if self.selection.holds(event):
                self.found.append(event)
        self.ended = not cut_short


def _place(cursor: str | None, order: str, partitions: int) -> _Place | None:
    if cursor is None:
        return None
    match decode_cursor(cursor):
        case [str(given)] if given == order:
            return None
        case [str(given), int(ms), int(partition), int(n)] if (
            given == order and 0 < ms < _LARGEST and 0 <= partition < partitions and 0 <= n < _LARGEST
        ):
            return _Place(int(ms), int(partition), int(n))  # JSON's true is an int too
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
        place = _place(cursor, order, services.store.partitions)
        reading = _Reading(selection, limit, place, newest_first=order == "desc")
        async with services.shared.reads.place(caller.tenant):
            await reading.fill(services.store)
        at_end = reading.ended and reading.newest_first
        return EventList(
            events=await in_json(event_of, reading.found),
            next_cursor=None if at_end else encode_cursor([order, *(reading.place or ())]),
            monitor=services.health.monitor_state(reading.now_ms, reading.swept_ms),
        )

    return [list_events]
