"""Parts of the document: schemas that are not of a typed endpoint, answers and problems."""

from collections.abc import Iterable
from typing import Any, Final

from monitor.api.contract.strict import DisconnectRequest, WorkerIdHeartbeatRequest
from monitor.auth import Refusal, Scope

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


CONTRACT: Final[dict[str, Schema]] = {
    "WorkerHeartbeatRequest": {
        "properties": {
            "worker_id": {"type": "string", "title": "Worker Id"},
            "environment_name": {"type": "string", "title": "Environment Name"},
            "status": {"type": "string", "title": "Status", "default": "active"},
            "tasks_processed": {"type": "integer", "title": "Tasks Processed", "default": 0},
            "current_task_id": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Current Task Id"},
            "worker_metadata": {
                "additionalProperties": True,
                "type": "object",
                "title": "Worker Metadata",
                "default": {},
            },
        },
        "type": "object",
        "required": ["worker_id", "environment_name"],
        "title": "WorkerHeartbeatRequest",
        "description": "Worker heartbeat request",
    },
    "HTTPValidationError": {
        "properties": {"detail": {"items": ref("ValidationError"), "type": "array", "title": "Detail"}},
        "type": "object",
        "title": "HTTPValidationError",
    },
    "ValidationError": {
        "properties": {
            "loc": {
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "type": "array",
                "title": "Location",
            },
            "msg": {"type": "string", "title": "Message"},
            "type": {"type": "string", "title": "Error Type"},
        },
        "type": "object",
        "required": ["loc", "msg", "type"],
        "title": "ValidationError",
    },
}
"""Verbatim from the published contract."""

_PROBLEM_DETAILS: Final[Schema] = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "Why a token was refused; only with 401."},
    },
}


def ours() -> dict[str, Schema]:
    """Schemas of Lastseen's own: requests of workers, as the models that read them, and problems."""
    beat, disconnect = WorkerIdHeartbeatRequest.model_json_schema(), DisconnectRequest.model_json_schema()
    published = CONTRACT["WorkerHeartbeatRequest"]["properties"]
    extras = {name: schema for name, schema in beat["properties"].items() if name not in published}
    description = "Fields in addition to the published ones. Omitted fields keep their last value."
    return {
        "HeartbeatExtras": {"type": "object", "description": description, "properties": extras},
        "WorkerIdHeartbeatRequest": beat,
        "DisconnectRequest": disconnect,
        "Problem": _PROBLEM_DETAILS,
    }


_PROBLEM_CONTENT: Final = {"application/problem+json": {"schema": ref("Problem")}}
_RETRY_AFTER: Final[Schema] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_PROBLEMS: Final[dict[str, Schema]] = {
    "400": {"description": "The Host header is invalid"},
    "401": {
        "description": "The token is invalid; `reason` is one of " + ", ".join(f"`{word}`" for word in Refusal),
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    },
    "403": {"description": "The token lacks the scope, or is restricted to other workers or environments"},
    "404": {"description": "Not found, or not visible to this token"},
    "408": {"description": "The body did not arrive within 10 s"},
    "409": {"description": "The current state does not allow this; the detail says why"},
    "413": {"description": "The body is over a limit; the detail names it"},
    "415": {"description": "The media type or the encoding of the body is not supported"},
    "422": {"description": "A query parameter or the body is invalid; the detail names the field and the reason"},
    "429": {"description": "A quota or a rate limit is reached; the detail names it", "headers": _RETRY_AFTER},
    "500": {"description": "Internal error; see the server log"},
    "503": {"description": "The store is unavailable or overloaded; nothing is acknowledged", "headers": _RETRY_AFTER},
}
_EVERYWHERE: Final = ("400", "500")
AUTH: Final = ("401", "403")
BODY: Final = ("408", "413", "415")
"""Problems of an operation with a body."""


def answer(description: str, name: str) -> Schema:
    """An answer that is JSON of this schema."""
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}


def responses(
    success: Schema, problems: Iterable[str], *, code: str = "200", contract: bool = False
) -> dict[str, Schema]:
    """The answers of an operation: ``success`` under ``code``, and problems by their status.

    ``contract``: with 422 in the published shape.
    """
    failures = {key: {**_PROBLEMS[key], "content": _PROBLEM_CONTENT} for key in sorted({*problems, *_EVERYWHERE})}
    if contract:
        failures["422"] = answer("Validation Error", "HTTPValidationError")
    return {code: success, **failures}


_STAMP: Final[Schema] = {
    "ETag": {"description": "Changes with what a poller is to learn of; weak.", "schema": {"type": "string"}},
    "Lastseen-Time": {
        "description": "The store's time for which the answer is true.",
        "schema": {"type": "string", "format": "date-time"},
    },
}


def make_polled(operation: Schema) -> None:
    """Add to an operation that its answer has a tag and a time, and that a client that has the tag gets a 304."""
    operation.setdefault("parameters", []).append(
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The tags of answers that the client has.",
            "schema": {"type": "string"},
        }
    )
    answers = operation["responses"]
    answers["200"]["headers"] = _STAMP
    answers["304"] = {"description": "The client has this answer", "headers": _STAMP}


def described_scope(scope: Scope, *, operator: bool = False) -> str:
    """The scope that an operation needs, in words. ``operator``: that scope is accepted too."""
    either = f", or `{Scope.OPERATOR.value}` for the data of any tenant" if operator else ""
    return f"Scope: `{scope.value}`{either}."
