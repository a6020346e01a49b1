"""Between what the function library speaks and the types of this package."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

import structlog

from monitor.events import Event, cut_metadata
from monitor.liveness import EventKind, Liveness
from monitor.store.library import LIVENESS_OF
from monitor.workers import Keep, Moved, PastTransition, Worker, WorkerKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monitor.workers import Beat

# What hiredis makes of a function's answer: nested lists of bytes, int and None.
Answer = Any


_log = structlog.get_logger(__name__)

TRANSITIONS_KEPT = 16
"""As in ``lastseen.lua``."""


def _or_null(value: str | int | Keep | None) -> str | int | bool | None:
    """Nil keeps the last value, false is null: the library's way to tell the two apart."""
    if isinstance(value, Keep):
        return None
    return False if value is None else value


def beat_row(beat: Beat) -> list[Any]:
    """One beat as the library's ``beat`` reads it."""
    row = [
        beat.key.tenant,
        beat.key.worker_id,
        beat.environment_name,
        beat.first_environment,
        beat.allowed,
        _or_null(beat.interval_ms),
        _or_null(beat.grace_ms),
        _or_null(beat.status),
        None if isinstance(beat.tasks_processed, Keep) else str(beat.tasks_processed),
        _or_null(beat.current_task_id),
    ]
    meta, system, logs = beat.metadata_json, beat.system_info_json, beat.logs_json
    if isinstance(meta, Keep) and isinstance(system, Keep) and isinstance(logs, Keep):
        return row
    parts = repr((meta, system, beat.system_info_cut, logs, beat.logs_cut))
    digest = hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
    event_meta, cut = "", False
    if isinstance(meta, str):
        event_meta, cut = cut_metadata(meta)
        event_meta = event_meta if cut else ""
    return [
        *row,
        digest,
        _or_null(meta),
        event_meta,
        cut,
        _or_null(system),
        beat.system_info_cut,
        _or_null(logs),
        beat.logs_cut,
    ]


def text(raw: bytes) -> str:
    """A string that came back from the store; what went in was valid UTF-8."""
    return raw.decode()


def _optional(raw: bytes) -> str | None:
    return raw[1:].decode() if raw else None


def _gaps(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(raw) // 4}I", raw)


def moved(rows: Sequence[Answer]) -> list[Moved]:
    """The transitions that a call says it has committed."""
    return [
        Moved(
            kind=EventKind(text(kind)),
            tenant=text(tenant),
            worker_id=text(worker),
            environment_name=text(environment),
            generation=int(generation),
            seq=int(seq),
            due_ms=int(due),
            detected_ms=int(detected),
            last_seen_ms=int(last_seen),
            reason=text(reason),
        )
        for kind, tenant, worker, environment, generation, seq, due, detected, last_seen, reason in rows
    ]


def past_transitions(rows: Sequence[Answer]) -> tuple[PastTransition, ...]:
    """A worker's last transitions, newest last."""
    return tuple(
        PastTransition(kind=EventKind(text(kind)), seq=seq, due_ms=due, detected_ms=detected, reason=text(reason))
        for kind, seq, due, detected, reason in rows
    )


def worker(row: Answer, past: Sequence[Answer] = ()) -> Worker:
    """A worker as ``one`` and ``page`` describe it."""
    generation = row[5]
    transitions = past_transitions(past)
    if len(transitions) < TRANSITIONS_KEPT:  # none was dropped, so the registration, which is not stored, comes first
        registered = PastTransition(
            kind=EventKind.REGISTERED, seq=1, due_ms=generation, detected_ms=generation, reason="beat"
        )
        transitions = (registered, *transitions)
    return Worker(
        key=WorkerKey(text(row[0]), text(row[1])),
        environment_name=text(row[2]),
        stored=LIVENESS_OF[text(row[3])],
        straggler=bool(row[4]),
        generation=generation,
        seq=row[6],
        last_seen_ms=row[7],
        since_ms=row[8],
        interval_ms=row[9],
        grace_ms=row[10],
        status=text(row[11]),
        tasks_processed=int(row[12]),
        current_task_id=text(row[13]) if row[13] is not None else None,
        metadata_json=text(row[14]),
        system_info_json=text(row[15]) if row[15] is not None else None,
        system_info_cut=bool(row[16]),
        logs_json=text(row[17]) if row[17] is not None else None,
        logs_cut=bool(row[18]),
        recent_gaps_ms=_gaps(row[19]),
        transitions=transitions,
    )


def event(partition: int, entry: Answer) -> Event:
    """One entry of a partition's stream."""
    position, flat = entry
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    old, new = text(fields[b"old"]), text(fields[b"new"])
    exit_code = fields[b"exit_code"]
    return Event(
        position=text(position),
        partition=partition,
        kind=EventKind(text(fields[b"kind"])),
        tenant=text(fields[b"tenant"]),
        worker_id=text(fields[b"worker"]),
        environment_name=text(fields[b"environment"]),
        generation=int(fields[b"generation"]),
        seq=int(fields[b"seq"]),
        old=Liveness(old) if old else None,
        new=Liveness(new) if new else None,
        reason=text(fields[b"reason"]),
        due_ms=int(fields[b"due"]),
        detected_ms=int(fields[b"detected"]),
        last_seen_ms=int(fields[b"last_seen"]),
        since_ms=int(fields[b"since"]),
        interval_ms=int(fields[b"interval"]),
        grace_ms=int(fields[b"grace"]),
        status=text(fields[b"status"]),
        tasks_processed=int(fields[b"tasks"]),
        current_task_id=_optional(fields[b"task"]),
        worker_metadata_json=text(fields[b"meta"]),
        worker_metadata_cut=fields[b"cut"] == b"1",
        recent_gaps_ms=_gaps(fields[b"gaps"]),
        old_status=_optional(fields[b"old_status"]),
        exit_code=int(exit_code) if exit_code else None,
        error_message=_optional(fields[b"message"]),
    )


def events(partition: int, entries: Sequence[Answer]) -> list[Event]:
    """Entries of a partition's stream; one that can't be understood is logged and left out.

    A newer release on the same store may write kinds of events that this one does not know; they must not
    stop what it does know.
    """
    understood = []
    for entry in entries:
        try:
            understood.append(event(partition, entry))
        except (KeyError, ValueError) as error:
            _log.error("event.unreadable", partition=partition, position=text(entry[0]), error=repr(error))
    return understood
