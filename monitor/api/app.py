"""The HTTP application, assembled from explicit collaborators."""

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
    """Routes of another package, with their part of the OpenAPI document."""

    routes: Sequence[HTTPRouteHandler]
    paths: Mapping[str, Schema]
    schemas: Mapping[str, Schema]


def create_router(services: Services, extensions: Sequence[Extension] = ()) -> Litestar:
    """Create the router without ``RawPath`` in front: the caller must pass undecoded paths."""
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
        # The document is written by hand in openapi/: Litestar cannot infer schemas of handlers that read raw bodies.
        openapi_config=None,
        signature_types=[ASGIResponse],
        debug=False,
        pdb_on_exception=False,
    )


def create_app(services: Services, *extensions: Extension) -> ASGIApp:
    """Create the whole HTTP API as one ASGI app. The caller closes the collaborators."""
    return RawPath(create_router(services, extensions), answers=services.shared.answers)
