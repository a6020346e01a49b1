"""Rules for groups of many workers: one notification covers all news (P7, P16). Pure."""

from collections.abc import Sequence
from typing import Final

from alerts.groups.attempts import end_unneeded, next_attempt, next_offer, next_offer_ms, settle
from alerts.groups.classify import Role, Shape, digest, role_of
from alerts.groups.decisions import Decision
from alerts.groups.state import (
    RECHECK_MS,
    AlertGroup,
    CreateNotification,
    Draft,
    InFlight,
    Member,
    Outcome,
    Over,
    Silenced,
    Step,
    Wait,
)
from monitor.events import Event
from monitor.liveness import EventKind, Liveness

FIRING: Final = "group.firing"
RESOLVED: Final = "group.resolved"
LISTED: Final = 50
"""Maximum members listed in a notification. The rest is only counted."""
HOLD_CHECK_MS: Final = 1_000
_PART: Final = "part_"


def offer(draft: Draft, event: Event, *, receiver: str, mid: str, member: Member | None) -> None:
    """Apply an event of a worker. ``member``: the worker's membership, if it is down in this group."""
    if role_of(event) is Role.END:
        _leave(draft, event, receiver=receiver, mid=mid, member=member)
    else:
        _join(draft, event, receiver=receiver, mid=mid, member=member)


def catch_up(draft: Draft) -> None:
    """Record what has happened since the last decision."""
    group, now_ms = draft.group, draft.now_ms
    end_unneeded(draft, is_over=not group.firing)
    if group.in_flight is not None or not group.firing or news_ms(group) is not None:
        return
    if group.acked or group.acks >= group.firing:
        if group.remind_ms and group.remind_ms <= now_ms:
            group.remind_ms = now_ms + group.timing.repeat_ms  # a member that is not acknowledged may join
        if group.given_up is not None and group.given_up.reminder:
            settle(draft)


def decide(group: AlertGroup, silenced: Silenced, *, first: Sequence[Member], suspected: bool, now_ms: int) -> Step:
    """Next step of the group, after ``catch_up``. Changes nothing.

    ``first``: the members that have been firing longest. ``suspected``: the environment may have a mass failure; while
    that is not declared, its first notification is held.
    """
    if group.in_flight is not None:
        return next_attempt(group.in_flight, now_ms)
    if not group.firing:
        return CreateNotification(role=Role.END, event=None) if group.notified else Over()
    return _of_firing(group, silenced, first=first, suspected=suspected, now_ms=now_ms)


def _of_firing(group: AlertGroup, silenced: Silenced, *, first: Sequence[Member], suspected: bool, now_ms: int) -> Step:
    due = news_ms(group)
    if due is None:
        return next_offer(group, None, lambda: _all_silenced(group, silenced, first), now_ms=now_ms)
    if due > now_ms:
        offer_ms = next_offer_ms(group)
        why = Decision.GROUP_INTERVAL if group.notified else Decision.GROUP_WAIT
        return Wait(due if offer_ms is None or offer_ms <= now_ms else min(due, offer_ms), why)
    if suspected and _is_held(group) and now_ms < group.hold_until_ms:
        return Wait(min(now_ms + HOLD_CHECK_MS, group.hold_until_ms), Decision.HELD)
    until_ms = _all_silenced(group, silenced, first)
    if until_ms is None:
        return CreateNotification(role=Role.DOWN, event=None)
    return Wait(min(until_ms, now_ms + RECHECK_MS), Decision.SILENCED)


def due_ms(group: AlertGroup, now_ms: int) -> int | None:
    """When the group is due next; None: not until it changes."""
    if group.in_flight is not None:
        over = group.in_flight.role is Role.DOWN and not group.firing
        return now_ms if over else group.in_flight.due_ms
    if not group.firing:
        return now_ms
    moments = [moment for moment in (news_ms(group), next_offer_ms(group)) if moment is not None]
    return max(now_ms, min(moments)) if moments else None


def is_over(group: AlertGroup) -> bool:
    """Whether the group can be deleted: nothing is firing or in flight, and no DOWN waits for its end."""
    return group.in_flight is None and not group.firing and not group.notified


def create(draft: Draft, step: CreateNotification, *, receiver: str) -> InFlight:
    """Create the next notification of the group."""
    group = draft.group
    group.number += 1
    group.unnotified = group.recovered = 0
    group.flushed_ms = draft.now_ms
    part = part_of(group, group.number, receiver=receiver)
    in_flight = InFlight(
        nid=nid_of(part, draft.now_ms),
        type=RESOLVED if step.role is Role.END else FIRING,
        role=step.role,
        created_ms=draft.now_ms,
        due_ms=draft.now_ms,
        number=group.number,
        epoch=group.epoch,
        reminder=step.reminder,
        incident_id=group.incident_id,
    )
    group.in_flight = in_flight
    draft.set_part(part, in_flight.nid)
    return in_flight


def close(draft: Draft, *, receiver: str, outcome: Outcome = Outcome.SUPERSEDED, reason: str = "") -> None:
    """Record the outcome of the notification that would have held the group's news, as the group is deleted (P5)."""
    group = draft.group
    if group.shape is Shape.WORKER or not (group.unnotified or group.recovered):
        return
    number = group.number + 1
    part = part_of(group, number, receiver=receiver)
    never = InFlight(
        nid=nid_of(part, draft.now_ms),
        type=FIRING if group.firing else RESOLVED,
        role=Role.DOWN if group.firing else Role.END,
        created_ms=draft.now_ms,
        due_ms=draft.now_ms,
        number=number,
        epoch=group.epoch,
    )
    draft.set_part(part, never.nid)
    draft.record(never, outcome, reason=reason)


def part_of(group: AlertGroup, number: int, *, receiver: str) -> str:
    """Name of the news in a group's n-th notification, known before that notification exists."""
    return _PART + digest(receiver, group.key, group.epoch, str(number))


def is_part(name: str) -> bool:
    """Whether a name is that of a part of a group's news, and not the id of a notification."""
    return name.startswith(_PART)


def nid_of(part: str, now_ms: int) -> str:
    """Id of the notification of a part that is created at ``now_ms``.

    Unlike a part's name, an id is never used twice. After the store has lost its last writes, the n-th notification may
    hold other news.
    """
    return "ntf_" + digest(part, str(now_ms))


def _join(draft: Draft, event: Event, *, receiver: str, mid: str, member: Member | None) -> None:
    group = draft.group
    if not group.epoch:
        group.epoch = event.event_id
    number = group.number + 1
    begins = group.in_flight is None or group.in_flight.role is Role.FACT  # a FACT in flight is a replay, no outage
    if not group.firing and not group.notified and begins:
        group.since_ms = event.due_ms
        group.ended = {}
        group.due_ms = draft.now_ms + group.timing.wait_ms
        group.hold_until_ms = draft.now_ms + group.timing.hold_ms
    if member is None:
        group.firing += 1
        group.unnotified += 1
    elif member.number <= group.number:
        group.unnotified += 1
    else:
        draft.set_outcome(member.event, Outcome.SUPERSEDED)
    group.rejected += _is_rejected(event) - (member is not None and _is_rejected(member.event))
    known = Member(event=event, first=member.first if member else number, number=number)
    if member is None and group.ended.get(EventKind.RECOVERED, 0) and _was_back(group, event):
        group.ended[EventKind.RECOVERED] -= 1
        known.again = True
    if member is not None:
        known.again = member.again
        known.acked, known.incident_id = member.acked, member.incident_id
    draft.set_member(mid, known)
    draft.set_outcome(event, Outcome.PART_OF, part_of(group, number, receiver=receiver))


def _leave(draft: Draft, event: Event, *, receiver: str, mid: str, member: Member | None) -> None:
    group = draft.group
    if member is None:
        draft.set_outcome(event, Outcome.SUPERSEDED)
        return
    if member.number > group.number:
        group.unnotified -= 1
    if member.first > group.number:
        outcome = Outcome.SILENCED if group.waits_for == Decision.SILENCED else Outcome.SUPERSEDED
        draft.set_outcome(member.event, outcome)
        draft.set_outcome(event, outcome)
    else:
        group.recovered += 1
        draft.set_outcome(event, Outcome.PART_OF, part_of(group, group.number + 1, receiver=receiver))
    if member.again or member.first <= group.number:
        group.ended[event.kind] = group.ended.get(event.kind, 0) + 1
    group.firing -= 1
    group.acks -= member.acked
    group.rejected -= _is_rejected(member.event)
    draft.drop_member(mid)
    if not group.firing:
        settle(draft)


def _was_back(group: AlertGroup, event: Event) -> bool:
    """Whether the worker came back since the group began: it became alive after that, and not as a new worker."""
    return event.old is Liveness.ALIVE and event.since_ms >= max(group.since_ms, event.generation + 1)


def _is_rejected(event: Event) -> bool:
    return event.kind is EventKind.REJECTED


def _is_held(group: AlertGroup) -> bool:
    """Whether it is uncertain that this is one failure of a whole environment."""
    return group.shape is Shape.ENVIRONMENT and not group.notified and not group.declared


def news_ms(group: AlertGroup) -> int | None:
    """When the news of a firing group is due; None: there is no news."""
    if not group.notified and group.given_up is None:
        return group.due_ms if group.unnotified else None
    return group.flushed_ms + group.timing.interval_ms if group.unnotified or group.recovered else None


def _all_silenced(group: AlertGroup, silenced: Silenced, first: Sequence[Member]) -> int | None:
    """Until when all members are silenced; None: one is not, or the group has more members than ``first``."""
    if group.firing > len(first):
        return None
    ends = [silenced(member.event) for member in first]
    known = [end for end in ends if end is not None]
    return min(known) if ends and len(known) == len(ends) else None
