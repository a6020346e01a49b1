"""Endpoints for deliveries: notifications and their outcomes."""

from typing import Annotated, Final, Literal

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from alerts.groups.state import NotificationRecord, Outcome
from alerts.oncall.dead_letters import DeadLetters, of_tenant, outcomes_of
from alerts.service import AlertService
from alerts.store.group_store import Found
from monitor.api.endpoints import DEFAULT_LIMIT, Caller, Count, Cursor, Limit, in_json, needs, path_id
from monitor.api.errors import NoSuchError
from monitor.api.health import monitor_now
from monitor.api.responses import extended
from monitor.api.services import Services
from monitor.auth import Principal, Scope
from monitor.daemon.oncall.shared import EmptyBody, cursor_of, place_of
from monitor.events import Event, Time, rfc3339
from monitor.health import MonitorState
from monitor.pace import gathered

LOOK_BACK_CALLS: Final = 50
LOOK_BACK_EVENTS: Final = 200
"""An event is searched among the newest LOOK_BACK_CALLS * LOOK_BACK_EVENTS of each partition."""


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a replay."""

    force: Annotated[bool, Meta(description="Replay it even if it is overtaken.")] = False


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A notification to one receiver. ``event_id`` and ``worker_id`` None: it is about a group."""

    nid: Annotated[str, Meta(pattern="^ntf_[0-9a-f]{32}$")]
    receiver: str
    type: str
    tenant: str
    outcome: Outcome
    at: Time
    created_at: Time
    attempts: Count
    reason: str
    cause: Annotated[str, Meta(description="Kind of the last failure; empty: no failure.")]
    answer: Annotated[
        str, Meta(description="Beginning of the receiver's answer to the last failed attempt, at most 2 KiB.")
    ]
    reminder: Count
    event_id: str | None
    worker_id: str | None
    environment_name: str | None
    group: dict[str, str]


class DeliveryDone(Delivery, frozen=True, kw_only=True):
    """A notification after an operation on it."""

    monitor: MonitorState


class DeliveryDetail(Delivery, frozen=True, kw_only=True):
    """One notification, with its body."""

    # Verbatim, as it was sent: parsing it could change it.
    body: Annotated[
        msgspec.Raw,
        Meta(
            description="The body as sent; null if it is not kept any more.",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ]
    monitor: MonitorState


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of notifications. It may be short although more follow."""

    deliveries: list[Delivery]
    next_cursor: str | None
    monitor: MonitorState


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of dead letters: requeued; ``over``, whose outage is over; and ``left``, which could not be requeued."""

    replayed: Count
    over: Count
    left: Count
    next_cursor: str | None
    monitor: MonitorState


class EventOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of an event at a receiver. ``nid``: the notification that includes the event."""

    receiver: str
    outcome: Outcome
    at: Time
    nid: str | None
    reason: str


class EventOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of an event at each receiver that it was routed to."""

    event_id: str
    outcomes: list[EventOutcome]
    monitor: MonitorState


def delivery_of(found: Found) -> Delivery:
    """The answer for a stored notification."""
    note, event = found.note, found.note.event
    return Delivery(
        nid=note.nid,
        receiver=found.receiver,
        type=note.type,
        tenant=note.tenant,
        outcome=note.outcome,
        at=rfc3339(note.at_ms),
        created_at=rfc3339(note.created_ms),
        attempts=note.attempts,
        reason=note.reason,
        cause=note.cause,
        answer=note.answer,
        reminder=note.reminder,
        event_id=None if event is None else event.event_id,
        worker_id=None if event is None else event.worker_id,
        environment_name=note.labels.get("environment") if event is None else event.environment_name,
        group=note.labels,
    )


async def _visible_event(services: Services, caller: Principal, event_id: str) -> None:
    """Check that the caller may see the event. The id does not contain the tenant, so the event is searched.

    Raises:
        NoSuchError: the event is not among the newest ones, or not visible to the caller.
    """
    store = services.store
    after = dict.fromkeys(range(store.partitions), "")

    async def look_back(partition: int) -> list[Event]:
        limit = LOOK_BACK_EVENTS
        page = await store.history(partition, caller.tenant, after=after[partition], limit=limit, newest_first=True)
        return page.events

    for _ in range(LOOK_BACK_CALLS):
        found = dict(zip(after, await gathered(look_back, tuple(after)), strict=True))
        if any(event.event_id == event_id and _sees(caller, event) for events in found.values() for event in events):
            return
        after = {part: events[-1].position for part, events in found.items() if len(events) == LOOK_BACK_EVENTS}
        if not after:
            break
    raise NoSuchError(f"there is no event {event_id!r} among the newest that are kept")


def _sees(caller: Principal, event: Event) -> bool:
    return event.tenant == caller.tenant and caller.may_see(
        worker_id=event.worker_id, environment_name=event.environment_name
    )


_Nid = Annotated[str, path_id("The id of a notification, its `webhook-id`.")]
_Receiver = Annotated[
    str | None, QueryParameter(description="The receiver. By default the notification is searched at all receivers.")
]
_NO_FORCE: Final = ReplayRequest()
_EMPTY: Final = EmptyBody()


def delivery_handlers(services: Services, alerts: AlertService) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    now_ms, place = services.store.clock.now_ms, services.shared.reads.place

    def dead_letters(caller: Principal) -> DeadLetters:
        def sees(note: NotificationRecord) -> bool:
            return caller.is_operator or of_tenant(note, caller.tenant, caller.environments, caller.worker_id)

        return DeadLetters(groups=alerts.groups, is_open=alerts.incidents.is_open, sees=sees)

    @get(
        "/api/v1/deliveries",
        opt=needs(Scope.WORKERS_READ, operator=True, problems=(404,)),
        summary="List notifications, newest first; by default the dead letters",
        response_description="A page",
    )
    async def list_deliveries(
        request: Caller,
        receiver: Annotated[str | None, QueryParameter(description="Notifications to this receiver.")] = None,
        outcome: Annotated[
            Literal["queued", "dead_lettered", "finished"],
            QueryParameter(description="Notifications in flight, dead-lettered, or finished in another way."),
        ] = "dead_lettered",
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> DeliveryList:
        async with place(request.user.tenant):
            page = await dead_letters(request.user).page(
                Outcome.DELIVERED if outcome == "finished" else Outcome(outcome),
                receiver=receiver,
                after=place_of(cursor, "ntf_"),
                limit=limit,
                now_ms=now_ms(),
            )
            monitor = await monitor_now(services)
        return DeliveryList(
            deliveries=await in_json(delivery_of, page.found), next_cursor=cursor_of(page.last), monitor=monitor
        )

    @get(
        "/api/v1/deliveries/{nid:str}",
        opt=needs(Scope.WORKERS_READ, operator=True),
        summary="Get a notification, with its body if that is still kept",
        response_description="The notification",
    )
    async def get_delivery(request: Caller, nid: _Nid, receiver: _Receiver = None) -> DeliveryDetail:
        async with place(request.user.tenant):
            found = await dead_letters(request.user).find(nid, receiver=receiver)
            body = msgspec.Raw("null" if found.body is None else found.body)
            return extended(DeliveryDetail, delivery_of(found), body=body, monitor=await monitor_now(services))

    @post(
        "/api/v1/deliveries/{nid:str}/replay",
        opt=needs(Scope.ALERTS_WRITE, operator=True, problems=(409,)),
        summary="Requeue a dead letter with the same id and body",
        response_description="The notification",
        status_code=200,
    )
    async def replay_delivery(
        request: Caller, nid: _Nid, receiver: _Receiver = None, data: JSONBody[ReplayRequest] = _NO_FORCE
    ) -> DeliveryDone:
        async with place(request.user.tenant):
            found = await dead_letters(request.user).replay(nid, receiver=receiver, force=data.force, now_ms=now_ms())
            await alerts.wake()
        return extended(DeliveryDone, delivery_of(found), monitor=await monitor_now(services))

    @post(
        "/api/v1/deliveries/replay",
        opt=needs(Scope.ALERTS_WRITE, operator=True, problems=(404,)),
        summary="Requeue the dead letters of a receiver, page by page, newest first",
        response_description="The numbers of dead letters",
        status_code=200,
    )
    async def replay_deliveries(
        request: Caller,
        receiver: Annotated[str, QueryParameter(description="The receiver.")],
        cursor: Cursor = None,
        data: JSONBody[EmptyBody] = _EMPTY,
    ) -> Replayed:
        del data  # that it has no members is checked
        async with place(request.user.tenant):
            done = await dead_letters(request.user).replay_all(
                receiver=receiver, after=place_of(cursor, "ntf_"), now_ms=now_ms()
            )
            await alerts.wake()
        return Replayed(
            replayed=done.replayed,
            over=done.over,
            left=done.left,
            next_cursor=cursor_of(done.last),
            monitor=await monitor_now(services),
        )

    @post(
        "/api/v1/deliveries/{nid:str}/drop",
        opt=needs(Scope.ALERTS_WRITE, operator=True, problems=(409,)),
        summary="Drop a dead letter",
        response_description="The notification",
        status_code=200,
    )
    async def drop_delivery(
        request: Caller, nid: _Nid, receiver: _Receiver = None, data: JSONBody[EmptyBody] = _EMPTY
    ) -> DeliveryDone:
        del data
        async with place(request.user.tenant):
            found = await dead_letters(request.user).drop(nid, receiver=receiver, now_ms=now_ms())
        return extended(DeliveryDone, delivery_of(found), monitor=await monitor_now(services))

    @get(
        "/api/v1/events/{event_id:str}/outcomes",
        opt=needs(Scope.WORKERS_READ),
        summary="Get the outcome of an event at each receiver; for the newest events only",
        response_description="The outcomes",
    )
    async def event_outcomes(
        request: Caller, event_id: Annotated[str, path_id("The id of an event.")]
    ) -> EventOutcomes:
        async with place(request.user.tenant):
            await _visible_event(services, request.user, event_id)
            outcomes = [
                EventOutcome(
                    receiver=receiver,
                    # An event that is part of a notification has the outcome of the notification.
                    outcome=one.outcome if note is None else note.outcome,
                    at=rfc3339(one.at_ms if note is None else note.at_ms),
                    nid=one.nid,
                    reason="" if note is None else note.reason,
                )
                for receiver, one, note in await outcomes_of(alerts.groups, event_id)
            ]
            return EventOutcomes(event_id=event_id, outcomes=outcomes, monitor=await monitor_now(services))

    return [list_deliveries, get_delivery, replay_delivery, replay_deliveries, drop_delivery, event_outcomes]
