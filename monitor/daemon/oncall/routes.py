"""The on-call API: the typed endpoints for incidents, silences, deliveries and receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitor.api.endpoints import typed_router
from monitor.daemon.oncall.deliveries import delivery_handlers
from monitor.daemon.oncall.incidents import incident_handlers
from monitor.daemon.oncall.receivers import receiver_handlers
from monitor.daemon.oncall.silences import silence_handlers

if TYPE_CHECKING:
    from litestar import Router

    from monitor.api.services import Services
    from monitor.daemon.oncall.service import OnCall


def oncall_router(services: Services, oncall: OnCall) -> Router:
    """The router of the on-call API."""
    makers = (incident_handlers, silence_handlers, delivery_handlers, receiver_handlers)
    return typed_router(services, [handler for make in makers for handler in make(services, oncall)])
