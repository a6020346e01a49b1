"""Incidents: from the moment that a worker is down until it is back, has stopped or is forgotten. Pure.

What an event means for the incidents of its worker is decided here; ``alerts.store.incidents`` keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from alerts.groups.keys import Shape, mid_of, shape_of
from alerts.groups.roles import DOWN
from monitor.events import severity
from monitor.liveness import EventKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from monitor.events import Event

_END: Final = frozenset({EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN})


class IncidentKind(StrEnum):
    """What is down."""

    WORKER = "worker"
    ENVIRONMENT = "environment"
    """Many workers of an environment that fell silent at once (P16)."""


class IncidentState(StrEnum):
    """Which incidents a list holds."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


class UnknownIncidentError(LookupError):
    """The tenant has no incident of that id (any more)."""


class IncidentClosedError(Exception):
    """The incident is over: there is nothing to acknowledge."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """Who took an incident over, when, and what they said."""

    by: str
    comment: str
    at_ms: int


class Incident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One outage. Times are milliseconds of the store's clock.

    ``opened_ms`` is when it became true (a deadline, for ``worker.stale``), ``detected_ms`` when that was committed;
    ``closed_ms`` is when the end became true. An environment's incident has no ``worker_id`` and ``generation`` 0; it
    is over when the last of its members is, and open again when one more comes.
    """

    id: str
    tenant: str
    worker_id: str
    environment_name: str
    generation: int
    kind: IncidentKind
    opened_by: EventKind
    opened_ms: int
    detected_ms: int
    updated: EventKind
    """The newest event that said that it is down."""
    reason: str
    """The words of that event."""
    closed_ms: int | None = None
    closed_by: EventKind | None = None
    closed_by_event: str | None = None
    """The id of the event that closed it."""
    ack: Ack | None = None
    """Of the outage as it is: that of a warning lapses when it becomes critical, which nobody has acknowledged."""
    lapsed_by: str | None = None
    """The id of the event with which an acknowledgement has lapsed."""
    targets: dict[str, str] = msgspec.field(default_factory=dict)
    """Who is told, whatever the routes say later (P18): receiver -> group key."""
    part_of: str | None = None
    """The incident of the environment that it is a part of."""
    members: int = 0
    """Of an environment's: how many incidents are part of it, and how many of them are open."""
    members_open: int = 0
    newest: tuple[int, int] = (0, 0)
    """Generation and number of the newest event in it: an older one that comes again changes nothing."""
    notified: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """The events in it, each with the receivers that it was for: one that comes again is for the same."""

    @property
    def is_open(self) -> bool:
        """Whether it still lasts."""
        return self.closed_ms is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """What an event means. ``targets``: receiver -> group key; ``incident_id`` None: it is part of no incident."""

    incident_id: str | None
    targets: dict[str, str]
    acked: bool = False
    """The incident is acknowledged."""
    lapsed: bool = False
    """The event has made critical what was acknowledged as a warning: that counts no more."""


def incident_id_of(event: Event) -> str:
    """The incident that an event opens, if it opens one."""
    return f"inc_{event.event_id}"


def fold(
    last: Incident | None, event: Event, *, targets: Mapping[str, str], part_of: str | None = None
) -> Incident | None:
    """The incident that an event opens, changes or closes, as it is then; None when it is part of none.

    ``last`` is the newest incident of the worker, ``targets`` who the event is for by itself. Those that are recorded
    stay as they are.
    """
    if last is not None and event.event_id in last.notified:
        return last
    if last is not None and (event.generation, event.seq) <= last.newest:
        return None  # of a past that nobody remembers
    if event.kind in DOWN:
        known = _opened(event, part_of) if last is None or not last.is_open else _escalated(last, event)
        known = msgspec.structs.replace(known, updated=event.kind, reason=_reason(event))
    elif event.kind in _END and last is not None and last.is_open:
        known = msgspec.structs.replace(
            last, closed_ms=event.due_ms, closed_by=event.kind, closed_by_event=event.event_id
        )
    else:
        return None
    recorded = {**targets, **known.targets}
    return msgspec.structs.replace(
        known,
        targets=recorded,
        notified={**known.notified, event.event_id: tuple(recorded)},
        newest=(event.generation, event.seq),
    )


def environment_incident(incident_id: str, event: Event, targets: Mapping[str, str]) -> Incident:
    """The incident of an environment, as the first event that is part of it opens it."""
    return Incident(
        id=incident_id,
        tenant=event.tenant,
        worker_id="",
        environment_name=event.environment_name,
        generation=0,
        kind=IncidentKind.ENVIRONMENT,
        opened_by=event.kind,
        opened_ms=event.due_ms,
        detected_ms=event.detected_ms,
        updated=event.kind,
        reason=f"the heartbeats of many workers are rejected at once: {event.rejected_reason}"
        if event.kind is EventKind.REJECTED
        else "many workers fell silent at once",
        targets={name: key for name, key in targets.items() if shape_of(key) is Shape.ENVIRONMENT},
    )


@dataclass(kw_only=True, slots=True)
class Membership:
    """What a batch says of the incident of an environment: its members as they are now, by their ids."""

    opening: Incident
    """As it begins, if nobody has opened it yet."""
    members: dict[str, Incident] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Batch:
    """What a batch of events makes of the incidents of their workers."""

    last: dict[str, Incident]
    """The newest incident of each worker; replaced by newer ones."""
    known: dict[str, Incident]
    """Every incident that has one of the events already, by the event's id."""
    noted: list[Noted] = field(default_factory=list)
    changed: dict[str, Incident] = field(default_factory=dict)
    """What is to be written, by id."""
    environments: dict[str, Membership] = field(default_factory=dict)

    def fold_all(
        self,
        events: Sequence[Event],
        targets_of: Callable[[Event], Mapping[str, str]],
        part_of: Callable[[Event], str | None],
    ) -> None:
        """Take events in, in the order of their stream."""
        for event in events:
            incident, targets = self.known.get(event.event_id), targets_of(event)
            if incident is None:
                incident = self._fold(event, targets, part_of)
            if incident is None:
                self.noted.append(Noted(incident_id=None, targets=dict(targets)))
                continue
            receivers = incident.notified[event.event_id]
            found = {name: incident.targets[name] for name in receivers}
            acked = incident.ack is not None
            lapsed = not acked and incident.lapsed_by == event.event_id
            self.noted.append(Noted(incident_id=incident.id, targets=found, acked=acked, lapsed=lapsed))
            if incident.part_of is not None:
                self._join(incident.part_of, incident, event)

    def _fold(
        self, event: Event, targets: Mapping[str, str], part_of: Callable[[Event], str | None]
    ) -> Incident | None:
        mid = mid_of(event)
        before = self.last.get(mid)
        incident = fold(before, event, targets=targets, part_of=part_of(event))
        if incident is not None and incident is not before:
            self.last[mid] = self.changed[incident.id] = incident
        return incident

    def _join(self, whole: str, incident: Incident, event: Event) -> None:
        if whole not in self.environments:
            # Of what is recorded: an event that comes again may be for others by itself.
            self.environments[whole] = Membership(opening=environment_incident(whole, event, incident.targets))
        self.environments[whole].members[incident.id] = incident


def _opened(event: Event, part_of: str | None) -> Incident:
    return Incident(
        id=incident_id_of(event),
        tenant=event.tenant,
        worker_id=event.worker_id,
        environment_name=event.environment_name,
        generation=event.generation,
        kind=IncidentKind.WORKER,
        opened_by=event.kind,
        opened_ms=event.due_ms,
        detected_ms=event.detected_ms,
        updated=event.kind,
        reason=_reason(event),
        part_of=part_of,
    )


def _escalated(incident: Incident, event: Event) -> Incident:
    is_worse = severity(incident.updated) != severity(event.kind) and event.kind is not EventKind.REJECTED
    if incident.ack is None or not is_worse:
        return incident
    return msgspec.structs.replace(incident, ack=None, lapsed_by=event.event_id)


def _reason(event: Event) -> str:
    if event.kind is EventKind.REJECTED:
        return f"heartbeats rejected: {event.rejected_reason}"
    return event.reason if event.error_message is None else f"{event.reason}: {event.error_message}"
