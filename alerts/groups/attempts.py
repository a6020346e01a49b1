"""State changes of a group around a delivery attempt: begin, outcome, retry, end. Pure.

A dead-lettered page stays with its group while its incident is open (P31). It is retried, one attempt at a time, and
its reminders continue.
"""

from collections.abc import Callable
from typing import Final

from alerts.groups.classify import Role, Shape
from alerts.groups.decisions import Decision
from alerts.groups.state import (
    RECHECK_MS,
    AlertGroup,
    CreateNotification,
    Draft,
    InFlight,
    Outcome,
    Postpone,
    Send,
    Step,
    Wait,
)
from monitor.events import Event

AGAIN_MS: Final = 3_600_000
"""Longest pause before a dead-lettered page is retried (P31)."""
AGAIN_FIRST_MS: Final = 60_000
"""Shortest pause before a page that was dead-lettered twice is retried because the receiver has accepted another
notification. Doubled each time, up to ``AGAIN_MS``."""


def end_unneeded(draft: Draft, *, is_over: bool) -> None:
    """End the notification in flight if its outage is over. ``is_over``: whether the group's outage has ended."""
    in_flight = draft.group.in_flight
    if in_flight is None:
        return
    if in_flight.open:
        in_flight.open, in_flight.unknown = False, True  # the process that made the attempt recorded no outcome
    if in_flight.role is Role.DOWN and is_over:
        if in_flight.unknown:
            deliver(draft, reason="it may have arrived, and is over")
        else:
            cancel(draft)


def next_attempt(in_flight: InFlight, now_ms: int) -> Send | Wait:
    """Next step for the notification in flight."""
    return Send() if in_flight.due_ms <= now_ms else Wait(in_flight.due_ms, Decision.RETRY)


def next_offer(
    group: AlertGroup, event: Event | None, silenced_until_ms: Callable[[], int | None], *, now_ms: int
) -> Step:
    """Next step of a group without news: a reminder of ``event``, or a retry of its dead letter."""
    moment_ms = next_offer_ms(group)
    if moment_ms is None or moment_ms > now_ms:
        return Wait(moment_ms, idle(group))
    until_ms = silenced_until_ms()
    if until_ms is not None:
        return Wait(min(until_ms, now_ms + RECHECK_MS), Decision.SILENCED)
    if 0 < group.again_ms <= now_ms:
        return Send(again=True)
    return CreateNotification(role=Role.DOWN, event=event, reminder=group.reminders + 1)


def apply(draft: Draft, step: Step) -> None:
    """Change the group as its next step says. A notification is created by the rules of the group's shape."""
    group = draft.group
    match step:
        case Send(again=True):
            group.in_flight, group.given_up, group.again_ms = group.given_up, None, 0
            in_flight = _in_flight(group)
            in_flight.again, in_flight.due_ms = True, draft.now_ms
        case Postpone(again_ms=again_ms):
            group.given_up, group.in_flight, group.again_ms = group.in_flight or group.given_up, None, again_ms
        case Wait(why=why, due_ms=due_ms) if group.in_flight is None:
            group.acked = group.acked or step.is_acked
            group.silenced = why is Decision.SILENCED and bool(group.pending)
            if group.silenced:
                draft.set_outcome(group.pending[0], Outcome.SILENCED)
            if why is Decision.DAMPED and due_ms is not None and group.damped_ms != due_ms:
                draft.set_outcome(group.pending[0], Outcome.DAMPED)
                group.damped_ms = group.due_ms = due_ms


def begin_attempt(draft: Draft) -> InFlight:
    """Record that an attempt begins. Written to the store before the attempt is made."""
    in_flight = _in_flight(draft.group)
    in_flight.attempts += 1
    in_flight.first_attempt_ms = in_flight.first_attempt_ms or draft.now_ms
    in_flight.open = True
    return in_flight


def undo_attempt(draft: Draft) -> None:
    """Record that the attempt was not made after all."""
    in_flight = _in_flight(draft.group)
    in_flight.attempts -= 1
    in_flight.first_attempt_ms = in_flight.first_attempt_ms if in_flight.attempts else 0
    in_flight.open = False
    in_flight.due_ms = draft.now_ms


def fail(draft: Draft, *, error: str, cause: str, answer: str = "") -> None:
    """Record why the current attempt failed. ``schedule_retry`` or ``dead_letter`` records what follows."""
    in_flight = _in_flight(draft.group)
    in_flight.error, in_flight.cause, in_flight.answer = error, cause, answer


def schedule_retry(draft: Draft, *, due_ms: int, unknown: bool) -> None:
    """Schedule the next attempt after a failed one. ``unknown``: the failed attempt may have arrived."""
    in_flight = _in_flight(draft.group)
    in_flight.open = False
    in_flight.unknown = in_flight.unknown or unknown
    in_flight.due_ms = due_ms


def deliver(draft: Draft, *, reason: str = "") -> None:
    """Record that the notification in flight was accepted, or counts as accepted."""
    group, in_flight = draft.group, _in_flight(draft.group)
    draft.record(in_flight, Outcome.DELIVERED, reason=reason)
    group.in_flight = None
    match in_flight.role:
        case Role.DOWN:
            settle(draft)
            _mark_notified(group, in_flight)
            group.reminders = in_flight.reminder
            group.remind_ms = draft.now_ms + group.timing.repeat_ms if group.timing.repeat_ms else 0
        case Role.END:
            _end(draft)
        case Role.FACT:
            pass


def dead_letter(draft: Draft, *, reason: str, unknown: bool = False) -> None:
    """Move the notification in flight to the dead letters.

    ``unknown``: the last attempt may have arrived. A DOWN that may have arrived is followed by its RESOLVED (P18).
    A dead-lettered DOWN is kept for retries (P31) and reminders. A dead-lettered RESOLVED is not retried.
    """
    group, in_flight = draft.group, _in_flight(draft.group)
    draft.record(in_flight, Outcome.DEAD_LETTERED, reason=reason)
    group.in_flight = None
    if in_flight.role is Role.END:
        _end(draft)
    elif in_flight.role is Role.DOWN:
        if in_flight.unknown or unknown:
            _mark_notified(group, in_flight)
        _keep(draft, in_flight)


def _keep(draft: Draft, in_flight: InFlight) -> None:
    group, now_ms = draft.group, draft.now_ms
    agains = group.agains if in_flight.again or group.timing.resend else 0
    if not in_flight.again:
        settle(draft)  # this dead letter replaces the one before
        group.reminders = in_flight.reminder
        group.remind_ms = now_ms + group.timing.repeat_ms if group.timing.repeat_ms else 0
    pause_ms = min(AGAIN_MS, AGAIN_FIRST_MS * 2 ** min(agains - 1, 6)) if agains else 0
    in_flight.open, in_flight.again, in_flight.due_ms = False, False, now_ms + pause_ms
    group.given_up, group.agains, group.again_ms = in_flight, agains + 1, now_ms + AGAIN_MS
    if group.timing.resend:  # the body holds an end time, which will have passed: send a new body instead
        group.again_ms, group.remind_ms = 0, max(group.remind_ms, now_ms + pause_ms)


def settle(draft: Draft) -> None:
    """Clear the dead letter of the group: its outage is over, or a newer notification has replaced it."""
    group = draft.group
    if group.given_up is not None:
        draft.settled.append(group.given_up.nid)
    forget_given_up(group)


def forget_given_up(group: AlertGroup) -> None:
    """Stop retrying the dead letter: an operator handles it."""
    group.given_up, group.again_ms, group.agains = None, 0, 0


def next_offer_ms(group: AlertGroup) -> int | None:
    """When the next reminder, or the next retry of the dead letter, is due; None: neither is."""
    return min((moment for moment in (group.remind_ms, group.again_ms) if moment), default=None)


def idle(group: AlertGroup) -> Decision:
    """Why a group without news notifies of nothing now."""
    if group.given_up is not None:
        return Decision.DEAD_LETTERED
    acked = group.acked or (group.shape is not Shape.WORKER and group.acks >= group.firing)
    return Decision.ACKNOWLEDGED if acked and not group.timing.resend else Decision.NOTIFIED


def cancel(draft: Draft) -> None:
    """Supersede the notification in flight: it is no longer needed."""
    in_flight = _in_flight(draft.group)
    draft.record(in_flight, Outcome.SUPERSEDED)
    if in_flight.event is not None and not in_flight.reminder:
        draft.set_outcome(in_flight.event, Outcome.SUPERSEDED)
    draft.group.in_flight = None
    draft.group.agains = 0


def _mark_notified(group: AlertGroup, in_flight: InFlight) -> None:
    group.notified = True
    group.notified_incident_id = in_flight.incident_id
    group.last = in_flight.event
    group.notified_number = max(group.notified_number, in_flight.number)


def _end(draft: Draft) -> None:
    group = draft.group
    group.notified, group.last = False, None
    if group.notified_incident_id == group.incident_id and group.shape is Shape.WORKER:
        group.acked = False
    group.remind_ms = group.reminders = 0
    if group.shape is not Shape.WORKER:
        # Members that joined while the end was being delivered begin a new outage.
        group.since_ms = group.due_ms = draft.now_ms
        group.ended = {}
        group.due_ms += group.timing.wait_ms
        group.hold_until_ms = draft.now_ms + group.timing.hold_ms


def _in_flight(group: AlertGroup) -> InFlight:
    if group.in_flight is None:
        raise ValueError(f"group {group.key!r} has no notification in flight")
    return group.in_flight
