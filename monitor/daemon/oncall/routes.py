"""The on-call API: the typed endpoints for incidents, silences, deliveries and receivers.

What a caller may not see does not exist for it. After a 503 a change may or may not have been made, and a retry is
harmless.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from litestar import Request, Router
from litestar.response import Response

from alerts.groups.incidents import IncidentClosedError, UnknownIncidentError
from alerts.groups.silences import TooManySilencesError, UnknownSilenceError
from alerts.oncall.dead_letters import OvertakenError, RefusedError, UnknownNotificationError, UnknownReceiverError
from alerts.service import AlertService
from monitor.api.endpoints import typed_router
from monitor.api.errors import ConflictError, NoSuchError, TooManyError
from monitor.api.problems import answer_error
from monitor.api.services import Services
from monitor.daemon.oncall.deliveries import delivery_handlers
from monitor.daemon.oncall.incidents import incident_handlers
from monitor.daemon.oncall.receivers import receiver_handlers
from monitor.daemon.oncall.silences import silence_handlers

ERRORS: Final[Mapping[type[Exception], Callable[[Any], Exception]]] = {
    UnknownReceiverError: lambda error: NoSuchError(f"there is no receiver {error.args[0]!r}"),
    UnknownNotificationError: lambda error: NoSuchError(f"there is no notification {error.args[0]!r}"),
    UnknownIncidentError: lambda _: NoSuchError("there is no such incident, or it has been deleted"),
    UnknownSilenceError: lambda _: NoSuchError("there is no such silence, or it has been deleted"),
    IncidentClosedError: lambda _: ConflictError("the incident is closed and cannot be acknowledged"),
    TooManySilencesError: lambda error: TooManyError(str(error)),
    OvertakenError: lambda error: ConflictError(f"{error}; with force it is sent anyway, on its own"),
    RefusedError: lambda error: ConflictError(str(error)),
}
"""The API's errors for those of the alerts."""


def oncall_router(services: Services, alerts: AlertService) -> Router:
    """The router of the on-call API."""
    makers = (incident_handlers, silence_handlers, delivery_handlers, receiver_handlers)
    typed = typed_router(services, [handler for make in makers for handler in make(services, alerts)])
    return Router("/", route_handlers=[typed], exception_handlers=dict.fromkeys(ERRORS, _answer))


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return answer_error(request, ERRORS[type(error)](error))
