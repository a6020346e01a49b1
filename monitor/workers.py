"""Workers: identity, reported data, and what can be read of them. Pure.

``WorkerKey`` and ``Beat`` are created for every beat, so they are msgspec structs: as frozen dataclasses of the same
shape, a beat took fifteen times as long to create, and each was one more object for the garbage collector.
"""

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from monitor.liveness import EventKind, Liveness, Trigger, liveness_at

DEFAULT_ENVIRONMENT: Final = "default"
"""The environment of a worker for which neither its sender nor the token names another."""


class WorkerKey(msgspec.Struct, frozen=True, gc=False):
    """A worker's identity. Nothing crosses tenants: the same id under two tenants is two workers."""

    tenant: str
    worker_id: str


def partition_of(key: WorkerKey, partitions: int) -> int:
    """The partition that holds a worker: CRC-32 of its length-prefixed identity, modulo the count."""
    if partitions == 1:
        return 0
    tenant = key.tenant.encode()
    return zlib.crc32(b"%d:%b%b" % (len(tenant), tenant, key.worker_id.encode())) % partitions


Keep = msgspec.UnsetType
KEEP: Final = msgspec.UNSET
"""A field that a beat left out: the last value stays. msgspec sets this value itself."""


class UnknownFields(msgspec.Struct, gc=False):
    """The first of a beat's fields that are not in the contract."""

    names: tuple[str, ...]
    registers: bool = False
    """Set when the stored beat has registered its worker. Only then the fields are logged."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One heartbeat, validated. ``KEEP`` in a field leaves the last value as it is.

    ``environment_name`` None means the worker's present environment, or ``first_environment`` for an unknown worker.
    ``interval_ms``/``grace_ms``: a number declares, None withdraws a declaration. ``allowed``
    restricts which environments the sender may touch (None: all). JSON texts are compact UTF-8.
    """

    key: WorkerKey
    environment_name: str | None
    first_environment: str
    allowed: tuple[str, ...] | None
    interval_ms: int | Keep | None = KEEP
    grace_ms: int | Keep | None = KEEP
    status: str | Keep = KEEP
    tasks_processed: int | Keep = KEEP
    current_task_id: str | Keep | None = KEEP
    metadata_json: str | Keep = KEEP
    system_info_json: str | Keep | None = KEEP
    system_info_cut: bool = False
    logs_json: str | Keep | None = KEEP
    logs_cut: bool = False
    unknown: UnknownFields | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Disconnect:
    """A worker's disconnect. ``trigger`` is one of the two disconnect triggers.

    ``back_in_ms``, only with a clean disconnect: the worker announces that it will beat again within this time, counted
    from when the store takes the disconnect. None announces nothing and withdraws an earlier announcement.
    """

    key: WorkerKey
    allowed: tuple[str, ...] | None
    trigger: Trigger
    reason: str
    exit_code: int | None
    error_message: str | None
    back_in_ms: int | None = None
    unknown: tuple[str, ...] = ()
    first_environment: str = DEFAULT_ENVIRONMENT
    """The environment of an unknown worker, which a failure registers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget:
    """An operator's order to erase a worker immediately."""

    key: WorkerKey
    allowed: tuple[str, ...] | None


class Rejection(StrEnum):
    """Why a beat was refused although its sender may speak for the worker. Events and the API use these words (P11)."""

    TOKEN_EXPIRED = "token expired"  # noqa: S105 - a reason
    SCOPE_MISSING = "token lacks the scope"
    TOO_LARGE = "body too large"
    MALFORMED = "malformed body"
    RATE_LIMITED = "rate limited"
    OVER_QUOTA = "over a quota"
    INCOMPLETE = "incomplete body"
    OVER_SHARE = "the tenant's share is used up"
    OVERLOADED = "monitor overloaded"

    @property
    def moves_deadline(self) -> bool:
        """Whether the evidence moves the deadline, as the beat would have: the monitor could not take the beat."""
        return self in {Rejection.OVER_SHARE, Rejection.OVERLOADED}


class Evidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A refused beat, as evidence that its worker lives.

    ``allowed`` restricts it to workers in these environments (None: all), as the sender's token does. ``subject`` is
    the token's, cut to a bounded length.
    """

    key: WorkerKey
    allowed: tuple[str, ...] | None
    rejection: Rejection
    subject: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """The newest refused beat of a worker, if it is newer than the last accepted one."""

    reason: str
    at_ms: int
    subject: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PastTransition:
    """One of a worker's last transitions, as in the status endpoint."""

    kind: EventKind
    seq: int
    due_ms: int
    detected_ms: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker as stored. Times in milliseconds by the store's clock."""

    key: WorkerKey
    environment_name: str
    stored: Liveness
    straggler: bool
    generation: int
    seq: int
    last_seen_ms: int
    since_ms: int
    interval_ms: int
    grace_ms: int
    late_ms: int
    """When the interval has passed."""
    deadline_ms: int
    """When an alive worker becomes overdue, including the effect of blind windows."""
    status: str
    tasks_processed: int
    current_task_id: str | None
    metadata_json: str
    system_info_json: str | None
    system_info_cut: bool
    logs_json: str | None
    logs_cut: bool
    recent_gaps_ms: tuple[int, ...]
    back_ms: int | None
    """End of the announced absence; None: none announced."""
    missed_ms: int | None
    """When the worker counts as missed after its absence, including the effect of blind windows."""
    rejected: Rejected | None
    transitions: tuple[PastTransition, ...]

    def liveness(self, now_ms: int) -> Liveness:
        """Return the liveness to show at ``now_ms``; correct even when the sweeper is stuck."""
        return liveness_at(
            self.stored,
            now_ms=now_ms,
            late_ms=self.late_ms,
            deadline_ms=self.deadline_ms,
            straggler=self.straggler,
            missed_ms=self.missed_ms,
        )

    def since(self, now_ms: int) -> int:
        """Return when the worker entered the state that ``liveness`` returns, in milliseconds."""
        liveness = self.liveness(now_ms)
        if liveness is self.stored:
            return self.since_ms
        if liveness is Liveness.LATE:
            return self.late_ms
        if liveness is Liveness.STALE and self.missed_ms is not None:
            return self.missed_ms
        return self.deadline_ms

    def absent_until(self, now_ms: int) -> int | None:
        """Return the end of the announced absence in milliseconds; None if there is none, or it has ended."""
        return self.back_ms if self.back_ms is not None and now_ms < self.back_ms else None
