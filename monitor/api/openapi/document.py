"""The OpenAPI 3.1 document. One test compares it with the routes, another sends requests generated from it."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Final

from monitor.api.heartbeats import NEXT_BEAT, UNKNOWN_FIELDS
from monitor.api.openapi.components import CONTRACT, Schema, listing, ours, ref
from monitor.api.openapi.operations import AUTH, NO_CONTENT, READ_ONE, SECONDS, answer, operation, responses
from monitor.api.openapi.typed import described
from monitor.auth import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from litestar import Router

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
_BEATEN: Final[Schema] = {
    "description": "Stored",
    "headers": {
        NEXT_BEAT: {"description": "Seconds until the next beat is expected.", **SECONDS},
        UNKNOWN_FIELDS: {
            "description": "Unknown fields of the beat; only if the beat has registered its worker.",
            "schema": {"type": "string"},
        },
    },
}


def _beat(name: str, summary: str, body: Schema, parameters: Sequence[Schema] = ()) -> Schema:
    return operation(
        name,
        summary,
        _BEATEN,
        (*AUTH, "408", "413", "415", "429", "503"),
        scope=Scope.HEARTBEAT_WRITE,
        parameters=parameters,
        body=body,
        code="204",
        contract=True,
    )


def _worker_paths() -> dict[str, Schema]:
    by_id = "Store a beat of the worker in the path; its environment is unchanged"
    return {
        "/api/v1/workers/heartbeat": {
            "post": _beat("worker_heartbeat_api_v1_workers_heartbeat_post", "Worker Heartbeat", _BEAT)
        },
        "/api/v1/workers/heartbeats": {
            "post": operation(
                "heartbeat_batch",
                "Store many beats; 200 only if every valid one is stored",
                answer("All beats are stored, except the rejected ones", "BatchAnswer"),
                (*AUTH, "408", "413", "415", "503"),
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_CONTENT_ENCODING],
                body=listing(_BEAT),
                lines={"type": "string", "description": "A beat on each line."},
                contract=True,
            )
        },
        "/api/v1/workers/{worker_id}/heartbeat": {
            "post": _beat("heartbeat_by_id", by_id, ref("WorkerIdHeartbeatRequest"), [_WORKER_ID])
        },
        "/api/v1/workers/{worker_id}/disconnect": {
            "post": operation(
                "disconnect",
                "Report a clean stop or a failure",
                NO_CONTENT,
                (*AUTH, "404", "408", "413", "415", "429", "503"),
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_WORKER_ID],
                body=ref("DisconnectRequest"),
                code="204",
                contract=True,
            )
        },
        "/api/v1/workers/{worker_id}": {
            "get": operation(
                "get_worker",
                "Get a worker with its recent transitions",
                answer("The worker", "WorkerDetail"),
                READ_ONE,
                parameters=[_WORKER_ID],
                contract=True,
            ),
            "delete": operation(
                "delete_worker",
                "Delete a worker's record, metadata and logs immediately",
                NO_CONTENT,
                READ_ONE,
                scope=Scope.ADMIN,
                parameters=[_WORKER_ID],
                code="204",
                contract=True,
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
        return {"get": operation(name, summary, success, AUTH, scope=Scope.METRICS_READ)}

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
