"""What a person does with notifications: looks at them, sends a dead letter again, or throws it away."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

from alerts.errors import StoreUnavailableError
from alerts.groups import group_rules
from alerts.groups.attempts import forget_given_up
from alerts.groups.keys import Shape, shape_of
from alerts.groups.roles import Role, role_of
from alerts.groups.state import Draft, Frozen, Note, Outcome, Thread, Timing
from alerts.store.group_store import Want, change_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from alerts.groups.state import Told
    from alerts.store.group_store import Seen, ThreadStore
    from monitor.events import Event

TRIES: Final = 20
"""How often a thread that others keep changing is read again."""
SCAN_ROWS: Final = 500
SCAN_CALLS: Final = 4
"""A page looks at so many times so many notifications of each receiver, those of other tenants among them."""

REPLAYED: Final = 100
"""Dead letters that one call puts back at most."""

Place: TypeAlias = tuple[int, str]
"""Where a notification stands in its list, which is sorted by time, newest first."""


class Why(StrEnum):
    """Why a dead letter is not taken up."""

    NOT_DEAD = "not_dead"
    BUSY = "busy"
    OVERTAKEN = "overtaken"
    BODY_LOST = "body_lost"


class RefusedError(Exception):
    """What was asked can't be done with this notification as it stands; nothing was changed."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why: Final = why


class UnknownNotificationError(LookupError):
    """There is no such notification, or none that the caller may see."""


class UnknownReceiverError(LookupError):
    """No receiver of this name is configured."""


class Incidents(Protocol):
    """What the desk asks the ledger."""

    async def is_open(self, tenant: str, incident_id: str) -> bool:
        """Whether the incident is known and not closed. Raises ``StoreUnavailableError``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A notification of a receiver. ``body`` None: it is kept no more."""

    receiver: str
    note: Note
    body: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Part of a list. ``last``: where the next one begins, None at the end."""

    found: tuple[Found, ...]
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """How many dead letters were put back, are over, and were left alone. ``last``: where the next call goes on."""

    replayed: int
    over: int
    left: int
    last: Place | None


def meaning_of(note: Note) -> Role:
    """What a notification says, as whatever it was last sent."""
    if note.event is not None:
        return role_of(note.event)
    return Role.END if note.type == group_rules.RESOLVED else Role.DOWN


def overtaken(note: Note, thread: Thread | None, *, lasts: bool) -> str | None:
    """Why telling this now would mislead, if it would. Pure.

    ``lasts``: the incident that the notification names is open; False where it names none.
    """
    match meaning_of(note):
        case Role.FACT:
            return None
        case Role.END:
            return "a newer DOWN of it was delivered" if thread is not None and thread.told else None
        case Role.DOWN if note.event is not None:
            return _overtaken_single(note.event, thread, lasts=lasts)
        case Role.DOWN:
            return _overtaken_group(note, thread)


def _overtaken_single(event: Event, thread: Thread | None, *, lasts: bool) -> str | None:
    if not lasts:
        return "its incident is over"
    last = None if thread is None or not thread.told else thread.last
    newer = last is not None and (last.generation, last.seq) > (event.generation, event.seq)
    return "a newer notification of its worker was delivered" if newer else None


def _overtaken_group(note: Note, thread: Thread | None) -> str | None:
    if thread is None or not thread.firing or note.epoch != thread.epoch:
        return "what it tells of is over"
    return "a newer notification of its group was delivered" if thread.told_number > note.number else None


def put_back(draft: Draft, note: Note, *, role: Role, incident_id: str | None) -> Note:
    """Make a dead letter the notification in attempts of its thread, as if none had been made. Pure.

    Sent as a ``FACT`` it is paired with nothing: nothing cancels it, and it calls for no RESOLVED.
    """
    frozen = Frozen(
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
    draft.thread.frozen = frozen
    _release(draft.thread, note.nid)
    draft.note(frozen, Outcome.QUEUED)
    return draft.notes[-1][0]


def _release(thread: Thread, nid: str) -> None:
    """A person looks after a dead letter now: it is not offered again besides."""
    if thread.given_up is not None and thread.given_up.nid == nid:
        forget_given_up(thread)


async def told_of(threads: ThreadStore, event_id: str) -> Told | None:
    """What became of an event at a receiver; part of a group's news, it has the ``nid`` of the notification that tells
    them, once there is one.
    """
    [seen] = await threads.look([Want(thread="", events=(event_id,))])
    told = seen.outcomes[0]
    if told is None or told.nid is None or not group_rules.is_part(told.nid):
        return told
    [seen] = await threads.look([Want(thread="", events=(told.nid,))])
    named = seen.outcomes[0]
    return msgspec.structs.replace(told, nid=None if named is None else named.nid)


class Desk:
    """Works on the notifications of every receiver. Every method raises ``StoreUnavailableError``.

    ``sees`` says which notifications the caller may see; the others do not exist for it.
    """

    def __init__(self, *, threads: Mapping[str, ThreadStore], incidents: Incidents) -> None:
        self._threads = threads
        self._incidents = incidents

    async def page(
        self,
        outcome: Outcome,
        *,
        receiver: str | None,
        after: Place | None,
        limit: int,
        now_ms: int,
        sees: Callable[[Note], bool],
    ) -> Page:
        """Notifications of one or of all receivers, newest first; a page may be short although more follow."""
        parts = [
            await self._scan(threads, outcome, after=after, limit=limit, now_ms=now_ms, sees=sees)
            for threads in self._of(receiver)
        ]
        horizon = max((last for _, last in parts if last is not None), default=None)
        merged = sorted((one for found, _ in parts for one in found), key=_place, reverse=True)
        told = [one for one in merged if horizon is None or _place(one) >= horizon][:limit]
        told = await self._as_they_are(told)
        if len(told) == limit and (len(merged) > limit or horizon is not None):
            return Page(found=tuple(told), last=_place(told[-1]))
        return Page(found=tuple(told), last=horizon)

    async def find(self, nid: str, *, receiver: str | None, sees: Callable[[Note], bool]) -> Found:
        """One notification.

        Raises:
            UnknownNotificationError: there is none.
            UnknownReceiverError: no such receiver.
        """
        [found] = await self._as_they_are([await self._find(nid, receiver=receiver, sees=sees)])
        return found

    async def replay(
        self, nid: str, *, receiver: str | None, force: bool, now_ms: int, sees: Callable[[Note], bool]
    ) -> Found:
        """Put a dead letter back into the queue, same id, same body. Idempotent while it is queued.

        ``force`` sends what is overtaken too, by itself. So is a RESOLVED sent: it was given up, which ended its DOWN.

        Raises:
            UnknownNotificationError, UnknownReceiverError: as ``find``.
            RefusedError: it is no dead letter; its thread has another one in attempts; it is overtaken.
        """
        for _ in range(TRIES):
            found = await self._find(nid, receiver=receiver, sees=sees)
            if found.note.outcome is Outcome.QUEUED:
                return found
            incident_id = _incident_id(_dead(found))
            threads = self._threads[found.receiver]
            [seen] = await threads.look([Want(thread=found.note.thread)])
            if seen.thread is not None and seen.thread.frozen is not None:
                if seen.thread.frozen.nid == nid and seen.thread.frozen.again:
                    return found  # it is being offered again just now
                if seen.thread.frozen.nid == nid:
                    continue  # somebody else has put it back in between
                raise RefusedError(Why.BUSY, f"notification {seen.thread.frozen.nid} of the same thread is in attempts")
            lasts = incident_id is not None and await self._incidents.is_open(found.note.tenant, incident_id)
            reason = overtaken(found.note, seen.thread, lasts=lasts)
            if reason is not None and not force:
                raise RefusedError(Why.OVERTAKEN, f"it is overtaken: {reason}")
            draft = Draft(seen.thread or _begun(found.note, incident_id, now_ms), now_ms)
            is_down = meaning_of(found.note) is Role.DOWN and reason is None
            role = Role.DOWN if is_down else Role.FACT
            note = put_back(draft, found.note, role=role, incident_id=incident_id)
            if await _written(threads, draft, seen, now_ms=now_ms):
                return Found(receiver=found.receiver, note=note, body=found.body)
        raise StoreUnavailableError(f"the thread of {nid} changes all the time")

    async def replay_all(
        self, *, receiver: str, after: Place | None, now_ms: int, sees: Callable[[Note], bool]
    ) -> Replayed:
        """Put dead letters of a receiver back into the queue, the newest first, at most ``REPLAYED`` in one call.

        What is overtaken stays a dead letter, and counts as over: it does not stand any more.

        Raises:
            UnknownReceiverError: no such receiver.
        """
        [threads] = self._of(receiver)
        found, last = await self._scan(
            threads, Outcome.DEAD_LETTERED, after=after, limit=REPLAYED, now_ms=now_ms, sees=sees
        )
        replayed = over = left = 0
        for one in found:
            try:
                await self.replay(one.note.nid, receiver=receiver, force=False, now_ms=now_ms, sees=sees)
            except RefusedError as error:
                if error.why is Why.OVERTAKEN and await self._settle(threads, one.note, now_ms=now_ms):
                    over += 1
                else:
                    left += 1
            else:
                replayed += 1
        return Replayed(replayed=replayed, over=over, left=left, last=last)

    async def _settle(self, threads: ThreadStore, note: Note, *, now_ms: int) -> bool:
        """Have a dead letter that is over stand no more; whether that was written."""
        [seen] = await threads.look([Want(thread=note.thread)])
        draft = Draft(seen.thread or _begun(note, None, now_ms), now_ms)
        draft.settled.append(note.nid)
        _release(draft.thread, note.nid)
        return await _written(threads, draft, seen, now_ms=now_ms)

    async def drop(self, nid: str, *, receiver: str | None, now_ms: int, sees: Callable[[Note], bool]) -> Found:
        """Take a dead letter out of the dead letters for good; its body goes. Idempotent.

        Raises:
            UnknownNotificationError, UnknownReceiverError: as ``find``.
            RefusedError: it is no dead letter.
        """
        for _ in range(TRIES):
            found = await self._find(nid, receiver=receiver, sees=sees)
            if found.note.outcome is Outcome.DROPPED:
                return found
            if found.note.outcome is not Outcome.DEAD_LETTERED:
                raise _not_dead(found)
            threads = self._threads[found.receiver]
            [seen] = await threads.look([Want(thread=found.note.thread)])
            draft = Draft(seen.thread or _begun(found.note, None, now_ms), now_ms)
            note = msgspec.structs.replace(found.note, outcome=Outcome.DROPPED, at_ms=now_ms)
            draft.notes.append((note, None))
            _release(draft.thread, nid)
            if await _written(threads, draft, seen, now_ms=now_ms):
                return Found(receiver=found.receiver, note=note, body=None)
        raise StoreUnavailableError(f"the thread of {nid} changes all the time")

    async def outcomes(self, event_id: str) -> list[tuple[str, Told, Note | None]]:
        """What became of an event at each receiver that was to be told of it (P5), with its notification if any."""
        found: list[tuple[str, Told, Note | None]] = []
        for name, threads in sorted(self._threads.items()):
            told = await told_of(threads, event_id)
            if told is not None:
                listed = None if told.nid is None else await threads.notification(told.nid)
                found.append((name, told, None if listed is None else listed.note))
        return found

    async def _find(self, nid: str, *, receiver: str | None, sees: Callable[[Note], bool]) -> Found:
        for threads in self._of(receiver):
            listed = await threads.notification(nid)
            if listed is not None and sees(listed.note):
                return Found(receiver=threads.receiver, note=listed.note, body=listed.body)
        raise UnknownNotificationError(nid)

    async def _as_they_are(self, found: Sequence[Found]) -> list[Found]:
        """Those in attempts with how many there were and why the last one failed: their threads know."""
        wants: dict[str, list[Found]] = {}
        for one in found:
            if one.note.outcome is Outcome.QUEUED:
                wants.setdefault(one.receiver, []).append(one)
        now: dict[str, Found] = {}
        for receiver, some in wants.items():
            seen = await self._threads[receiver].look([Want(thread=one.note.thread) for one in some])
            for one, thread in zip(some, (each.thread for each in seen), strict=True):
                frozen = None if thread is None else thread.frozen
                if frozen is not None and frozen.nid == one.note.nid:
                    note = msgspec.structs.replace(
                        one.note,
                        attempts=frozen.attempts,
                        first_attempt_ms=frozen.first_attempt_ms,
                        reason=frozen.error,
                        cause=frozen.cause,
                        answer=frozen.answer,
                    )
                    now[note.nid] = Found(receiver=receiver, note=note, body=one.body)
        return [now.get(one.note.nid, one) for one in found]

    def _of(self, receiver: str | None) -> Sequence[ThreadStore]:
        if receiver is None:
            return [threads for _, threads in sorted(self._threads.items())]
        if receiver not in self._threads:
            raise UnknownReceiverError(receiver)
        return [self._threads[receiver]]

    async def _scan(
        self,
        threads: ThreadStore,
        outcome: Outcome,
        *,
        after: Place | None,
        limit: int,
        now_ms: int,
        sees: Callable[[Note], bool],
    ) -> tuple[list[Found], Place | None]:
        """What one receiver has behind ``after``, and how far it was looked through (None: to the end).

        Calls that find only what is before ``after``, which has the same time, do not count: else a list of more at one
        time than a page looks at would never go on.
        """
        found: list[Found] = []
        last = after
        before_ms = now_ms if after is None else after[0]
        offset = calls = 0
        while calls < SCAN_CALLS:
            notes = await threads.notifications(outcome, before_ms=before_ms, offset=offset, limit=SCAN_ROWS)
            offset += SCAN_ROWS
            behind = [note for note in notes if after is None or (note.at_ms, note.nid) < after]
            calls += bool(behind)
            for note in behind:
                last = note.at_ms, note.nid
                if sees(note):
                    found.append(Found(receiver=threads.receiver, note=note, body=None))
                    if len(found) == limit:
                        return found, last
            if len(notes) < SCAN_ROWS:
                return found, None
        return found, last


def of_tenant(note: Note, tenant: str, environments: Sequence[str] | None, worker_id: str | None) -> bool:
    """Whether a notification tells only of what such a restriction lets one see. None: not restricted."""
    if note.tenant != tenant:
        return False
    event = note.event
    environment = note.labels.get("environment") if event is None else event.environment_name
    return (environments is None or environment in environments) and (
        worker_id is None or (event is not None and event.worker_id == worker_id)
    )


def _place(found: Found) -> Place:
    return found.note.at_ms, found.note.nid


def _dead(found: Found) -> str:
    """The body of a dead letter."""
    if found.note.outcome is not Outcome.DEAD_LETTERED:
        raise _not_dead(found)
    if found.body is None:
        raise RefusedError(Why.BODY_LOST, "its body is not there any more")
    return found.body


def _not_dead(found: Found) -> RefusedError:
    return RefusedError(Why.NOT_DEAD, f"it is no dead letter: it is {found.note.outcome.value}")


def _incident_id(body: str) -> str | None:
    named = json.loads(body)["data"].get("incident_id")
    return named if isinstance(named, str) else None


def _begun(note: Note, incident_id: str | None, now_ms: int) -> Thread:
    """The thread of a notification, when it has ended since."""
    return Thread(
        key=note.thread,
        shape=shape_of(note.thread),
        tenant=note.tenant,
        timing=note.timing or Timing(),
        labels=dict(note.labels),
        incident_id=incident_id,
        since_ms=0 if shape_of(note.thread) is Shape.WORKER else now_ms,
    )


async def _written(threads: ThreadStore, draft: Draft, seen: Seen, *, now_ms: int) -> bool:
    [written] = await threads.save([change_of(draft, seen, now_ms=now_ms)], now_ms=now_ms)
    return written
