"""The thread of many workers at one receiver: one notification tells of all that is new (P7, P16). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.groups.attempts import cancel, deliver, next_offer_ms, offer_again, settle
from alerts.groups.keys import Shape, digest
from alerts.groups.roles import Role, role_of
from alerts.groups.state import RECHECK_MS, Draft, Freeze, Frozen, Member, Outcome, Over, Send, Step, Thread, Wait
from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alerts.groups.state import Silenced
    from monitor.events import Event

FIRING: Final = "group.firing"
RESOLVED: Final = "group.resolved"
LISTED: Final = 50
"""So many members a notification lists; the rest is counted."""
HOLD_CHECK_MS: Final = 1_000
_PART: Final = "part_"


def offer(draft: Draft, event: Event, *, receiver: str, mid: str, member: Member | None) -> None:
    """Take an event of a worker. ``member`` is what is known of the worker, if it is down in this group."""
    if role_of(event) is Role.END:
        _leave(draft, event, receiver=receiver, mid=mid, member=member)
    else:
        _join(draft, event, receiver=receiver, mid=mid, member=member)


def next_step(draft: Draft, silenced: Silenced, *, first: Sequence[Member], suspected: bool) -> Step:
    """What is to be done now.

    ``first`` are the longest firing members, ``suspected`` whether the environment still looks as if many of it
    might be silent: then what is not declared is held.
    """
    thread = draft.thread
    if thread.frozen is not None:
        step = _of_frozen(draft, thread.frozen)
        if step is not None:
            return step
    if not thread.firing:
        return Freeze(role=Role.END, event=None) if thread.told else Over()
    return _of_firing(draft, silenced, first=first, suspected=suspected)


def _of_firing(draft: Draft, silenced: Silenced, *, first: Sequence[Member], suspected: bool) -> Step:
    thread, now_ms = draft.thread, draft.now_ms
    due = news_ms(thread)
    if due is None:
        return _reminder(draft, silenced, first)
    if due > now_ms:
        offer_ms = next_offer_ms(thread)
        return Wait(due if offer_ms is None or offer_ms <= now_ms else min(due, offer_ms))
    if suspected and _is_held(thread) and now_ms < thread.hold_until_ms:
        return Wait(min(now_ms + HOLD_CHECK_MS, thread.hold_until_ms))
    until_ms = _all_silenced(thread, silenced, first)
    return Freeze(role=Role.DOWN, event=None) if until_ms is None else Wait(min(until_ms, now_ms + RECHECK_MS))


def due_ms(thread: Thread, now_ms: int) -> int | None:
    """When the thread has to be looked at next; None: not before something happens."""
    if thread.frozen is not None:
        over = thread.frozen.role is Role.DOWN and not thread.firing
        return now_ms if over else thread.frozen.due_ms
    if not thread.firing:
        return now_ms
    moments = [moment for moment in (news_ms(thread), next_offer_ms(thread)) if moment is not None]
    return max(now_ms, min(moments)) if moments else None


def is_over(thread: Thread) -> bool:
    """Whether nothing is left to tell, nor to be answered for."""
    return thread.frozen is None and not thread.firing and not thread.told


def freeze(draft: Draft, step: Freeze, *, receiver: str) -> Frozen:
    """Make the next notification of the group."""
    thread = draft.thread
    thread.number += 1
    thread.untold = thread.recovered = 0
    thread.flushed_ms = draft.now_ms
    part = part_of(thread, thread.number, receiver=receiver)
    frozen = Frozen(
        nid=nid_of(part, draft.now_ms),
        type=RESOLVED if step.role is Role.END else FIRING,
        role=step.role,
        created_ms=draft.now_ms,
        due_ms=draft.now_ms,
        number=thread.number,
        epoch=thread.epoch,
        reminder=step.reminder,
        incident_id=thread.incident_id,
    )
    thread.frozen = frozen
    draft.name(part, frozen.nid)
    return frozen


def close(draft: Draft, *, receiver: str, outcome: Outcome = Outcome.SUPERSEDED, reason: str = "") -> None:
    """Note what becomes of the notification that the news of a group was to be told by, when the group goes (P5)."""
    thread = draft.thread
    if thread.shape is Shape.WORKER or not (thread.untold or thread.recovered):
        return
    number = thread.number + 1
    part = part_of(thread, number, receiver=receiver)
    never = Frozen(
        nid=nid_of(part, draft.now_ms),
        type=FIRING if thread.firing else RESOLVED,
        role=Role.DOWN if thread.firing else Role.END,
        created_ms=draft.now_ms,
        due_ms=draft.now_ms,
        number=number,
        epoch=thread.epoch,
    )
    draft.name(part, never.nid)
    draft.note(never, outcome, reason=reason)


def part_of(thread: Thread, number: int, *, receiver: str) -> str:
    """The name of what a group's n-th notification tells, known before there is one."""
    return _PART + digest(receiver, thread.key, thread.epoch, str(number))


def is_part(name: str) -> bool:
    """Whether it names a part of a group's news, and no notification."""
    return name.startswith(_PART)


def nid_of(part: str, now_ms: int) -> str:
    """The id of the notification that is made then. Other than a part's name it is never given twice: a store that came
    back without its last writes may have other news to tell as the n-th.
    """
    return "ntf_" + digest(part, str(now_ms))


def _join(draft: Draft, event: Event, *, receiver: str, mid: str, member: Member | None) -> None:
    thread = draft.thread
    if not thread.epoch:
        thread.epoch = event.event_id
    number = thread.number + 1
    begins = thread.frozen is None or thread.frozen.role is Role.FACT  # one that was replayed pairs with nothing
    if not thread.firing and not thread.told and begins:
        thread.since_ms = event.due_ms
        thread.ended = {}
        thread.due_ms = draft.now_ms + thread.timing.wait_ms
        thread.hold_until_ms = draft.now_ms + thread.timing.hold_ms
    if member is None:
        thread.firing += 1
        thread.untold += 1
    elif member.number <= thread.number:
        thread.untold += 1
    else:
        draft.tell(member.event, Outcome.SUPERSEDED)
    thread.rejected += _is_rejected(event) - (member is not None and _is_rejected(member.event))
    known = Member(event=event, first=member.first if member else number, number=number)
    if member is None and thread.ended.get(EventKind.RECOVERED, 0) and _was_back(thread, event):
        thread.ended[EventKind.RECOVERED] -= 1
        known.again = True
    if member is not None:
        known.again = member.again
        known.acked, known.incident_id = member.acked, member.incident_id
    draft.set_member(mid, known)
    draft.tell(event, Outcome.PART_OF, part_of(thread, number, receiver=receiver))


def _leave(draft: Draft, event: Event, *, receiver: str, mid: str, member: Member | None) -> None:
    thread = draft.thread
    if member is None:
        draft.tell(event, Outcome.SUPERSEDED)
        return
    if member.number > thread.number:
        thread.untold -= 1
    if member.first > thread.number:
        draft.tell(member.event, Outcome.SUPERSEDED)
        draft.tell(event, Outcome.SUPERSEDED)
    else:
        thread.recovered += 1
        draft.tell(event, Outcome.PART_OF, part_of(thread, thread.number + 1, receiver=receiver))
    if member.again or member.first <= thread.number:
        thread.ended[event.kind] = thread.ended.get(event.kind, 0) + 1
    thread.firing -= 1
    thread.acks -= member.acked
    thread.rejected -= _is_rejected(member.event)
    draft.drop_member(mid)
    if not thread.firing:
        settle(draft)


def _of_frozen(draft: Draft, frozen: Frozen) -> Step | None:
    """The next step of a notification in attempts; None when it is in attempts no more."""
    if frozen.open:
        frozen.open, frozen.unknown = False, True  # whoever made the attempt has not come back
    if frozen.role is Role.DOWN and not draft.thread.firing:
        if frozen.unknown:
            deliver(draft, reason="it may have arrived, and is over")
        else:
            cancel(draft)
        return None
    return Send() if frozen.due_ms <= draft.now_ms else Wait(frozen.due_ms)


def _was_back(thread: Thread, event: Event) -> bool:
    """Whether a worker came back since the group began: it became alive after that, and not as a new one."""
    return event.old is Liveness.ALIVE and event.since_ms >= max(thread.since_ms, event.generation + 1)


def _is_rejected(event: Event) -> bool:
    return event.kind is EventKind.REJECTED


def _is_held(thread: Thread) -> bool:
    """Whether it is not sure that this is one failure of a whole environment."""
    return thread.shape is Shape.ENVIRONMENT and not thread.told and not thread.declared


def news_ms(thread: Thread) -> int | None:
    """When the news of a firing group may be told; None when there is none."""
    if not thread.told and thread.given_up is None:
        return thread.due_ms if thread.untold else None
    return thread.flushed_ms + thread.timing.interval_ms if thread.untold or thread.recovered else None


def _reminder(draft: Draft, silenced: Silenced, first: Sequence[Member]) -> Step:
    thread, now_ms = draft.thread, draft.now_ms
    if thread.acked or thread.acks >= thread.firing:
        if thread.remind_ms and thread.remind_ms <= now_ms:
            thread.remind_ms = now_ms + thread.timing.repeat_ms  # a worker that is not acknowledged may join
        if thread.given_up is not None and thread.given_up.reminder:
            settle(draft)
    moment_ms = next_offer_ms(thread)
    if moment_ms is None or moment_ms > now_ms:
        return Wait(moment_ms)
    until_ms = _all_silenced(thread, silenced, first)
    if until_ms is not None:
        return Wait(min(until_ms, now_ms + RECHECK_MS))
    if 0 < thread.again_ms <= now_ms:
        return offer_again(draft)
    return Freeze(role=Role.DOWN, event=None, reminder=thread.reminders + 1)


def _all_silenced(thread: Thread, silenced: Silenced, first: Sequence[Member]) -> int | None:
    """Until when every member is silenced; None when one is not, or there are more than are known here."""
    if thread.firing > len(first):
        return None
    ends = [silenced(member.event) for member in first]
    known = [end for end in ends if end is not None]
    return min(known) if ends and len(known) == len(ends) else None
