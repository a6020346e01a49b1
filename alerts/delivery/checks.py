"""Checks before a notification is created or retried: do the worker store and the incidents agree?

The worker store is written first, then the incidents, then the groups: a group may be behind both.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from alerts.groups import group_rules, worker_rules
from alerts.groups.classify import Role, Shape
from alerts.groups.decisions import Decision
from alerts.groups.flapping import Flapping, RecentOutages
from alerts.groups.fleet import Fleet, StoredWorker
from alerts.groups.incidents import UnknownIncidentError
from alerts.groups.state import RECHECK_MS, AlertGroup, CreateNotification, Member, Postpone, Send, Step, Wait
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import ENVIRONMENTS_CACHED, LONGEST_READING_S, MassFailures
from monitor.events import Event
from monitor.liveness import EnvironmentHealth, Liveness

LOOKED_AT: Final = 50
"""Maximum members checked before a reminder. Larger groups are assumed to be still firing."""
CATCH_UP_MS: Final = 1_000
"""Longest delay of a group's notification while recoveries are stored but not routed."""


class Checks:
    """What the worker store and the incidents say about a next step. Raises ``StoreUnavailableError``.

    Args:
        incidents: where acknowledgements are looked up.
        mass_failures: whether a mass failure is still suspected in an environment; None: not checked.
        fleet: the worker store.
        flapping: when a worker flaps; None: never.
    """

    def __init__(
        self, *, incidents: IncidentStore, mass_failures: MassFailures | None, fleet: Fleet, flapping: Flapping | None
    ) -> None:
        self._incidents = incidents
        self._mass_failures = mass_failures
        self._fleet = fleet
        self._flapping = flapping
        self._read: dict[tuple[str, str], tuple[EnvironmentHealth, float]] = {}
        """Environments as they were read last, and when."""

    async def review(
        self,
        group: AlertGroup,
        step: Step,
        firing: Mapping[str, Member],
        *,
        stored: StoredWorker | None = None,
        now_ms: int,
    ) -> Step:
        """The next step of a group, or a delay of it. Changes nothing. ``stored``: the worker of a worker's group."""
        match step:
            case Send():
                in_flight = group.given_up if step.again else group.in_flight
                if in_flight is None or not (step.again or in_flight.again):
                    return step
                if await self._is_over(group, in_flight.event, firing):
                    return Postpone(now_ms + RECHECK_MS)
            case CreateNotification(role=Role.DOWN) if step.reminder:
                return step if group.timing.resend else await self._reminder(group, step, firing, now_ms=now_ms)
            case CreateNotification(role=Role.DOWN, event=None):
                return await self._unless_behind(group, step, firing, now_ms=now_ms)
            case CreateNotification(role=Role.DOWN, event=event) if event is not None:
                return await self._if_it_lasts(group, step, event, stored=stored, now_ms=now_ms)
        return step

    async def _if_it_lasts(
        self, group: AlertGroup, step: CreateNotification, event: Event, *, stored: StoredWorker | None, now_ms: int
    ) -> Step:
        """Delay the notification of a worker's outage if needed.

        It waits if the outage is over already (its end is not routed yet), or if the worker flaps and the outage has
        not lasted long enough (P20).
        """
        rule = self._flapping
        since_ms = 0 if rule is None else event.due_ms - rule.within_ms
        outage = await self._fleet.outage(event, since_ms, stored=stored)
        if not outage.is_ongoing:
            return Wait(now_ms + RECHECK_MS, Decision.SETTLED)
        if rule is None or group.notified:
            return step
        recent = RecentOutages(number=outage.before + 1, rule=rule)
        until_ms = worker_rules.damped_until_ms(group, event, recent)
        return Wait(until_ms, Decision.DAMPED) if until_ms > now_ms else replace(step, recent=recent)

    async def _unless_behind(
        self, group: AlertGroup, step: CreateNotification, firing: Mapping[str, Member], *, now_ms: int
    ) -> Step:
        """Delay the news of a group briefly while workers are back whose events are not routed yet.

        Otherwise the notification would report workers as down that are not.
        """
        news_ms = group_rules.news_ms(group)
        if news_ms is None or now_ms >= news_ms + CATCH_UP_MS:
            return step
        health = await self.health(group, firing)
        if health is None or health.down is None or health.down >= group.firing:
            return step
        return Wait(now_ms + CATCH_UP_MS // 4, Decision.BEHIND)

    async def _reminder(
        self, group: AlertGroup, step: CreateNotification, firing: Mapping[str, Member], *, now_ms: int
    ) -> Step:
        """Hold back a reminder if the incident is acknowledged or over (P19)."""
        if await self._is_over(group, step.event, firing):
            return Wait(now_ms + RECHECK_MS, Decision.SETTLED)
        if group.incident_id is None:
            return step
        try:
            incident = await self._incidents.get(group.tenant, group.incident_id, group=group.key)
        except UnknownIncidentError:
            return step
        if incident.ack is not None:
            return Wait(now_ms, Decision.ACKNOWLEDGED, is_acked=True)  # it was, before the group existed
        return step if incident.is_open else Wait(now_ms + RECHECK_MS, Decision.SETTLED)

    async def _is_over(self, group: AlertGroup, event: Event | None, firing: Mapping[str, Member]) -> bool:
        """Whether no worker of the group is down. Of more than ``LOOKED_AT`` members one is assumed to be.

        ``event``: that of a worker's notification.
        """
        if event is None and group.firing > min(len(firing), LOOKED_AT):
            return False
        events = [event] if event is not None else [member.event for member in firing.values()]
        for one in events:
            if (await self._fleet.outage(one)).is_ongoing:
                return False
        return True

    async def health(self, group: AlertGroup, firing: Mapping[str, Member]) -> EnvironmentHealth | None:
        """Health of a group's environment; None: the group is not exactly one environment."""
        if not set(group.labels) <= {"tenant", "environment"} or "environment" not in group.labels:
            return None
        # A worker that was rejected and then fell silent has been down since before its newest event.
        before = [member.event.since_ms for member in firing.values() if member.event.old is Liveness.STALE]
        since_ms = min([_began_ms(group, firing), *before])
        return await self._fleet.environment_health(group.tenant, group.labels["environment"], since_ms)

    async def others(self, event: Event) -> EnvironmentHealth:
        """Health of an event's environment, at most a second old: a reading is a call to each partition."""
        where = event.tenant, event.environment_name
        known = None if self._mass_failures is None else self._mass_failures.recent(*where)
        if known is not None:
            return known
        now_s = asyncio.get_running_loop().time()
        health, read_s = self._read.get(where, (None, 0.0))
        if health is None or now_s > read_s + LONGEST_READING_S:
            health = await self._fleet.environment_health(*where)
            if len(self._read) >= ENVIRONMENTS_CACHED:
                self._read.clear()
            self._read[where] = health, now_s
        return health

    async def is_suspected(self, group: AlertGroup, firing: Mapping[str, Member]) -> bool:
        """Whether a mass failure of the group's environment is suspected and not declared."""
        if self._mass_failures is None or group.shape is not Shape.ENVIRONMENT or group.declared or group.notified:
            return False
        return await self._mass_failures.is_suspected(
            group.tenant,
            group.labels["environment"],
            firing=group.firing,
            rejected=group.rejected,
            since_ms=_began_ms(group, firing),
        )


def _began_ms(group: AlertGroup, firing: Mapping[str, Member]) -> int:
    """Time since which workers that are down probably belong to the group."""
    return group.since_ms - max((member.event.interval_ms for member in firing.values()), default=0)
