"""What an attempt, its outcome and its end make of a group. Pure.

A page that is given up stays with its group for as long as its incident is open (P31): it is offered again, one
attempt at a time, and its reminders go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.groups.keys import Shape
from alerts.groups.roles import Role
from alerts.groups.state import Draft, InFlight, Outcome, Send

if TYPE_CHECKING:
    from alerts.groups.state import AlertGroup

AGAIN_MS: Final = 3_600_000
"""When a page that was given up is offered again at the latest (P31)."""
AGAIN_FIRST_MS: Final = 60_000
"""How soon what was given up twice is offered again at an acceptance; doubled each time, up to ``AGAIN_MS``."""


def begin_attempt(draft: Draft) -> InFlight:
    """Note that an attempt is about to be made. Written before it is."""
    in_flight = _in_flight(draft.group)
    in_flight.attempts += 1
    in_flight.first_attempt_ms = in_flight.first_attempt_ms or draft.now_ms
    in_flight.open = True
    return in_flight


def undo_attempt(draft: Draft) -> None:
    """Note that the attempt was not made after all."""
    in_flight = _in_flight(draft.group)
    in_flight.attempts -= 1
    in_flight.first_attempt_ms = in_flight.first_attempt_ms if in_flight.attempts else 0
    in_flight.open = False
    in_flight.due_ms = draft.now_ms


def fail(draft: Draft, *, error: str, cause: str, answer: str = "") -> None:
    """Note why the attempt under way failed; ``postpone`` or ``bury`` says what follows."""
    in_flight = _in_flight(draft.group)
    in_flight.error, in_flight.cause, in_flight.answer = error, cause, answer


def schedule_retry(draft: Draft, *, due_ms: int, unknown: bool) -> None:
    """Note when the next attempt is due after one that failed. ``unknown``: it may have arrived all the same."""
    in_flight = _in_flight(draft.group)
    in_flight.open = False
    in_flight.unknown = in_flight.unknown or unknown
    in_flight.due_ms = due_ms


def deliver(draft: Draft, *, reason: str = "") -> None:
    """Note that the notification in flight was accepted, or counts as accepted."""
    group, in_flight = draft.group, _in_flight(draft.group)
    draft.record(in_flight, Outcome.DELIVERED, reason=reason)
    group.in_flight = None
    match in_flight.role:
        case Role.DOWN:
            settle(draft)
            _told(group, in_flight)
            group.reminders = in_flight.reminder
            group.remind_ms = draft.now_ms + group.timing.repeat_ms if group.timing.repeat_ms else 0
        case Role.END:
            _end(draft)
        case Role.FACT:
            pass


def dead_letter(draft: Draft, *, reason: str, unknown: bool = False) -> None:
    """Note that the notification in flight is given up. A RESOLVED that is given up is not tried again.

    ``unknown``: the last attempt may have arrived. A DOWN that may have arrived is followed by its RESOLVED (P18).
    A DOWN is kept, to be offered again (P31), and reminded of.
    """
    group, in_flight = draft.group, _in_flight(draft.group)
    draft.record(in_flight, Outcome.DEAD_LETTERED, reason=reason)
    group.in_flight = None
    if in_flight.role is Role.END:
        _end(draft)
    elif in_flight.role is Role.DOWN:
        if in_flight.unknown or unknown:
            _told(group, in_flight)
        _keep(draft, in_flight)


def _keep(draft: Draft, in_flight: InFlight) -> None:
    group, now_ms = draft.group, draft.now_ms
    agains = group.agains if in_flight.again or group.timing.resend else 0
    if not in_flight.again:
        settle(draft)  # the one before, which this one made needless
        group.reminders = in_flight.reminder
        group.remind_ms = now_ms + group.timing.repeat_ms if group.timing.repeat_ms else 0
    pause_ms = min(AGAIN_MS, AGAIN_FIRST_MS * 2 ** min(agains - 1, 6)) if agains else 0
    in_flight.open, in_flight.again, in_flight.due_ms = False, False, now_ms + pause_ms
    group.given_up, group.agains, group.again_ms = in_flight, agains + 1, now_ms + AGAIN_MS
    if group.timing.resend:  # what it would be told again has an end that has passed
        group.again_ms, group.remind_ms = 0, max(group.remind_ms, now_ms + pause_ms)


def settle(draft: Draft) -> None:
    """Note that what was given up need not be told any more: it is over, or newer news were told."""
    group = draft.group
    if group.given_up is not None:
        draft.settled.append(group.given_up.nid)
    forget_given_up(group)


def forget_given_up(group: AlertGroup) -> None:
    """Offer nothing again: an operator looks after the dead letter."""
    group.given_up, group.again_ms, group.agains = None, 0, 0


def offer_again(draft: Draft) -> Send:
    """Make what was given up the notification in flight, for one attempt."""
    group = draft.group
    group.in_flight, group.given_up, group.again_ms = group.given_up, None, 0
    in_flight = _in_flight(group)
    in_flight.again, in_flight.due_ms = True, draft.now_ms
    return Send()


def withdraw(draft: Draft, *, again_ms: int) -> None:
    """Undo ``offer_again``, until then."""
    group = draft.group
    group.given_up, group.in_flight, group.again_ms = group.in_flight, None, again_ms


def next_offer_ms(group: AlertGroup) -> int | None:
    """When a reminder is due, or what was given up is to be offered again."""
    return min((moment for moment in (group.remind_ms, group.again_ms) if moment), default=None)


def cancel(draft: Draft) -> None:
    """Note that the notification in flight is needless by now."""
    in_flight = _in_flight(draft.group)
    draft.record(in_flight, Outcome.SUPERSEDED)
    if in_flight.event is not None and not in_flight.reminder:
        draft.set_outcome(in_flight.event, Outcome.SUPERSEDED)
    draft.group.in_flight = None
    draft.group.agains = 0


def _told(group: AlertGroup, in_flight: InFlight) -> None:
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
        # Those who came while it was told begin anew.
        group.since_ms = group.due_ms = draft.now_ms
        group.ended = {}
        group.due_ms += group.timing.wait_ms
        group.hold_until_ms = draft.now_ms + group.timing.hold_ms


def _in_flight(group: AlertGroup) -> InFlight:
    if group.in_flight is None:
        raise ValueError(f"group {group.key!r} has no notification in flight")
    return group.in_flight
