"""Workers: who they are, what they report, and what can be read of them. Pure.

``WorkerKey`` and ``Beat`` are made for every beat there is, so they are msgspec structs: as frozen dataclasses
of the same shape, a beat took fifteen times as long to make, and each was one more thing for the garbage
collector to walk through.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

from monitor.liveness import Liveness, liveness_at

if TYPE_CHECKING:
    from monitor.liveness import EventKind, Trigger

DEFAULT_ENVIRONMENT: Final = "default"
"""Of a worker of which neither its sender nor the token says another."""


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
"""Stands for a field that a beat left out: the last value stays. It is what msgspec puts there itself."""


class UnknownFields(msgspec.Struct, gc=False):
    """Fields of a beat that the contract does not know, the first of them."""

    names: tuple[str, ...]
    registers: bool = False
    """Set when the beat has been stored and has registered its worker, which is when they are named."""


class Beat(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One heartbeat, validated. ``KEEP`` in a field leaves the last value as it is.

    ``environment_name`` None means "the one it has", or ``first_environment`` for an unknown worker.
    ``interval_ms``/``grace_ms``: a number declares, None takes a declaration back. ``allowed``
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
    """A worker's goodbye. ``trigger`` is one of the two disconnect triggers.

    ``back_in_ms``, only with a clean one: the worker announces that it will beat again within this time, counted
    from when the store takes the goodbye. None announces nothing, and withdraws what was announced before.
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
    """Of a worker that is not known, which a failure registers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget:
    """An operator's order to erase a worker at once."""

    key: WorkerKey
    allowed: tuple[str, ...] | None


class Rejection(StrEnum):
    """Why a beat was refused although its sender may speak for the worker; as events and the API say it (P11)."""

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
        """Whether such evidence moves the deadline, as the beat would have: the monitor could not take it."""
        return self in {Rejection.OVER_SHARE, Rejection.OVERLOADED}


class Evidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A beat that was refused, as evidence that its worker lives.

    ``allowed`` restricts it to workers in these environments (None: all), as the sender's token does. ``subject`` is
    the token's, cut to a bounded length.
    """

    key: WorkerKey
    allowed: tuple[str, ...] | None
    rejection: Rejection
    subject: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """The newest refused beat of a worker, where it is newer than its last accepted one."""

    reason: str
    at_ms: int
    subject: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """A transition that a call to the store committed; what the log line of it needs."""

    kind: EventKind
    tenant: str
    worker_id: str
    environment_name: str
    generation: int
    seq: int
    due_ms: int
    detected_ms: int
    last_seen_ms: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PastTransition:
    """One of a worker's last transitions, as the status endpoint lists it."""

    kind: EventKind
    seq: int
    due_ms: int
    detected_ms: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """What the store holds of a worker. Times in milliseconds by the store's clock."""

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
    """When its interval has passed."""
    deadline_ms: int
    """When an alive worker is no longer on time, blind windows of the monitor taken into account."""
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
    """When the absence that the worker has announced ends; None for none."""
    missed_ms: int | None
    """From when it is missed then, blind windows taken into account."""
    rejected: Rejected | None
    transitions: tuple[PastTransition, ...]

    def liveness(self, now_ms: int) -> Liveness:
        """What to show at ``now_ms``, true with a stuck sweeper too."""
        return liveness_at(
            self.stored,
            now_ms=now_ms,
            late_ms=self.late_ms,
            deadline_ms=self.deadline_ms,
            straggler=self.straggler,
            missed_ms=self.missed_ms,
        )

    def since(self, now_ms: int) -> int:
        """Since when the worker has been what ``liveness`` says of it, in milliseconds."""
        liveness = self.liveness(now_ms)
        if liveness is self.stored:
            return self.since_ms
        if liveness is Liveness.LATE:
            return self.late_ms
        if liveness is Liveness.STALE and self.missed_ms is not None:
            return self.missed_ms
        return self.deadline_ms

    def absent_until(self, now_ms: int) -> int | None:
        """When the announced absence ends, in milliseconds; None when there is none, or it has ended by now."""
        return self.back_ms if self.back_ms is not None and now_ms < self.back_ms else None


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentHealth:
    """How one environment of a tenant stands at one moment."""

    expected: int
    """Workers that are to beat: alive, late or overdue; none that is stale, failed or stopped."""
    silent: int
    """Those of them that have not been heard from for the longer of their interval and their grace."""
    fallen: int = 0
    """Those that are stale and became so at the moment that was asked for, or later; at the most, where others have
    stopped or failed since."""
    rejected: int = 0
    """Those that are stale and whose beats are refused still, since whenever."""
    down: int = 0
    """Those that are stale or failed, and became so at the moment that was asked for, or later; all, if none was."""
