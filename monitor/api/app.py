"""The HTTP application, made of explicit collaborators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import Litestar
from litestar.response.base import ASGIResponse

from monitor.api import (
    batch,
    events,
    health,
    heartbeats,
    oncall_deliveries,
    oncall_incidents,
    oncall_silences,
    revocations,
    status,
    workers,
)
from monitor.api.entry import Entry
from monitor.api.problems import answer_error

if TYPE_CHECKING:
    from litestar.types import ASGIApp

    from monitor.api.services import Services


def create_router(services: Services) -> Litestar:
    """The routes, without what stands in front of them: paths must come undecoded."""
    return Litestar(
        [
            *heartbeats.routes(services),
            *batch.routes(services),
            *workers.routes(services),
            *status.routes(services),
            *events.routes(services),
            *oncall_incidents.routes(services),
            *oncall_silences.routes(services),
            *oncall_deliveries.routes(services),
            *revocations.routes(services),
            *health.routes(services),
        ],
        exception_handlers={Exception: answer_error},
        logging_config=None,
        # The document is written out in schema.py: handlers read raw bodies, of which nothing could be inferred.
        openapi_config=None,
        signature_types=[ASGIResponse],
        debug=False,
        pdb_on_exception=False,
    )


def create_app(services: Services) -> ASGIApp:
    """The whole HTTP side as one ASGI app. It owns nothing: its collaborators are closed by who made them."""
    return Entry(create_router(services), answers=services.shared.answers)
