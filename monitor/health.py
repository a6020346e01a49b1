"""Health of Lastseen itself: whether it stores beats, and whether its answers are up to date (P27).

The composition root supplies a probe, in which the store proves that it can write, and callables that name further
reasons (a delivery that lags, a clock that jumped). This module reads no store and no wall clock.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Annotated, Final

import msgspec

from monitor.clock import monotonic_s
from monitor.reasons import Reason

SWEEP_LAG_INTERVALS: Final = 5
MIN_SWEEP_LAG_MS: Final = 5_000
PROBE_AGE_S: Final = 1.0
"""How long one probe's result is reused for all callers."""


asking_tenant: Final[ContextVar[str | None]] = ContextVar("asking_tenant", default=None)
"""Tenant of the token of the current request; None: a probe, or no request."""


class MonitorState(msgspec.Struct, frozen=True, kw_only=True):
    """The monitor's state: the member ``monitor`` of answers. ``last_sweep_age_seconds`` None: no sweep yet."""

    degraded: bool
    reasons: tuple[str, ...]
    last_sweep_age_seconds: Annotated[float, msgspec.Meta(ge=0)] | None


class Health:
    """Health of this process. Belongs to one event loop.

    ``probe`` returns whether at least one partition of the store just took a write; it has a timeout and does not
    raise. ``others`` names the reasons that the other processes of this daemon report; it is called like a source of
    ``add_reasons``. ``stopping`` is set by the composition root when the daemon begins to stop.
    """

    def __init__(
        self,
        *,
        sweep_interval_ms: int,
        probe: Callable[[], Awaitable[bool]],
        others: Callable[[], Iterable[str]] = tuple,
        elapsed_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self.stopping = False
        self.probe_s = math.nan
        """Duration of the last probe in seconds; NaN before the first."""
        self._sweep_lag_ms = max(SWEEP_LAG_INTERVALS * sweep_interval_ms, MIN_SWEEP_LAG_MS)
        self.judges_sweeps_from_s = elapsed_s() + self._sweep_lag_ms / 1_000
        """Until then an old or missing sweep is no reason to be degraded: the daemon has just started."""
        self._probe = probe
        self._others = others
        self._elapsed_s = elapsed_s
        self._probing = asyncio.Lock()
        self._writes = True
        self._probed_at_s: float | None = None
        self._sources: list[Callable[[], Iterable[str]]] = []
        self._tenant_sources: list[Callable[[str], Iterable[str]]] = []
        self._failing: list[Callable[[], Sequence[str]]] = []

    def add_tenant_reasons(self, source: Callable[[str], Iterable[str]]) -> None:
        """Add a source as ``add_reasons`` does, for reasons that concern one tenant. Only its answers show them."""
        self._tenant_sources.append(source)

    def add_reasons(self, source: Callable[[], Iterable[str]]) -> None:
        """Add a source of reasons for being degraded. It is called for each answer, is fast and does not raise."""
        self._sources.append(source)

    def failing_parts(self) -> list[str]:
        """Return the names of the failing parts of the alert side, and of the partitions that take no pulses."""
        return [part for failing in self._failing for part in failing()]

    def add_failing(self, failing: Callable[[], Sequence[str]]) -> None:
        """Add a source of failing parts. The same rules as for ``add_reasons`` apply."""
        self._failing.append(failing)

    def watch_alerts(self, failing: Callable[[], Sequence[str]]) -> None:
        """Add the failing parts of the alert side, which are a reason."""
        self.add_failing(failing)
        self.add_reasons(lambda: [Reason.ALERTS_FAILING] if failing() else [])

    @property
    def stores_beats(self) -> bool:
        """Whether the last probe succeeded and this replica is not stopping: ``ready`` without a call to the store."""
        return self._probed_at_s is not None and self._writes and not self.stopping

    async def ready(self) -> bool:
        """Whether this replica stores beats: the store took a write within ``PROBE_AGE_S``, and it is not stopping."""
        return not self.stopping and await self.store_writes() and not self.stopping

    async def store_writes(self) -> bool:
        """Return the probe's result, at most ``PROBE_AGE_S`` old. Concurrent callers share one probe."""
        async with self._probing:
            if self._probed_at_s is None or self._elapsed_s() - self._probed_at_s >= PROBE_AGE_S:
                began_s = self._elapsed_s()
                self._writes = await self._probe()
                self._probed_at_s = self._elapsed_s()
                self.probe_s = self._probed_at_s - began_s
        return self._writes

    def monitor_state(self, now_ms: int, swept_ms: int) -> MonitorState:
        """Return the state at ``now_ms``. ``swept_ms``: time of the last full sweep (0: never). Both are store time.

        The state includes the reasons that concern the requesting tenant (``asking_tenant``) only.
        """
        age_ms = max(now_ms - swept_ms, 0) if swept_ms else None
        lags = age_ms is None or age_ms > self._sweep_lag_ms
        judged = self._elapsed_s() > self.judges_sweeps_from_s
        reasons: list[str] = [Reason.SWEEP_LAG] if lags and judged else []
        reasons += self.standing_reasons()
        tenant = asking_tenant.get()
        if tenant is not None:
            reasons += [reason for source in self._tenant_sources for reason in source(tenant)]
        return MonitorState(
            degraded=bool(reasons),
            reasons=tuple(dict.fromkeys(reasons)),
            last_sweep_age_seconds=None if age_ms is None else age_ms / 1000,
        )

    def standing_reasons(self) -> tuple[str, ...]:
        """Return the reasons that are known without a call to the store, of this process and of the others."""
        return tuple(dict.fromkeys((*self.own_reasons(), *self._others())))

    def own_reasons(self) -> tuple[str, ...]:
        """Return those of ``standing_reasons`` that this process has found."""
        reasons: list[str] = [] if self._writes else [Reason.STORE_UNAVAILABLE]
        for source in self._sources:
            reasons.extend(source())
        return tuple(dict.fromkeys(reasons))
