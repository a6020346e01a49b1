"""Threads: what one receiver knows, was told and is still to be told of one group key. Pure.

A thread is kept in the store as one value with a version. Routing offers it events, delivery asks it for its next step
and tells it what came of an attempt; each change is written on condition that nobody else has changed it meanwhile
(``alerts.thread_store``). The rules are in ``alerts.single`` for the events of one worker and in ``alerts.group`` for
those of many.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from monitor.events import Event  # noqa: TC001 - what the structs below are made of, as they are read back
from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from collections.abc import Callable

RECHECK_MS: Final = 60_000
"""How often a thread that is silenced looks again at the latest: a silence may end before its time."""

DOWN: Final = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.REJECTED})
"""What begins an outage, or says that it has become another one. A worker whose beats are rejected is out, too."""
_LEFT: Final = frozenset({EventKind.STOPPED, EventKind.FORGOTTEN})
OUT: Final = frozenset({Liveness.STALE, Liveness.FAILED})


class Role(StrEnum):
    """What an event, or the notification that tells of it, means to the one who is told."""

    DOWN = "down"
    END = "end"
    """It ends a DOWN: told only where the DOWN was (P18)."""
    FACT = "fact"
    """Anything else: told by itself, paired with nothing."""


def role_of(event: Event) -> Role:
    """What an event means."""
    if event.kind in DOWN:
        return Role.DOWN
    if event.kind is EventKind.RECOVERED or (event.kind in _LEFT and event.old in OUT):
        return Role.END
    return Role.FACT


class Shape(StrEnum):
    """What a thread holds together."""

    WORKER = "worker"
    GROUP = "group"
    ENVIRONMENT = "environment"
    """An environment in which many workers fall silent at once (P16)."""


class Outcome(StrEnum):
    """What became of an event, or of a notification, at one receiver (P5)."""

    QUEUED = "queued"
    PART_OF = "part_of"
    """The event is told, or to be told, by a notification; its outcome is the event's."""
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"
    """It was over, or there was newer to tell, before it was told."""
    SILENCED = "silenced"
    DAMPED = "damped"
    """It was one of many outages of its worker, and over before it had lasted long enough to be told."""
    DEAD_LETTERED = "dead_lettered"
    DROPPED = "dropped"
    """A person took it out of the dead letters."""


_UNFINISHED: Final = frozenset({Outcome.QUEUED, Outcome.DEAD_LETTERED})
"""A notification of these may be sent yet."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """When a thread speaks. Milliseconds.

    ``repeat_ms`` 0: no reminders. ``resend``: the receiver has to be told again and again while it lasts, whatever is
    acknowledged or silenced.
    """

    wait_ms: int = 0
    interval_ms: int = 60_000
    repeat_ms: int = 0
    resend: bool = False
    hold_ms: int = 0
    """For an environment: how long its notification may be held while it is not sure that many are silent."""


class Frozen(msgspec.Struct, kw_only=True):
    """A notification in attempts; its body is stored apart, by ``nid``."""

    nid: str
    type: str
    role: Role
    created_ms: int
    due_ms: int
    event: Event | None = None
    """The one event that it tells of; None for a group's."""
    number: int = 0
    epoch: str = ""
    """Of a group: which of its outages it is about."""
    reminder: int = 0
    attempts: int = 0
    first_attempt_ms: int = 0
    incident_id: str | None = None
    open: bool = False
    """An attempt was begun, and its outcome is not recorded."""
    unknown: bool = False
    """Some attempt may have arrived."""
    error: str = ""
    """Why the last attempt failed."""


class Thread(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state of a thread. Times are milliseconds of the store's clock, 0 for never.

    ``told`` says that a DOWN was delivered, or counts as delivered, and its RESOLVED was not.
    """

    key: str
    shape: Shape
    tenant: str
    timing: Timing
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    frozen: Frozen | None = None
    told: bool = False
    due_ms: int = 0
    """When what is pending may be told."""
    remind_ms: int = 0
    reminders: int = 0
    acked: bool = False
    """The incident is acknowledged."""
    incident_id: str | None = None
    """The newest incident; what was told may still be about the one before."""
    # Of a worker
    told_incident_id: str | None = None
    pending: list[Event] = msgspec.field(default_factory=list)
    """What is to be told, oldest first."""
    last: Event | None = None
    """The DOWN that was told last."""
    silenced: bool = False
    """A silence is why what is pending was not told."""
    damped_ms: int = 0
    """Until when the DOWN that is pending has to last to be told, for its worker flaps."""
    # Of a group; its members are kept apart
    epoch: str = ""
    number: int = 0
    """How many notifications were frozen."""
    told_number: int = 0
    """The newest of them that told of members being down."""
    firing: int = 0
    untold: int = 0
    """Firing members of which there is news since the last notification."""
    recovered: int = 0
    """Members that were told of and are over since the last notification."""
    ended: dict[str, int] = msgspec.field(default_factory=dict)
    """How many members that were told of are over, by the kind of event that ended them."""
    acks: int = 0
    """Firing members whose incident is acknowledged."""
    rejected: int = 0
    """Firing members that are alive, their beats being rejected."""
    since_ms: int = 0
    flushed_ms: int = 0
    hold_until_ms: int = 0
    declared: bool = False


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A worker that is down, in a group. ``first`` and ``number``: the notifications that tell of it first and last."""

    event: Event
    first: int
    number: int
    acked: bool = False
    incident_id: str | None = None
    again: bool = False
    """It was told of, came back, and is down again: its return does not count any more."""


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an event at a receiver. ``nid`` with ``PART_OF``: a notification's, or the name of the part of a
    group's news for which the same is noted.
    """

    outcome: Outcome
    kind: str
    at_ms: int
    nid: str | None = None


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a notification. ``QUEUED``: it is in attempts."""

    nid: str
    type: str
    thread: str
    tenant: str
    role: Role
    outcome: Outcome
    created_ms: int
    at_ms: int
    attempts: int = 0
    first_attempt_ms: int = 0
    reason: str = ""
    event: Event | None = None
    number: int = 0
    epoch: str = ""
    reminder: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    timing: Timing | None = None


class Draft:
    """A thread with the changes that a decision makes beside it; written in one step, or not at all."""

    def __init__(self, thread: Thread, now_ms: int) -> None:
        self.thread = thread
        self.now_ms = now_ms
        self.members: dict[str, Member] = {}
        self.gone: set[str] = set()
        self.outcomes: dict[str, Told] = {}
        self.notes: list[tuple[Note, str | None]] = []
        """With the body to store, if it is new."""

    def tell(self, event: Event, outcome: Outcome, nid: str | None = None) -> None:
        """Note what became of an event."""
        self.outcomes[event.event_id] = Told(outcome=outcome, kind=event.kind.value, at_ms=self.now_ms, nid=nid)

    def name(self, part: str, nid: str) -> None:
        """Note the id of the notification that tells what was noted as ``part``."""
        self.outcomes[part] = Told(outcome=Outcome.PART_OF, kind="", at_ms=self.now_ms, nid=nid)

    def note(self, frozen: Frozen, outcome: Outcome, *, reason: str = "", body: str | None = None) -> None:
        """Note what became of a notification. Of the event only what names it is kept once it is finished."""
        thread = self.thread
        event = frozen.event
        if event is not None and outcome not in _UNFINISHED:
            event = replace(event, worker_metadata_json="{}", worker_metadata_cut=True, error_message=None)
        about = Note(
            nid=frozen.nid,
            type=frozen.type,
            thread=thread.key,
            tenant=thread.tenant,
            role=frozen.role,
            outcome=outcome,
            created_ms=frozen.created_ms,
            at_ms=self.now_ms,
            attempts=frozen.attempts,
            first_attempt_ms=frozen.first_attempt_ms,
            reason=reason,
            event=event,
            number=frozen.number,
            epoch=frozen.epoch,
            reminder=frozen.reminder,
            labels=thread.labels,
            timing=thread.timing,
        )
        self.notes.append((about, body))

    def set_member(self, mid: str, member: Member) -> None:
        """Note what is known of a member."""
        self.members[mid] = member
        self.gone.discard(mid)

    def drop_member(self, mid: str) -> None:
        """Note that a member is over."""
        self.members.pop(mid, None)
        self.gone.add(mid)


class Send(msgspec.Struct, frozen=True):
    """The next step: an attempt with what is frozen."""


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """The next step: make a notification. ``event`` None: of the group. ``reminder`` 0: not a reminder."""

    role: Role
    event: Event | None
    reminder: int = 0


class Wait(msgspec.Struct, frozen=True):
    """Nothing is to be done before ``due_ms``; None: before something happens."""

    due_ms: int | None


class Over(msgspec.Struct, frozen=True):
    """There is nothing to tell any more, and nothing that was told: the thread can go."""


Step: TypeAlias = Send | Freeze | Wait | Over
if TYPE_CHECKING:
    Silenced: TypeAlias = Callable[[Event], int | None]
    """Until when an event of a worker is silenced, if it is."""


def digest(*parts: str) -> str:
    """32 hex digits: the first 16 bytes of SHA-256 over the length-prefixed parts."""
    made = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        made.update(len(raw).to_bytes(4, "big"))
        made.update(raw)
    return made.digest()[:16].hex()


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


def postpone(draft: Draft, *, due_ms: int, unknown: bool, error: str) -> None:
    """Note that an attempt failed and when the next is due. ``unknown``: it may have arrived all the same."""
    frozen = _frozen(draft.thread)
    frozen.open = False
    frozen.unknown = frozen.unknown or unknown
    frozen.due_ms = due_ms
    frozen.error = error


def deliver(draft: Draft, *, reason: str = "") -> None:
    """Note that the notification in attempts was accepted, or counts as accepted."""
    thread, frozen = draft.thread, _frozen(draft.thread)
    draft.note(frozen, Outcome.DELIVERED, reason=reason)
    thread.frozen = None
    match frozen.role:
        case Role.DOWN:
            _told(thread, frozen)
            thread.reminders = frozen.reminder
            thread.remind_ms = draft.now_ms + thread.timing.repeat_ms if thread.timing.repeat_ms else 0
        case Role.END:
            _end(draft)
        case Role.FACT:
            pass


def bury(draft: Draft, *, reason: str, unknown: bool = False) -> None:
    """Note that the notification in attempts is given up. A RESOLVED that is given up is not tried again.

    ``unknown``: the last attempt may have arrived. A DOWN that may have arrived is followed by its RESOLVED (P18).
    """
    thread, frozen = draft.thread, _frozen(draft.thread)
    draft.note(frozen, Outcome.DEAD_LETTERED, reason=reason)
    thread.frozen = None
    if frozen.role is Role.END:
        _end(draft)
    elif frozen.role is Role.DOWN:
        if frozen.reminder:  # not made again at once, nor under the same id
            thread.reminders = frozen.reminder
            thread.remind_ms = draft.now_ms + thread.timing.repeat_ms if thread.timing.repeat_ms else 0
        if frozen.unknown or unknown:
            _told(thread, frozen)


def cancel(draft: Draft) -> None:
    """Note that the notification in attempts need not be told any more."""
    frozen = _frozen(draft.thread)
    draft.note(frozen, Outcome.SUPERSEDED)
    if frozen.event is not None and not frozen.reminder:
        draft.tell(frozen.event, Outcome.SUPERSEDED)
    draft.thread.frozen = None


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
        raise ValueError(f"thread {thread.key!r} has no notification in attempts")
    return thread.frozen
