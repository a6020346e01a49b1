"""Store of mass failures: the recent deaths per environment. Uses ``mass_failures.lua``, one function per direction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from alerts.groups.classify import qualified
from alerts.groups.mass_failure import (
    FailureState,
    FailureWindow,
    Rule,
    fallen_of,
    incident_of,
    observe,
    silent_now,
    since_of,
)
from alerts.loops import Tries
from alerts.store.tags import shared_base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.groups.fleet import Fleet
    from alerts.store.port import StorePort
    from monitor.events import Event
    from monitor.liveness import EnvironmentHealth

READING_S: Final = 0.015
LONGEST_READING_S: Final = 1.0
"""How long a reading of an environment is used again, for each partition, since it is a call to each; at most."""
CALM_SHARE: Final = 0.1
"""A reading that gave no alarm is used again for this part of that time: the next may give one."""
ENVIRONMENTS_CACHED: Final = 1_000
KEPT_MS: Final = 86_400_000
"""Time after which the counts of an environment without events are deleted. They are obsolete by then, because deaths
count together only within ``LONGEST_WINDOW_MS``."""
_window = msgspec.json.Decoder(FailureWindow).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureVerdict:
    """Whether an environment has a mass failure. ``incident_id`` is set with ``DECLARED``."""

    state: FailureState
    incident_id: str | None = None


CALM: Final = FailureVerdict(state=FailureState.CALM)


@dataclass(slots=True)
class _Environment:
    """One environment: the routers of one daemon judge it one after another, from one reading where that is recent."""

    name: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    health: EnvironmentHealth | None = None
    until_s: float = 0.0


class MassFailures:
    """Detects mass failures. Several daemons may do so at once: each partition's events count once."""

    def __init__(self, store: StorePort, *, rule: Rule, fleet: Fleet) -> None:
        self._store = store
        self._rule = rule
        self._fleet = fleet
        self._environments: dict[str, _Environment] = {}

    @property
    def hold_ms(self) -> int:
        """Maximum time for which notifications of a suspected failure are held."""
        return self._rule.hold_ms

    async def judge(
        self, tenant: str, environment: str, *, deaths: Sequence[Event], returns: Sequence[Event], now_ms: int
    ) -> FailureVerdict:
        """Count deaths and returns in an environment. Returns the verdict after them.

        Raises:
            StoreUnavailableError: the events may not have been counted; call again.
        """
        name = qualified(tenant, environment)
        known = self._environments.setdefault(name, _Environment(name))
        if len(self._environments) > ENVIRONMENTS_CACHED:
            self._environments = {name: known}
        async with known.turn:
            return await self._judged(known, tenant, environment, deaths=deaths, returns=returns, now_ms=now_ms)

    async def _judged(
        self,
        known: _Environment,
        tenant: str,
        environment: str,
        *,
        deaths: Sequence[Event],
        returns: Sequence[Event],
        now_ms: int,
    ) -> FailureVerdict:
        name, base = known.name, shared_base(known.name, self._store.partitions)
        tries = Tries(f"the mass failure state of environment {environment!r}")
        while True:
            await tries.begin()
            version, stored = await self._store.call("mass_read", base, name)
            if stored is None and not deaths:
                return CALM
            window = FailureWindow() if stored is None else _window(stored)
            now_s, health = asyncio.get_running_loop().time(), known.health
            if health is None or now_s >= known.until_s:
                health = await self._fleet.environment_health(tenant, environment, since_of(window, deaths))
            state = observe(window, deaths, returns, health, rule=self._rule, now_ms=now_ms)
            verdict = FailureVerdict(
                state=state,
                incident_id=incident_of(window, tenant, environment) if state is FailureState.DECLARED else None,
            )
            if health is not known.health:
                share = CALM_SHARE if state is FailureState.CALM else 1.0
                span_s = share * min(LONGEST_READING_S, READING_S * (self._store.partitions - 1))
                known.health, known.until_s = health, now_s + span_s
            idle = state is FailureState.CALM and not silent_now(window)
            text = "" if idle else msgspec.json.encode(window).decode()
            if await self._store.call("mass_write", base, name, version, text, now_ms, KEPT_MS):
                return verdict

    async def is_suspected(self, tenant: str, environment: str, *, firing: int, rejected: int, since_ms: int) -> bool:
        """Whether a mass failure is still suspected: enough workers are down since ``since_ms``, or miss beats now.

        ``firing``: number of workers already known to be down. ``rejected``: those of them that are alive.
        """
        health = await self._fleet.environment_health(tenant, environment, since_ms)
        down = max(firing, fallen_of(health, is_rejected=rejected > 0))
        return health.silent + down >= self._rule.threshold(health.size(down))
