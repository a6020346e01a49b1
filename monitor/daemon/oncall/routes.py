"""The on-call API as an extension of the HTTP application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitor.api.app import Extension
from monitor.daemon.oncall import deliveries, incidents, silences
from monitor.daemon.oncall.openapi import ONCALL, oncall_paths

if TYPE_CHECKING:
    from monitor.api.services import Services
    from monitor.daemon.oncall.models import OnCall


def oncall_extension(services: Services, oncall: OnCall) -> Extension:
    """Create the extension: routes, paths and schemas."""
    routes = [part.routes(services, oncall) for part in (incidents, silences, deliveries)]
    return Extension(routes=[route for some in routes for route in some], paths=oncall_paths(), schemas=ONCALL)
