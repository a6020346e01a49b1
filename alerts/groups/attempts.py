"""What an attempt, its outcome and its end make of a thread. Pure.

A page that is given up stays with its thread for as long as its incident is open (P31): it is offered again, one
attempt at a time, and its reminders go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.groups.keys import Shape
from alerts.groups.roles import Role
from alerts.groups.state import Draft, Frozen, Outcome, Send

if TYPE_CHECKING:
    from alerts.groups.state import Thread

AGAIN_MS: Final = 3_600_000
"""When a page that was given up is offered again at the latest (P31)."""
AGAIN_FIRST_MS: Final = 60_000
"""How soon what was given up twice is offered again at an acceptance; doubled each time, up to ``AGAIN_MS``."""


def begin_attempt(draft: Draft) -> Frozen:
    """Note that an attempt is about to be made. Written before it is."""
    frozen = _frozen(draft.thread)
    frozen.attempts += 1
    frozen.first_attempt_ms = frozen.first_attempt_ms or draft.now_ms
    frozen.open = True
    return frozen


def take_back_attempt(draft: Draft) -> None:
    """Note that the attempt was not made after all."""
    frozen = _frozen(draft.thread)
    frozen.attempts -= 1
    frozen.first_attempt_ms = frozen.first_attempt_ms if frozen.attempts else 0
    frozen.open = False
    frozen.due_ms = draft.now_ms


def fail(draft: Draft, *, error: str, cause: str, answer: str = "") -> None:
    """Note why the attempt under way failed; ``postpone`` or ``bury`` says what follows."""
    frozen = _frozen(draft.thread)
    frozen.error, frozen.cause, frozen.answer = error, cause, answer


def postpone(draft: Draft, *, due_ms: int, unknown: bool) -> None:
    """Note when the next attempt is due after one that failed. ``unknown``: it may have arrived all the same."""
    frozen = _frozen(draft.thread)
    frozen.open = False
    frozen.unknown = frozen.unknown or unknown
    frozen.due_ms = due_ms


def deliver(draft: Draft, *, reason: str = "") -> None:
    """Note that the notification in flight was accepted, or counts as accepted."""
    thread, frozen = draft.thread, _frozen(draft.thread)
    draft.note(frozen, Outcome.DELIVERED, reason=reason)
    thread.frozen = None
    match frozen.role:
        case Role.DOWN:
            settle(draft)
            _told(thread, frozen)
            thread.reminders = frozen.reminder
            thread.remind_ms = draft.now_ms + thread.timing.repeat_ms if thread.timing.repeat_ms else 0
        case Role.END:
            _end(draft)
        case Role.FACT:
            pass


def bury(draft: Draft, *, reason: str, unknown: bool = False) -> None:
    """Note that the notification in flight is given up. A RESOLVED that is given up is not tried again.

    ``unknown``: the last attempt may have arrived. A DOWN that may have arrived is followed by its RESOLVED (P18).
    A DOWN is kept, to be offered again (P31), and reminded of.
    """
    thread, frozen = draft.thread, _frozen(draft.thread)
    draft.note(frozen, Outcome.DEAD_LETTERED, reason=reason)
    thread.frozen = None
    if frozen.role is Role.END:
        _end(draft)
    elif frozen.role is Role.DOWN:
        if frozen.unknown or unknown:
            _told(thread, frozen)
        _keep(draft, frozen)


def _keep(draft: Draft, frozen: Frozen) -> None:
    thread, now_ms = draft.thread, draft.now_ms
    agains = thread.agains if frozen.again or thread.timing.resend else 0
    if not frozen.again:
        settle(draft)  # the one before, which this one made needless
        thread.reminders = frozen.reminder
        thread.remind_ms = now_ms + thread.timing.repeat_ms if thread.timing.repeat_ms else 0
    pause_ms = min(AGAIN_MS, AGAIN_FIRST_MS * 2 ** min(agains - 1, 6)) if agains else 0
    frozen.open, frozen.again, frozen.due_ms = False, False, now_ms + pause_ms
    thread.given_up, thread.agains, thread.again_ms = frozen, agains + 1, now_ms + AGAIN_MS
    if thread.timing.resend:  # what it would be told again has an end that has passed
        thread.again_ms, thread.remind_ms = 0, max(thread.remind_ms, now_ms + pause_ms)


def settle(draft: Draft) -> None:
    """Note that what was given up need not be told any more: it is over, or newer news were told."""
    thread = draft.thread
    if thread.given_up is not None:
        draft.settled.append(thread.given_up.nid)
    forget_given_up(thread)


def forget_given_up(thread: Thread) -> None:
    """Offer nothing again: an operator looks after the dead letter."""
    thread.given_up, thread.again_ms, thread.agains = None, 0, 0


def offer_again(draft: Draft) -> Send:
    """Make what was given up the notification in flight, for one attempt."""
    thread = draft.thread
    thread.frozen, thread.given_up, thread.again_ms = thread.given_up, None, 0
    frozen = _frozen(thread)
    frozen.again, frozen.due_ms = True, draft.now_ms
    return Send()


def withdraw(draft: Draft, *, again_ms: int) -> None:
    """Undo ``offer_again``, until then."""
    thread = draft.thread
    thread.given_up, thread.frozen, thread.again_ms = thread.frozen, None, again_ms


def next_offer_ms(thread: Thread) -> int | None:
    """When a reminder is due, or what was given up is to be offered again."""
    return min((moment for moment in (thread.remind_ms, thread.again_ms) if moment), default=None)


def cancel(draft: Draft) -> None:
    """Note that the notification in flight is needless by now."""
    frozen = _frozen(draft.thread)
    draft.note(frozen, Outcome.SUPERSEDED)
    if frozen.event is not None and not frozen.reminder:
        draft.tell(frozen.event, Outcome.SUPERSEDED)
    draft.thread.frozen = None
    draft.thread.agains = 0


def _told(thread: Thread, frozen: Frozen) -> None:
    thread.told = True
    thread.told_incident_id = frozen.incident_id
    thread.last = frozen.event
    thread.told_number = max(thread.told_number, frozen.number)


def _end(draft: Draft) -> None:
    thread = draft.thread
    thread.told, thread.last = False, None
    if thread.told_incident_id == thread.incident_id and thread.shape is Shape.WORKER:
        thread.acked = False
    thread.remind_ms = thread.reminders = 0
    if thread.shape is not Shape.WORKER:
        # Those who came while it was told begin anew.
        thread.since_ms = thread.due_ms = draft.now_ms
        thread.ended = {}
        thread.due_ms += thread.timing.wait_ms
        thread.hold_until_ms = draft.now_ms + thread.timing.hold_ms


def _frozen(thread: Thread) -> Frozen:
    if thread.frozen is None:
        raise ValueError(f"thread {thread.key!r} has no notification in flight")
    return thread.frozen
