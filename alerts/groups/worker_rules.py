"""Rules for groups of one worker: each event notifies separately, in order (P7). Pure."""

from typing import Final

from alerts.groups.attempts import end_unneeded, idle, next_attempt, next_offer, next_offer_ms, settle
from alerts.groups.classify import Role, digest, role_of
from alerts.groups.decisions import Decision
from alerts.groups.flapping import RecentOutages
from alerts.groups.state import (
    RECHECK_MS,
    AlertGroup,
    CreateNotification,
    Draft,
    InFlight,
    Outcome,
    Over,
    Silenced,
    Step,
    Wait,
)
from monitor.events import Event

FACTS_KEPT: Final = 100
"""Maximum facts pending for a receiver that accepts none. Beyond it the oldest are superseded."""


def offer(draft: Draft, event: Event) -> None:
    """Add an event to the pending ones. Pending events that it makes unnecessary are superseded at once."""
    group = draft.group
    if not group.pending:
        group.due_ms = draft.now_ms + (0 if role_of(event) is Role.END else group.timing.wait_ms)
    group.pending.append(event)
    draft.set_outcome(event, Outcome.QUEUED)
    _collapse(draft)


def catch_up(draft: Draft, silenced: Silenced) -> None:
    """Record what has happened since the last decision, and the outcome of events that need no notification."""
    group = draft.group
    is_over = _has_end(group)
    end_unneeded(draft, is_over=is_over)
    if group.in_flight is not None:
        return
    if is_over:
        _collapse(draft)  # the notification that was in flight may have been the DOWN of a pending RESOLVED
    if group.acked and not group.timing.resend:
        group.remind_ms = 0
        if group.given_up is not None and group.given_up.reminder:
            settle(draft)
    while group.pending and group.due_ms <= draft.now_ms:
        event = group.pending[0]
        if role_of(event) is not Role.FACT or silenced(event) is None:
            break
        draft.set_outcome(group.pending.pop(0), Outcome.SILENCED)


def decide(group: AlertGroup, silenced: Silenced, *, now_ms: int) -> Step:
    """Next step of the group, after ``catch_up``. Changes nothing."""
    if group.in_flight is not None:
        return next_attempt(group.in_flight, now_ms)
    if group.pending:
        return _next_pending(group, group.pending[0], silenced, now_ms=now_ms)
    if not group.notified and group.given_up is None:
        return Over()
    event = group.last if group.given_up is None else group.given_up.event
    if event is None:
        return Wait(None, idle(group))
    return next_offer(group, event, lambda: None if group.timing.resend else silenced(event), now_ms=now_ms)


def _next_pending(group: AlertGroup, event: Event, silenced: Silenced, *, now_ms: int) -> Step:
    role = role_of(event)
    if role is not Role.END:
        if group.due_ms > now_ms:
            return Wait(group.due_ms, Decision.DAMPED if group.damped_ms else Decision.GROUP_WAIT)
        until_ms = silenced(event)
        if until_ms is not None:
            return Wait(min(until_ms, now_ms + RECHECK_MS), Decision.SILENCED)
    return CreateNotification(role=role, event=event)


def damped_until_ms(group: AlertGroup, event: Event, recent: RecentOutages) -> int:
    """Until when a DOWN of a flapping worker is held: until its outage has lasted long enough; 0: it is not held."""
    if group.notified or not (recent.is_flapping or group.damped_ms):
        return 0
    # An escalation of the outage does not prolong the wait.
    return group.damped_ms or event.detected_ms + recent.rule.hold_ms


def due_ms(group: AlertGroup, now_ms: int) -> int | None:
    """When the group is due next; None: not until it changes."""
    if group.in_flight is not None:
        over = group.in_flight.role is Role.DOWN and _has_end(group)
        return now_ms if over else group.in_flight.due_ms
    if group.pending:
        return now_ms if role_of(group.pending[0]) is Role.END else max(group.due_ms, now_ms)
    return next_offer_ms(group)


def is_over(group: AlertGroup) -> bool:
    """Whether the group can be deleted: nothing is pending or in flight, and no DOWN waits for its end."""
    return group.in_flight is None and not group.pending and not group.notified and group.given_up is None


def create(draft: Draft, step: CreateNotification, *, receiver: str) -> InFlight:
    """Create the notification of a step. Its id is derived from the event's id."""
    group, event = draft.group, step.event
    if event is None:
        raise ValueError(f"group {group.key!r}: a worker's notification needs an event")
    parts = [receiver, event.event_id, *([str(step.reminder)] if step.reminder else [])]
    in_flight = InFlight(
        nid="ntf_" + digest(*parts),
        type=event.kind.value,
        role=step.role,
        created_ms=draft.now_ms,
        due_ms=draft.now_ms,
        event=event,
        incident_id=incident_of(group, step),
        reminder=step.reminder,
    )
    if not step.reminder:
        group.silenced = False
        if step.role is Role.DOWN:
            group.damped_ms = 0
        group.pending.remove(event)
        draft.set_outcome(event, Outcome.PART_OF, in_flight.nid)
    group.in_flight = in_flight
    return in_flight


def incident_of(group: AlertGroup, step: CreateNotification) -> str | None:
    """The incident that a notification is about."""
    match step.role:
        case Role.DOWN:
            return group.incident_id
        case Role.END:
            return group.notified_incident_id
        case Role.FACT:
            return None


def _has_end(group: AlertGroup) -> bool:
    return any(role_of(event) is Role.END for event in group.pending)


def _collapse(draft: Draft) -> None:
    """Supersede pending events that need no notification.

    These are a DOWN that ended before it was sent, together with its end, and a DOWN that a newer one replaces.
    """
    group = draft.group
    is_open = group.notified or (group.in_flight is not None and group.in_flight.role is Role.DOWN)
    if group.in_flight is not None and group.in_flight.role is Role.END:
        is_open = False
    states = [event for event in group.pending if role_of(event) is not Role.FACT]
    kept: list[Event] = []
    ends = [index for index, event in enumerate(states) if role_of(event) is Role.END]
    if ends:
        settle(draft)
    if is_open and ends:
        kept.append(states[ends[0]])
        states = states[ends[0] + 1 :]
    if states and role_of(states[-1]) is Role.DOWN:
        kept.append(states[-1])
    facts = [event for event in group.pending if role_of(event) is Role.FACT][-FACTS_KEPT:]
    keep = {event.event_id for event in (*kept, *facts)}
    for event in group.pending:
        if event.event_id not in keep:
            draft.set_outcome(event, _outcome_of_pending(group))
    group.pending = [event for event in group.pending if event.event_id in keep]
    if not any(role_of(event) is Role.DOWN for event in group.pending):
        group.silenced = False
        group.damped_ms = 0


def _outcome_of_pending(group: AlertGroup) -> Outcome:
    """Outcome of an event that is removed from the pending ones without being sent."""
    if group.silenced:
        return Outcome.SILENCED
    return Outcome.DAMPED if group.damped_ms else Outcome.SUPERSEDED
