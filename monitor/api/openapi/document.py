"""The OpenAPI 3.1 document. One test compares it with the routes, another sends requests generated from it."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Final

from litestar import Router

from monitor.api.batch import JSON_LINES
from monitor.api.heartbeats import NEXT_BEAT, UNKNOWN_FIELDS
from monitor.api.openapi.components import (
    AUTH,
    BODY,
    CONTRACT,
    Schema,
    answer,
    described_scope,
    make_polled,
    ours,
    ref,
    responses,
)
from monitor.api.openapi.typed import described
from monitor.api.responses import JSON
from monitor.auth import Scope

_WORKER_ID: Final[Schema] = {
    "name": "worker_id",
    "in": "path",
    "required": True,
    "description": "Opaque: percent-encode it as one segment (`a/b` is `a%2Fb`). Control characters are refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}
_CONTENT_ENCODING: Final[Schema] = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["identity", "gzip"]},
}
_BEAT: Final[Schema] = {"allOf": [ref("WorkerHeartbeatRequest"), ref("HeartbeatExtras")]}
_NO_CONTENT: Final[Schema] = {"description": "Done"}
_BEATEN: Final[Schema] = {
    "description": "Stored",
    "headers": {
        NEXT_BEAT: {
            "description": "Seconds until the next beat is expected.",
            "schema": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        },
        UNKNOWN_FIELDS: {
            "description": "Unknown fields of the beat; only if the beat has registered its worker.",
            "schema": {"type": "string"},
        },
    },
}


def _operation(
    name: str,
    summary: str,
    success: Schema,
    problems: Iterable[str],
    *,
    scope: Scope = Scope.HEARTBEAT_WRITE,
    parameters: Sequence[Schema] = (_WORKER_ID,),
    body: Mapping[str, Schema] | None = None,
    polled: bool = False,
) -> Schema:
    """An operation on workers. ``problems``: beyond those of all of them. ``body``: schemas by media type.

    ``polled``: its answers have a tag.
    """
    problems = {*AUTH, "503", *problems, *(() if body is None else BODY)}
    made: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": responses(success, problems, code="200" if "content" in success else "204", contract=True),
        "description": described_scope(scope),
    }
    if parameters:
        made["parameters"] = [*parameters]
    if body is not None:
        content = {kind: {"schema": schema} for kind, schema in body.items()}
        made["requestBody"] = {"required": True, "content": content}
    if polled:
        make_polled(made)
    return made


def _worker_paths() -> dict[str, Schema]:
    by_id = "Store a beat of the worker in the path; its environment is unchanged"
    line: Schema = {"type": "string", "description": "A beat on each line."}
    return {
        "/api/v1/workers/heartbeat": {
            "post": _operation(
                "worker_heartbeat_api_v1_workers_heartbeat_post",
                "Worker Heartbeat",
                _BEATEN,
                ["429"],
                parameters=(),
                body={JSON: _BEAT},
            )
        },
        "/api/v1/workers/heartbeats": {
            "post": _operation(
                "heartbeat_batch",
                "Store many beats; 200 only if every valid one is stored",
                answer("All beats are stored, except the rejected ones", "BatchAnswer"),
                (),
                parameters=[_CONTENT_ENCODING],
                body={JSON: {"type": "array", "items": _BEAT}, **dict.fromkeys(JSON_LINES, line)},
            )
        },
        "/api/v1/workers/{worker_id}/heartbeat": {
            "post": _operation("heartbeat_by_id", by_id, _BEATEN, ["429"], body={JSON: ref("WorkerIdHeartbeatRequest")})
        },
        "/api/v1/workers/{worker_id}/disconnect": {
            "post": _operation(
                "disconnect",
                "Report a clean stop or a failure",
                _NO_CONTENT,
                ["404", "429"],
                body={JSON: ref("DisconnectRequest")},
            )
        },
        "/api/v1/workers/{worker_id}": {
            "get": _operation(
                "get_worker",
                "Get a worker with its recent transitions",
                answer("The worker", "WorkerDetail"),
                ["404"],
                scope=Scope.WORKERS_READ,
                polled=True,
            ),
            "delete": _operation(
                "delete_worker",
                "Delete a worker's record, metadata and logs immediately",
                _NO_CONTENT,
                ["404"],
                scope=Scope.ADMIN,
            ),
        },
    }


def _own_paths() -> dict[str, Schema]:
    schema: Schema = {"description": "This document", "content": {"application/json": {"schema": {"type": "object"}}}}
    text: Schema = {"schema": {"type": "string"}}
    exposition: Schema = {
        "description": "All metrics, in the format that the Accept header asks for",
        "content": {"text/plain": text, "application/openmetrics-text": text},
    }

    def probing(name: str, summary: str) -> Schema:
        answers = {**responses(answer("Yes", "Probe"), ()), "503": answer("No; see the reasons", "Probe")}
        return {"get": {"operationId": name, "summary": summary, "responses": answers, "security": []}}

    def page(name: str, summary: str, success: Schema) -> Schema:
        scope = described_scope(Scope.METRICS_READ)
        answers = responses(success, AUTH)
        return {"get": {"operationId": name, "summary": summary, "responses": answers, "description": scope}}

    return {
        "/livez": probing("livez", "Is the event loop running?"),
        "/readyz": probing("readyz", "Does this replica store beats?"),
        "/healthz": probing("healthz", "Is the monitor itself healthy?"),
        "/metrics": page("metrics", "Metrics for Prometheus", exposition),
        "/schema": page("schema", "The OpenAPI document", schema),
        "/schema/openapi.json": page("schema_file", "The OpenAPI document", schema),
    }


def document(typed: Sequence[Router]) -> Schema:
    """Create the document: operations written by hand, and those generated from the typed endpoints."""
    paths, schemas = described(typed)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lastseen",
            "version": metadata.version("lastseen"),
            "description": "Liveness monitoring: workers post heartbeats; a worker that falls silent is reported once.",
        },
        "security": [{"BearerAuth": []}, {"UserKey": []}],
        "paths": {**_worker_paths(), **paths, **_own_paths()},
        "components": {
            "schemas": {**CONTRACT, **ours(), **schemas},
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
                    "description": "The same token in a separate header, or as `Authorization: UserKey <token>`.",
                },
            },
        },
    }
