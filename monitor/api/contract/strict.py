"""The strict reader: parses every body with Pydantic. Accepts and refuses as the published service, with its faults."""

import re
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema

from monitor.api.contract.errors import MAX_FAULTS, MISSING, NOT_AN_OBJECT, ContractError, Fault, no_json, syntax_error
from monitor.api.contract.limits import finite
from monitor.liveness import LONGEST_ABSENCE_MS

MAX_NAME_CHARS: Final = 256

_INT64: Final = 2**63
_BOM: Final = b"\xef\xbb\xbf"
_JSON_SPACE: Final = b" \t\n\r"
_POSITION: Final = re.compile(r"at line (\d+) column (\d+)\Z")
_INT64_TYPES: Final = frozenset({"greater_than_equal", "less_than"})
_INT64_FIELDS: Final = frozenset({"tasks_processed", "exit_code"})
_TOO_BIG: Final = "Unable to parse input string as an integer, exceeded maximum size"

_Id = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$"),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}),
]
_Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
_Int64 = Annotated[int, Field(ge=-_INT64, lt=_INT64), WithJsonSchema({"type": "integer"})]
_Interval = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
_BackIn = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=LONGEST_ABSENCE_MS // 1_000)]
_Grace = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]


class _Ids(BaseModel):
    worker_id: _Id
    environment_name: _Id


class WorkerIdHeartbeatRequest(BaseModel):
    """A beat of the worker in the path. Omitted fields keep their last value."""

    # Unknown fields are kept to find NaN in them and to report them.
    model_config = ConfigDict(extra="allow")

    status: _Name = "active"
    tasks_processed: _Int64 = 0
    current_task_id: _Name | None = None
    worker_metadata: dict[str, Any] = {}
    system_info: dict[str, Any] | None = None
    logs: list[str] | None = None
    interval_seconds: _Interval | None = Field(
        None, description="Interval at which beats are expected; clamped to the configured bounds; null: the default."
    )
    grace_seconds: _Grace | None = Field(
        None, description="Tolerated delay after the interval; clamped to the configured bounds; null: the default."
    )


class HeartbeatRequest(WorkerIdHeartbeatRequest, _Ids):
    """A beat with the ids in the body. They are the first fields, so that their faults are the first too."""


class DisconnectRequest(BaseModel):
    """The body of a disconnect."""

    model_config = ConfigDict(extra="allow")

    reason: str = Field(description="`shutdown`, `done` or `completed` may be a clean stop.")
    environment_name: _Id | None = Field(
        None, description="Environment of an unknown worker, registered by a failure. Ignored for known workers."
    )
    exit_code: _Int64 | None = Field(
        None, description="Clean with `shutdown`: null, 0, 130, 143, -2, -15; with `done` and `completed`: 0."
    )
    error_message: str | None = None
    back_in_seconds: _BackIn | None = Field(
        None, description="Announces an absence, for a clean stop only. Without a beat in this time it is stale."
    )


Form = TypeVar("Form", bound=BaseModel)
_id_adapter: Final[TypeAdapter[str]] = TypeAdapter(_Id)


def read(form: type[Form], body: bytes, content_type: str | None) -> Form:
    """Parse a body into one of these models, in one pass. NaN in an unknown field is a fault too.

    Raises:
        ContractError: the body violates the contract; no other exception, for any bytes.
    """
    if not body:
        raise ContractError([MISSING])
    if content_type and not is_json(content_type):
        raise no_json(content_type)
    body = body.removeprefix(_BOM)
    try:
        parsed = form.model_validate_json(body)
    except ValidationError as error:
        raise ContractError(_body_faults(error, body)) from None
    for name, value in (parsed.model_extra or {}).items():
        finite(value, name)
    return parsed


def checked_id(worker_id: str, loc: tuple[str, ...]) -> str:
    """Return the id if it would be valid in a body.

    Raises:
        ContractError: the id is invalid; the faults are at ``loc``.
    """
    try:
        return _id_adapter.validate_python(worker_id)
    except ValidationError as error:
        raise ContractError(_faults(error, loc)) from None


def is_json(content_type: str | None) -> bool:
    """Whether the published service reads this Content-Type as JSON: none, ``application/json`` or ``+json``."""
    if not content_type:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    if kind.count("/") != 1:
        return False
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _body_faults(error: ValidationError, body: bytes) -> list[Fault]:
    """The faults of a body, with the messages of the published service."""
    faults = _faults(error, ("body",))
    match faults[0]:
        case Fault(loc=("body",), type="json_invalid", msg=msg):
            return syntax_error(_position(msg, body)).faults
        case Fault(loc=("body",), type="model_type"):
            return [MISSING if body.strip(_JSON_SPACE) == b"null" else NOT_AN_OBJECT]
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
    """Byte offset of a syntax error, from the line and column in the parser's message."""
    if "EOF while parsing" in msg:
        return len(body)
    found = _POSITION.search(msg)
    if found is None:
        return 0
    line, column = int(found[1]), int(found[2])
    before = sum(len(text) + 1 for text in body.split(b"\n", line - 1)[: line - 1])
    return min(before + max(column - 1, 0), len(body))
