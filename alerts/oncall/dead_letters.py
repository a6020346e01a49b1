"""Administration of notifications: list and show them, replay or drop dead letters."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from alerts.groups import group_rules
from alerts.groups.attempts import forget_given_up
from alerts.groups.classify import Role, Shape, role_of, shape_of
from alerts.groups.state import AlertGroup, Draft, EventOutcome, InFlight, NotificationRecord, Outcome, Timing
from alerts.loops import Tries
from alerts.store.group_store import Found, GroupPart, GroupStore, Seen, Want, change_of
from monitor.events import Event

SCAN_ROWS: Final = 500
SCAN_CALLS: Final = 4
"""A page scans at most ``SCAN_CALLS * SCAN_ROWS`` notifications of each receiver, including other tenants'."""

REPLAYED: Final = 100
"""Maximum dead letters that one call replays."""

Place: TypeAlias = tuple[int, str]
"""Position of a notification in its list, which is sorted by time, newest first."""


class RefusedError(Exception):
    """The operation is not possible in the notification's current state; nothing was changed."""


class OvertakenError(RefusedError):
    """It would mislead to send the notification now. It is sent only with ``force``."""


class UnknownNotificationError(LookupError):
    """There is no such notification, or the caller may not see it."""


class UnknownReceiverError(LookupError):
    """No receiver of this name is configured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Page of a list. ``last``: the position to pass as ``after`` for the next page; None: the list has ended."""

    found: tuple[Found, ...]
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """How many dead letters were replayed, were over, and were left. ``last``: the ``after`` of the next call."""

    replayed: int
    over: int
    left: int
    last: Place | None


def meaning_of(note: NotificationRecord) -> Role:
    """Role of a notification by its content, whatever role it was last sent with."""
    if note.event is not None:
        return role_of(note.event)
    return Role.END if note.type == group_rules.RESOLVED else Role.DOWN


def overtaken(note: NotificationRecord, group: AlertGroup | None, *, lasts: bool) -> str | None:
    """Why it would mislead to send this notification now; None: it would not. Pure.

    ``lasts``: the incident that the notification names is open; False if it names none.
    """
    match meaning_of(note):
        case Role.FACT:
            return None
        case Role.END:
            return "a newer DOWN of it was delivered" if group is not None and group.notified else None
        case Role.DOWN if note.event is not None:
            return _overtaken_single(note.event, group, lasts=lasts)
        case Role.DOWN:
            return _overtaken_group(note, group)


def _overtaken_single(event: Event, group: AlertGroup | None, *, lasts: bool) -> str | None:
    if not lasts:
        return "its incident is over"
    last = None if group is None or not group.notified else group.last
    if last is not None and _is_newer(last, event):
        return "a newer notification of its worker was delivered"
    waiting = None if group is None or group.given_up is None else group.given_up.event
    newer = waiting is not None and _is_newer(waiting, event)
    return "a newer notification of its worker was given up: replay that one" if newer else None


def _is_newer(one: Event, other: Event) -> bool:
    return (one.generation, one.seq) > (other.generation, other.seq)


def _overtaken_group(note: NotificationRecord, group: AlertGroup | None) -> str | None:
    if group is None or not group.firing or note.epoch != group.epoch:
        return "its outage is over"
    if group.notified_number > note.number:
        return "a newer notification of its group was delivered"
    newer = group.given_up is not None and group.given_up.number > note.number
    return "a newer notification of its group was given up: replay that one" if newer else None


def put_back(draft: Draft, note: NotificationRecord, *, role: Role, incident_id: str | None) -> NotificationRecord:
    """Put a dead letter back in flight in its group, as if no attempt had been made. Pure.

    With the role ``FACT`` it is paired with no other notification: nothing cancels it, and no RESOLVED follows it.
    """
    in_flight = InFlight(
        nid=note.nid,
        type=note.type,
        role=role,
        created_ms=note.created_ms,
        due_ms=draft.now_ms,
        event=note.event,
        number=note.number,
        epoch=note.epoch,
        reminder=note.reminder,
        incident_id=incident_id,
    )
    draft.group.in_flight = in_flight
    _release(draft.group, note.nid)
    draft.record(in_flight, Outcome.QUEUED)
    return draft.records[-1][0]


def _release(group: AlertGroup, nid: str) -> None:
    """Stop the automatic retries of a dead letter: an operator handles it."""
    if group.given_up is not None and group.given_up.nid == nid:
        forget_given_up(group)


async def outcomes_of(
    groups: Mapping[str, GroupStore], event_id: str
) -> list[tuple[str, EventOutcome, NotificationRecord | None]]:
    """Outcome of an event at each receiver that it was routed to (P5), with its notification if there is one."""
    found: list[tuple[str, EventOutcome, NotificationRecord | None]] = []
    for name, some in sorted(groups.items()):
        known = await some.outcome(event_id)
        if known is not None:
            listed = None if known.nid is None else await some.notification(known.nid)
            found.append((name, known, None if listed is None else listed.note))
    return found


class DeadLetters:
    """Operations of one caller on the notifications of all receivers. Every method raises ``StoreUnavailableError``.

    Args:
        groups: the groups of every receiver.
        is_open: whether a tenant's incident is stored and not closed.
        sees: which notifications the caller may see. The others are treated as if they did not exist.
    """

    def __init__(
        self,
        *,
        groups: Mapping[str, GroupStore],
        is_open: Callable[[str, str], Awaitable[bool]],
        sees: Callable[[NotificationRecord], bool],
    ) -> None:
        self._groups = groups
        self._is_open = is_open
        self._sees = sees

    async def page(
        self, outcome: Outcome, *, receiver: str | None, after: Place | None, limit: int, now_ms: int
    ) -> Page:
        """Notifications of one receiver or of all, newest first. A page may be short although more follow."""
        parts = [
            await self._scan(part, outcome, after=after, limit=limit, now_ms=now_ms)
            for groups in self._of(receiver)
            for part in groups.parts.values()
        ]
        horizon = max((last for _, last in parts if last is not None), default=None)
        merged = sorted((one for found, _ in parts for one in found), key=_place, reverse=True)
        listed = [one for one in merged if horizon is None or _place(one) >= horizon][:limit]
        listed = await self._as_they_are(listed)
        if len(listed) == limit and (len(merged) > limit or horizon is not None):
            return Page(found=tuple(listed), last=_place(listed[-1]))
        return Page(found=tuple(listed), last=horizon)

    async def find(self, nid: str, *, receiver: str | None) -> Found:
        """One notification.

        Raises:
            UnknownNotificationError: there is no such notification.
            UnknownReceiverError: there is no such receiver.
        """
        [found] = await self._as_they_are([await self._find(nid, receiver=receiver)])
        return found

    async def replay(self, nid: str, *, receiver: str | None, force: bool, now_ms: int) -> Found:
        """Replay a dead letter: put it back in flight with the same id and body. Idempotent while it is in flight.

        ``force``: replay it even if it is overtaken. It is then sent with the role ``FACT``. A RESOLVED is always sent
        that way: its outage ended for the group when it was dead-lettered.

        Raises:
            UnknownNotificationError, UnknownReceiverError: as ``find``.
            RefusedError: it is no dead letter; its group has another notification in flight; it is overtaken.
        """
        tries = Tries(f"the group of notification {nid}")
        while True:
            await tries.begin()
            found, groups, seen = await self._find_with_group(nid, receiver=receiver)
            if found.note.outcome is Outcome.QUEUED:
                return found
            _check_dead(found)
            incident_id = _incident_id(found)
            if seen.group is not None and seen.group.in_flight is not None:
                if seen.group.in_flight.nid == nid and seen.group.in_flight.again:
                    return found  # it is being retried right now
                if seen.group.in_flight.nid == nid:
                    continue  # another call has replayed it meanwhile
                raise RefusedError(f"notification {seen.group.in_flight.nid} of the same group is in flight")
            lasts = incident_id is not None and await self._is_open(found.note.tenant, incident_id)
            reason = overtaken(found.note, seen.group, lasts=lasts)
            if reason is not None and not force:
                raise OvertakenError(f"it is overtaken: {reason}")
            draft = Draft(seen.group or _begun(found.note, incident_id, now_ms), now_ms)
            is_down = meaning_of(found.note) is Role.DOWN and reason is None
            role = Role.DOWN if is_down else Role.FACT
            note = put_back(draft, found.note, role=role, incident_id=incident_id)
            if await _written(groups, draft, seen, now_ms=now_ms):
                return Found(receiver=found.receiver, note=note, body=found.body)

    async def replay_all(self, *, receiver: str, after: Place | None, now_ms: int) -> Replayed:
        """Replay dead letters of a receiver, the newest first, at most ``REPLAYED`` in one call.

        An overtaken one stays a dead letter, but is settled: it counts as over and no longer as open.

        Raises:
            UnknownReceiverError: there is no such receiver.
        """
        [groups] = self._of(receiver)
        page = await self.page(Outcome.DEAD_LETTERED, receiver=receiver, after=after, limit=REPLAYED, now_ms=now_ms)
        replayed = over = left = 0
        for one in page.found:
            try:
                await self.replay(one.note.nid, receiver=receiver, force=False, now_ms=now_ms)
            except RefusedError as error:
                if isinstance(error, OvertakenError) and await self._settle(groups, one.note, now_ms=now_ms):
                    over += 1
                else:
                    left += 1
            else:
                replayed += 1
        return Replayed(replayed=replayed, over=over, left=left, last=page.last)

    async def _settle(self, groups: GroupStore, note: NotificationRecord, *, now_ms: int) -> bool:
        """Settle a dead letter that is over, so that it is no longer open. Returns whether that was written."""
        [seen] = await groups.read([Want(group=note.group)])
        draft = Draft(seen.group or _begun(note, None, now_ms), now_ms)
        draft.settled.append(note.nid)
        _release(draft.group, note.nid)
        return await _written(groups, draft, seen, now_ms=now_ms)

    async def drop(self, nid: str, *, receiver: str | None, now_ms: int) -> Found:
        """Remove a dead letter permanently; its body is deleted. Idempotent.

        Raises:
            UnknownNotificationError, UnknownReceiverError: as ``find``.
            RefusedError: it is no dead letter, or an attempt of it is being made: it may be accepted yet.
        """
        tries = Tries(f"the group of notification {nid}")
        while True:
            await tries.begin()
            found, groups, seen = await self._find_with_group(nid, receiver=receiver)
            if found.note.outcome is Outcome.DROPPED:
                return found
            _check_dead(found)
            draft = Draft(seen.group or _begun(found.note, None, now_ms), now_ms)
            in_flight = draft.group.in_flight
            if in_flight is not None and in_flight.nid == nid:
                if in_flight.open:
                    raise RefusedError("it is being retried right now")
                draft.group.in_flight = None
            note = msgspec.structs.replace(found.note, outcome=Outcome.DROPPED, at_ms=now_ms)
            draft.records.append((note, None))
            _release(draft.group, nid)
            if await _written(groups, draft, seen, now_ms=now_ms):
                return Found(receiver=found.receiver, note=note, body=None)

    async def _find(self, nid: str, *, receiver: str | None) -> Found:
        for groups in self._of(receiver):
            found = await groups.notification(nid)
            if found is not None and self._sees(found.note):
                return found
        raise UnknownNotificationError(nid)

    async def _find_with_group(self, nid: str, *, receiver: str | None) -> tuple[Found, GroupStore, Seen]:
        """Read the group, then the notification: a later change of either changes the group's version."""
        found = await self._find(nid, receiver=receiver)
        groups = self._groups[found.receiver]
        [seen] = await groups.read([Want(group=found.note.group)])
        return await self._find(nid, receiver=found.receiver), groups, seen

    async def _as_they_are(self, found: Sequence[Found]) -> list[Found]:
        """Add the attempts and the last failure to the notifications in flight. These are stored in their groups."""
        wants: dict[str, list[Found]] = {}
        for one in found:
            if one.note.outcome is Outcome.QUEUED:
                wants.setdefault(one.receiver, []).append(one)
        now: dict[str, Found] = {}
        for receiver, some in wants.items():
            seen = await self._groups[receiver].read([Want(group=one.note.group) for one in some])
            for one, group in zip(some, (each.group for each in seen), strict=True):
                in_flight = None if group is None else group.in_flight
                if in_flight is not None and in_flight.nid == one.note.nid:
                    note = msgspec.structs.replace(
                        one.note,
                        attempts=in_flight.attempts,
                        first_attempt_ms=in_flight.first_attempt_ms,
                        reason=in_flight.error,
                        cause=in_flight.cause,
                        answer=in_flight.answer,
                    )
                    now[note.nid] = Found(receiver=receiver, note=note, body=one.body)
        return [now.get(one.note.nid, one) for one in found]

    def _of(self, receiver: str | None) -> Sequence[GroupStore]:
        if receiver is None:
            return [groups for _, groups in sorted(self._groups.items())]
        if receiver not in self._groups:
            raise UnknownReceiverError(receiver)
        return [self._groups[receiver]]

    async def _scan(
        self, groups: GroupPart, outcome: Outcome, *, after: Place | None, limit: int, now_ms: int
    ) -> tuple[list[Found], Place | None]:
        """Notifications of a part of a receiver after ``after``, and up to where was scanned (None: the end).

        Calls that find only notifications before ``after``, which have the same time, do not count. Otherwise paging
        would stop at a time with more notifications than one page scans.
        """
        found: list[Found] = []
        last = after
        before_ms = now_ms if after is None else after[0]
        offset = calls = 0
        while calls < SCAN_CALLS:
            notes = await groups.notifications(outcome, before_ms=before_ms, offset=offset, limit=SCAN_ROWS)
            offset += SCAN_ROWS
            behind = [note for note in notes if after is None or (note.at_ms, note.nid) < after]
            calls += bool(behind)
            for note in behind:
                last = note.at_ms, note.nid
                if self._sees(note):
                    found.append(Found(receiver=groups.receiver, note=note, body=None))
                    if len(found) == limit:
                        return found, last
            if len(notes) < SCAN_ROWS:
                return found, None
        return found, last


def of_tenant(note: NotificationRecord, tenant: str, environments: Sequence[str] | None, worker_id: str | None) -> bool:
    """Whether a notification is visible to a caller restricted to these. None: not restricted by it."""
    if note.tenant != tenant:
        return False
    event = note.event
    environment = note.labels.get("environment") if event is None else event.environment_name
    return (environments is None or environment in environments) and (
        worker_id is None or (event is not None and event.worker_id == worker_id)
    )


def _place(found: Found) -> Place:
    return found.note.at_ms, found.note.nid


def _check_dead(found: Found) -> None:
    if found.note.outcome is not Outcome.DEAD_LETTERED:
        raise RefusedError(f"it is no dead letter: it is {found.note.outcome.value}")


def _incident_id(found: Found) -> str | None:
    if found.body is None:
        raise RefusedError("its body is not there any more")
    named = json.loads(found.body)["data"].get("incident_id")
    return named if isinstance(named, str) else None


def _begun(note: NotificationRecord, incident_id: str | None, now_ms: int) -> AlertGroup:
    """A new group for a notification whose group has been deleted since."""
    return AlertGroup(
        key=note.group,
        shape=shape_of(note.group),
        tenant=note.tenant,
        timing=note.timing or Timing(),
        labels=dict(note.labels),
        incident_id=incident_id,
        since_ms=0 if shape_of(note.group) is Shape.WORKER else now_ms,
    )


async def _written(groups: GroupStore, draft: Draft, seen: Seen, *, now_ms: int) -> bool:
    [written] = await groups.save([change_of(draft, seen, now_ms=now_ms)], now_ms=now_ms)
    return written
