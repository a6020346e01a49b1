"""The on-call port, through which the HTTP API uses the alerts: incidents, silences, deliveries, receivers.

Every access is restricted by a ``Viewer``: data that it may not see does not exist for it. Every method of the port
raises ``monitor.store.StoreUnavailableError`` if the store does not answer. Then a change may or may not have been
made, and a retry is harmless. Times are milliseconds of the store's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

IncidentState: TypeAlias = Literal["open", "closed", "all"]
SilenceState: TypeAlias = Literal["pending", "active", "ended"]
DeliveryState: TypeAlias = Literal["queued", "dead_lettered", "finished"]
"""Filter of a list of deliveries: in flight, dead-lettered, or finished in another way."""
Place: TypeAlias = tuple[int, str]
"""Position of the last item of a page: its time and its id."""

INCIDENT_STATES: tuple[str, ...] = get_args(IncidentState)
SILENCE_STATES: tuple[str, ...] = get_args(SilenceState)
DELIVERY_STATES: tuple[str, ...] = get_args(DeliveryState)


@dataclass(frozen=True, kw_only=True, slots=True)
class Viewer:
    """The caller and its restrictions. ``environments`` and ``worker_id`` None: not restricted.

    ``is_operator``: may see and change the receivers and notifications of all tenants.
    """

    tenant: str
    environments: tuple[str, ...] | None = None
    worker_id: str | None = None
    is_operator: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """Acknowledgement of an incident."""

    by: str
    comment: str
    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """One outage of a worker, or of an environment as a whole (then ``worker_id`` is None)."""

    id: str
    kind: str
    tenant: str
    worker_id: str | None
    environment_name: str
    generation: int | None
    opened_by: str
    opened_ms: int
    detected_ms: int
    updated_by: str
    reason: str
    closed_by: str | None
    closed_ms: int | None
    ack: Ack | None
    receivers: tuple[str, ...]
    part_of: str | None
    members: int
    members_open: int


@dataclass(frozen=True, kw_only=True, slots=True)
class IncidentPage:
    """A page of a list, newest first. A page may be short although more follow; ``last`` None: no more follow."""

    incidents: tuple[Incident, ...]
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Matchers:
    """Workers that a silence matches. All given globs must match; with ``exact`` values are compared literally."""

    environment: str | None = None
    worker_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSilence:
    """A silence to be added."""

    matchers: Matchers
    starts_ms: int
    ends_ms: int
    comment: str
    author: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """A stored silence. ``ended_ms`` None: not ended early."""

    id: str
    tenant: str
    matchers: Matchers
    state: SilenceState
    starts_ms: int
    ends_ms: int
    comment: str
    author: str
    created_ms: int
    ended_ms: int | None
    ended_by: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A notification to one receiver. ``event_id`` and ``worker_id`` None: it is about a group.

    ``body`` None: not requested, or not kept any more. ``cause``: kind of the last failure. ``answer``: beginning of
    the receiver's answer to the last failed attempt.
    """

    nid: str
    receiver: str
    type: str
    tenant: str
    outcome: str
    at_ms: int
    created_ms: int
    attempts: int
    reason: str
    cause: str
    answer: str
    reminder: int
    event_id: str | None
    worker_id: str | None
    environment_name: str | None
    labels: Mapping[str, str]
    body: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryPage:
    """A page of a list, newest first. A page may be short although more follow; ``last`` None: no more follow."""

    deliveries: tuple[Delivery, ...]
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventOutcome:
    """Outcome of an event at a receiver. ``nid``: the sent or pending notification that includes the event."""

    receiver: str
    outcome: str
    at_ms: int
    nid: str | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverState:
    """Queue status of a receiver. ``lag_ms``: age of the oldest overdue item."""

    name: str
    queued: int
    dead: int
    open_dead_letters: int
    lag_ms: int
    disabled: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """Result of a bulk replay: dead letters requeued, overtaken, and skipped. ``last`` None: no more follow."""

    replayed: int
    over: int
    left: int
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Result of a test notification. ``error`` None: the receiver accepted it."""

    nid: str
    error: str | None
    took_ms: int


class OnCall(Protocol):
    """The on-call port; see the module. Methods raise ``NoSuchError`` for unknown ids and receivers."""

    async def incidents(self, viewer: Viewer, *, state: IncidentState, after: Place | None, limit: int) -> IncidentPage:
        """Incidents by opening time, newest first."""

    async def incident(self, viewer: Viewer, incident_id: str) -> Incident:
        """One incident."""

    async def acknowledge(self, viewer: Viewer, incident_id: str, *, by: str, comment: str) -> Incident:
        """Acknowledge an incident: no reminder is begun after this returns (P19). Idempotent: the first ack remains.

        Raises:
            ConflictError: the incident is closed.
        """

    async def silences(self, viewer: Viewer) -> list[Silence]:
        """Every stored silence, newest first."""

    async def silence(self, viewer: Viewer, silence_id: str) -> Silence:
        """One silence."""

    async def add_silence(self, viewer: Viewer, new: NewSilence) -> tuple[Silence, tuple[str, ...]]:
        """Add a silence. Also returns warnings, such as that no worker matches.

        Raises:
            TooManyError: the tenant has too many silences.
        """

    async def end_silence(self, viewer: Viewer, silence_id: str, *, by: str) -> None:
        """End a silence now, and reschedule the groups that wait for its end. Idempotent."""

    async def deliveries(
        self, viewer: Viewer, *, state: DeliveryState, receiver: str | None, after: Place | None, limit: int
    ) -> DeliveryPage:
        """Notifications to one receiver or to all, without bodies."""

    async def delivery(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """One notification, with its body."""

    async def replay(self, viewer: Viewer, nid: str, *, receiver: str | None, force: bool) -> Delivery:
        """Requeue a dead letter. Idempotent while it is queued. ``force``: also if it is overtaken.

        Raises:
            ConflictError: not a dead letter, its group has a notification in flight, or it is overtaken.
        """

    async def replay_all(self, viewer: Viewer, receiver: str, *, after: Place | None) -> Replayed:
        """Requeue the visible dead letters of a receiver, a limited number per call."""

    async def drop(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """Drop a dead letter. Idempotent.

        Raises:
            ConflictError: not a dead letter.
        """

    async def outcomes(self, event_id: str) -> list[EventOutcome]:
        """Outcome of an event at each receiver it was routed to. The caller must have checked its visibility."""

    async def receivers(self, viewer: Viewer) -> list[ReceiverState]:
        """The receivers of the viewer's tenant, by name; for an operator all receivers.

        Raises:
            ForbiddenError: the token is restricted. ``enable`` and ``test`` raise it for a receiver that tenants share.
        """

    async def enable(self, viewer: Viewer, receiver: str) -> ReceiverState:
        """Enable a disabled receiver. Idempotent."""

    async def test(self, viewer: Viewer, receiver: str) -> Trial:
        """Send a test notification now, bypassing the queue, without retries.

        Raises:
            RateLimitedError: the receiver was tested a moment ago.
        """
