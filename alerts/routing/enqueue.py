"""Adds routed events to the groups of one receiver."""

from collections.abc import Sequence
from dataclasses import dataclass

from alerts.groups import group_rules, worker_rules
from alerts.groups.classify import Role, Shape, labels_of, mid_of, role_of, shape_of
from alerts.groups.state import AlertGroup, Draft, Member, Outcome, Timing
from alerts.routing.routes import Target
from alerts.store.group_store import Change, GroupStore, Handed, Seen, Want, change_of
from monitor.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """An event for a group. ``target`` None: no route sends the event, it only ends an outage the group notified."""

    event: Event
    key: str
    target: Target | None
    incident_id: str | None = None
    acked: bool = False
    """The incident is acknowledged already."""
    lapsed: bool = False
    """The event has made an acknowledged warning critical: the acknowledgement no longer counts."""
    failure_id: str | None = None
    """Of a death: the incident of the environment, if a mass failure is declared there."""


async def offer_all(groups: GroupStore, offers: Sequence[Offer], *, now_ms: int) -> dict[str, int]:
    """Add events of one partition to the groups of a receiver, in order. Returns what ``GroupStore.update`` does.

    Idempotent: events whose outcome is recorded are skipped.

    Raises:
        StoreUnavailableError: some events may not be written. Call again with the same events.
    """
    by_group: dict[str, list[Offer]] = {}
    partitions = {offer.event.partition for offer in offers}
    event_ids = tuple(offer.event.event_id for offer in offers)
    handed = Handed(partition=partitions.pop(), event_ids=event_ids) if len(partitions) == 1 else None
    for offer in offers:
        by_group.setdefault(offer.key, []).append(offer)
    wants = [_want(key, some) for key, some in by_group.items()]

    def make(want: Want, seen: Seen) -> Change | None:
        return change_for(by_group[want.group], want, seen, receiver=groups.receiver, now_ms=now_ms)

    return await groups.update(wants, make, now_ms=now_ms, handed=handed)


def _want(key: str, offers: Sequence[Offer]) -> Want:
    members = {} if shape_of(key) is Shape.WORKER else dict.fromkeys(mid_of(offer.event) for offer in offers)
    return Want(group=key, events=tuple(offer.event.event_id for offer in offers), members=tuple(members))


def change_for(offers: Sequence[Offer], want: Want, seen: Seen, *, receiver: str, now_ms: int) -> Change | None:
    """The change that offers make to their group, as it was read; None: none."""
    known_ids = {event_id for event_id, outcome in zip(want.events, seen.outcomes, strict=True) if outcome is not None}
    fresh = [offer for offer in offers if offer.event.event_id not in known_ids]
    if not fresh:
        return None
    draft = Draft(seen.group or _begun(fresh), now_ms)
    group = draft.group
    members = dict(zip(want.members, seen.members, strict=True))
    for offer in fresh:
        event = offer.event
        if group.shape is Shape.WORKER:
            if role_of(event) is Role.DOWN and (offer.lapsed or group.incident_id != offer.incident_id):
                group.incident_id, group.acked = offer.incident_id, offer.acked
            worker_rules.offer(draft, event)
        elif role_of(event) is Role.FACT:
            draft.set_outcome(event, Outcome.SUPERSEDED)  # its incident is no longer stored
        else:
            _offer_to_group(draft, offer, members, receiver=receiver)
    change = change_of(draft, seen, now_ms=now_ms)
    if change.over:
        group_rules.close(draft, receiver=receiver)
    return change


def _offer_to_group(draft: Draft, offer: Offer, members: dict[str, Member | None], *, receiver: str) -> None:
    group, mid = draft.group, mid_of(offer.event)
    known = members.get(mid)
    group_rules.offer(draft, offer.event, receiver=receiver, mid=mid, member=known)
    members[mid] = member = draft.members.get(mid)
    if member is not None:
        member.incident_id = offer.incident_id or member.incident_id
        if known is None and offer.acked:
            member.acked = True
            group.acks += 1
        elif member.acked and offer.lapsed:
            member.acked = False
            group.acks -= 1
    if group.shape is not Shape.ENVIRONMENT or role_of(offer.event) is not Role.DOWN:
        return
    if known is None and group.firing == 1 and group.in_flight is not None and group.in_flight.role is Role.END:
        # The first death of a new failure, while the end of the last failure is in flight.
        group.declared = False
        if group.incident_id != offer.failure_id:
            group.incident_id, group.acked = None, False
    if offer.failure_id is not None:
        group.declared = True
        group.incident_id = group.incident_id or offer.failure_id


def _begun(offers: Sequence[Offer]) -> AlertGroup:
    # The group recorded with the incident counts, even if the routes, and so the target, now give another group.
    first = offers[0]
    target = next((offer.target for offer in offers if offer.target is not None), None)
    return AlertGroup(
        key=first.key,
        shape=shape_of(first.key),
        tenant=first.event.tenant,
        timing=Timing() if target is None else target.timing,
        labels=labels_of(first.key),
    )
