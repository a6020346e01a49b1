"""The OpenAPI 3.1 document. A test holds it against the routes, and another sends what it allows."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Final

from monitor.api.batch import JSON_LINES
from monitor.api.components import CONTRACT, OURS, Schema, listing, ref
from monitor.api.heartbeats import NEXT_BEAT
from monitor.api.requests import DEFAULT_LIMIT, MAX_LIMIT
from monitor.auth import Refusal, Scope
from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROBLEM: Final = {"application/problem+json": {"schema": ref("Problem")}}
_SECONDS: Final[Schema] = {"schema": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}}
_RETRY_AFTER: Final[Schema] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_PROBLEMS: Final[dict[str, Schema]] = {
    "400": {"description": "The Host header cannot be used"},
    "401": {
        "description": "The token is not good; `reason` is one of " + ", ".join(f"`{word}`" for word in Refusal),
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    },
    "403": {"description": "The token lacks the scope, or is restricted to other workers or environments"},
    "404": {"description": "There is no such worker, or none that this token may see"},
    "408": {"description": "The body did not come within 10 s"},
    "413": {"description": "The body is over its limit; the detail names it"},
    "415": {"description": "The body comes in a type or an encoding that is not taken"},
    "422": {"description": "A query parameter cannot be used; the detail names it and its value"},
    "429": {"description": "A quota is reached; the detail names it", "headers": _RETRY_AFTER},
    "500": {"description": "An error of ours"},
    "503": {"description": "The store cannot take this now; nothing was acknowledged", "headers": _RETRY_AFTER},
}
_EVERYWHERE: Final = ("400", "500")


def _json(name: str) -> Schema:
    return {"application/json": {"schema": ref(name)}}


def _responses(
    success: Schema, problems: Iterable[str], *, code: str = "200", contract: bool = False
) -> dict[str, Schema]:
    told = {key: {**_PROBLEMS[key], "content": _PROBLEM} for key in sorted({*problems, *_EVERYWHERE})}
    if contract:
        told["422"] = {"description": "Validation Error", "content": _json("HTTPValidationError")}
    return {code: success, **told}


def _operation(
    *,
    name: str,
    summary: str,
    scope: Scope | None,
    responses: dict[str, Schema],
    parameters: list[Schema] | None = None,
    body: Schema | None = None,
    lines: Schema | None = None,
) -> Schema:
    operation: Schema = {"operationId": name, "summary": summary, "responses": responses}
    if scope is None:
        operation["security"] = []
    else:
        operation["description"] = f"Scope: `{scope.value}`."
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        content: Schema = {"application/json": {"schema": body}}
        if lines is not None:
            content |= {kind: {"schema": lines} for kind in JSON_LINES}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _any_of(name: str, description: str, words: Iterable[str] | None = None) -> Schema:
    item: Schema = {"type": "string"} if words is None else {"type": "string", "enum": list(words)}
    schema: Schema = {"type": "array", "items": item, "maxItems": 20}
    return {**_query(name, f"{description} Repeated: any of them.", schema), "style": "form", "explode": True}


_WORKER_ID: Final[Schema] = {
    "name": "worker_id",
    "in": "path",
    "required": True,
    "description": "Opaque: percent-encode it as one segment (`a/b` is `a%2Fb`). Control characters are refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}
_CURSOR: Final = _query("cursor", "The `next_cursor` of the page before, with the same filters.", {"type": "string"})
_LIMIT: Final = _query(
    "limit",
    "At most this many; a page may be shorter although more follow.",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
)
_CONTENT_ENCODING: Final[Schema] = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["identity", "gzip"]},
}
_BEAT: Final[Schema] = {"allOf": [ref("WorkerHeartbeatRequest"), ref("HeartbeatExtras")]}
_AUTH: Final = ("401", "403")
_READ: Final = (*_AUTH, "422", "503")
_NO_CONTENT: Final[Schema] = {"description": "Done"}
_BEATEN: Final[Schema] = {
    "description": "Stored",
    "headers": {NEXT_BEAT: {"description": "In how many seconds the next beat is expected.", **_SECONDS}},
}


def _worker_paths() -> dict[str, Schema]:
    beat_problems = (*_AUTH, "408", "413", "429", "503")
    return {
        "/api/v1/workers/heartbeat": {
            "post": _operation(
                name="worker_heartbeat_api_v1_workers_heartbeat_post",
                summary="Worker Heartbeat",
                scope=Scope.HEARTBEAT_WRITE,
                body=_BEAT,
                responses=_responses(_BEATEN, beat_problems, code="204", contract=True),
            )
        },
        "/api/v1/workers/heartbeats": {
            "post": _operation(
                name="heartbeat_batch",
                summary="Many beats, each as it would be sent alone; 200 only if every good one is stored",
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_CONTENT_ENCODING],
                body=listing(_BEAT),
                lines={"type": "string", "description": "A beat on each line."},
                responses=_responses(
                    {"description": "Stored, but for the rejected", "content": _json("BatchAnswer")},
                    (*_AUTH, "408", "413", "415", "503"),
                    contract=True,
                ),
            )
        },
        "/api/v1/workers/{worker_id}/heartbeat": {
            "post": _operation(
                name="heartbeat_by_id",
                summary="A beat of the worker in the path; it keeps its environment",
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_WORKER_ID],
                body=ref("WorkerIdHeartbeatRequest"),
                responses=_responses(_BEATEN, beat_problems, code="204", contract=True),
            )
        },
        "/api/v1/workers/{worker_id}/disconnect": {
            "post": _operation(
                name="disconnect",
                summary="A goodbye: a clean stop or a failure",
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_WORKER_ID],
                body=ref("DisconnectRequest"),
                responses=_responses(_NO_CONTENT, (*_AUTH, "404", "408", "413", "503"), code="204", contract=True),
            )
        },
        "/api/v1/workers": {
            "get": _operation(
                name="list_workers",
                summary="Workers, page by page; one that is present throughout appears exactly once",
                scope=Scope.WORKERS_READ,
                parameters=[
                    _any_of("environment", "Workers of this environment."),
                    _any_of("liveness", "Workers of this liveness.", [word.value for word in Liveness]),
                    _any_of("status", "Workers that report this status."),
                    _any_of("text", "Workers whose id holds this text; case matters."),
                    _CURSOR,
                    _LIMIT,
                ],
                responses=_responses({"description": "A page", "content": _json("WorkerList")}, _READ),
            )
        },
        "/api/v1/workers/{worker_id}": {
            "get": _operation(
                name="get_worker",
                summary="One worker, with its recent transitions",
                scope=Scope.WORKERS_READ,
                parameters=[_WORKER_ID],
                responses=_responses(
                    {"description": "The worker", "content": _json("WorkerDetail")},
                    (*_AUTH, "404", "503"),
                    contract=True,
                ),
            ),
            "delete": _operation(
                name="delete_worker",
                summary="Erase a worker's record, metadata and logs at once",
                scope=Scope.ADMIN,
                parameters=[_WORKER_ID],
                responses=_responses(_NO_CONTENT, (*_AUTH, "404", "503"), code="204", contract=True),
            ),
        },
    }


def _fleet_paths() -> dict[str, Schema]:
    return {
        "/api/v1/status": {
            "get": _operation(
                name="get_status",
                summary="Counts by environment and liveness, true at this moment",
                scope=Scope.WORKERS_READ,
                responses=_responses({"description": "The counts", "content": _json("Status")}, _READ),
            )
        },
        "/api/v1/events": {
            "get": _operation(
                name="list_events",
                summary="The history, page by page; oldest first it never ends, so that a poller goes on",
                scope=Scope.WORKERS_READ,
                parameters=[
                    _any_of("environment", "Events of workers that were in this environment."),
                    _any_of("worker_id", "Events of this worker."),
                    _any_of("type", "Events of this type.", [kind.value for kind in EventKind]),
                    _query("order", "Oldest or newest first.", {"type": "string", "enum": ["asc", "desc"]}),
                    _CURSOR,
                    _LIMIT,
                ],
                responses=_responses({"description": "A page", "content": _json("EventList")}, _READ),
            )
        },
    }


def _own_paths() -> dict[str, Schema]:
    probe: Schema = {"description": "Yes", "content": _json("Probe")}
    no: Schema = {"description": "No; the reasons say why", "content": _json("Probe")}
    schema: Schema = {"description": "This document", "content": {"application/json": {"schema": {"type": "object"}}}}
    text: Schema = {"schema": {"type": "string"}}
    exposition: Schema = {
        "description": "All metrics, in the format that the Accept header asks for",
        "content": {"text/plain": text, "application/openmetrics-text": text},
    }

    def probing(name: str, summary: str) -> Schema:
        responses = {**_responses(probe, ()), "503": no}
        return {"get": _operation(name=name, summary=summary, scope=None, responses=responses)}

    def page(name: str, summary: str, success: Schema) -> Schema:
        responses = _responses(success, _AUTH)
        return {"get": _operation(name=name, summary=summary, scope=Scope.METRICS_READ, responses=responses)}

    return {
        "/livez": probing("livez", "Does the loop turn?"),
        "/readyz": probing("readyz", "Does this replica store beats?"),
        "/healthz": probing("healthz", "Is all well with the monitor itself?"),
        "/metrics": page("metrics", "Metrics for Prometheus", exposition),
        "/schema": page("schema", "The OpenAPI document", schema),
        "/schema/openapi.json": page("schema_file", "The OpenAPI document", schema),
    }


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lastseen",
            "version": metadata.version("lastseen"),
            "description": "Liveness monitoring: workers post heartbeats, the ones that fall silent are reported once.",
        },
        "security": [{"BearerAuth": []}, {"UserKey": []}],
        "paths": {**_worker_paths(), **_fleet_paths(), **_own_paths()},
        "components": {
            "schemas": {**CONTRACT, **OURS},
            "securitySchemes": {
                "BearerAuth": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "API token (format: Bearer <token>)",
                },
                "UserKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "UserKey",
                    "description": "The same token in a header of its own, or as `Authorization: UserKey <token>`.",
                },
            },
        },
    }
