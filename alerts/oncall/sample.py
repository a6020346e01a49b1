"""Test of a receiver: a sample DOWN of a worker that does not exist, and its RESOLVED, each sent once, at once.

Both are rendered and sent like real notifications, so that a test covers the real path. Names and reason mark them as
samples.
"""

from typing import Final

from alerts.groups.classify import digest
from alerts.receivers import Notification
from alerts.rendering.payload import Wording
from monitor.events import Event
from monitor.liveness import EventKind, Liveness

NAME: Final = "lastseen-test"
"""Name of the tenant, the environment and the worker in a test."""
REASON: Final = "test"
_SILENT_MS: Final = 95_000


def sample_pair(receiver: str, wording: Wording, *, now_ms: int) -> tuple[Notification, Notification]:
    """The sample DOWN and its RESOLVED. Pure."""
    down = _event(EventKind.STALE, Liveness.ALIVE, Liveness.STALE, seq=1, now_ms=now_ms)
    end = _event(EventKind.RECOVERED, Liveness.STALE, Liveness.ALIVE, seq=2, now_ms=now_ms)
    return (
        _notification(receiver, down, wording, now_ms=now_ms),
        _notification(receiver, end, wording, previous=down, now_ms=now_ms),
    )


def _notification(
    receiver: str, event: Event, wording: Wording, *, previous: Event | None = None, now_ms: int
) -> Notification:
    return Notification(
        nid="ntf_" + digest(receiver, NAME, event.event_id),
        receiver=receiver,
        key=NAME,
        event_type=event.kind.value,
        body=wording.single(event, incident_id=None, reminder=0, health=None, previous=previous),
        created_ms=now_ms,
    )


def _event(kind: EventKind, old: Liveness, new: Liveness, *, seq: int, now_ms: int) -> Event:
    return Event(
        position=f"{now_ms}-{seq}",
        partition=0,
        kind=kind,
        tenant=NAME,
        worker_id=NAME,
        environment_name=NAME,
        generation=now_ms,
        seq=seq,
        old=old,
        new=new,
        reason=REASON,
        due_ms=now_ms,
        detected_ms=now_ms,
        last_seen_ms=now_ms - _SILENT_MS,
        since_ms=now_ms - _SILENT_MS,
        interval_ms=30_000,
        grace_ms=65_000,
        status=REASON,
        tasks_processed=0,
        current_task_id=None,
        worker_metadata_json="{}",
        worker_metadata_cut=False,
        recent_gaps_ms=(),
        old_status=None,
        exit_code=None,
        error_message=None,
    )
