"""Parses a request body into a ``Beat`` or a ``Disconnect``."""

import itertools
import re
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel

from monitor.api.contract.errors import ContractError, Fault, field_error
from monitor.api.contract.fast import BeatFields, BeatFieldsWithIds, read_with_ids, read_without_ids
from monitor.api.contract.limits import BeatLimits, clamped_ms, logs_text, metadata_text, system_info_text
from monitor.api.contract.strict import DisconnectRequest, HeartbeatRequest, WorkerIdHeartbeatRequest, checked_id, read
from monitor.liveness import Trigger, disconnect_trigger
from monitor.workers import DEFAULT_ENVIRONMENT, KEEP, Beat, Disconnect, Keep, UnknownFields, WorkerKey

MOST_UNKNOWN: Final = 10
"""Maximum unknown fields of a body that are reported."""
MAX_REASON_CHARS: Final = 256
MAX_ERROR_MESSAGE_CHARS: Final = 2_048

_JSON: Final = "application/json"
FieldsT = TypeVar("FieldsT", bound=BeatFields)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_beat(
    body: bytes,
    *,
    content_type: str | None,
    limits: BeatLimits,
    tenant: str,
    path_worker_id: str | None,
    token_environments: tuple[str, ...] | None,
) -> Beat:
    """Parse a beat. ``path_worker_id``: the decoded id from the URL; None if the ids are in the body.

    With an id in the URL an empty body means ``{}``. Whether the token allows the environment in the body is checked
    by the store, not here.

    Raises:
        ContractError: the body violates the contract; no other exception, for any bytes.
    """
    is_plain = content_type is None or content_type == _JSON
    environment_name: str | None = None
    unknown: tuple[str, ...] = ()
    fields: BeatFields
    if path_worker_id is None:
        with_ids = read_with_ids(body) if is_plain else None
        if with_ids is None:
            with_ids, unknown = strict_fields(BeatFieldsWithIds, HeartbeatRequest, body, content_type)
        path_worker_id, environment_name = with_ids.worker_id, with_ids.environment_name
        fields = with_ids
    elif body:
        without = read_without_ids(body) if is_plain else None
        if without is None:
            without, unknown = strict_fields(BeatFields, WorkerIdHeartbeatRequest, body, content_type)
        fields = without
    else:
        fields = BeatFields()

    metadata_json: str | Keep = KEEP
    if (metadata := fields.worker_metadata) is not KEEP:
        metadata_json = metadata_text(metadata, limits.metadata_bytes) if metadata else "{}"
    interval_ms: int | Keep | None = KEEP
    if (interval := fields.interval_seconds) is not KEEP:
        interval_ms = clamped_ms(interval, least=limits.min_interval_ms, most=limits.max_interval_ms)
    grace_ms: int | Keep | None = KEEP
    if (grace := fields.grace_seconds) is not KEEP:
        grace_ms = clamped_ms(grace, least=limits.min_grace_ms, most=limits.max_grace_ms)
    system_info_json: str | Keep | None = KEEP
    system_info_cut = False
    if (system_info := fields.system_info) is not KEEP:
        system_info_json, system_info_cut = (
            (None, False) if system_info is None else system_info_text(system_info, limits.system_info_bytes)
        )
    logs_json: str | Keep | None = KEEP
    logs_cut = False
    if (logs := fields.logs) is not KEEP:
        logs_json, logs_cut = (None, False) if logs is None else logs_text(logs, limits.logs_bytes)
    return Beat(
        key=WorkerKey(tenant, path_worker_id),
        environment_name=environment_name,
        first_environment=_first_environment(token_environments) if token_environments else DEFAULT_ENVIRONMENT,
        allowed=token_environments,
        interval_ms=interval_ms,
        grace_ms=grace_ms,
        status=fields.status,
        tasks_processed=fields.tasks_processed,
        current_task_id=fields.current_task_id,
        metadata_json=metadata_json,
        system_info_json=system_info_json,
        system_info_cut=system_info_cut,
        logs_json=logs_json,
        logs_cut=logs_cut,
        unknown=UnknownFields(unknown) if unknown else None,
    )


def parse_disconnect(
    body: bytes,
    *,
    content_type: str | None,
    tenant: str,
    path_worker_id: str,
    token_environments: tuple[str, ...] | None,
) -> Disconnect:
    """Parse a disconnect. A long reason or message is truncated, not refused: the exit must reach on-call.

    Raises:
        ContractError: as ``parse_beat``, or ``back_in_seconds`` comes with a failure.
    """
    form = read(DisconnectRequest, body, content_type)
    trigger = disconnect_trigger(reason=form.reason, exit_code=form.exit_code)
    back_in_ms = None
    if form.back_in_seconds is not None:
        if trigger is Trigger.DISCONNECT_FAILURE:
            raise field_error("back_in_seconds", "Input should come with a clean stop only", "value_error")
        back_in_ms = max(1, round(form.back_in_seconds * 1_000))
    return Disconnect(
        key=WorkerKey(tenant, path_worker_id),
        first_environment=form.environment_name or _first_environment(token_environments),
        allowed=token_environments,
        trigger=trigger,
        reason=form.reason[:MAX_REASON_CHARS],
        exit_code=form.exit_code,
        error_message=None if form.error_message is None else form.error_message[:MAX_ERROR_MESSAGE_CHARS],
        back_in_ms=back_in_ms,
        unknown=_unknown_in(form),
    )


def _first_environment(allowed: tuple[str, ...] | None) -> str:
    """Environment in which a worker registers that names none: the only one of its token, else the default."""
    return allowed[0] if allowed and len(allowed) == 1 else DEFAULT_ENVIRONMENT


def path_worker_id(raw_segment: str) -> str:
    """Decode a worker id from its raw path segment, which may hold ``%2F``, ``..`` and percent-encoded UTF-8.

    Bytes of the path that are not ASCII may be decoded already, or escaped by ``surrogateescape``.

    Raises:
        ContractError: a malformed escape, bytes that are not UTF-8, or an id that is not valid in a body either.
    """
    loc = ("path", "worker_id")
    if _BAD_ESCAPE.search(raw_segment):
        raise ContractError([Fault(loc=loc, msg="Malformed percent-encoding", type="string_unicode")])
    try:
        worker_id = unquote_to_bytes(raw_segment.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        msg = "Input should be a valid string, unable to parse raw data as a unicode string"
        raise ContractError([Fault(loc=loc, msg=msg, type="string_unicode")]) from None
    return checked_id(worker_id, loc)


def strict_fields(
    kind: type[FieldsT], form: type[BaseModel], body: bytes, content_type: str | None
) -> tuple[FieldsT, tuple[str, ...]]:
    """As the fast readers, for any body: the fields that it has of those of ``kind``, and the names of unknown ones."""
    parsed = read(form, body, content_type)
    known = parsed.model_fields_set.intersection(kind.__struct_fields__)
    return kind(**{name: getattr(parsed, name) for name in known}), _unknown_in(parsed)


def _unknown_in(form: BaseModel) -> tuple[str, ...]:
    return tuple(itertools.islice(form.model_extra or (), MOST_UNKNOWN))
