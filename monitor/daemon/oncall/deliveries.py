"""Endpoints for deliveries (notifications and their outcomes) and for receivers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from litestar import get, post

from monitor.api.errors import NoSuchError, ParameterError
from monitor.api.health import monitor_now
from monitor.api.json_body import read_json
from monitor.api.query import Query, encode_cursor
from monitor.api.requests import headers_of, principal_of, reads
from monitor.api.responses import encoded, json_bytes_answer, monitor_json
from monitor.auth import Scope
from monitor.daemon.oncall.models import DELIVERY_STATES, DeliveryState
from monitor.daemon.oncall.shared import page_answer, place_of, segment, viewer_of, with_monitor
from monitor.events import rfc3339

if TYPE_CHECKING:
    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.response.base import ASGIResponse

    from monitor.api.services import Services
    from monitor.auth import Principal
    from monitor.daemon.oncall.models import Delivery, OnCall, ReceiverState, Viewer
    from monitor.events import Event

PARAMETERS: Final = ("receiver", "outcome", "cursor", "limit")
LOOK_BACK_CALLS: Final = 50
LOOK_BACK_EVENTS: Final = 200
"""An event is searched among the newest LOOK_BACK_CALLS * LOOK_BACK_EVENTS of each partition."""


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a replay. ``force``: replay the dead letter even if it is overtaken."""

    force: bool = False


class EmptyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An optional empty body."""


def delivery_json(delivery: Delivery) -> dict[str, object]:
    """JSON of a delivery."""
    return {
        "nid": delivery.nid,
        "receiver": delivery.receiver,
        "type": delivery.type,
        "tenant": delivery.tenant,
        "outcome": delivery.outcome,
        "at": rfc3339(delivery.at_ms),
        "created_at": rfc3339(delivery.created_ms),
        "attempts": delivery.attempts,
        "reason": delivery.reason,
        "cause": delivery.cause,
        "answer": delivery.answer,
        "reminder": delivery.reminder,
        "event_id": delivery.event_id,
        "worker_id": delivery.worker_id,
        "environment_name": delivery.environment_name,
        "group": dict(delivery.labels),
    }


def receiver_json(receiver: ReceiverState) -> dict[str, object]:
    """JSON of a receiver."""
    return {
        "name": receiver.name,
        "queued": receiver.queued,
        "dead_letters": receiver.dead,
        "dead_letters_standing": receiver.open_dead_letters,
        "lag_seconds": receiver.lag_ms / 1000,
        "disabled": receiver.disabled,
    }


async def _visible_event(services: Services, viewer: Viewer, event_id: str) -> None:
    """Check that the viewer may see the event. The id does not contain the tenant, so the event is searched.

    Raises:
        NoSuchError: the event is not among the newest ones, or not visible to the viewer.
    """
    store = services.store
    after = dict.fromkeys(range(store.partitions), "")
    for _ in range(LOOK_BACK_CALLS):
        answers = await asyncio.gather(
            *(
                store.history(partition, viewer.tenant, after=place, limit=LOOK_BACK_EVENTS, newest_first=True)
                for partition, place in after.items()
            )
        )
        left: dict[int, str] = {}
        for partition, (_, _, events) in zip(after, answers, strict=True):
            if any(event.event_id == event_id and _sees(viewer, event) for event in events):
                return
            if len(events) == LOOK_BACK_EVENTS:
                left[partition] = events[-1].position
        if not left:
            break
        after = left
    raise NoSuchError(f"there is no event {event_id!r} among the newest that are kept")


def _sees(viewer: Viewer, event: Event) -> bool:
    return (
        event.tenant == viewer.tenant
        and (viewer.environments is None or event.environment_name in viewer.environments)
        and (viewer.worker_id is None or event.worker_id == viewer.worker_id)
    )


def routes(services: Services, oncall: OnCall) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    return [*_delivery_routes(services, oncall), *_receiver_routes(services, oncall)]


def _delivery_routes(services: Services, oncall: OnCall) -> list[HTTPRouteHandler]:

    @get("/api/v1/deliveries")
    @reads(services, operator=True)
    async def list_deliveries(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        viewer = viewer_of(principal)
        query = Query(request.scope, PARAMETERS)
        state = query.single("outcome") or "dead_lettered"
        if state not in DELIVERY_STATES:
            raise ParameterError("outcome", state, f"one of {', '.join(DELIVERY_STATES)} is expected")
        page = await oncall.deliveries(
            viewer,
            state=cast("DeliveryState", state),
            receiver=query.single("receiver"),
            after=place_of(query, "ntf_"),
            limit=query.limit(),
        )
        return await page_answer(services, "deliveries", page.deliveries, delivery_json, page.last)

    @get("/api/v1/deliveries/{nid:str}")
    @reads(services, operator=True)
    async def one_delivery(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        viewer = viewer_of(principal)
        receiver = Query(request.scope, ("receiver",)).single("receiver")
        delivery = await oncall.delivery(viewer, segment(request, "nid"), receiver=receiver)
        members = {**delivery_json(delivery), "monitor": monitor_json(await monitor_now(services))}
        # The body is inserted verbatim, as it was sent: parsing it could change it.
        body = b"null" if delivery.body is None else delivery.body.encode()
        return json_bytes_answer(b'%b,"body":%b}' % (encoded(members)[:-1], body))

    @post("/api/v1/deliveries/{nid:str}/replay", status_code=200)
    async def replay(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        viewer = viewer_of(principal_of(headers, services, Scope.ALERTS_WRITE, operator=True))
        receiver = Query(request.scope, ("receiver",)).single("receiver")
        tenant, nid = viewer.tenant, segment(request, "nid")
        body = await read_json(request, headers, ReplayBody, services=services, tenant=tenant, empty=ReplayBody())
        async with services.shared.reads.place(tenant):
            delivery = await oncall.replay(viewer, nid, receiver=receiver, force=body.force)
        return await with_monitor(services, delivery_json(delivery))

    @post("/api/v1/deliveries/replay", status_code=200)
    async def replay_all(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        viewer = viewer_of(principal_of(headers, services, Scope.ALERTS_WRITE, operator=True))
        query = Query(request.scope, ("receiver", "cursor"))
        receiver = query.single("receiver")
        if receiver is None:
            raise ParameterError("receiver", "", "the name of a receiver is expected")
        await read_json(request, headers, EmptyBody, services=services, tenant=viewer.tenant, empty=EmptyBody())
        async with services.shared.reads.place(viewer.tenant):
            done = await oncall.replay_all(viewer, receiver, after=place_of(query, "ntf_"))
        counts = {"replayed": done.replayed, "over": done.over, "left": done.left}
        cursor = None if done.last is None else encode_cursor([*done.last])
        return await with_monitor(services, {**counts, "next_cursor": cursor})

    @post("/api/v1/deliveries/{nid:str}/drop", status_code=200)
    async def drop(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        viewer = viewer_of(principal_of(headers, services, Scope.ALERTS_WRITE, operator=True))
        receiver = Query(request.scope, ("receiver",)).single("receiver")
        tenant, nid = viewer.tenant, segment(request, "nid")
        await read_json(request, headers, EmptyBody, services=services, tenant=tenant, empty=EmptyBody())
        async with services.shared.reads.place(tenant):
            delivery = await oncall.drop(viewer, nid, receiver=receiver)
        return await with_monitor(services, delivery_json(delivery))

    @get("/api/v1/events/{event_id:str}/outcomes")
    @reads(services)
    async def outcomes(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        event_id = segment(request, "event_id")
        await _visible_event(services, viewer_of(principal), event_id)
        found = [
            {
                "receiver": one.receiver,
                "outcome": one.outcome,
                "at": rfc3339(one.at_ms),
                "nid": one.nid,
                "reason": one.reason,
            }
            for one in await oncall.outcomes(event_id)
        ]
        return await with_monitor(services, {"event_id": event_id, "outcomes": found})

    return [list_deliveries, one_delivery, replay, replay_all, drop, outcomes]


def _receiver_routes(services: Services, oncall: OnCall) -> list[HTTPRouteHandler]:

    @get("/api/v1/receivers")
    @reads(services, operator=True)
    async def receivers(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        viewer = viewer_of(principal)
        Query(request.scope, ())
        found = await oncall.receivers(viewer)
        return await with_monitor(services, {"receivers": [receiver_json(one) for one in found]})

    @post("/api/v1/receivers/{name:str}/enable", status_code=200)
    async def enable(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        viewer = viewer_of(principal_of(headers, services, Scope.ADMIN, operator=True))
        await read_json(request, headers, EmptyBody, services=services, tenant=viewer.tenant, empty=EmptyBody())
        return await with_monitor(services, receiver_json(await oncall.enable(viewer, segment(request, "name"))))

    @post("/api/v1/receivers/{name:str}/test", status_code=200)
    async def test(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        viewer = viewer_of(principal_of(headers, services, Scope.ADMIN, operator=True))
        await read_json(request, headers, EmptyBody, services=services, tenant=viewer.tenant, empty=EmptyBody())
        name = segment(request, "name")
        trial = await oncall.test(viewer, name)
        return await with_monitor(
            services,
            {
                "receiver": name,
                "nid": trial.nid,
                "delivered": trial.error is None,
                "error": trial.error,
                "seconds": trial.took_ms / 1000,
            },
        )

    return [receivers, enable, test]
