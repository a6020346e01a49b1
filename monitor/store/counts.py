"""Counts workers. Each call reads at most 200 cohorts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monitor.liveness import EnvironmentHealth, Liveness
from monitor.store.results import Census

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Read = Callable[..., Awaitable[Any]]


async def count_workers(read: Read, partitions: int, tenant: str | None) -> Census:
    """Count the workers of one tenant or of all, by environment and liveness. ``read``: calls a function."""
    environments: dict[str, dict[Liveness, int]] = {}
    tenants: set[str] = set()
    now_ms, swept_ms = 0, None
    for partition in range(partitions):
        cohort_id = 0
        while True:
            now_ms, swept, cohort_id, rows = await read("count", partition, tenant or "", cohort_id)
            for owner, name, after_stop, on_time, late, overdue, missing, stale, stopped, failed in rows:
                if any((on_time, late, overdue, stale, stopped, failed)):
                    tenants.add(owner.decode())
                counts = environments.setdefault(name.decode(), dict.fromkeys(Liveness, 0))
                counts[Liveness.ALIVE] += on_time
                counts[Liveness.LATE] += late
                counts[Liveness.STOPPED if after_stop else Liveness.STALE] += overdue
                # ``missing`` workers are among the stopped, or were counted as stopped above.
                counts[Liveness.STALE] += stale + missing
                counts[Liveness.STOPPED] += stopped - missing
                counts[Liveness.FAILED] += failed
            if not cohort_id:
                break
        swept_ms = swept if swept_ms is None else min(swept_ms, swept)
    return Census(now_ms=now_ms, swept_ms=swept_ms or 0, environments=environments, tenants=frozenset(tenants))


async def environment_health(
    read: Read, partitions: int, tenant: str, environment_name: str, since_ms: int | None
) -> EnvironmentHealth:
    """Count the workers of one environment. ``since_ms``: also those that became stale from then on; None: none."""
    totals = [0] * 5
    since = "" if since_ms is None else since_ms
    for partition in range(partitions):
        cohort_id = 0
        while True:
            _, cohort_id, *counts = await read(
                "environment_health", partition, tenant, environment_name, cohort_id, since
            )
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
            if not cohort_id:
                break
    expected, silent, fallen, rejected, down = totals
    return EnvironmentHealth(expected=expected, silent=silent, fallen=fallen, rejected=rejected, down=down)
