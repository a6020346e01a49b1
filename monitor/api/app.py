"""The HTTP application, made of explicit collaborators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from litestar import Litestar
from litestar.response.base import ASGIResponse

from monitor.api import batch, events, health, heartbeats, revocations, status, workers
from monitor.api.openapi.document import document
from monitor.api.problems import answer_error
from monitor.api.raw_path import RawPath

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar.handlers import HTTPRouteHandler
    from litestar.types import ASGIApp

    from monitor.api.openapi.components import Schema
    from monitor.api.services import Services


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """Routes of another package, and their part of the OpenAPI document."""

    routes: Sequence[HTTPRouteHandler]
    paths: Mapping[str, Schema]
    schemas: Mapping[str, Schema]


def create_router(services: Services, extensions: Sequence[Extension] = ()) -> Litestar:
    """The routes, without what stands in front of them: paths must come undecoded."""
    schema = document(
        paths={path: item for one in extensions for path, item in one.paths.items()},
        schemas={name: schema for one in extensions for name, schema in one.schemas.items()},
    )
    return Litestar(
        [
            *heartbeats.routes(services),
            *batch.routes(services),
            *workers.routes(services),
            *status.routes(services),
            *events.routes(services),
            *revocations.routes(services),
            *health.routes(services, schema),
            *(route for one in extensions for route in one.routes),
        ],
        exception_handlers={Exception: answer_error},
        logging_config=None,
        # The document is written out in openapi/: handlers read raw bodies, of which nothing could be inferred.
        openapi_config=None,
        signature_types=[ASGIResponse],
        debug=False,
        pdb_on_exception=False,
    )


def create_app(services: Services, *extensions: Extension) -> ASGIApp:
    """The whole HTTP side as one ASGI app. It owns nothing: its collaborators are closed by who made them."""
    return RawPath(create_router(services, extensions), answers=services.shared.answers)
