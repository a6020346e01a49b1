"""Endpoints for incidents: list, get, acknowledge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from litestar import get, post

from monitor.api.errors import ParameterError
from monitor.api.json_body import checked_text, read_json
from monitor.api.query import Query, narrowed
from monitor.api.requests import headers_of, principal_of, reads
from monitor.auth import Scope
from monitor.daemon.oncall.models import INCIDENT_STATES, IncidentState
from monitor.daemon.oncall.shared import page_answer, place_of, segment, time_or_none, viewer_of, with_monitor
from monitor.events import rfc3339

if TYPE_CHECKING:
    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.response.base import ASGIResponse

    from monitor.api.services import Services
    from monitor.auth import Principal
    from monitor.daemon.oncall.models import Incident, OnCall

PARAMETERS: Final = ("state", "environment", "cursor", "limit")
COMMENT_CHARS: Final = 1_000
NAME_CHARS: Final = 256


class AckBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of an acknowledgement. ``by`` None: the token's subject."""

    by: str | None = None
    comment: str = ""


def incident_json(incident: Incident) -> dict[str, object]:
    """JSON of an incident."""
    ack = incident.ack
    return {
        "id": incident.id,
        "kind": incident.kind,
        "tenant": incident.tenant,
        "worker_id": incident.worker_id,
        "environment_name": incident.environment_name,
        "generation": incident.generation,
        "opened_by": incident.opened_by,
        "opened_at": rfc3339(incident.opened_ms),
        "detected_at": rfc3339(incident.detected_ms),
        "updated_by": incident.updated_by,
        "reason": incident.reason,
        "closed_by": incident.closed_by,
        "closed_at": time_or_none(incident.closed_ms),
        "ack": None if ack is None else {"by": ack.by, "comment": ack.comment, "at": rfc3339(ack.at_ms)},
        "receivers": list(incident.receivers),
        "part_of": incident.part_of,
        "members": incident.members,
        "members_open": incident.members_open,
    }


def routes(services: Services, oncall: OnCall) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @get("/api/v1/incidents")
    @reads(services)
    async def list_incidents(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        query = Query(request.scope, PARAMETERS)
        state = query.single("state") or "open"
        if state not in INCIDENT_STATES:
            raise ParameterError("state", state, f"one of {', '.join(INCIDENT_STATES)} is expected")
        environments = narrowed(query.any_of("environment"), principal.environments)
        page = await oncall.incidents(
            replace(viewer_of(principal), environments=environments),
            state=cast("IncidentState", state),
            after=place_of(query, "inc_"),
            limit=query.limit(),
        )
        return await page_answer(services, "incidents", page.incidents, incident_json, page.last)

    @get("/api/v1/incidents/{incident_id:str}")
    @reads(services)
    async def one_incident(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        incident = await oncall.incident(viewer_of(principal), segment(request, "incident_id"))
        return await with_monitor(services, incident_json(incident))

    @post("/api/v1/incidents/{incident_id:str}/ack", status_code=200)
    async def acknowledge(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        principal = principal_of(headers, services, Scope.ALERTS_WRITE)
        body = await read_json(request, headers, AckBody, services=services, tenant=principal.tenant, empty=AckBody())
        by = principal.subject if body.by is None else checked_text("by", body.by, most=NAME_CHARS)
        comment = checked_text("comment", body.comment, most=COMMENT_CHARS, lines=True) if body.comment else ""
        async with services.shared.reads.place(principal.tenant):
            incident = await oncall.acknowledge(
                viewer_of(principal), segment(request, "incident_id"), by=by, comment=comment
            )
        return await with_monitor(services, incident_json(incident))

    return [list_incidents, one_incident, acknowledge]
