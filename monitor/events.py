"""Events: immutable records of what happened to a worker. Pure: no clock, no socket, no store."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from monitor.liveness import EventKind, Liveness

EVENT_METADATA_BYTES: Final = 2_048
"""Maximum metadata in an event. ``worker_metadata_cut`` is set when the worker has more."""


def rfc3339(ms: int) -> str:
    """Format milliseconds since the epoch as RFC 3339 in UTC with milliseconds, ``2026-11-23T10:00:00.000Z``."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""RFC 3339, in UTC with milliseconds."""


class MonitorOutage(Struct, frozen=True, kw_only=True):
    """Outages of the monitor itself between ``last_seen`` and ``detected_at``."""

    seconds: float
    until: Time
    windows: int
    uncredited: int
    """Windows of these that did not move the deadline."""


class EventRejection(Struct, frozen=True, kw_only=True):
    """The worker's newest rejected heartbeat, with the subject of its token."""

    reason: str
    at: Time
    sub: str


class EventData(Struct, frozen=True, kw_only=True):
    """JSON of an event, as in webhooks under ``data`` and in the history."""

    event_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    generation: int
    seq: Annotated[int, Meta(ge=1)]
    tenant: str
    worker_id: str
    environment_name: str
    old: str | None
    new: str | None
    reason: str
    due_at: Time
    detected_at: Time
    last_seen: Time
    interval_seconds: float
    grace_seconds: float
    status: str
    old_status: str | None
    tasks_processed: int
    current_task_id: str | None
    worker_metadata: dict[str, Any]
    worker_metadata_cut: bool
    seconds_in_old: float
    recent_gaps_seconds: list[float]
    exit_code: int | None
    error_message: str | None
    severity: Literal["critical", "warning", "info"]
    monitor_outage: MonitorOutage | None
    rejected: EventRejection | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """One fact about one worker, in short: what a call to the store has committed, for the log.

    Times are milliseconds since the epoch by the store's clock. ``seq`` counts every event of one
    (tenant, worker, generation) from 1 without a gap. ``due_ms`` is when the fact became true (the
    deadline, for ``worker.stale``), ``detected_ms`` when it was committed.
    """

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

    @property
    def event_id(self) -> str:
        """32 hex digits, the same for the same fact: independent of the recording daemon and the detection time."""
        return event_id(
            tenant=self.tenant,
            worker_id=self.worker_id,
            generation=self.generation,
            seq=self.seq,
            kind=self.kind,
            last_seen_ms=self.last_seen_ms,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Moved):
    """One fact about one worker, as of the moment it was recorded. ``position``: its ID in its partition's stream."""

    position: str
    partition: int
    old: Liveness | None
    new: Liveness | None
    since_ms: int
    """When the worker entered ``old``; equal to ``detected_ms`` for a registration."""
    interval_ms: int
    grace_ms: int
    status: str
    tasks_processed: int
    current_task_id: str | None
    worker_metadata_json: str
    """A JSON object of at most ``EVENT_METADATA_BYTES``."""
    worker_metadata_cut: bool
    recent_gaps_ms: tuple[int, ...]
    """The gaps between the last beats, oldest first, at most 8."""
    old_status: str | None
    """The previous status, for ``worker.status_changed`` only."""
    exit_code: int | None
    error_message: str | None
    """From the disconnect, for ``worker.failed`` and ``worker.stopped``."""
    outage_ms: int = 0
    """Total blind time of the monitor between ``last_seen_ms`` and ``detected_ms``; 0: none."""
    outage_until_ms: int = 0
    """When the last of these blind windows ended."""
    outage_windows: int = 0
    outage_uncredited: int = 0
    """Windows of these that did not move the deadline: at most ``SHORT_CREDITS`` short ones do."""
    rejected_reason: str | None = None
    """Why the worker's beats were refused, for ``worker.rejected`` and later events of that outage."""
    rejected_ms: int = 0
    """When the newest refused beat came."""
    rejected_subject: str = ""
    """The subject of the token of that beat."""

    def data(self) -> EventData:
        """Return the event's JSON."""
        return EventData(
            event_id=self.event_id,
            generation=self.generation,
            seq=self.seq,
            tenant=self.tenant,
            worker_id=self.worker_id,
            environment_name=self.environment_name,
            old=self.old,
            new=self.new,
            reason=self.reason,
            due_at=rfc3339(self.due_ms),
            detected_at=rfc3339(self.detected_ms),
            last_seen=rfc3339(self.last_seen_ms),
            interval_seconds=self.interval_ms / 1000,
            grace_seconds=self.grace_ms / 1000,
            status=self.status,
            old_status=self.old_status,
            tasks_processed=self.tasks_processed,
            current_task_id=self.current_task_id,
            worker_metadata=json.loads(self.worker_metadata_json),
            worker_metadata_cut=self.worker_metadata_cut,
            seconds_in_old=(self.due_ms - self.since_ms) / 1000,
            recent_gaps_seconds=[gap / 1000 for gap in self.recent_gaps_ms],
            exit_code=self.exit_code,
            error_message=self.error_message,
            severity=severity(self.kind),
            monitor_outage=None
            if not self.outage_windows
            else MonitorOutage(
                seconds=self.outage_ms / 1000,
                until=rfc3339(self.outage_until_ms),
                windows=self.outage_windows,
                uncredited=self.outage_uncredited,
            ),
            rejected=None
            if self.rejected_reason is None
            else EventRejection(reason=self.rejected_reason, at=rfc3339(self.rejected_ms), sub=self.rejected_subject),
        )


def severity(kind: EventKind) -> Literal["critical", "warning", "info"]:
    """Return the severity for on-call: ``critical``, ``warning`` or ``info``."""
    match kind:
        case EventKind.STALE | EventKind.FAILED:
            return "critical"
        case EventKind.REJECTED:
            return "warning"
        case _:
            return "info"


def event_id(*, tenant: str, worker_id: str, generation: int, seq: int, kind: str, last_seen_ms: int) -> str:
    """Return the first 16 bytes, in hex, of SHA-256 over the length-prefixed parts.

    Each part is its UTF-8 bytes, prefixed with their count as four big-endian bytes, so that different lists of
    parts never give the same input. Due time, detection time and the recording daemon are left out on purpose:
    the same fact has the same ID after a replay.
    """
    digest = hashlib.sha256()
    for part in (tenant, worker_id, str(generation), str(seq), kind, str(last_seen_ms)):
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.digest()[:16].hex()


def cut_metadata(metadata_json: str, limit_bytes: int = EVENT_METADATA_BYTES) -> tuple[str, bool]:
    """Cut a JSON object to at most ``limit_bytes``. Return the text and whether items were left out.

    Keys are kept in their order while they fit. A value that does not fit is left out completely, never truncated.
    """
    if len(metadata_json.encode()) <= limit_bytes:
        return metadata_json, False
    kept: dict[str, object] = {}
    size = len("{}") - len(",")  # the first item has no comma before it
    for key, value in json.loads(metadata_json).items():
        item = json.dumps({key: value}, ensure_ascii=False, separators=(",", ":"))
        size += len(item.encode()) - len("{}") + len(",")
        if size > limit_bytes:
            break
        kept[key] = value
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")), True


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """The events that the router of a partition has claimed, in order.

    ``last``: the position of the last entry read, readable or not; empty for none. ``token``: of the lease under which
    they were read.
    """

    events: list[Event]
    last: str
    token: int
