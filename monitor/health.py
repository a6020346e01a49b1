"""How Lastseen itself is: may beats come here, and is what we show up to date (P27).

The composition root feeds it: a probe that makes the store prove that it can write, and callables that name
further reasons (a delivery that lags, a clock that jumped). It reads no store and no wall clock itself.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from monitor.clock import monotonic_s
from monitor.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

SWEEP_LAG_INTERVALS: Final = 5
MIN_SWEEP_LAG_MS: Final = 5_000
PROBE_AGE_S: Final = 1.0
"""For how long one probe answers for all who ask."""


asking_tenant: Final[ContextVar[str | None]] = ContextVar("asking_tenant", default=None)
"""The tenant of the token of the request that is being answered; None: a probe, or there is no request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorState:
    """What every answer says of the monitor itself. ``last_sweep_age_seconds`` None: there was no sweep yet."""

    degraded: bool
    reasons: tuple[str, ...]
    last_sweep_age_seconds: float | None


class Health:
    """Belongs to one event loop.

    ``probe`` answers whether the store took a write just now; it is bounded in time and does not raise. ``others``
    names what is wrong with the other processes of this daemon, as they say themselves; it is as a source of
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
        """How long the last probe took, in seconds; NaN before the first."""
        self._sweep_lag_ms = max(SWEEP_LAG_INTERVALS * sweep_interval_ms, MIN_SWEEP_LAG_MS)
        self.judges_sweeps_from_s = elapsed_s() + self._sweep_lag_ms / 1_000
        """Before it a sweep that is old, or that there was none, says nothing of this daemon: it has just started."""
        self._probe = probe
        self._others = others
        self._elapsed_s = elapsed_s
        self._probing = asyncio.Lock()
        self._writes = True
        self._probed_at_s: float | None = None
        self._sources: list[Callable[[], Iterable[str]]] = []
        self._tenant_sources: list[Callable[[str], Iterable[str]]] = []
        self.failing_parts: Callable[[], Sequence[str]] = tuple
        """The parts of the alert side that fail, by name."""

    def add_tenant_reasons(self, source: Callable[[str], Iterable[str]]) -> None:
        """As ``add_reasons``, for what is wrong for one tenant only: it is in that tenant's answers, nowhere else."""
        self._tenant_sources.append(source)

    def add_reasons(self, source: Callable[[], Iterable[str]]) -> None:
        """Have ``source`` asked, each time, for reasons why the monitor is degraded; it is quick and does not raise."""
        self._sources.append(source)

    def watch_alerts(self, failing: Callable[[], Sequence[str]]) -> None:
        """Have ``failing`` asked, each time, for the parts of the alert side that fail; as for ``add_reasons``."""
        self.failing_parts = failing
        self.add_reasons(lambda: [Reason.ALERTS_FAILING] if failing() else [])

    @property
    def stores_beats(self) -> bool:
        """Whether this replica stored the last probe and is not stopping: ``ready`` without asking the store."""
        return self._probed_at_s is not None and self._writes and not self.stopping

    async def ready(self) -> bool:
        """Whether this replica stores beats: the store took a write within ``PROBE_AGE_S``, and nobody is stopping."""
        return not self.stopping and await self.store_writes() and not self.stopping

    async def store_writes(self) -> bool:
        """The probe's answer, at most ``PROBE_AGE_S`` old; all who wait share one probe."""
        async with self._probing:
            if self._probed_at_s is None or self._elapsed_s() - self._probed_at_s >= PROBE_AGE_S:
                began_s = self._elapsed_s()
                self._writes = await self._probe()
                self._probed_at_s = self._elapsed_s()
                self.probe_s = self._probed_at_s - began_s
        return self._writes

    def monitor_state(self, now_ms: int, swept_ms: int) -> MonitorState:
        """The state at ``now_ms``; the last full sweep was at ``swept_ms`` (0: never), both by the store's time.

        To the tenant that asks (``asking_tenant``) it says what is wrong for that tenant, too.
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
        """The reasons that are known without an answer of the store, of this process and of the others."""
        return tuple(dict.fromkeys((*self.own_reasons(), *self._others())))

    def own_reasons(self) -> tuple[str, ...]:
        """Those of ``standing_reasons`` that this process has found itself."""
        reasons: list[str] = [] if self._writes else [Reason.STORE_UNAVAILABLE]
        for source in self._sources:
            reasons.extend(source())
        return tuple(dict.fromkeys(reasons))
