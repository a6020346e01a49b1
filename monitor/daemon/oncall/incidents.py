"""Endpoints for incidents: list, get, acknowledge."""

from contextlib import suppress
from typing import Annotated, Final, Literal

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from alerts.groups.attempts import idle
from alerts.groups.classify import Shape, shape_of
from alerts.groups.decisions import IDLE, Decision
from alerts.groups.incidents import Incident as StoredIncident
from alerts.groups.incidents import IncidentKind, IncidentState, UnknownIncidentError
from alerts.groups.state import AlertGroup
from alerts.routing.acknowledge import acknowledge_at
from alerts.service import AlertService
from alerts.store.group_store import Want
from monitor.api.endpoints import DEFAULT_LIMIT, Caller, Count, Cursor, Limit, any_of, in_json, needs, path_id
from monitor.api.health import monitor_now
from monitor.api.json_body import checked_text
from monitor.api.query import narrowed
from monitor.api.requests import stamp
from monitor.api.responses import extended
from monitor.api.services import Services
from monitor.auth import Principal, Scope
from monitor.daemon.oncall.shared import cursor_of, place_of, time_or_none
from monitor.events import Time, rfc3339
from monitor.health import MonitorState
from monitor.liveness import EventKind

COMMENT_CHARS: Final = 1_000
NAME_CHARS: Final = 256
_MS_DIGITS: Final = 15


class AckRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of an acknowledgement."""

    by: (
        Annotated[str, Meta(description="By default the token's subject.", extra_json_schema={"maxLength": NAME_CHARS})]
        | None
    ) = None
    comment: Annotated[str, Meta(extra_json_schema={"maxLength": COMMENT_CHARS})] = ""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledgement of an incident."""

    by: str
    comment: str
    at: Time


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One outage of a worker, or of an environment as a whole: then it has no worker_id and no generation."""

    id: Annotated[str, Meta(pattern="^inc_[0-9a-f]{32}$")]
    kind: Literal["worker", "environment"]
    tenant: str
    worker_id: str | None
    environment_name: str
    generation: int | None
    opened_by: EventKind
    opened_at: Time
    detected_at: Time
    updated_by: EventKind
    reason: str
    closed_by: str | None
    closed_at: Time | None
    ack: Ack | None
    receivers: tuple[str, ...]
    part_of: str | None
    members: Count
    members_open: Count


class NotificationState(msgspec.Struct, frozen=True, kw_only=True):
    """Where the notification of an open incident stands at one receiver."""

    receiver: str
    notified: Annotated[
        bool, Meta(description="The receiver has accepted a notification of this outage, or of its group's.")
    ]
    decision: Annotated[
        Decision | None, Meta(description="Why it notifies now, or why it does not; null: not decided yet.")
    ]
    next_decision_at: Annotated[
        Time | None, Meta(description="When it is decided again at the latest; null: when something changes.")
    ]
    nid: Annotated[str | None, Meta(description="The notification in flight.")]
    attempts: Annotated[Count, Meta(description="Attempts to deliver the notification in flight.")]
    error: Annotated[str, Meta(description="Why the last of them failed; empty: no failure.")]


class IncidentDetail(Incident, frozen=True, kw_only=True):
    """One incident, and while it is open where its notifications stand."""

    notifications: list[NotificationState]
    monitor: MonitorState


class IncidentList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of incidents. It may be short although more follow."""

    incidents: list[Incident]
    next_cursor: str | None
    monitor: MonitorState


def incident_of(incident: StoredIncident) -> Incident:
    """The answer for a stored incident."""
    ack = incident.ack
    is_worker = incident.kind is IncidentKind.WORKER
    return Incident(
        id=incident.id,
        kind=incident.kind.value,
        tenant=incident.tenant,
        worker_id=incident.worker_id if is_worker else None,
        environment_name=incident.environment_name,
        generation=incident.generation if is_worker else None,
        opened_by=incident.opened_by,
        opened_at=rfc3339(incident.opened_ms),
        detected_at=rfc3339(incident.detected_ms),
        updated_by=incident.updated,
        reason=incident.reason,
        closed_by=incident.closed_by,
        closed_at=time_or_none(incident.closed_ms),
        ack=None if ack is None else Ack(by=ack.by, comment=ack.comment, at=rfc3339(ack.at_ms)),
        receivers=tuple(sorted(incident.targets)),
        part_of=incident.part_of,
        members=incident.members,
        members_open=incident.members_open,
    )


def notification_of(receiver: str, group: AlertGroup) -> NotificationState:
    """The answer for a group that notifies of an incident."""
    in_flight = group.in_flight
    # A newer daemon on the same store may know further decisions.
    decision = next((one for one in Decision if one == group.waits_for), None)
    if decision is None or decision in IDLE:  # the group may have been acknowledged or delivered since
        decision = idle(group) if group.notified or group.given_up is not None else decision
    next_ms = group.waits_until_ms if in_flight is None else in_flight.due_ms
    return NotificationState(
        receiver=receiver,
        notified=group.notified,
        decision=decision if in_flight is None else Decision.RETRY if in_flight.error else Decision.ATTEMPT,
        next_decision_at=time_or_none(next_ms or None),
        nid=None if in_flight is None else in_flight.nid,
        attempts=0 if in_flight is None else in_flight.attempts,
        error="" if in_flight is None else in_flight.error,
    )


def _sees(caller: Principal, incident: StoredIncident) -> bool:
    return caller.may_see(worker_id=incident.worker_id, environment_name=incident.environment_name)


async def _visible(alerts: AlertService, caller: Principal, incident_id: str) -> StoredIncident:
    incident = await alerts.incidents.get(caller.tenant, incident_id)
    if not _sees(caller, incident):
        raise UnknownIncidentError(incident_id)
    return incident


async def _notifications(alerts: AlertService, caller: Principal, incident: StoredIncident) -> list[NotificationState]:
    """The state of each group that notifies of an incident, by receiver; none if it is closed.

    A restricted caller does not see groups of many workers, and an unreadable group is left out.
    """
    found: list[NotificationState] = []
    for receiver, key in sorted(incident.targets.items()) if incident.is_open else ():
        groups = alerts.groups.get(receiver)
        if groups is None or (caller.is_restricted and shape_of(key) is not Shape.WORKER):
            continue
        with suppress(msgspec.MsgspecError):
            [seen] = await groups.read([Want(group=key)])
            if seen.group is not None:
                found.append(notification_of(receiver, seen.group))
    return found


_Id = Annotated[str, path_id("The id of an incident.")]
_NO_ACK: Final = AckRequest()


def incident_handlers(services: Services, alerts: AlertService) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    place = services.shared.reads.place

    async def detail_of(caller: Principal, incident: StoredIncident) -> IncidentDetail:
        notifications = await _notifications(alerts, caller, incident)
        monitor = await monitor_now(services)
        return extended(IncidentDetail, incident_of(incident), notifications=notifications, monitor=monitor)

    @get(
        "/api/v1/incidents",
        opt=needs(Scope.WORKERS_READ, polled=True),
        summary="List incidents, newest first",
        response_description="A page",
    )
    async def list_incidents(
        request: Caller,
        which: Annotated[
            Literal["open", "closed", "all"], QueryParameter(name="state", description="Incidents in this state.")
        ] = "open",
        environment: Annotated[list[str] | None, any_of("Incidents of this environment.")] = None,
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> IncidentList:
        caller = request.user
        async with place(caller.tenant):
            after = place_of(cursor, "inc_")
            page = await alerts.incidents.page(
                caller.tenant,
                state=IncidentState(which),
                environments=narrowed(environment, caller.environments),
                after=None if after is None else f"{after[0]:0{_MS_DIGITS}d}{after[1]}",
                limit=limit,
            )
            monitor = await monitor_now(services)
        found = [one for one in page.incidents if _sees(caller, one)]
        last = None if page.after is None else (int(page.after[:_MS_DIGITS]), page.after[_MS_DIGITS:])
        incidents, next_cursor = await in_json(incident_of, found), cursor_of(last)
        stamp(request.scope, incidents, next_cursor, now_ms=services.store.clock.now_ms(), monitor=monitor)
        return IncidentList(incidents=incidents, next_cursor=next_cursor, monitor=monitor)

    @get(
        "/api/v1/incidents/{incident_id:str}",
        opt=needs(Scope.WORKERS_READ, polled=True),
        summary="Get an incident",
        response_description="The incident",
    )
    async def get_incident(request: Caller, incident_id: _Id) -> IncidentDetail:
        async with place(request.user.tenant):
            found = await detail_of(request.user, await _visible(alerts, request.user, incident_id))
        content = msgspec.structs.replace(found, monitor=None)
        stamp(request.scope, content, now_ms=services.store.clock.now_ms(), monitor=found.monitor)
        return found

    @post(
        "/api/v1/incidents/{incident_id:str}/ack",
        opt=needs(Scope.ALERTS_WRITE, problems=(409,)),
        summary="Acknowledge an incident: no reminder is begun after the answer; the first ack remains",
        response_description="The incident",
        status_code=200,
    )
    async def acknowledge_incident(
        request: Caller, incident_id: _Id, data: JSONBody[AckRequest] = _NO_ACK
    ) -> IncidentDetail:
        caller = request.user
        by = caller.subject if data.by is None else checked_text("by", data.by, most=NAME_CHARS)
        comment = checked_text("comment", data.comment, most=COMMENT_CHARS, lines=True) if data.comment else ""
        async with place(caller.tenant):
            await _visible(alerts, caller, incident_id)
            now_ms = services.store.clock.now_ms()
            # First in the incident, then in the groups that notify of it: no reminder is begun after the answer (P19).
            incident = await alerts.incidents.acknowledge(
                caller.tenant, incident_id, by=by, comment=comment, now_ms=now_ms
            )
            # If the incident has closed since the acknowledgement, no reminder is due any more.
            for receiver, key in incident.targets.items() if incident.is_open else ():
                if (groups := alerts.groups.get(receiver)) is not None:
                    await acknowledge_at(groups, key, incident, now_ms=now_ms)
            return await detail_of(caller, incident)

    return [list_incidents, get_incident, acknowledge_incident]
