"""The status endpoint: current number of workers by environment and liveness; and the list of tenants."""

from collections import Counter
from collections.abc import Mapping

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler

from monitor.api.endpoints import Caller, Count, needs
from monitor.api.requests import stamp
from monitor.api.services import Services
from monitor.auth import ForbiddenError, Principal, Scope
from monitor.health import MonitorState
from monitor.liveness import Liveness
from monitor.store.results import Census
from monitor.workers import WorkerKey


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Number of workers by liveness."""

    alive: Count
    late: Count
    stale: Count
    failed: Count
    stopped: Count


class EnvironmentCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Number of workers of an environment."""

    environment_name: str
    counts: Counts
    total: Count


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Number of workers of a tenant."""

    tenant: str
    environments: list[EnvironmentCounts]
    counts: Counts
    total: Count
    monitor: MonitorState


class TenantList(msgspec.Struct, frozen=True, kw_only=True):
    """Names of the tenants that have workers."""

    tenants: list[str]
    monitor: MonitorState


def _counts(counts: Mapping[Liveness, int]) -> Counts:
    return Counts(**{liveness.value: counts.get(liveness, 0) for liveness in Liveness})


def status_handlers(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    async def census_for(principal: Principal) -> Census:
        """The counts of the tenant, or of the one worker that the token is restricted to."""
        if principal.worker_id is None:
            return await services.store.count_workers(principal.tenant)
        now_ms, swept_ms, worker = await services.store.get(WorkerKey(principal.tenant, principal.worker_id))
        seen = {} if worker is None else {worker.environment_name: {worker.liveness(now_ms): 1}}
        return Census(now_ms=now_ms, swept_ms=swept_ms, environments=seen)

    @get(
        "/api/v1/status",
        opt=needs(Scope.WORKERS_READ, polled=True),
        summary="Current counts by environment and liveness",
        response_description="The counts",
    )
    async def get_status(request: Caller) -> Status:
        caller = request.user
        async with services.shared.reads.place(caller.tenant):
            census = await census_for(caller)
        total: Counter[Liveness] = Counter()
        environments: list[EnvironmentCounts] = []
        for name, counts in sorted(census.environments.items()):
            if not any(counts.values()) or (caller.environments is not None and name not in caller.environments):
                continue
            environments.append(
                EnvironmentCounts(environment_name=name, counts=_counts(counts), total=sum(counts.values()))
            )
            total.update(counts)
        monitor = services.health.monitor_state(census.now_ms, census.swept_ms)
        stamp(request.scope, environments, now_ms=census.now_ms, monitor=monitor)
        return Status(
            tenant=caller.tenant, environments=environments, counts=_counts(total), total=total.total(), monitor=monitor
        )

    @get(
        "/api/v1/tenants",
        opt=needs(Scope.OPERATOR),
        summary="List the tenants that have workers",
        response_description="The names of the tenants",
    )
    async def list_tenants(request: Caller) -> TenantList:
        if not request.user.is_operator:
            raise ForbiddenError("the token is restricted to a worker or to environments and cannot list tenants")
        async with services.shared.reads.place(request.user.tenant):
            census = await services.store.count_workers(None)
        return TenantList(
            tenants=sorted(census.tenants), monitor=services.health.monitor_state(census.now_ms, census.swept_ms)
        )

    return [get_status, list_tenants]
