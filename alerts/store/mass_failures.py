"""What is counted of environments in which workers die, kept in the store: one function of ``mass.lua`` each way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from alerts.errors import StoreUnavailableError
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.groups.fleet import Fleet
    from alerts.store.connection import StoreConnection
    from monitor.events import Event

KEPT_MS: Final = 86_400_000
"""What is counted of an environment in which nothing has happened for so long says nothing of what happens next: deaths
are counted within ``LONGEST_WINDOW_MS``."""
_BASE: Final = "{la.mass}"
_TRIES: Final = 20
_window = msgspec.json.Decoder(FailureWindow).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureVerdict:
    """How an environment looks. ``incident_id`` with ``DECLARED``."""

    state: FailureState
    incident_id: str | None = None


CALM: Final = FailureVerdict(state=FailureState.CALM)


class MassFailures:
    """Judges environments. Several daemons may: each partition's events count once.

    Args:
        store: the connections.
        rule: what a mass failure is.
        fleet: how environments stand, as the worker store knows it.
    """

    def __init__(self, store: StoreConnection, *, rule: Rule, fleet: Fleet) -> None:
        self._store = store
        self._rule = rule
        self._fleet = fleet

    @property
    def hold_ms(self) -> int:
        """For how long the notifications of a suspected failure are held at most."""
        return self._rule.hold_ms

    async def judge(
        self, tenant: str, environment: str, *, deaths: Sequence[Event], returns: Sequence[Event], now_ms: int
    ) -> FailureVerdict:
        """Count what happened in an environment, and say how it looks now.

        Raises:
            StoreUnavailableError: nothing is known to be counted; ask again.
        """
        name = f"{len(tenant)}:{tenant}{environment}"
        for _ in range(_TRIES):
            [(version, stored)] = await self._store.call("mass_read", _BASE, name)
            if stored is None and not deaths:
                return CALM
            window = FailureWindow() if stored is None else _window(stored)
            health = await self._fleet.environment_health(tenant, environment, since_of(window, deaths))
            state = observe(window, deaths, returns, health, rule=self._rule, now_ms=now_ms)
            verdict = FailureVerdict(
                state=state,
                incident_id=incident_of(window, tenant, environment) if state is FailureState.DECLARED else None,
            )
            idle = state is FailureState.CALM and not silent_now(window)
            text = "" if idle else msgspec.json.encode(window).decode()
            if await self._store.call("mass_write", _BASE, name, version, text, now_ms, KEPT_MS):
                return verdict
        raise StoreUnavailableError(f"environment {environment!r} is judged all the time")

    async def is_suspected(self, tenant: str, environment: str, *, firing: int, rejected: int, since_ms: int) -> bool:
        """Whether many workers beside the ``firing`` ones that are known to be down still miss beats, or are down since
        that moment. ``rejected`` of those that are known are alive.
        """
        health = await self._fleet.environment_health(tenant, environment, since_ms)
        down = max(firing, fallen_of(health, is_rejected=rejected > 0))
        return health.silent + down >= self._rule.threshold(health.size(down))
