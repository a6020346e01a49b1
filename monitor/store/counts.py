"""Counts workers. Each call reads at most 200 cohorts."""

from collections.abc import Awaitable, Callable
from typing import Any

from monitor.liveness import EnvironmentHealth, Liveness
from monitor.pace import gathered
from monitor.store.results import Census

Read = Callable[..., Awaitable[Any]]


async def count_workers(read: Read, partitions: int, tenant: str | None) -> Census:
    """Count the workers of one tenant or of all, by environment and liveness. ``read``: calls a function."""
    environments: dict[str, dict[Liveness, int]] = {}
    tenants: set[str] = set()
    times: list[tuple[int, int]] = []

    async def count(partition: int) -> None:
        cohort_id = 0
        while True:
            now_ms, swept_ms, cohort_id, rows = await read("count", partition, tenant or "", cohort_id)
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
                times.append((now_ms, swept_ms))
                return

    await gathered(count, range(partitions))
    return Census(
        now_ms=max(now_ms for now_ms, _ in times),
        swept_ms=min(swept_ms for _, swept_ms in times),
        environments=environments,
        tenants=frozenset(tenants),
    )


async def environment_health(
    read: Read, partitions: int, tenant: str, environment_name: str, since_ms: int | None
) -> EnvironmentHealth:
    """Count the workers of one environment. ``since_ms``: also those that became stale from then on; None: none."""
    totals = [0] * 5
    since = "" if since_ms is None else since_ms

    async def add(partition: int) -> None:
        nonlocal totals
        cohort_id = 0
        while True:
            _, cohort_id, *counts = await read(
                "environment_health", partition, tenant, environment_name, cohort_id, since
            )
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
            if not cohort_id:
                return

    await gathered(add, range(partitions))
    expected, silent, fallen, rejected, down = totals
    return EnvironmentHealth(expected=expected, silent=silent, fallen=fallen, rejected=rejected, down=down)
