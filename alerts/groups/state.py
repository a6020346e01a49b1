"""Notification state of one group key at one receiver: what was sent, what is pending. Pure.

A group is stored as one value with a version. Routing adds events to it. Delivery asks for its next step and records
the outcome of each attempt. A change is written only if no other process has changed the group meanwhile
(``alerts.store.group_store``). The rules are in ``worker_rules`` for groups of one worker and in ``group_rules`` for
groups of many.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from alerts.groups.classify import Role, Shape
from alerts.groups.decisions import Decision
from alerts.groups.flapping import RecentOutages
from monitor.events import Event

RECHECK_MS: Final = 60_000
"""Longest pause between two checks of a silenced group: a silence may be ended early."""


class Outcome(StrEnum):
    """Outcome of an event, or of a notification, at one receiver (P5)."""

    QUEUED = "queued"
    PART_OF = "part_of"
    """The event is covered by a notification, sent or pending. The notification's outcome is the event's."""
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"
    """It was over, or newer news replaced it, before it was sent."""
    SILENCED = "silenced"
    DAMPED = "damped"
    """One of many outages of a flapping worker, over before it had lasted long enough to notify."""
    DEAD_LETTERED = "dead_lettered"
    DROPPED = "dropped"
    """An operator removed it from the dead letters."""


_UNFINISHED: Final = frozenset({Outcome.QUEUED, Outcome.DEAD_LETTERED})
"""Outcomes of notifications that may still be sent."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """When a group notifies. Milliseconds.

    ``repeat_ms`` 0: no reminders. ``resend``: the receiver needs the notification repeated while the outage lasts, even
    if it is acknowledged or silenced.
    """

    wait_ms: int = 0
    interval_ms: int = 60_000
    repeat_ms: int = 0
    resend: bool = False
    hold_ms: int = 0
    """For an environment: how long its notification may be held while a mass failure is suspected only."""


class InFlight(msgspec.Struct, kw_only=True):
    """A notification in flight. Its body is stored separately, by ``nid``."""

    nid: str
    type: str
    role: Role
    created_ms: int
    due_ms: int
    event: Event | None = None
    """The event of a worker's notification; None for a notification of a group."""
    number: int = 0
    epoch: str = ""
    """For a group: the outage that the notification is about."""
    reminder: int = 0
    attempts: int = 0
    first_attempt_ms: int = 0
    incident_id: str | None = None
    open: bool = False
    """An attempt has begun and its outcome is not recorded."""
    unknown: bool = False
    """An attempt may have arrived."""
    error: str = ""
    """Why the last attempt failed."""
    cause: str = ""
    """The ``Cause`` of that failure."""
    answer: str = ""
    """The beginning of the receiver's response to that attempt."""
    again: bool = False
    """The notification is a dead letter that is being retried: one attempt only."""


class AlertGroup(msgspec.Struct, kw_only=True, omit_defaults=True):
    """State of a group. Times are milliseconds of the store's clock; 0 means never.

    ``notified``: a DOWN was delivered, or counts as delivered, and its RESOLVED was not.
    """

    key: str
    shape: Shape
    tenant: str
    timing: Timing
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    in_flight: InFlight | None = None
    notified: bool = False
    due_ms: int = 0
    """When the pending events may be sent."""
    remind_ms: int = 0
    reminders: int = 0
    acked: bool = False
    """The incident is acknowledged."""
    given_up: InFlight | None = None
    """The DOWN that is a dead letter while its incident is open. Its ``due_ms``: earliest retry after the receiver has
    accepted another notification (P31)."""
    again_ms: int = 0
    """When the dead letter is retried; 0: not automatically."""
    agains: int = 0
    """How often the page was dead-lettered."""
    waits_for: str = ""
    """The last ``Decision``, by which it waits; empty: none since the last attempt."""
    waits_until_ms: int = 0
    """When it is decided again; 0: when the group changes."""
    broken: int = 0
    """Consecutive failures to plan for this group, caused by a bug."""
    incident_id: str | None = None
    """The newest incident. The last notification may still be about the one before."""
    # For groups of one worker
    notified_incident_id: str | None = None
    pending: list[Event] = msgspec.field(default_factory=list)
    """Events to be sent, oldest first."""
    last: Event | None = None
    """The DOWN of the last notification."""
    silenced: bool = False
    """A silence holds back the pending events."""
    damped_ms: int = 0
    """Flap damping: the pending DOWN is sent if it still lasts at this time."""
    # For groups of many workers. The members are stored separately
    epoch: str = ""
    number: int = 0
    """Number of notifications created so far."""
    notified_number: int = 0
    """Number of the newest notification that reported members as down."""
    firing: int = 0
    unnotified: int = 0
    """Firing members that are new or have changed since the last notification."""
    recovered: int = 0
    """Notified members whose outage has ended since the last notification."""
    ended: dict[str, int] = msgspec.field(default_factory=dict)
    """Number of notified members whose outage has ended, by the kind of event that ended it."""
    acks: int = 0
    """Firing members whose incident is acknowledged."""
    rejected: int = 0
    """Firing members that are alive but whose beats are rejected."""
    since_ms: int = 0
    flushed_ms: int = 0
    hold_until_ms: int = 0
    declared: bool = False


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A worker that is down, in a group. ``first`` and ``number``: first and last notification that includes it."""

    event: Event
    first: int
    number: int
    acked: bool = False
    incident_id: str | None = None
    again: bool = False
    """It was notified, came back, and is down again: its return no longer counts."""


class EventOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Outcome of an event at a receiver.

    With ``PART_OF``, ``nid`` is the id of a notification, or the name of a part of a group's news. The id of the
    notification is then recorded under that name.
    """

    outcome: Outcome
    kind: str
    at_ms: int
    nid: str | None = None


class NotificationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Record of a notification. ``QUEUED``: it is in flight."""

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
    """A group with all changes that one decision makes. They are written in one step, or not at all."""

    def __init__(self, group: AlertGroup, now_ms: int) -> None:
        self.group = group
        self.now_ms = now_ms
        self.members: dict[str, Member] = {}
        self.gone: set[str] = set()
        self.outcomes: dict[str, EventOutcome] = {}
        self.records: list[tuple[NotificationRecord, str | None]] = []
        """Each with the body to store, if the notification is new."""
        self.settled: list[str] = []
        """Ids of dead letters that need no delivery any more."""

    def set_outcome(self, event: Event, outcome: Outcome, nid: str | None = None) -> None:
        """Record the outcome of an event."""
        self.outcomes[event.event_id] = EventOutcome(outcome=outcome, kind=event.kind.value, at_ms=self.now_ms, nid=nid)

    def set_part(self, part: str, nid: str) -> None:
        """Record the id of the notification that covers ``part``."""
        self.outcomes[part] = EventOutcome(outcome=Outcome.PART_OF, kind="", at_ms=self.now_ms, nid=nid)

    def record(self, in_flight: InFlight, outcome: Outcome, *, reason: str = "", body: str | None = None) -> None:
        """Record the outcome of a notification. Once it is final, bulky fields of the event are dropped."""
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
        """Add or replace a member."""
        self.members[mid] = member
        self.gone.discard(mid)

    def drop_member(self, mid: str) -> None:
        """Remove a member: its outage is over."""
        self.members.pop(mid, None)
        self.gone.add(mid)


class Send(msgspec.Struct, frozen=True):
    """Next step: attempt to deliver the notification in flight; ``again``: the dead letter, for one attempt."""

    again: bool = False


class CreateNotification(msgspec.Struct, frozen=True, kw_only=True):
    """Next step: create a notification. ``event`` None: it is for the group. ``reminder`` 0: not a reminder.

    ``recent``: the worker's outages, if damping was considered.
    """

    role: Role
    event: Event | None
    reminder: int = 0
    recent: RecentOutages | None = None


class Wait(msgspec.Struct, frozen=True):
    """Next step: wait until ``due_ms`` (None: until the group changes). ``why``: the reason.

    ``is_acked``: the group learns that its incident is acknowledged.
    """

    due_ms: int | None
    why: Decision
    is_acked: bool = False


class Postpone(msgspec.Struct, frozen=True):
    """Next step: retry the dead letter at ``again_ms`` at the earliest. Its outage seems to be over."""

    again_ms: int


class Over(msgspec.Struct, frozen=True):
    """The group can be deleted: nothing is pending, and no DOWN waits for its end."""


Step: TypeAlias = Send | CreateNotification | Wait | Postpone | Over
Silenced: TypeAlias = Callable[[Event], int | None]
"""Returns until when the event's worker is silenced; None: it is not."""
