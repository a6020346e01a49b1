"""Maps the types of the alerts to those of the on-call port. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alerts.groups.incidents import IncidentKind
from monitor.daemon.oncall.models import Ack, Delivery, Incident, Matchers, ReceiverState, Silence

if TYPE_CHECKING:
    from alerts.groups.incidents import Incident as StoredIncident
    from alerts.groups.silences import Silence as StoredSilence
    from alerts.oncall.dead_letters import Found
    from alerts.store.group_store import Stats


def incident_of(incident: StoredIncident) -> Incident:
    """Map an incident."""
    ack = incident.ack
    is_worker = incident.kind is IncidentKind.WORKER
    return Incident(
        id=incident.id,
        kind=incident.kind.value,
        tenant=incident.tenant,
        worker_id=incident.worker_id if is_worker else None,
        environment_name=incident.environment_name,
        generation=incident.generation if is_worker else None,
        opened_by=incident.opened_by.value,
        opened_ms=incident.opened_ms,
        detected_ms=incident.detected_ms,
        updated_by=incident.updated.value,
        reason=incident.reason,
        closed_by=None if incident.closed_by is None else incident.closed_by.value,
        closed_ms=incident.closed_ms,
        ack=None if ack is None else Ack(by=ack.by, comment=ack.comment, at_ms=ack.at_ms),
        receivers=tuple(sorted(incident.targets)),
        part_of=incident.part_of,
        members=incident.members,
        members_open=incident.members_open,
    )


def silence_of(silence: StoredSilence, now_ms: int) -> Silence:
    """Map a silence, with its state at ``now_ms``."""
    matchers = silence.matchers
    return Silence(
        id=silence.id,
        tenant=silence.tenant,
        matchers=Matchers(
            environment=matchers.environment,
            worker_id=matchers.worker_id,
            metadata=dict(matchers.metadata),
            exact=matchers.exact,
        ),
        state=silence.state(now_ms).value,
        starts_ms=silence.starts_ms,
        ends_ms=silence.ends_ms,
        comment=silence.comment,
        author=silence.author,
        created_ms=silence.created_ms,
        ended_ms=silence.ended_ms,
        ended_by=silence.ended_by,
    )


def delivery_of(found: Found) -> Delivery:
    """Map a notification."""
    note, event = found.note, found.note.event
    return Delivery(
        nid=note.nid,
        receiver=found.receiver,
        type=note.type,
        tenant=note.tenant,
        outcome=note.outcome.value,
        at_ms=note.at_ms,
        created_ms=note.created_ms,
        attempts=note.attempts,
        reason=note.reason,
        cause=note.cause,
        answer=note.answer,
        reminder=note.reminder,
        event_id=None if event is None else event.event_id,
        worker_id=None if event is None else event.worker_id,
        environment_name=note.labels.get("environment") if event is None else event.environment_name,
        labels=note.labels,
        body=found.body,
    )


def receiver_of(stats: Stats) -> ReceiverState:
    """Map the status of a receiver."""
    return ReceiverState(
        name=stats.receiver,
        queued=stats.queued,
        dead=stats.dead,
        open_dead_letters=stats.open_dead_letters,
        lag_ms=stats.lag_ms,
        disabled=stats.disabled,
    )
