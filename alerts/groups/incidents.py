"""Incidents: from the moment a worker is down until it recovers, stops or is forgotten. Pure.

This module decides how an event changes the incidents of its worker. ``alerts.store.incidents`` stores them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from alerts.groups.classify import DOWN, ENDS, Shape, mid_of, shape_of
from monitor.events import Event, severity
from monitor.liveness import EventKind


class IncidentKind(StrEnum):
    """Whether a worker or an environment is down."""

    WORKER = "worker"
    ENVIRONMENT = "environment"
    """A mass failure: many workers of an environment fell silent at once (P16)."""


class IncidentState(StrEnum):
    """Filter for a list of incidents."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


class UnknownIncidentError(LookupError):
    """The tenant has no incident with this id, or no longer has it."""


class IncidentClosedError(Exception):
    """The incident is closed and cannot be acknowledged any more."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledgement of an incident: by whom, with which comment, when."""

    by: str
    comment: str
    at_ms: int


class Incident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One outage. Times are milliseconds of the store's clock.

    ``opened_ms``: when the outage became true (for ``worker.stale``, a deadline). ``detected_ms``: when that was
    committed. ``closed_ms``: when the end became true. An environment's incident has no ``worker_id`` and
    ``generation`` 0. It closes when its last open member closes, and reopens when another member joins.
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
    """Kind of the newest event that reported the outage."""
    reason: str
    """Reason given by that event."""
    closed_ms: int | None = None
    closed_by: EventKind | None = None
    closed_by_event: str | None = None
    """Id of the event that closed the incident."""
    ack: Ack | None = None
    """Acknowledgement at the current severity: the acknowledgement of a warning lapses when it becomes critical."""
    lapsed_by: str | None = None
    """Id of the event that made an acknowledgement lapse."""
    targets: dict[str, str] = msgspec.field(default_factory=dict)
    """Who is notified, even if the routes change later (P18): receiver -> group key."""
    part_of: str | None = None
    """Id of the environment's incident that this one is part of."""
    members: int = 0
    """For an environment: number of incidents that are part of it."""
    members_open: int = 0
    """Number of these that are open."""
    newest: tuple[int, int] = (0, 0)
    """Generation and number of its newest event. An older event that is repeated changes nothing."""
    notified: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Its events, by id, each with its receivers. A repeated event goes to the same receivers."""

    @property
    def is_open(self) -> bool:
        """Whether the outage continues."""
        return self.closed_ms is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """Result of an event. ``targets``: receiver -> group key. ``incident_id`` None: it belongs to no incident."""

    incident_id: str | None
    targets: dict[str, str]
    acked: bool = False
    """The incident is acknowledged."""
    lapsed: bool = False
    """The event has made an acknowledged warning critical: the acknowledgement no longer counts."""


def fold(
    last: Incident | None, event: Event, *, targets: Mapping[str, str], part_of: str | None = None
) -> Incident | None:
    """The incident after an event has opened, changed or closed it; None: the event belongs to no incident.

    ``last``: the newest incident of the worker. ``targets``: the event's receivers according to the routes. Targets
    that are already recorded do not change.
    """
    if last is not None and event.event_id in last.notified:
        return last
    if last is not None and (event.generation, event.seq) <= last.newest:
        return None  # an old event, whose incident is no longer stored
    if event.kind in DOWN:
        known = _opened(event, part_of) if last is None or not last.is_open else _escalated(last, event)
        known = msgspec.structs.replace(known, updated=event.kind, reason=_reason(event))
    elif event.kind in ENDS and last is not None and last.is_open:
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
    """The incident of an environment, as opened by its first event."""
    return msgspec.structs.replace(
        _opened(event, part_of=None),
        id=incident_id,
        worker_id="",
        generation=0,
        kind=IncidentKind.ENVIRONMENT,
        reason=f"the heartbeats of many workers are rejected at once: {event.rejected_reason}"
        if event.kind is EventKind.REJECTED
        else "many workers fell silent at once",
        targets={name: key for name, key in targets.items() if shape_of(key) is Shape.ENVIRONMENT},
    )


@dataclass(kw_only=True, slots=True)
class Membership:
    """Changes of a batch to the incident of an environment: its members in their current state, by id."""

    opening: Incident
    """The new incident, for use if none is open yet."""
    members: dict[str, Incident] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Batch:
    """Changes that a batch of events makes to the incidents of their workers."""

    last: dict[str, Incident]
    """Newest incident of each worker; replaced by newer ones as events are applied."""
    known: dict[str, Incident]
    """Incidents that already hold an event of the batch, by the event's id."""
    noted: list[Noted] = field(default_factory=list)
    changed: dict[str, Incident] = field(default_factory=dict)
    """Incidents to write, by id, those of one worker in the order in which they were opened."""
    environments: dict[str, Membership] = field(default_factory=dict)

    def fold_all(
        self,
        events: Sequence[Event],
        targets_of: Callable[[Event], Mapping[str, str]],
        part_of: Callable[[Event], str | None],
    ) -> None:
        """Apply events, in the order of their stream."""
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
            # Use the recorded targets: the routes may give other receivers for a repeated event.
            self.environments[whole] = Membership(opening=environment_incident(whole, event, incident.targets))
        self.environments[whole].members[incident.id] = incident


def _opened(event: Event, part_of: str | None) -> Incident:
    return Incident(
        id=f"inc_{event.event_id}",
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
