"""Converts between the function library's arguments and answers and the types of this package."""

import base64
import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from monitor.events import Event, Moved, cut_metadata
from monitor.liveness import EventKind, Liveness, Trigger
from monitor.store.library import STATE_CODES, TRANSITIONS_KEPT, UNDECLARED
from monitor.store.settings import StoreSettings
from monitor.workers import KEEP, Beat, Disconnect, Evidence, Keep, PastTransition, Worker, WorkerKey

# A function's answer as hiredis decodes it: nested lists of bytes, int and None. Text was stored as valid UTF-8.
Answer = Any


_log = structlog.get_logger(__name__)

encode = msgspec.msgpack.Encoder().encode
_decode_list: Final = msgspec.msgpack.Decoder(list[Any]).decode

_SHORT: Final = 512
"""Maximum characters of metadata that are cached."""


def beat_settings(settings: StoreSettings) -> bytes:
    """Encode what the library's ``beat`` and ``fail`` apply to all workers."""
    return encode(
        [
            settings.interval_ms,
            settings.grace_ms,
            [[rule.match, rule.interval_ms, rule.grace_ms] for rule in settings.rules],
            settings.workers_per_tenant,
            settings.environments_per_tenant,
            settings.daemon,
            settings.status_events,
            settings.timings_per_tenant,
            [settings.min_interval_ms, settings.max_interval_ms, settings.min_grace_ms, settings.max_grace_ms],
            settings.bytes_per_tenant,
            settings.partitions,
        ]
    )


def disconnect_argument(disconnect: Disconnect) -> bytes:
    """Encode a disconnect for the library's ``disconnect`` and ``fail``."""
    code = disconnect.exit_code
    return encode(
        [
            disconnect.key.tenant,
            disconnect.key.worker_id,
            disconnect.trigger.value,
            disconnect.trigger is Trigger.DISCONNECT_CLEAN,
            disconnect.allowed,
            disconnect.reason,
            None if code is None else str(code),
            disconnect.error_message,
            disconnect.back_in_ms,
            disconnect.first_environment,
        ]
    )


def beat_arguments(beats: Sequence[Beat]) -> tuple[bytes, bytes]:
    """Encode beats for the library's ``beat``: their profiles, and four items for each beat.

    A profile is what many beats have in common: it is sent once, and checked once in the store.
    """
    profiles: dict[tuple[object, ...], int] = {}
    rows: list[object] = []
    for beat in beats:
        key, interval, grace = beat.key, beat.interval_ms, beat.grace_ms
        profile = (
            key.tenant,
            beat.environment_name,
            beat.first_environment,
            beat.allowed,
            None if interval is KEEP else UNDECLARED if interval is None else interval,
            None if grace is KEEP else UNDECLARED if grace is None else grace,
        )
        report, meta = _report(beat), beat.metadata_json
        more: list[object] | bool | msgspec.Raw
        is_usual = report and beat.system_info_json is KEEP and beat.logs_json is KEEP
        if is_usual and (meta is KEEP or len(meta) <= _SHORT):
            more = meta is not KEEP and _metadata_alone(meta)
        else:
            more = _more(beat, reports_all=bool(report))
        rows += profiles.setdefault(profile, len(profiles) + 1), key.worker_id, report, more
    return encode(list(profiles)), encode(rows)


def _report(beat: Beat) -> str | bool:
    """Return a worker's report in the form of its record; False unless the beat contains all of its parts."""
    status, tasks, task = beat.status, beat.tasks_processed, beat.current_task_id
    if status is KEEP or tasks is KEEP or task is KEEP:
        return False
    size = len(status) if status.isascii() else len(status.encode())
    return f"{tasks} {size}:{status}" if task is None else f"{tasks} {size}:{status}={task}"


def _more(beat: Beat, *, reports_all: bool) -> list[object] | bool | msgspec.Raw:
    """Return the parts that an ordinary beat does not have; False for none."""
    status, tasks, task = beat.status, beat.tasks_processed, beat.current_task_id
    meta, system, logs = beat.metadata_json, beat.system_info_json, beat.logs_json
    no_system_or_logs = system is KEEP and logs is KEEP
    if reports_all or (status is KEEP and tasks is KEEP and task is KEEP):
        if no_system_or_logs:
            if meta is KEEP:
                return False
            if len(meta) <= _SHORT:
                return _metadata_alone(meta)
        more: list[object] = [False, None, None, None]
    else:
        more = [
            False,
            False if status is KEEP else status,
            False if tasks is KEEP else str(tasks),
            "" if task is KEEP else task is not None and f"={task}",
        ]
        if no_system_or_logs and meta is KEEP:
            return more
    return _cold(more, meta=meta, system=system, system_cut=beat.system_info_cut, logs=logs, logs_cut=beat.logs_cut)


def _cold(
    more: Sequence[object],
    *,
    meta: str | Keep,
    system: str | Keep | None,
    system_cut: bool,
    logs: str | Keep | None,
    logs_cut: bool,
) -> list[object]:
    """Return ``more`` with the cold parts, and their digest in front."""
    parts = repr((meta, system, system_cut, logs, logs_cut))
    digest = base64.b64encode(hashlib.blake2b(parts.encode(), digest_size=6).digest()).decode()
    event_meta, cut = "", False
    if isinstance(meta, str):
        event_meta, cut = cut_metadata(meta)
        event_meta = event_meta if cut else ""
    return [digest, *more[1:], _or_null(meta), event_meta, cut, _or_null(system), system_cut, _or_null(logs), logs_cut]


@lru_cache(maxsize=4_096)
def _metadata_alone(meta: str) -> bool | msgspec.Raw:
    """Pack metadata, cached: a worker sends the same in each beat, and often many workers do. True if it is empty."""
    if meta == "{}":
        return True
    nothing = [False, None, None, None]
    return msgspec.Raw(encode(_cold(nothing, meta=meta, system=KEEP, system_cut=False, logs=KEEP, logs_cut=False)))


def _or_null(value: str | Keep | None) -> str | bool | None:
    """Encode an optional value: in the library nil keeps the last value, and false is null."""
    if isinstance(value, Keep):
        return None
    return False if value is None else value


def evidence_argument(evidence: Sequence[Evidence]) -> bytes:
    """Encode refused beats for the library's ``evidence``."""
    return encode(
        [
            [
                one.key.tenant,
                one.key.worker_id,
                one.allowed or False,
                one.rejection.value,
                one.rejection.moves_deadline,
                one.subject,
            ]
            for one in evidence
        ]
    )


def _gaps(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(raw) // 4}I", raw)


def _named(names: Sequence[str], values: Sequence[Answer]) -> dict[str, Any]:
    """Give the values of an answer their names. Text comes as bytes."""
    pairs = zip(names, values, strict=True)
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in pairs}


_MOVED: Final = (
    *("kind", "tenant", "worker_id", "environment_name", "generation", "seq", "due_ms", "detected_ms"),
    *("last_seen_ms", "reason"),
)
"""The order of ``moves`` in ``record`` in ``workers.lua``."""


def moved(rows: Sequence[Answer]) -> list[Moved]:
    """Decode the transitions that a call has committed."""
    return [msgspec.convert(_named(_MOVED, row), Moved) for row in rows]


_WORKER: Final = (
    *("tenant", "worker_id", "environment_name", "stored", "straggler", "generation", "seq", "last_seen_ms"),
    *("since_ms", "interval_ms", "grace_ms", "status", "tasks_processed", "current_task_id", "metadata_json"),
    *("system_info_json", "system_info_cut", "logs_json", "logs_cut"),
    *("back_ms", "missed_ms", "late_ms", "deadline_ms"),
)
"""The order of ``describe`` in ``reading.lua``, which the gaps and the newest refused beat follow."""
_PAST: Final = ("kind", "seq", "due_ms", "detected_ms", "reason")


def worker(row: Answer, past: Sequence[Answer] = ()) -> Worker:
    """Decode a worker as ``get`` and ``list`` describe it. ``past``: its last transitions, newest last."""
    *plain, gaps, rejected = row
    facts = _named(_WORKER, plain)
    transitions = [_named(_PAST, one) for one in past]
    if len(transitions) < TRANSITIONS_KEPT and not (transitions and transitions[0]["seq"] == 1):
        # No transition was dropped. The registration, which is not stored, comes first.
        registered_ms = facts["generation"]
        transitions.insert(0, _named(_PAST, (EventKind.REGISTERED, 1, registered_ms, registered_ms, "beat")))
    facts |= {
        "key": WorkerKey(facts["tenant"], facts["worker_id"]),
        "recent_gaps_ms": _gaps(gaps),
        "rejected": rejected and _named(("reason", "at_ms", "subject"), rejected),
        "transitions": transitions,
    }
    return msgspec.convert(facts, Worker, strict=False)  # booleans come as numbers, a number as text


class Outline(NamedTuple):
    """What says of a worker whether it is down, and was."""

    generation: int
    seq: int
    stored: Liveness
    transitions: list[PastTransition]
    """The last ones, newest last, without the registration."""


_HEAD: Final = struct.Struct(">xc22x6sI")
"""Of a record, see R_* in ``lastseen.lua``: state, generation and seq."""
_LIVENESS: Final = {code.encode(): state for state, code in STATE_CODES.items()}


def outline(record: bytes, transitions: bytes | None) -> Outline | None:
    """Decode the outline of a worker from its stored record and last transitions; None: they are damaged."""
    try:
        state, generation, seq = _HEAD.unpack_from(record)
        past = _decode_list(transitions) if transitions else []
        found = [msgspec.convert(_named(_PAST, one), PastTransition) for one in past]
        return Outline(int.from_bytes(generation), seq, _LIVENESS[state], found)
    except (struct.error, KeyError, ValueError):
        return None


_STORED: Final = (
    *("kind", "tenant", "worker_id", "environment_name", "generation", "seq", "old", "new", "reason"),
    *("due_ms", "detected_ms", "last_seen_ms", "since_ms", "interval_ms", "grace_ms"),
    *("status", "tasks_processed", "current_task_id", "worker_metadata_json", "worker_metadata_cut"),
    *("old_status", "exit_code", "error_message", "outage", "rejected"),
)
"""An event's fields in the order in which ``record`` in ``workers.lua`` packs them."""
_OUTAGE: Final = ("outage_ms", "outage_until_ms", "outage_windows", "outage_uncredited")
_REJECTED: Final = ("rejected_reason", "rejected_ms", "rejected_subject")


def event(partition: int, entry: Answer) -> Event:
    """Decode one entry of a partition's stream.

    Raises:
        ValueError: the entry is not readable.
    """
    position, (_, packed, _, gaps) = entry
    stored = dict(zip(_STORED, _decode_list(packed), strict=False))  # a newer release may add fields
    facts = {name: None if value is False else value for name, value in stored.items()}  # False stands for null
    for names, name in ((_OUTAGE, "outage"), (_REJECTED, "rejected")):
        values = facts.pop(name, None)
        if isinstance(values, list):
            facts |= zip(names, values, strict=False)
    facts["worker_metadata_cut"] = stored.get("worker_metadata_cut")
    facts |= {"position": position.decode(), "partition": partition, "recent_gaps_ms": _gaps(gaps)}
    return msgspec.convert(facts, Event, strict=False)  # two numbers are stored as text


def events(partition: int, entries: Sequence[Answer]) -> list[Event]:
    """Decode entries of a partition's stream. An unreadable entry is logged and left out.

    A newer release on the same store may write kinds of events that this release does not know. They must not
    block the known ones.
    """
    understood = []
    for entry in entries:
        try:
            understood.append(event(partition, entry))
        except ValueError as error:
            _log.error("event.unreadable", partition=partition, position=entry[0].decode(), error=repr(error))
    return understood
