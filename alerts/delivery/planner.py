"""Plans the next step of due groups: wait, end, or create a notification and attempt delivery."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from alerts.delivery.checks import Checks
from alerts.delivery.counts import Counted, Counts
from alerts.errors import Cause, UnrenderableEventError
from alerts.groups import group_rules, worker_rules
from alerts.groups.attempts import AGAIN_MS, apply, begin_attempt, dead_letter, fail
from alerts.groups.classify import Role, Shape, role_of
from alerts.groups.decisions import HOLDS_BACK, Decision
from alerts.groups.flapping import Flapping
from alerts.groups.fleet import Fleet, StoredWorker
from alerts.groups.silences import Silence, silenced_until
from alerts.groups.state import (
    AlertGroup,
    CreateNotification,
    Draft,
    InFlight,
    Member,
    Outcome,
    Postpone,
    Send,
    Step,
    Wait,
)
from alerts.receivers import Notification
from alerts.rendering.group_text import GroupCounts
from alerts.rendering.payload import Wording
from alerts.store.group_store import Change, Claimed, GroupStore, Want
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import MassFailures
from alerts.store.silences import SilenceStore
from monitor.errors import StoreUnavailableError
from monitor.events import Event, rfc3339
from monitor.liveness import EnvironmentHealth

FIRST_MEMBERS: Final = 500
"""Maximum members checked for silences. Larger groups count as not silenced."""
BROKEN_TRIES: Final = 10
"""Maximum consecutive tries to plan for a group that a bug prevents, within about four minutes."""
BROKEN_PAUSE_MS: Final = 60_000
"""Longest pause between two such tries."""

_log: FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """An attempt to deliver a notification. It may be made once ``change`` is written."""

    claimed: Claimed
    change: Change
    notification: Notification
    number: int
    """Number of the attempt, from 1."""
    first_attempt_ms: int
    again: bool
    """The notification is a dead letter, and this is a retry."""
    decision: Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """A group with nothing to send now; ``change`` gives it back. ``is_new``: its decision was another one before."""

    claimed: Claimed
    change: Change
    decision: Decision
    is_new: bool = False


Plan: TypeAlias = Attempt | Rest


class Planner:
    """Plans for the groups of one receiver.

    Args:
        groups: the receiver's groups.
        incidents: where acknowledgements are looked up.
        silences: where silences are looked up.
        mass_failures: whether a mass failure is still suspected in an environment; None: not checked.
        wording: renders notifications.
        fleet: the worker store.
        flapping: when a worker flaps; None: never.
        counts: counts decisions, and notifications for which no body could be made.
    """

    def __init__(
        self,
        *,
        groups: GroupStore,
        incidents: IncidentStore,
        silences: SilenceStore,
        mass_failures: MassFailures | None,
        wording: Wording,
        fleet: Fleet,
        flapping: Flapping | None = None,
        counts: Counts,
    ) -> None:
        self._groups = groups
        self._silences = silences
        self._wording = wording
        self._checks = Checks(incidents=incidents, mass_failures=mass_failures, fleet=fleet, flapping=flapping)
        self._counts = counts
        self._broken: dict[str, int] = {}

    async def plan(self, claimed: Sequence[Claimed], *, now_ms: int) -> list[Plan]:
        """Plan the next step of each group. Writes nothing.

        A group for which planning fails because of a bug blocks no other group. The failure is logged and retried
        later. After ``BROKEN_TRIES`` tries the group's notifications become dead letters.

        Raises:
            StoreUnavailableError: a read failed.
        """
        tenants = sorted({one.group.tenant for one in claimed})
        silences = await self._silences.active(tenants) if tenants else {}
        groups = [one.group.key for one in claimed if one.group.shape is not Shape.WORKER]
        firing: dict[str, dict[str, Member]] = {}
        with contextlib.suppress(msgspec.MsgspecError):  # one group is unreadable: each is read separately below
            firing = await self._firing(groups)
        plans: list[Plan] = []
        for one in claimed:  # not concurrently: on a busy machine that took event loop time from the beats
            key, shape = one.group.key, one.group.shape
            try:
                if shape is not Shape.WORKER and key not in firing:
                    firing |= await self._firing([key])
                known = silences.get(one.group.tenant, []), firing.get(key, {})
                plans.append(await self._plan_one(one, *known, now_ms=now_ms))
                self._broken.pop(key, None)
            except StoreUnavailableError:
                raise
            except Exception as error:  # noqa: BLE001 - no error of one group may block the others
                plans += await self._postponed(one, error, now_ms=now_ms)
        return plans

    def count_written(self, plans: Sequence[Plan], done: Sequence[int]) -> None:
        """Count the decisions that are written. One that holds a notification back is logged when it begins."""
        receiver = self._groups.receiver
        for plan in itertools.compress(plans, done):
            self._counts.decision(receiver, plan.decision.value)
            if isinstance(plan, Rest) and plan.is_new and plan.decision in HOLDS_BACK:
                group = plan.change.draft.group
                _log.info(
                    "delivery.held_back",
                    receiver=receiver,
                    group=group.key,
                    incident_id=group.incident_id,
                    reason=plan.decision.value,
                    next_decision_at=rfc3339(group.waits_until_ms) if group.waits_until_ms else None,
                )

    def is_failing(self, now_ms: int) -> bool:
        """Whether planning has failed recently for a group that is not given up yet."""
        return any(now_ms - at_ms < 3 * BROKEN_PAUSE_MS for at_ms in self._broken.values())

    async def _firing(self, keys: Sequence[str]) -> dict[str, dict[str, Member]]:
        seen = await self._groups.read([Want(group=key, firing=FIRST_MEMBERS) for key in keys])
        return {key: one.firing for key, one in zip(keys, seen, strict=True)}

    async def _postponed(self, claimed: Claimed, error: Exception, *, now_ms: int) -> list[Plan]:
        """Retry planning for a group later, or give up its notifications."""
        key = claimed.group.key
        [seen] = await self._groups.read([Want(group=key)])  # the failed planning may have changed the group in memory
        if seen.group is None or seen.version != claimed.version:
            return []
        draft, reason = Draft(seen.group, now_ms), f"internal error: {error!r}"
        group = draft.group
        group.broken += 1
        facts = {"receiver": self._groups.receiver, "group": key, "tries": group.broken, "error": repr(error)}
        _log.error("delivery.group_broken", **facts, exc_info=error)
        due_ms = now_ms + min(BROKEN_PAUSE_MS, 1_000 * 2 ** min(group.broken - 1, 16))
        self._broken[key] = now_ms
        if group.broken >= BROKEN_TRIES:
            self._give_up(draft, reason)
            self._broken.pop(key, None)
            group.broken, due_ms = 0, now_ms + AGAIN_MS
        group.waits_for = Decision.RETRY
        change = given_back(claimed, draft, receiver=self._groups.receiver, due_ms=due_ms, waits=True)
        return [Rest(claimed=claimed, change=change, decision=Decision.RETRY)]

    def _give_up(self, draft: Draft, reason: str) -> None:
        """Dead-letter the notification in flight and everything pending of a group."""
        group, receiver = draft.group, self._groups.receiver
        if group.in_flight is not None:
            self._dead_letter_for_good(draft, reason)
        for event in tuple(group.pending):
            worker_rules.create(draft, CreateNotification(role=role_of(event), event=event), receiver=receiver)
            self._dead_letter_for_good(draft, reason)
        if group.unnotified or group.recovered:
            group_rules.create(
                draft, CreateNotification(role=Role.DOWN if group.firing else Role.END, event=None), receiver=receiver
            )
            self._dead_letter_for_good(draft, reason)
        if draft.records:
            self._count_unrenderable()

    async def _plan_one(
        self, claimed: Claimed, silences: Sequence[Silence], firing: Mapping[str, Member], *, now_ms: int
    ) -> Plan:
        draft = Draft(claimed.group, now_ms)
        group = draft.group
        group.broken = 0
        step = await self._decide(draft, silences, firing, stored=claimed.worker)
        decision = _decision(group, step)
        apply(draft, step)
        ready: tuple[InFlight, str] | None = None
        if isinstance(step, CreateNotification):
            ready = await self._create(draft, step, firing)
        elif isinstance(step, Send):
            ready = await self._again(draft)
        if ready is not None:
            return self._attempt(claimed, draft, *ready, decision)
        if isinstance(step, CreateNotification | Send):
            decision = Decision.DEAD_LETTERED
        is_new = group.waits_for != decision
        group.waits_for = decision
        if isinstance(step, Wait):
            change = given_back(claimed, draft, receiver=self._groups.receiver, due_ms=step.due_ms, waits=True)
        else:
            change = given_back(claimed, draft, receiver=self._groups.receiver)
        return Rest(claimed=claimed, change=change, decision=decision, is_new=is_new)

    async def _decide(
        self, draft: Draft, silences: Sequence[Silence], firing: Mapping[str, Member], *, stored: StoredWorker | None
    ) -> Step:
        """Bring the group up to date and name its next step."""
        group, now_ms = draft.group, draft.now_ms

        def silenced(event: Event) -> int | None:
            return silenced_until(silences, event, now_ms)

        if group.shape is Shape.WORKER:
            worker_rules.catch_up(draft, silenced)
            step = worker_rules.decide(group, silenced, now_ms=now_ms)
        else:
            group_rules.catch_up(draft)
            suspected = await self._checks.is_suspected(group, firing)
            first = tuple(firing.values())
            step = group_rules.decide(group, silenced, first=first, suspected=suspected, now_ms=now_ms)
        return await self._checks.review(group, step, firing, stored=stored, now_ms=now_ms)

    async def _again(self, draft: Draft) -> tuple[InFlight, str] | None:
        """The notification in flight with its body; None: its body is lost, which is recorded."""
        in_flight = draft.group.in_flight
        if in_flight is None:
            raise ValueError(f"group {draft.group.key!r} has no notification in flight")
        listed = await self._groups.part_of(draft.group.key).notification(in_flight.nid)
        if listed is not None and listed.body is not None:
            return in_flight, listed.body
        self._dead_letter_for_good(draft, "its body is lost")
        return None

    async def _create(
        self, draft: Draft, step: CreateNotification, firing: Mapping[str, Member]
    ) -> tuple[InFlight, str] | None:
        """Create a notification and its body; None: no body can be made, which is recorded."""
        group = draft.group
        try:
            if step.event is not None:
                body = await self._single(group, step, step.event)
                in_flight = worker_rules.create(draft, step, receiver=self._groups.receiver)
            else:
                counts = (group.unnotified, group.recovered)
                health = await self._checks.health(group, firing)
                in_flight = group_rules.create(draft, step, receiver=self._groups.receiver)
                body = await self._group(group, step, firing, counts, health, now_ms=draft.now_ms)
        except UnrenderableEventError as error:
            if group.in_flight is None:
                worker_rules.create(draft, step, receiver=self._groups.receiver)
            self._dead_letter_for_good(draft, f"unrenderable: {error}")
            _log.error("delivery.unrenderable", receiver=self._groups.receiver, group=group.key, error=str(error))
            self._count_unrenderable()
            return None
        draft.record(in_flight, Outcome.QUEUED, body=body)
        return in_flight, body

    async def _single(self, group: AlertGroup, step: CreateNotification, event: Event) -> str:
        health = None
        if step.role is Role.DOWN:
            health = await self._checks.others(event)
        incident_id = worker_rules.incident_of(group, step)
        reminder = 0 if group.timing.resend else step.reminder  # a resend is no reminder
        previous = group.last if group.notified and step.role is not Role.FACT else None
        return self._wording.single(
            event, incident_id=incident_id, reminder=reminder, health=health, previous=previous, recent=step.recent
        )

    async def _group(
        self,
        group: AlertGroup,
        step: CreateNotification,
        firing: Mapping[str, Member],
        counts: tuple[int, int],
        health: EnvironmentHealth | None,
        *,
        now_ms: int,
    ) -> str:
        new, recovered = counts
        listed = [member.event for member in firing.values()][: group_rules.LISTED]
        return self._wording.group(
            firing=step.role is Role.DOWN,
            group=group.labels,
            counts=GroupCounts(
                firing=group.firing,
                new=new,
                recovered=recovered,
                expected=None if health is None else health.size(group.firing),
                rejected=group.rejected,
                ended=group.ended,
            ),
            events=listed,
            truncated=max(0, group.firing - len(listed)),
            since_ms=group.since_ms,
            now_ms=now_ms,
            incident_id=group.incident_id,
            reminder=step.reminder,
            environment_incident=group.shape is Shape.ENVIRONMENT and group.declared,
        )

    def _count_unrenderable(self) -> None:
        self._counts.delivery(self._groups.receiver, Counted.UNRENDERABLE, "")

    def _dead_letter_for_good(self, draft: Draft, reason: str) -> None:
        """Dead-letter the notification in flight without retries: it has no body."""
        fail(draft, error=reason, cause=Cause.INTERNAL_ERROR)
        dead_letter(draft, reason=reason)
        draft.group.again_ms = 0

    def _attempt(self, claimed: Claimed, draft: Draft, in_flight: InFlight, body: str, decision: Decision) -> Attempt:
        draft.group.waits_for = ""
        begin_attempt(draft)
        return Attempt(
            claimed=claimed,
            change=Change(draft=draft, version=claimed.version, token=claimed.token, due_ms=draft.now_ms),
            notification=Notification(
                nid=in_flight.nid,
                receiver=self._groups.receiver,
                key=draft.group.key,
                event_type=in_flight.type,
                body=body,
                created_ms=in_flight.created_ms,
            ),
            number=in_flight.attempts,
            first_attempt_ms=in_flight.first_attempt_ms,
            again=in_flight.again,
            decision=decision,
        )


def _decision(group: AlertGroup, step: Step) -> Decision:
    """The name of a step."""
    if isinstance(step, Wait):
        return step.why
    if isinstance(step, CreateNotification):
        if step.reminder:
            return Decision.REMINDER
        down = Decision.UPDATED if group.notified else Decision.FIRST
        return {Role.DOWN: down, Role.END: Decision.RECOVERED, Role.FACT: Decision.FACT}[step.role]
    if isinstance(step, Postpone):
        return Decision.SETTLED
    return Decision.ATTEMPT if isinstance(step, Send) else Decision.OVER


def given_back(
    claimed: Claimed, draft: Draft, *, receiver: str, due_ms: int | None = None, waits: bool = False
) -> Change:
    """The change that gives a leased group back. ``waits``: it is due at ``due_ms`` and not when its state says."""
    group = draft.group
    rules = worker_rules if group.shape is Shape.WORKER else group_rules
    over = rules.is_over(group)
    if over:
        group_rules.close(draft, receiver=receiver)
    due_ms = due_ms if waits else rules.due_ms(group, draft.now_ms)
    group.waits_until_ms = due_ms or 0
    return Change(draft=draft, version=claimed.version, token=claimed.token, release=True, due_ms=due_ms, over=over)
