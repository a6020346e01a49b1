"""Verdicts on mass failures, from the deaths of all partitions. Uses ``mass_failures.lua``."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from alerts.groups.classify import qualified
from alerts.groups.fleet import Fleet
from alerts.groups.mass_failure import (
    FailureState,
    FailureWindow,
    Rule,
    count,
    fallen_of,
    incident_of,
    observe,
    silent_now,
    since_of,
)
from alerts.store.port import StorePort
from alerts.store.tags import shared_base
from monitor.events import Event
from monitor.liveness import EnvironmentHealth

READING_S: Final = 0.015
LONGEST_READING_S: Final = 1.0
"""How long a reading of an environment is used again, for each partition, since it is a call to each; at most."""
CALM_SHARE: Final = 0.1
"""A reading that gave no alarm is used again for this part of that time: the next may give one."""
ENVIRONMENTS_CACHED: Final = 1_000
KEPT_MS: Final = 86_400_000
"""Time after which the deaths in an environment without events are deleted. They are obsolete by then, because deaths
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
    """One environment: the routers of one daemon read its health one after another, and share a recent reading."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    health: EnvironmentHealth | None = None
    read_s: float = 0.0
    until_s: float = 0.0


class MassFailures:
    """Detects mass failures. Each partition counts its deaths; of several partitions each knows those of the others.

    The deaths of a partition are noted before those of the others are read, in one step. So of partitions that judge at
    the same moment, the last one counts all.
    """

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
        self,
        window: FailureWindow,
        tenant: str,
        environment: str,
        *,
        partition: int,
        deaths: Sequence[Event],
        returns: Sequence[Event],
        now_ms: int,
    ) -> FailureVerdict:
        """Count deaths and returns in an environment. Returns the verdict after them.

        ``window``: the deaths in the partition, which this modifies; the caller writes them. Idempotent.

        Raises:
            StoreUnavailableError: the events may not have been counted; call again.
        """
        name = qualified(tenant, environment)
        known = self._environments.setdefault(name, _Environment())
        if len(self._environments) > ENVIRONMENTS_CACHED:
            self._environments = {name: known}
        health = await self._health(known, tenant, environment, since_of(window, deaths))
        others: Sequence[FailureWindow] = ()
        base = shared_base(name, self._store.partitions)
        if self._store.partitions > 1:
            count(window, deaths, returns)
            joined = (name, partition, _text(window) or "", KEPT_MS)
            declared, until_ms, texts = await self._store.call("failure_join", base, *joined)
            others = [_window(text) for text in texts]
            if declared is not None and until_ms > window.declared_until_ms:
                window.incident_id, window.declared_until_ms = declared.decode(), until_ms
        state = observe(window, deaths, returns, health, others=others, rule=self._rule, now_ms=now_ms)
        if state is not FailureState.DECLARED:
            if state is FailureState.CALM:
                known.until_s = min(known.until_s, known.read_s + CALM_SHARE * self._reading_s)
            return FailureVerdict(state=state)
        incident_id = incident_of(window, tenant, environment)
        if self._store.partitions > 1:
            lasts = (name, now_ms, window.declared_until_ms, incident_id)
            incident_id = window.incident_id = (await self._store.call("failure_declare", base, *lasts)).decode()
        return FailureVerdict(state=state, incident_id=incident_id)

    def recent(self, tenant: str, environment: str) -> EnvironmentHealth | None:
        """The health of an environment as it was read for a verdict within the last second; None: it was not read."""
        known = self._environments.get(qualified(tenant, environment))
        if known is None or asyncio.get_running_loop().time() > known.read_s + LONGEST_READING_S:
            return None
        return known.health

    @property
    def _reading_s(self) -> float:
        return min(LONGEST_READING_S, READING_S * (self._store.partitions - 1))

    async def _health(
        self, known: _Environment, tenant: str, environment: str, since_ms: int | None
    ) -> EnvironmentHealth:
        async with known.turn:
            now_s = asyncio.get_running_loop().time()
            if known.health is None or now_s >= known.until_s:
                known.health = await self._fleet.environment_health(tenant, environment, since_ms)
                known.read_s, known.until_s = now_s, now_s + self._reading_s
            return known.health

    async def is_suspected(self, tenant: str, environment: str, *, firing: int, rejected: int, since_ms: int) -> bool:
        """Whether a mass failure is still suspected: enough workers are down since ``since_ms``, or miss beats now.

        ``firing``: number of workers already known to be down. ``rejected``: those of them that are alive.
        """
        health = await self._fleet.environment_health(tenant, environment, since_ms)
        down = max(firing, fallen_of(health, is_rejected=rejected > 0))
        return health.silent + down >= self._rule.threshold(health.size(down))


def _text(window: FailureWindow) -> str | None:
    """A partition's deaths as they are stored; None: there are none that count."""
    return msgspec.json.encode(window).decode() if silent_now(window) else None
