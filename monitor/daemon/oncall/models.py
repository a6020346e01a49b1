"""What the HTTP side asks of the alerts: incidents, silences, deliveries, receivers. A port, filled by the daemon.

Everything is seen through a ``Viewer``: what it may not see does not exist for it. Every method of the port raises
``monitor.store.StoreUnavailableError`` when the store does not answer; then a change is not known to be made, and
asking for it again is harmless. Times are milliseconds of the store's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

IncidentState: TypeAlias = Literal["open", "closed", "all"]
SilenceState: TypeAlias = Literal["pending", "active", "ended"]
DeliveryState: TypeAlias = Literal["queued", "dead_lettered", "finished"]
"""Which deliveries a list holds: in flight, given up, or anything else that is done."""
Place: TypeAlias = tuple[int, str]
"""Where a page of a list ended: a time and an id."""

INCIDENT_STATES: tuple[str, ...] = get_args(IncidentState)
SILENCE_STATES: tuple[str, ...] = get_args(SilenceState)
DELIVERY_STATES: tuple[str, ...] = get_args(DeliveryState)


@dataclass(frozen=True, kw_only=True, slots=True)
class Viewer:
    """For whom something is asked. ``environments`` and ``worker_id`` None: not restricted.

    ``is_operator``: may see and change receivers, and notifications, whatever tenant they belong to.
    """

    tenant: str
    environments: tuple[str, ...] | None = None
    worker_id: str | None = None
    is_operator: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ack:
    """Who took an incident over."""

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
    """Part of a list, newest first; it may be short although more follow. ``last`` None: nothing does."""

    incidents: tuple[Incident, ...]
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Matchers:
    """Which workers a silence matches: globs, all of which have to fit, or with ``exact`` the very values."""

    environment: str | None = None
    worker_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSilence:
    """A silence as it is asked for."""

    matchers: Matchers
    starts_ms: int
    ends_ms: int
    comment: str
    author: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """A silence as it is kept. ``ended_ms`` None: nobody has ended it early."""

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
    """A notification to one receiver. ``event_id`` and ``worker_id`` None: it tells of a group.

    ``body`` None: it was not asked for, or is not kept any more. ``cause`` is the kind of the last failure, ``answer``
    how the receiver's answer to it began.
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
    """Part of a list, newest first; it may be short although more follow. ``last`` None: nothing does."""

    deliveries: tuple[Delivery, ...]
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventOutcome:
    """What became of an event at a receiver. ``nid``: the notification that told of it, or is to tell of it."""

    receiver: str
    outcome: str
    at_ms: int
    nid: str | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverState:
    """How a receiver's queue stands. ``lag_ms``: for how long what is longest due has been due."""

    name: str
    queued: int
    dead: int
    open_dead_letters: int
    lag_ms: int
    disabled: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """How many dead letters were put back, are over, and were left alone. ``last`` None: there are no more."""

    replayed: int
    over: int
    left: int
    last: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What came of a test notification. ``error`` None: the receiver accepted it."""

    nid: str
    error: str | None
    took_ms: int


class OnCall(Protocol):
    """See the module. ``NoSuchError`` for ids and receivers that are not there."""

    async def incidents(self, viewer: Viewer, *, state: IncidentState, after: Place | None, limit: int) -> IncidentPage:
        """Incidents by the time at which they were opened, newest first."""

    async def incident(self, viewer: Viewer, incident_id: str) -> Incident:
        """One incident."""

    async def acknowledge(self, viewer: Viewer, incident_id: str, *, by: str, comment: str) -> Incident:
        """Take an incident over: no reminder is begun after this returns (P19). Idempotent: the first ack stands.

        Raises:
            ConflictError: the incident is closed.
        """

    async def silences(self, viewer: Viewer) -> list[Silence]:
        """Every silence that is kept, newest first."""

    async def silence(self, viewer: Viewer, silence_id: str) -> Silence:
        """One silence."""

    async def add_silence(self, viewer: Viewer, new: NewSilence) -> tuple[Silence, tuple[str, ...]]:
        """Begin a silence; with it what the caller should know, as that it matches nobody.

        Raises:
            TooManyError: the tenant has too many.
        """

    async def end_silence(self, viewer: Viewer, silence_id: str, *, by: str) -> None:
        """End a silence now, and have everybody who waits for its end looked at again. Idempotent."""

    async def deliveries(
        self, viewer: Viewer, *, state: DeliveryState, receiver: str | None, after: Place | None, limit: int
    ) -> DeliveryPage:
        """Notifications to one or to all receivers, without their bodies."""

    async def delivery(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """One notification, with its body."""

    async def replay(self, viewer: Viewer, nid: str, *, receiver: str | None, force: bool) -> Delivery:
        """Put a dead letter back into the queue. Idempotent while it is queued. ``force``: although it is overtaken.

        Raises:
            ConflictError: it is no dead letter, its group is busy, or it is overtaken.
        """

    async def replay_all(self, viewer: Viewer, receiver: str, *, after: Place | None) -> Replayed:
        """Put dead letters of a receiver back into the queue, those that the viewer sees, a bounded number at once."""

    async def drop(self, viewer: Viewer, nid: str, *, receiver: str | None) -> Delivery:
        """Throw a dead letter away. Idempotent.

        Raises:
            ConflictError: it is no dead letter.
        """

    async def outcomes(self, event_id: str) -> list[EventOutcome]:
        """What became of an event at each receiver that was to be told of it. The caller may see the event."""

    async def receivers(self, viewer: Viewer) -> list[ReceiverState]:
        """The receivers that belong to the viewer's tenant, by name; to an operator all of them.

        Raises:
            ForbiddenError: the token is restricted; also from the two below, for a receiver that all tenants share.
        """

    async def enable(self, viewer: Viewer, receiver: str) -> ReceiverState:
        """Go on sending to a receiver that was disabled. Idempotent."""

    async def test(self, viewer: Viewer, receiver: str) -> Trial:
        """Send a test notification at once, past the queue, and once only.

        Raises:
            RateLimitedError: it was tested a moment ago.
        """
