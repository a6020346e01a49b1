"""Endpoints for receivers: list, enable, test."""

import asyncio
from typing import Annotated, Final

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from alerts.errors import DeliveryError
from alerts.oncall.dead_letters import UnknownReceiverError
from alerts.oncall.sample import sample_pair
from alerts.service import AlertService
from alerts.store.group_store import GroupStore
from alerts.store.receivers import Stats
from monitor.api.admission import RateLimitedError
from monitor.api.endpoints import Caller, Count, Seconds, needs, path_id
from monitor.api.health import monitor_now
from monitor.api.responses import extended
from monitor.api.services import Services
from monitor.auth import ForbiddenError, Principal, Scope
from monitor.daemon.oncall.shared import EmptyBody
from monitor.health import MonitorState

TEST_SPACING_MS: Final = 10_000
"""Minimum time between two tests of a receiver, across all daemons."""


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


class ReceiverTest(msgspec.Struct, frozen=True, kw_only=True):
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


def _require_unrestricted(caller: Principal) -> None:
    if caller.is_restricted:
        raise ForbiddenError("the token is restricted to a worker or to environments and cannot access receivers")


def _keeps(alerts: AlertService, caller: Principal, receiver: str) -> bool:
    return caller.is_operator or caller.tenant in alerts.owners.get(receiver, ())


def _kept(alerts: AlertService, caller: Principal, receiver: str) -> GroupStore:
    """The groups of a receiver that the caller may test and enable.

    Raises:
        UnknownReceiverError: it does not exist, or belongs to other tenants.
        ForbiddenError: the token is restricted, or tenants share the receiver.
    """
    groups, owners = alerts.groups.get(receiver), alerts.owners.get(receiver)
    if groups is None or (owners and not _keeps(alerts, caller, receiver)):
        raise UnknownReceiverError(receiver)
    _require_unrestricted(caller)
    if not _keeps(alerts, caller, receiver):
        raise ForbiddenError(f"all tenants share the receiver {receiver!r}: that needs the scope 'operator'")
    return groups


_Name = Annotated[str, path_id("The name of a receiver.")]
_EMPTY: Final = EmptyBody()


def receiver_handlers(services: Services, alerts: AlertService) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    now_ms = services.store.clock.now_ms

    @get(
        "/api/v1/receivers",
        opt=needs(Scope.WORKERS_READ, operator=True),
        summary="List the receivers with the status of their queues",
        response_description="The receivers",
    )
    async def list_receivers(request: Caller) -> ReceiverList:
        caller = request.user
        async with services.shared.reads.place(caller.tenant):
            _require_unrestricted(caller)
            found = await alerts.stats([name for name in sorted(alerts.groups) if _keeps(alerts, caller, name)])
            return ReceiverList(receivers=[receiver_of(one) for one in found], monitor=await monitor_now(services))

    @post(
        "/api/v1/receivers/{name:str}/enable",
        opt=needs(Scope.ADMIN, operator=True),
        summary="Enable a receiver that was disabled because it answered that it is gone",
        response_description="The receiver",
        status_code=200,
    )
    async def enable_receiver(request: Caller, name: _Name, data: JSONBody[EmptyBody] = _EMPTY) -> ReceiverDetail:
        del data  # that it has no members is checked
        groups = _kept(alerts, request.user, name)
        await groups.enable()
        await alerts.wake()
        [stats] = await alerts.stats([name])
        return extended(ReceiverDetail, receiver_of(stats), monitor=await monitor_now(services))

    @post(
        "/api/v1/receivers/{name:str}/test",
        opt=needs(Scope.ADMIN, operator=True, problems=(429,)),
        summary="Send a test notification now and return the result",
        response_description="The result",
        status_code=200,
    )
    async def test_receiver(request: Caller, name: _Name, data: JSONBody[EmptyBody] = _EMPTY) -> ReceiverTest:
        del data
        if wait_ms := await _kept(alerts, request.user, name).begin_test(TEST_SPACING_MS):
            wait_s = -(-wait_ms // 1_000)
            raise RateLimitedError(f"{name} was tested less than {TEST_SPACING_MS // 1_000} s ago", wait_s)
        receiver, began_ms = alerts.receivers[name], now_ms()
        pair = sample_pair(name, alerts.wording, now_ms=began_ms)
        timeout_s = 2 * receiver.timeout_s  # twice the receiver's own, because the test is two notifications
        error: str | None = None
        try:
            async with asyncio.timeout(timeout_s):
                for notification in pair:
                    await receiver.send(notification, attempt=1, now_ms=began_ms)
        except DeliveryError as failure:
            error = str(failure)
        except TimeoutError:
            error = f"no answer within {timeout_s:g} s"
        return ReceiverTest(
            receiver=name,
            nid=pair[0].nid,
            delivered=error is None,
            error=error,
            seconds=max(0, now_ms() - began_ms) / 1000,
            monitor=await monitor_now(services),
        )

    return [list_receivers, enable_receiver, test_receiver]
