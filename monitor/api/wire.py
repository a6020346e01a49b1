"""The published heartbeat contract: from bytes to a ``Beat`` or a ``Disconnect``, or to its 422. Pure.

The faults, their places and their types are those of the published service (FastAPI with Pydantic), for
which bodies are read the same way: lax integers, the last of equal keys wins, unknown fields are ignored.
Stricter on purpose, because a store cannot keep what JSON cannot say: an empty id or one with control
characters, NaN and infinities anywhere, lone surrogates, bytes that are not UTF-8 (UTF-16 among them),
nesting beyond about 200 levels, integers beyond 64 bits signed (``int_parsing_size``), names beyond
``MAX_NAME_CHARS``, and metadata beyond its limit. Logs and system info are cut instead, with a flag.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from monitor.liveness import disconnect_trigger
from monitor.workers import KEEP, Beat, Disconnect, Keep, WorkerKey

MAX_NAME_CHARS: Final = 256
MAX_REASON_CHARS: Final = 256
MAX_ERROR_MESSAGE_CHARS: Final = 2_048
MAX_LOG_LINES: Final = 100
MAX_FAULTS: Final = 100
MAX_ECHO_CHARS: Final = 100
DEFAULT_ENVIRONMENT: Final = "default"

_INT64: Final = 2**63
_BOM: Final = b"\xef\xbb\xbf"
_JSON_SPACE: Final = b" \t\n\r"
_POSITION: Final = re.compile(r"at line (\d+) column (\d+)\Z")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INT64_TYPES: Final = frozenset({"greater_than_equal", "less_than"})
_INT64_FIELDS: Final = frozenset({"tasks_processed", "exit_code"})
_TOO_BIG: Final = "Unable to parse input string as an integer, exceeded maximum size"
_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyLimits:
    """How many bytes of compact UTF-8 JSON each part of a beat may take in the store."""

    metadata_bytes: int
    logs_bytes: int
    system_info_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalBounds:
    """What a beat may declare; a value outside is clamped, not refused."""

    min_interval_ms: int
    max_interval_ms: int
    min_grace_ms: int
    max_grace_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing wrong with a request: where (``body`` or ``path`` first), in words, and Pydantic's type."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class ContractError(Exception):
    """The request does not keep the contract (422). At most ``MAX_FAULTS`` faults are listed."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults: Final = faults[:MAX_FAULTS]
        super().__init__("; ".join(f"{'.'.join(map(str, fault.loc))}: {fault.type}" for fault in self.faults))

    def body(self) -> bytes:
        """The answer's JSON, in the contract's ``HTTPValidationError`` shape. ASCII, so always readable."""
        detail = [{"loc": list(fault.loc), "msg": fault.msg, "type": fault.type} for fault in self.faults]
        return json.dumps({"detail": detail}, separators=(",", ":")).encode("ascii")


_MISSING: Final = Fault(loc=("body",), msg="Field required", type="missing")
_NOT_AN_OBJECT: Final = Fault(
    loc=("body",),
    msg="Input should be a valid dictionary or object to extract fields from",
    type="model_attributes_type",
)

_Id = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
_Int64 = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
_Interval = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
_Grace = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]


class _Ids(BaseModel):
    worker_id: _Id
    environment_name: _Id


class _UrlBeat(BaseModel):
    """The form with the worker's id in the URL. Unknown fields are kept only to find NaN in them."""

    model_config = ConfigDict(extra="allow")

    status: _Name = "active"
    tasks_processed: _Int64 = 0
    current_task_id: _Name | None = None
    worker_metadata: dict[str, Any] = {}
    system_info: dict[str, Any] | None = None
    logs: list[str] | None = None
    interval_seconds: _Interval | None = None
    grace_seconds: _Grace | None = None


class _BodyBeat(_UrlBeat, _Ids):
    """The form with the ids in the body; they come first among the fields, and so among the faults."""


class _Disconnect(BaseModel):
    model_config = ConfigDict(extra="allow")

    reason: str
    exit_code: _Int64 | None = None
    error_message: str | None = None


_id_adapter: Final[TypeAdapter[str]] = TypeAdapter(_Id)
_Form = TypeVar("_Form", bound=BaseModel)


def parse_beat(
    body: bytes,
    *,
    content_type: str | None,
    limits: BodyLimits,
    bounds: IntervalBounds,
    tenant: str,
    path_worker_id: str | None,
    token_environments: tuple[str, ...] | None,
) -> Beat:
    """Read a beat. ``path_worker_id``: the decoded id of the URL form, None for the form with ids in the body.

    Whether the token may touch the environment that the body names is the store's question, not asked here.

    Raises:
        ContractError: the body does not keep the contract; no other exception, whatever the bytes.
    """
    environment_name: str | None = None
    form: _UrlBeat
    if path_worker_id is None:
        form = with_ids = _read(_BodyBeat, body, content_type)
        path_worker_id, environment_name = with_ids.worker_id, with_ids.environment_name
    else:
        form = _read(_UrlBeat, body, content_type)
    sent = form.model_fields_set
    metadata_json = _metadata(form, limits.metadata_bytes)
    system_info_json, system_info_cut = _system_info(form, limits.system_info_bytes)
    logs_json, logs_cut = _logs(form, limits.logs_bytes)
    return Beat(
        key=WorkerKey(tenant, path_worker_id),
        environment_name=environment_name,
        first_environment=(
            token_environments[0] if token_environments and len(token_environments) == 1 else DEFAULT_ENVIRONMENT
        ),
        allowed=token_environments,
        interval_ms=_clamped_ms(form.interval_seconds, least=bounds.min_interval_ms, most=bounds.max_interval_ms)
        if "interval_seconds" in sent
        else KEEP,
        grace_ms=_clamped_ms(form.grace_seconds, least=bounds.min_grace_ms, most=bounds.max_grace_ms)
        if "grace_seconds" in sent
        else KEEP,
        status=form.status if "status" in sent else KEEP,
        tasks_processed=form.tasks_processed if "tasks_processed" in sent else KEEP,
        current_task_id=form.current_task_id if "current_task_id" in sent else KEEP,
        metadata_json=metadata_json,
        system_info_json=system_info_json,
        system_info_cut=system_info_cut,
        logs_json=logs_json,
        logs_cut=logs_cut,
    )


def parse_disconnect(
    body: bytes,
    *,
    content_type: str | None,
    tenant: str,
    path_worker_id: str,
    token_environments: tuple[str, ...] | None,
) -> Disconnect:
    """Read a goodbye. A long reason or message is cut, not refused: on-call wants to know of the exit.

    Raises:
        ContractError: as ``parse_beat``.
    """
    form = _read(_Disconnect, body, content_type)
    return Disconnect(
        key=WorkerKey(tenant, path_worker_id),
        allowed=token_environments,
        trigger=disconnect_trigger(reason=form.reason, exit_code=form.exit_code),
        reason=form.reason[:MAX_REASON_CHARS],
        exit_code=form.exit_code,
        error_message=None if form.error_message is None else form.error_message[:MAX_ERROR_MESSAGE_CHARS],
    )


def path_worker_id(raw_segment: str) -> str:
    """Decode a worker id from its raw path segment, which may hold ``%2F``, ``..`` and percent-encoded UTF-8.

    Bytes of the path that are not ASCII may be given as themselves or as ``surrogateescape`` made them.

    Raises:
        ContractError: a malformed escape, bytes that are not UTF-8, or not an id by the body's rules.
    """
    loc = ("path", "worker_id")
    if _BAD_ESCAPE.search(raw_segment):
        raise ContractError([Fault(loc=loc, msg="Malformed percent-encoding", type="string_unicode")])
    try:
        worker_id = unquote_to_bytes(raw_segment.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        msg = "Input should be a valid string, unable to parse raw data as a unicode string"
        raise ContractError([Fault(loc=loc, msg=msg, type="string_unicode")]) from None
    try:
        return _id_adapter.validate_python(worker_id)
    except ValidationError as error:
        raise ContractError(_faults(error, loc)) from None


def _read(form: type[_Form], body: bytes, content_type: str | None) -> _Form:
    """Read a body into one of the forms, in one pass. NaN in a field that nobody knows is a fault too."""
    if not body:
        raise ContractError([_MISSING])
    if not _is_json(content_type):
        raise ContractError([_NOT_AN_OBJECT])
    body = body.removeprefix(_BOM)
    try:
        read = form.model_validate_json(body)
    except ValidationError as error:
        raise ContractError(_body_faults(error, body)) from None
    for name, value in (read.model_extra or {}).items():
        _finite(value, name)
    return read


def _is_json(content_type: str | None) -> bool:
    """Whether the published service reads such a body as JSON: no header, or JSON by name or by suffix."""
    if not content_type:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    if kind.count("/") != 1:
        return False
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _body_faults(error: ValidationError, body: bytes) -> list[Fault]:
    """A validation error of a whole body, in the published service's words."""
    faults = _faults(error, ("body",))
    match faults[0]:
        case Fault(loc=("body",), type="json_invalid", msg=msg):
            return [Fault(loc=("body", _position(msg, body)), msg="JSON decode error", type="json_invalid")]
        case Fault(loc=("body",), type="model_type"):
            return [_MISSING if body.strip(_JSON_SPACE) == b"null" else _NOT_AN_OBJECT]
        case _:
            return faults


def _faults(error: ValidationError, prefix: tuple[str, ...]) -> list[Fault]:
    faults = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FAULTS]:
        loc, msg, kind = (*prefix, *detail["loc"]), detail["msg"], detail["type"]
        if kind in _INT64_TYPES and loc[-1] in _INT64_FIELDS:
            msg, kind = _TOO_BIG, "int_parsing_size"
        faults.append(Fault(loc=loc, msg=msg, type=kind))
    return faults


def _position(msg: str, body: bytes) -> int:
    """The offset in bytes of a syntax error, from the line and column in the parser's message."""
    if "EOF while parsing" in msg:
        return len(body)
    found = _POSITION.search(msg)
    if found is None:
        return 0
    line, column = int(found[1]), int(found[2])
    before = sum(len(text) + 1 for text in body.split(b"\n", line - 1)[: line - 1])
    return min(before + max(column - 1, 0), len(body))


def _fault(field: str, msg: str, kind: str) -> ContractError:
    return ContractError([Fault(loc=("body", field[:MAX_ECHO_CHARS]), msg=msg, type=kind)])


def _finite(value: object, field: str) -> str:
    """The value's compact JSON.

    Raises:
        ContractError: there is a NaN or an infinity in it.
    """
    try:
        return _compact(value)
    except ValueError:
        raise _fault(field, "Input should be a finite number", "finite_number") from None


def _clamped_ms(seconds: float | None, *, least: int, most: int) -> int | None:
    return None if seconds is None else round(min(max(seconds * 1_000, least), most))


def _metadata(form: _UrlBeat, most_bytes: int) -> str | Keep:
    if "worker_metadata" not in form.model_fields_set:
        return KEEP
    whole = _finite(form.worker_metadata, "worker_metadata")
    if len(whole.encode()) > most_bytes:
        raise _fault("worker_metadata", f"Input should have at most {most_bytes} bytes of compact JSON", "too_long")
    return whole


def _system_info(form: _UrlBeat, most_bytes: int) -> tuple[str | Keep | None, bool]:
    """The JSON to keep, and whether it was cut: the first keys that fit together are kept."""
    if "system_info" not in form.model_fields_set:
        return KEEP, False
    if form.system_info is None:
        return None, False
    whole = _finite(form.system_info, "system_info")
    if len(whole.encode()) <= most_bytes:
        return whole, False
    kept: list[str] = []
    used = len("{}")
    for name, value in form.system_info.items():
        member = _compact({name: value})[1:-1]
        used += len(member.encode()) + (1 if kept else 0)
        if used > most_bytes:
            break
        kept.append(member)
    return "{" + ",".join(kept) + "}", True


def _logs(form: _UrlBeat, most_bytes: int) -> tuple[str | Keep | None, bool]:
    """The JSON to keep, and whether it was cut: the newest lines that fit, or the end of the newest one."""
    if "logs" not in form.model_fields_set:
        return KEEP, False
    if form.logs is None:
        return None, False
    kept: list[str] = []
    used = len("[]")
    for line in reversed(form.logs[-MAX_LOG_LINES:]):
        text = _compact(line)
        used += len(text.encode()) + (1 if kept else 0)
        if used > most_bytes:
            break
        kept.append(text)
    if form.logs and not kept:
        kept = _end_of(form.logs[-1], most_bytes - len("[]"))
    elif len(kept) == len(form.logs):
        return "[" + ",".join(reversed(kept)) + "]", False
    return "[" + ",".join(reversed(kept)) + "]", True


def _end_of(line: str, most_bytes: int) -> list[str]:
    """The longest end of a line whose JSON fits, as a list of one text; empty when not even ``""`` does."""
    low, high = 0, min(len(line), max(most_bytes, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if len(_compact(line[len(line) - middle :]).encode()) <= most_bytes:
            low = middle
        else:
            high = middle - 1
    text = _compact(line[len(line) - low :])
    return [text] if len(text) <= most_bytes else []
