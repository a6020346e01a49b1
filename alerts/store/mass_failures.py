"""What is counted of environments in which workers die, kept in the store: one function of ``mass.lua`` each way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from alerts.errors import StoreUnavailableError
from alerts.groups.mass_failure import Mood, Rule, Wave, fallen_of, incident_of, observe, silent_now, since_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.groups.fleet import Fleet
    from alerts.store.connection import QueueStore
    from monitor.events import Event

KEPT_MS: Final = 86_400_000
"""What is counted of an environment in which nothing has happened for so long says nothing of what happens next: deaths
are counted within ``LONGEST_WINDOW_MS``."""
_BASE: Final = "{la.mass}"
_TRIES: Final = 20
_wave = msgspec.json.Decoder(Wave).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How an environment looks. ``incident_id`` with ``DECLARED``."""

    mood: Mood
    incident_id: str | None = None


CALM: Final = Verdict(mood=Mood.CALM)


class Masses:
    """Judges environments. Several daemons may: each partition's events count once.

    Args:
        store: the connections.
        rule: what a mass failure is.
        fleet: how environments stand, as the worker store knows it.
    """

    def __init__(self, store: QueueStore, *, rule: Rule, fleet: Fleet) -> None:
        self._store = store
        self._rule = rule
        self._fleet = fleet

    @property
    def hold_ms(self) -> int:
        """For how long the notifications of a suspected failure are held at most."""
        return self._rule.hold_ms

    async def judge(
        self, tenant: str, environment: str, *, deaths: Sequence[Event], returns: Sequence[Event], now_ms: int
    ) -> Verdict:
        """Count what happened in an environment, and say how it looks now.

        Raises:
            StoreUnavailableError: nothing is known to be counted; ask again.
        """
        name = f"{len(tenant)}:{tenant}{environment}"
        for _ in range(_TRIES):
            [(version, state)] = await self._store.call("mass_read", _BASE, name)
            if state is None and not deaths:
                return CALM
            wave = Wave() if state is None else _wave(state)
            standing = await self._fleet.standing(tenant, environment, since_of(wave, deaths))
            mood = observe(wave, deaths, returns, standing, rule=self._rule, now_ms=now_ms)
            verdict = Verdict(
                mood=mood, incident_id=incident_of(wave, tenant, environment) if mood is Mood.DECLARED else None
            )
            idle = mood is Mood.CALM and not silent_now(wave)
            text = "" if idle else msgspec.json.encode(wave).decode()
            if await self._store.call("mass_write", _BASE, name, version, text, now_ms, KEPT_MS):
                return verdict
        raise StoreUnavailableError(f"environment {environment!r} is judged all the time")

    async def is_suspected(self, tenant: str, environment: str, *, firing: int, rejected: int, since_ms: int) -> bool:
        """Whether many workers beside the ``firing`` ones that are known to be down still miss beats, or are down since
        that moment. ``rejected`` of those that are known are alive.
        """
        standing = await self._fleet.standing(tenant, environment, since_ms)
        down = max(firing, fallen_of(standing, is_rejected=rejected > 0))
        return standing.silent + down >= self._rule.threshold(standing.size(down))
