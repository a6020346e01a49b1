"""Heartbeats and disconnects of workers.

The router's path for heartbeats, which alone decides what is wrong with one. Most valid heartbeats take the fast path
of ``fast_path.py`` instead.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

from monitor.api.contract.beats import parse_beat, parse_disconnect, path_worker_id
from monitor.api.contract.errors import SYNTAX, ContractError
from monitor.api.errors import EncodingError
from monitor.api.problems import entry_of
from monitor.api.rejected_beats import Seen
from monitor.api.requests import Headers, caller, headers_of, identified, read_body
from monitor.api.responses import NO_STORE
from monitor.api.services import Services
from monitor.auth import Scope
from monitor.errors import NotAllowedError, UnknownWorkerError
from monitor.liveness import Trigger
from monitor.metrics.registry import BeatOutcome
from monitor.shares import Holding
from monitor.workers import Beat, WorkerKey

NEXT_BEAT = "lastseen-next-beat"
UNKNOWN_FIELDS = "lastseen-unknown-fields"
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
"""Names that are valid in a header (RFC 9110 5.6.2)."""


def accepted_headers(interval_ms: int) -> dict[str, str]:
    """The headers of the 204 for a stored beat, with the number of seconds until the next beat is expected."""
    seconds = f"{interval_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return {**NO_STORE, NEXT_BEAT: seconds}


def unknown_headers(services: Services, key: WorkerKey, names: tuple[str, ...]) -> dict[str, str]:
    """Log the unknown fields of a beat or a disconnect; returns the header that lists them in the answer."""
    services.unknown_fields.log(key, names)
    shown = [name for name in names if _TOKEN.fullmatch(name)]
    return {UNKNOWN_FIELDS: ", ".join(shown)} if shown else {}


@lru_cache(maxsize=1_024)
def accepted(interval_ms: int) -> ASGIResponse:
    """The 204 for a stored beat."""
    return ASGIResponse(status_code=204, headers=accepted_headers(interval_ms))


@contextmanager
def _named_encoding(headers: Headers) -> Iterator[None]:
    """Report the Content-Encoding of a body that is not JSON. A body that is JSON is accepted despite the header.

    Raises:
        EncodingError: instead of the ``ContractError``.
    """
    try:
        yield
    except ContractError as error:
        if headers.compression is not None and error.faults[0].type == SYNTAX:
            raise EncodingError(headers.compression) from None
        raise


async def _read_beat(services: Services, request: Request[Any, Any, Any], seen: Seen) -> Beat:
    """Read an admissible beat. ``seen`` collects what is known of the request, also if an error is raised."""
    headers = headers_of(request.scope)
    seen.principal = principal = identified(headers, services)
    principal.require(Scope.HEARTBEAT_WRITE)
    worker_id = None if seen.segment is None else path_worker_id(seen.segment)
    if worker_id is not None:
        principal.require_worker(worker_id)
    with Holding(services.shared.bodies, principal.tenant) as held:
        seen.body = await read_body(request.receive, headers, services.body_bytes, held=held, read=seen.read)
    with _named_encoding(headers):
        beat = parse_beat(
            seen.body,
            content_type=headers.content_type,
            limits=services.beat_limits,
            tenant=principal.tenant,
            path_worker_id=worker_id,
            token_environments=principal.environments,
        )
    principal.require_worker(beat.key.worker_id)
    seen.worker_id = beat.key.worker_id
    if (refused := services.admission.refused(beat.key)) is not None:
        raise refused
    return beat


def routes(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    async def take(request: Request[Any, Any, Any], segment: str | None) -> ASGIResponse:
        seen = Seen(scope=request.scope, segment=segment)
        try:
            beat = await _read_beat(services, request, seen)
            interval_ms = await services.intake.apply(beat)
        except Exception as error:
            # Count the request on any error, then re-raise it for the error handler.
            services.metrics.beat(entry_of(error).outcome)
            services.rejected_beats.beat_refused(error, seen)
            raise
        services.metrics.beat(BeatOutcome.STORED)
        if beat.unknown is not None and beat.unknown.registers:
            unknown = unknown_headers(services, beat.key, beat.unknown.names)
            return ASGIResponse(status_code=204, headers={**accepted_headers(interval_ms), **unknown})
        return accepted(interval_ms)

    @post("/api/v1/workers/heartbeat")
    async def heartbeat(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await take(request, None)

    @post("/api/v1/workers/{worker_id:str}/heartbeat")
    async def worker_heartbeat(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await take(request, request.path_params["worker_id"])

    @post("/api/v1/workers/{worker_id:str}/disconnect")
    async def worker_disconnect(request: Request[Any, Any, Any]) -> ASGIResponse:
        principal = caller(request.scope, services, Scope.HEARTBEAT_WRITE)
        headers = headers_of(request.scope)
        worker_id = path_worker_id(request.path_params["worker_id"])
        principal.require_worker(worker_id)
        with Holding(services.shared.bodies, principal.tenant) as held:
            body = await read_body(request.receive, headers, services.body_bytes, held=held)
        with _named_encoding(headers):
            disconnect = parse_disconnect(
                body,
                content_type=headers.content_type,
                tenant=principal.tenant,
                path_worker_id=worker_id,
                token_environments=principal.environments,
            )
        if (refused := services.admission.disconnect_refused(disconnect.key)) is not None:
            services.rejected_beats.disconnect_refused(principal, worker_id, refused)
            raise refused
        try:
            run = await services.intake.apply(disconnect)
            if disconnect.trigger is Trigger.DISCONNECT_FAILURE:
                # A failed worker sends no further beats, so the report must not be lost (P23).
                await services.store.confirm(services.store.partition_of(disconnect.key), run=run)
        except NotAllowedError:
            # As for GET: a worker outside the token's restriction does not exist for it.
            raise UnknownWorkerError(disconnect.key) from None
        unknown = unknown_headers(services, disconnect.key, disconnect.unknown)
        return ASGIResponse(status_code=204, headers={**NO_STORE, **unknown})

    return [heartbeat, worker_heartbeat, worker_disconnect]
