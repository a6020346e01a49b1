"""The HTTP application, assembled from explicit collaborators."""

from collections.abc import Sequence
from functools import partial

from litestar import Litestar, Router
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from monitor.api import batch, health, heartbeats, workers
from monitor.api.endpoints import typed_router
from monitor.api.events import event_handlers
from monitor.api.openapi.document import document
from monitor.api.problems import answer_error
from monitor.api.raw_path import RawPath
from monitor.api.revocations import revocation_handlers
from monitor.api.services import Services
from monitor.api.status import status_handlers
from monitor.api.workers import list_handlers


def typed_endpoints(services: Services) -> Router:
    """The typed endpoints of this package."""
    makers = (list_handlers, status_handlers, event_handlers, revocation_handlers)
    return typed_router(services, [handler for make in makers for handler in make(services)])


def create_router(services: Services, typed: Sequence[Router] = ()) -> Litestar:
    """Create the router without ``RawPath`` in front: the caller must pass undecoded paths."""
    every = [typed_endpoints(services), *typed]
    return Litestar(
        [
            *heartbeats.routes(services),
            *batch.routes(services),
            *workers.routes(services),
            *health.routes(services, partial(document, every)),
            *every,
        ],
        exception_handlers={Exception: answer_error},
        logging_config=None,
        # The document is served by our own handler, which checks the caller.
        openapi_config=None,
        signature_types=[ASGIResponse],
        debug=False,
        pdb_on_exception=False,
    )


def create_app(services: Services, *typed: Router) -> ASGIApp:
    """Create the whole HTTP API as one ASGI app. ``typed``: endpoints of other packages.

    The caller closes the services.
    """
    return RawPath(create_router(services, typed), answers=services.shared.answers)
