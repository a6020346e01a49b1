"""The thread of one worker at one receiver: every event is told by itself, in order (P7). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.groups.attempts import cancel, deliver, next_offer_ms, offer_again, settle
from alerts.groups.keys import digest
from alerts.groups.roles import Role, role_of
from alerts.groups.state import RECHECK_MS, Draft, Freeze, Frozen, Outcome, Over, Send, Step, Thread, Wait

if TYPE_CHECKING:
    from alerts.groups.flapping import Lately
    from alerts.groups.state import Silenced
    from monitor.events import Event

FACTS_KEPT: Final = 100
"""So many facts wait for a receiver that takes none; beyond, the oldest are superseded."""


def offer(draft: Draft, event: Event) -> None:
    """Take an event that is to be told. What it makes needless is superseded at once."""
    thread = draft.thread
    if not thread.pending:
        thread.due_ms = draft.now_ms + (0 if role_of(event) is Role.END else thread.timing.wait_ms)
    thread.pending.append(event)
    draft.tell(event, Outcome.QUEUED)
    _collapse(draft)


def next_step(draft: Draft, silenced: Silenced) -> Step:
    """What is to be done now; what was found needless is noted on the way."""
    thread, now_ms = draft.thread, draft.now_ms
    if thread.frozen is not None:
        step = _of_frozen(draft, thread.frozen)
        if step is not None:
            return step
    while thread.pending:
        event = thread.pending[0]
        role = role_of(event)
        if thread.due_ms > now_ms and role is not Role.END:
            return Wait(thread.due_ms)
        until_ms = None if role is Role.END else silenced(event)
        if until_ms is None:
            thread.silenced = False
            return Freeze(role=role, event=event)
        draft.tell(event, Outcome.SILENCED)
        if role is Role.DOWN:
            thread.silenced = True
            return Wait(min(until_ms, now_ms + RECHECK_MS))
        thread.pending.pop(0)
    return _of_told(draft, silenced)


def damp(draft: Draft, event: Event, lately: Lately) -> Wait | None:
    """Have a DOWN that is about to be told wait until it has lasted, where its worker flaps; None: tell it."""
    thread = draft.thread
    if thread.told or not (lately.is_flapping or thread.damped_ms):
        return None
    # What makes an outage worse does not prolong the wait.
    thread.damped_ms = thread.damped_ms or event.detected_ms + lately.rule.hold_ms
    if draft.now_ms >= thread.damped_ms:
        return None
    thread.due_ms = thread.damped_ms
    draft.tell(event, Outcome.DAMPED)
    return Wait(thread.due_ms)


def due_ms(thread: Thread, now_ms: int) -> int | None:
    """When the thread has to be looked at next; None: not before something happens."""
    if thread.frozen is not None:
        over = thread.frozen.role is Role.DOWN and _has_end(thread)
        return now_ms if over else thread.frozen.due_ms
    if thread.pending:
        return now_ms if role_of(thread.pending[0]) is Role.END else max(thread.due_ms, now_ms)
    return next_offer_ms(thread)


def is_over(thread: Thread) -> bool:
    """Whether nothing is left to tell, nor to be answered for."""
    return thread.frozen is None and not thread.pending and not thread.told and thread.given_up is None


def freeze(draft: Draft, step: Freeze, *, receiver: str) -> Frozen:
    """Make the notification of a step, which goes by its event's id."""
    thread, event = draft.thread, step.event
    if event is None:
        raise ValueError(f"thread {thread.key!r}: a worker's notification tells of an event")
    parts = [receiver, event.event_id, *([str(step.reminder)] if step.reminder else [])]
    frozen = Frozen(
        nid="ntf_" + digest(*parts),
        type=event.kind.value,
        role=step.role,
        created_ms=draft.now_ms,
        due_ms=draft.now_ms,
        event=event,
        incident_id=incident_of(thread, step),
        reminder=step.reminder,
    )
    if not step.reminder:
        if step.role is Role.DOWN:
            thread.damped_ms = 0
        thread.pending.remove(event)
        draft.tell(event, Outcome.PART_OF, frozen.nid)
    thread.frozen = frozen
    return frozen


def incident_of(thread: Thread, step: Freeze) -> str | None:
    """The incident that a notification is about."""
    match step.role:
        case Role.DOWN:
            return thread.incident_id
        case Role.END:
            return thread.told_incident_id
        case Role.FACT:
            return None


def _of_frozen(draft: Draft, frozen: Frozen) -> Step | None:
    """The next step of a notification in attempts; None when it is in attempts no more."""
    if frozen.open:
        frozen.open, frozen.unknown = False, True  # whoever made the attempt has not come back
    if frozen.role is Role.DOWN and _has_end(draft.thread):
        if frozen.unknown:
            deliver(draft, reason="it may have arrived, and is over")
        else:
            cancel(draft)
        _collapse(draft)
        return None
    return Send() if frozen.due_ms <= draft.now_ms else Wait(frozen.due_ms)


def _of_told(draft: Draft, silenced: Silenced) -> Step:
    thread, now_ms = draft.thread, draft.now_ms
    given_up = thread.given_up
    if given_up is None and not thread.told:
        return Over()
    event = thread.last if given_up is None else given_up.event
    if thread.acked and not thread.timing.resend:
        thread.remind_ms = 0
        if given_up is not None and given_up.reminder:
            settle(draft)
    moment_ms = next_offer_ms(thread)
    if moment_ms is None or event is None or moment_ms > now_ms:
        return Wait(None if event is None else moment_ms)
    until_ms = None if thread.timing.resend else silenced(event)
    if until_ms is not None:
        return Wait(min(until_ms, now_ms + RECHECK_MS))
    if 0 < thread.again_ms <= now_ms:
        return offer_again(draft)
    return Freeze(role=Role.DOWN, event=event, reminder=thread.reminders + 1)


def _has_end(thread: Thread) -> bool:
    return any(role_of(event) is Role.END for event in thread.pending)


def _collapse(draft: Draft) -> None:
    """Supersede what need not be told any more: a DOWN that ended untold with its end, a DOWN that has newer news."""
    thread = draft.thread
    is_open = thread.told or (thread.frozen is not None and thread.frozen.role is Role.DOWN)
    if thread.frozen is not None and thread.frozen.role is Role.END:
        is_open = False
    states = [event for event in thread.pending if role_of(event) is not Role.FACT]
    kept: list[Event] = []
    ends = [index for index, event in enumerate(states) if role_of(event) is Role.END]
    if ends:
        settle(draft)
    if is_open and ends:
        kept.append(states[ends[0]])
        states = states[ends[0] + 1 :]
    if states and role_of(states[-1]) is Role.DOWN:
        kept.append(states[-1])
    facts = [event for event in thread.pending if role_of(event) is Role.FACT][-FACTS_KEPT:]
    keep = {event.event_id for event in (*kept, *facts)}
    for event in thread.pending:
        if event.event_id not in keep:
            draft.tell(event, _untold(thread))
    thread.pending = [event for event in thread.pending if event.event_id in keep]
    if not any(role_of(event) is Role.DOWN for event in thread.pending):
        thread.silenced = False
        thread.damped_ms = 0


def _untold(thread: Thread) -> Outcome:
    """Why what is taken out of the pending events was not told."""
    if thread.silenced:
        return Outcome.SILENCED
    return Outcome.DAMPED if thread.damped_ms else Outcome.SUPERSEDED
