"""Endpoints for receivers: list, enable, test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from litestar import get, post
from litestar.params import JSONBody
from msgspec import Meta

from monitor.api.endpoints import Caller, Count, Seconds, needs, path_id
from monitor.api.health import monitor_now
from monitor.api.responses import extended
from monitor.auth import Scope
from monitor.daemon.oncall.shared import EmptyBody
from monitor.health import MonitorState

if TYPE_CHECKING:
    from litestar.handlers import HTTPRouteHandler

    from alerts.store.group_store import Stats
    from monitor.api.services import Services
    from monitor.daemon.oncall.service import OnCall


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """Queue status of a receiver."""

    name: str
    queued: Count
    dead_letters: Count
    dead_letters_standing: Count
    lag_seconds: Seconds
    disabled: Annotated[str | None, Meta(description="Why the receiver is disabled; null: it is enabled.")]


class ReceiverDetail(Receiver, frozen=True, kw_only=True):
    """One receiver."""

    monitor: MonitorState


class ReceiverList(msgspec.Struct, frozen=True, kw_only=True):
    """The receivers, by name."""

    receivers: list[Receiver]
    monitor: MonitorState


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a test notification. ``error`` None: the receiver accepted it."""

    receiver: str
    nid: str
    delivered: bool
    error: str | None
    seconds: Seconds
    monitor: MonitorState


def receiver_of(stats: Stats) -> Receiver:
    """The answer for the queue status of a receiver. ``lag_seconds``: age of the oldest overdue item."""
    return Receiver(
        name=stats.receiver,
        queued=stats.queued,
        dead_letters=stats.dead,
        dead_letters_standing=stats.open_dead_letters,
        lag_seconds=stats.lag_ms / 1000,
        disabled=stats.disabled,
    )


_Name = Annotated[str, path_id("The name of a receiver.")]
_EMPTY: Final = EmptyBody()


def receiver_handlers(services: Services, oncall: OnCall) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @get(
        "/api/v1/receivers",
        opt=needs(Scope.WORKERS_READ, operator=True),
        operation_id="list_receivers",
        summary="List the receivers with the status of their queues",
        response_description="The receivers",
    )
    async def list_receivers(request: Caller) -> ReceiverList:
        async with services.shared.reads.place(request.user.tenant):
            found = [receiver_of(one) for one in await oncall.receivers(request.user)]
            return ReceiverList(receivers=found, monitor=await monitor_now(services))

    @post(
        "/api/v1/receivers/{name:str}/enable",
        opt=needs(Scope.ADMIN, operator=True),
        operation_id="enable_receiver",
        summary="Enable a receiver that was disabled because it answered that it is gone",
        response_description="The receiver",
        status_code=200,
    )
    async def enable_receiver(request: Caller, name: _Name, data: JSONBody[EmptyBody] = _EMPTY) -> ReceiverDetail:
        del data  # that it has no members is checked
        stats = await oncall.enable(request.user, name)
        return extended(ReceiverDetail, receiver_of(stats), monitor=await monitor_now(services))

    @post(
        "/api/v1/receivers/{name:str}/test",
        opt=needs(Scope.ADMIN, operator=True, problems=(429,)),
        operation_id="test_receiver",
        summary="Send a test notification now and return the result",
        response_description="The result",
        status_code=200,
    )
    async def test_receiver(request: Caller, name: _Name, data: JSONBody[EmptyBody] = _EMPTY) -> Trial:
        del data
        nid, error, took_ms = await oncall.test(request.user, name)
        return Trial(
            receiver=name,
            nid=nid,
            delivered=error is None,
            error=error,
            seconds=took_ms / 1000,
            monitor=await monitor_now(services),
        )

    return [list_receivers, enable_receiver, test_receiver]
