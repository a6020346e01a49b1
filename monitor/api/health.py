"""Endpoints about Lastseen itself: the three probes, the metrics and the schema."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

from monitor.api.requests import caller
from monitor.api.responses import NO_STORE, json_answer
from monitor.api.services import Services
from monitor.auth import Scope
from monitor.clock import monotonic_s
from monitor.errors import StoreUnavailableError
from monitor.health import MonitorState
from monitor.liveness import Liveness
from monitor.reasons import Reason

CENSUS_AGE_S: Final = 5.0
METRICS, SCHEMA = "/metrics", "/schema"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a probe."""

    status: Literal["ok", "degraded", "not_ready"]
    reasons: Sequence[str]
    failing: Sequence[str] | msgspec.UnsetType = msgspec.UNSET


_OK: Final = Probe(status="ok", reasons=())


class FleetGauge:
    """Refreshes the gauges of the whole fleet at a scrape. Workers are counted at most once in ``CENSUS_AGE_S``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._counting = asyncio.Lock()
        self._counted_at_s = -math.inf
        self._counts: dict[Liveness, int] | None = None

    async def refresh(self) -> None:
        """Set the gauges of ``Metrics`` for one scrape. With the store down, they show that instead of failing."""
        async with self._counting:
            if monotonic_s() - self._counted_at_s >= CENSUS_AGE_S:
                await self._count()
        # Not cached with the counts: their age must not appear as sweep lag.
        age_s, reasons = await _age_and_reasons(self._services)
        self._services.metrics.fleet(self._counts, sweep_lag_s=math.inf if age_s is None else age_s)
        self._services.metrics.degraded(reasons)

    async def _count(self) -> None:
        try:
            census = await self._services.store.inside().count_workers(None)
        except StoreUnavailableError:
            self._counts = None
        else:
            self._counts = Counter()
            for environment in census.environments.values():
                self._counts.update(environment)
        self._counted_at_s = monotonic_s()


async def monitor_now(services: Services) -> MonitorState:
    """The monitor's state, with the time of the last sweep from the store.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    return services.health.monitor_state(*await services.store.last_sweep())


async def reasons_now(services: Services) -> tuple[str, ...]:
    """Why the monitor is degraded, checked now. Takes at most four times the store's timeout."""
    await services.health.store_writes()
    _, reasons = await _age_and_reasons(services)
    return reasons


async def _age_and_reasons(services: Services) -> tuple[float | None, tuple[str, ...]]:
    """The age of the last sweep in seconds, None if not known, and why the monitor is degraded."""
    try:
        state = await monitor_now(services)
    except StoreUnavailableError:
        return None, tuple(dict.fromkeys((Reason.STORE_UNAVAILABLE, *services.health.standing_reasons())))
    return state.last_sweep_age_seconds, state.reasons


def routes(services: Services, document: Callable[[], Mapping[str, object]]) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    return [*_probes(services), *_pages(services, document)]


def _probes(services: Services) -> list[HTTPRouteHandler]:
    health = services.health

    @get("/livez")
    async def livez() -> ASGIResponse:
        return json_answer(_OK)

    @get("/readyz")
    async def readyz() -> ASGIResponse:
        if await health.ready():
            return json_answer(_OK)
        reason = "stopping" if health.stopping else Reason.STORE_UNAVAILABLE
        return json_answer(Probe(status="not_ready", reasons=(reason,)), status_code=503)

    @get("/healthz")
    async def healthz() -> ASGIResponse:
        if reasons := await reasons_now(services):
            answer = Probe(status="degraded", reasons=reasons, failing=health.failing_parts() or msgspec.UNSET)
            return json_answer(answer, status_code=503)
        return json_answer(_OK)

    return [livez, readyz, healthz]


def _pages(services: Services, document: Callable[[], Mapping[str, object]]) -> list[HTTPRouteHandler]:
    fleet = FleetGauge(services)
    creating = asyncio.Lock()
    created: list[msgspec.Raw] = []

    def admit(request: Request[Any, Any, Any], path: str) -> None:
        if path not in services.anonymous:
            caller(request.scope, services, Scope.METRICS_READ)

    @get(METRICS)
    async def metrics(request: Request[Any, Any, Any]) -> ASGIResponse:
        admit(request, METRICS)
        await fleet.refresh()
        body, content_type = services.metrics.exposition(request.headers.get("accept", ""))
        return ASGIResponse(body=body, headers={**NO_STORE, "content-type": content_type})

    @get([SCHEMA, f"{SCHEMA}/openapi.json"])
    async def openapi(request: Request[Any, Any, Any]) -> ASGIResponse:
        admit(request, SCHEMA)
        async with creating:  # once, and in a thread: it takes a third of a second
            if not created:
                created.append(msgspec.Raw(msgspec.json.encode(await asyncio.to_thread(document))))
        return json_answer(created[0])

    return [metrics, openapi]
