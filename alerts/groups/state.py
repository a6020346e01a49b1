"""Groups: what one receiver knows, was told and is still to be told of one group key. Pure.

A group is kept in the store as one value with a version. Routing offers it events, delivery asks it for its next step
and tells it what came of an attempt; each change is written on condition that nobody else has changed it meanwhile
(``alerts.store.group_store``). The rules are in ``worker_rules`` for the events of one worker and in ``group_rules``
for those of many.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from alerts.groups.keys import Shape  # noqa: TC001
from alerts.groups.roles import Role  # noqa: TC001
from monitor.events import Event  # noqa: TC001 - what the structs below are made of, as they are read back

if TYPE_CHECKING:
    from collections.abc import Callable

RECHECK_MS: Final = 60_000
"""How often a group that is silenced looks again at the latest: a silence may end before its time."""


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
    """When a group speaks. Milliseconds.

    ``repeat_ms`` 0: no reminders. ``resend``: the receiver has to be told again and again while it lasts, whatever is
    acknowledged or silenced.
    """

    wait_ms: int = 0
    interval_ms: int = 60_000
    repeat_ms: int = 0
    resend: bool = False
    hold_ms: int = 0
    """For an environment: how long its notification may be held while it is not sure that many are silent."""


class InFlight(msgspec.Struct, kw_only=True):
    """A notification in flight; its body is stored apart, by ``nid``."""

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
    cause: str = ""
    """The kind of that failure, a ``Cause``."""
    answer: str = ""
    """The beginning of what the receiver said to it."""
    again: bool = False
    """It was given up, and is offered once more: one attempt."""


class AlertGroup(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state of a group. Times are milliseconds of the store's clock, 0 for never.

    ``notified`` says that a DOWN was delivered, or counts as delivered, and its RESOLVED was not.
    """

    key: str
    shape: Shape
    tenant: str
    timing: Timing
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    in_flight: InFlight | None = None
    notified: bool = False
    due_ms: int = 0
    """When what is pending may be told."""
    remind_ms: int = 0
    reminders: int = 0
    acked: bool = False
    """The incident is acknowledged."""
    given_up: InFlight | None = None
    """The DOWN that is a dead letter while its incident is open. ``due_ms``: at an acceptance not before that (P31)."""
    again_ms: int = 0
    """When it is offered again; 0: not by itself."""
    agains: int = 0
    """How often it was given up."""
    broken: int = 0
    """How often in a row no plan could be made, from a bug."""
    incident_id: str | None = None
    """The newest incident; what was told may still be about the one before."""
    # Of a worker
    notified_incident_id: str | None = None
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
    notified_number: int = 0
    """The newest of them that told of members being down."""
    firing: int = 0
    unnotified: int = 0
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


class EventOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an event at a receiver. ``nid`` with ``PART_OF``: a notification's, or the name of the part of a
    group's news for which the same is noted.
    """

    outcome: Outcome
    kind: str
    at_ms: int
    nid: str | None = None


class NotificationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a notification. ``QUEUED``: it is in flight."""

    nid: str
    type: str
    group: str
    tenant: str
    role: Role
    outcome: Outcome
    created_ms: int
    at_ms: int
    attempts: int = 0
    first_attempt_ms: int = 0
    reason: str = ""
    cause: str = ""
    answer: str = ""
    event: Event | None = None
    number: int = 0
    epoch: str = ""
    reminder: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    timing: Timing | None = None


class Draft:
    """A group with the changes that a decision makes beside it; written in one step, or not at all."""

    def __init__(self, group: AlertGroup, now_ms: int) -> None:
        self.group = group
        self.now_ms = now_ms
        self.members: dict[str, Member] = {}
        self.gone: set[str] = set()
        self.outcomes: dict[str, EventOutcome] = {}
        self.records: list[tuple[NotificationRecord, str | None]] = []
        """With the body to store, if it is new."""
        self.settled: list[str] = []
        """Dead letters that are over."""

    def set_outcome(self, event: Event, outcome: Outcome, nid: str | None = None) -> None:
        """Note what became of an event."""
        self.outcomes[event.event_id] = EventOutcome(outcome=outcome, kind=event.kind.value, at_ms=self.now_ms, nid=nid)

    def set_part(self, part: str, nid: str) -> None:
        """Note the id of the notification that tells what was noted as ``part``."""
        self.outcomes[part] = EventOutcome(outcome=Outcome.PART_OF, kind="", at_ms=self.now_ms, nid=nid)

    def record(self, in_flight: InFlight, outcome: Outcome, *, reason: str = "", body: str | None = None) -> None:
        """Note what became of a notification. Of the event only what names it is kept once it is finished."""
        group = self.group
        event = in_flight.event
        if event is not None and outcome not in _UNFINISHED:
            event = replace(event, worker_metadata_json="{}", worker_metadata_cut=True, error_message=None)
        about = NotificationRecord(
            nid=in_flight.nid,
            type=in_flight.type,
            group=group.key,
            tenant=group.tenant,
            role=in_flight.role,
            outcome=outcome,
            created_ms=in_flight.created_ms,
            at_ms=self.now_ms,
            attempts=in_flight.attempts,
            first_attempt_ms=in_flight.first_attempt_ms,
            reason=reason,
            cause=in_flight.cause,
            answer=in_flight.answer,
            event=event,
            number=in_flight.number,
            epoch=in_flight.epoch,
            reminder=in_flight.reminder,
            labels=group.labels,
            timing=group.timing,
        )
        self.records.append((about, body))

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
    """There is nothing to tell any more, and nothing that was told: the group can go."""


Step: TypeAlias = Send | Freeze | Wait | Over
if TYPE_CHECKING:
    Silenced: TypeAlias = Callable[[Event], int | None]
    """Until when an event of a worker is silenced, if it is."""
