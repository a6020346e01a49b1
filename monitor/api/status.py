"""The status endpoint: current number of workers by environment and liveness; and the list of tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import get

from monitor.api.query import Query
from monitor.api.requests import reads
from monitor.api.responses import json_answer, monitor_json
from monitor.auth import ForbiddenError, Scope
from monitor.liveness import Liveness
from monitor.store.results import Census
from monitor.workers import WorkerKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.response.base import ASGIResponse

    from monitor.api.services import Services
    from monitor.auth import Principal


def _counts_json(counts: Mapping[Liveness, int]) -> dict[str, int]:
    return {liveness.value: counts.get(liveness, 0) for liveness in Liveness}


def routes(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    async def census_for(principal: Principal) -> Census:
        """The counts of the tenant, or of the one worker that the token is restricted to."""
        if principal.worker_id is None:
            return await services.store.count_workers(principal.tenant)
        now_ms, swept_ms, worker = await services.store.get(WorkerKey(principal.tenant, principal.worker_id))
        seen = {} if worker is None else {worker.environment_name: {worker.liveness(now_ms): 1}}
        return Census(now_ms=now_ms, swept_ms=swept_ms, environments=seen)

    @get("/api/v1/status")
    @reads(services)
    async def status(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        Query(request.scope, ())
        census = await census_for(principal)
        total = dict.fromkeys(Liveness, 0)
        environments: list[dict[str, object]] = []
        for name, counts in sorted(census.environments.items()):
            if not any(counts.values()) or (principal.environments is not None and name not in principal.environments):
                continue
            environments.append(
                {"environment_name": name, "counts": _counts_json(counts), "total": sum(counts.values())}
            )
            for liveness, count in counts.items():
                total[liveness] += count
        return json_answer(
            {
                "tenant": principal.tenant,
                "environments": environments,
                "counts": _counts_json(total),
                "total": sum(total.values()),
                "monitor": monitor_json(services.health.monitor_state(census.now_ms, census.swept_ms)),
            }
        )

    @get("/api/v1/tenants")
    @reads(services, Scope.OPERATOR)
    async def tenants(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        if not principal.is_operator:
            raise ForbiddenError("the token is restricted to a worker or to environments and cannot list tenants")
        Query(request.scope, ())
        census = await services.store.count_workers(None)
        monitor = monitor_json(services.health.monitor_state(census.now_ms, census.swept_ms))
        return json_answer({"tenants": sorted(census.tenants), "monitor": monitor})

    return [status, tenants]
