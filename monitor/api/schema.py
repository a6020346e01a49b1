"""The OpenAPI 3.1 document. A test holds it against the routes, and another sends what it allows."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from monitor.api.components import CONTRACT, OURS, Schema, listing, ref
from monitor.api.heartbeats import NEXT_BEAT, UNKNOWN_FIELDS
from monitor.api.oncall_schema import ONCALL, oncall_paths
from monitor.api.operations import (
    AUTH,
    CURSOR,
    LIMIT,
    NO_CONTENT,
    READ,
    SECONDS,
    answer_of,
    any_of,
    operation,
    query,
    responses,
)
from monitor.auth import Scope
from monitor.liveness import EventKind, Liveness

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
        NEXT_BEAT: {"description": "In how many seconds the next beat is expected.", **SECONDS},
        UNKNOWN_FIELDS: {
            "description": "Fields that are not known, when the beat has registered its worker.",
            "schema": {"type": "string"},
        },
    },
}


def _worker_paths() -> dict[str, Schema]:
    beat_problems = (*AUTH, "408", "413", "415", "429", "503")
    return {
        "/api/v1/workers/heartbeat": {
            "post": operation(
                name="worker_heartbeat_api_v1_workers_heartbeat_post",
                summary="Worker Heartbeat",
                scope=Scope.HEARTBEAT_WRITE,
                body=_BEAT,
                responses=responses(_BEATEN, beat_problems, code="204", contract=True),
            )
        },
        "/api/v1/workers/heartbeats": {
            "post": operation(
                name="heartbeat_batch",
                summary="Many beats, each as it would be sent alone; 200 only if every good one is stored",
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_CONTENT_ENCODING],
                body=listing(_BEAT),
                lines={"type": "string", "description": "A beat on each line."},
                responses=responses(
                    {"description": "Stored, but for the rejected", "content": answer_of("BatchAnswer")},
                    (*AUTH, "408", "413", "415", "503"),
                    contract=True,
                ),
            )
        },
        "/api/v1/workers/{worker_id}/heartbeat": {
            "post": operation(
                name="heartbeat_by_id",
                summary="A beat of the worker in the path; it keeps its environment",
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_WORKER_ID],
                body=ref("WorkerIdHeartbeatRequest"),
                responses=responses(_BEATEN, beat_problems, code="204", contract=True),
            )
        },
        "/api/v1/workers/{worker_id}/disconnect": {
            "post": operation(
                name="disconnect",
                summary="A goodbye: a clean stop or a failure",
                scope=Scope.HEARTBEAT_WRITE,
                parameters=[_WORKER_ID],
                body=ref("DisconnectRequest"),
                responses=responses(
                    NO_CONTENT, (*AUTH, "404", "408", "413", "415", "429", "503"), code="204", contract=True
                ),
            )
        },
        "/api/v1/workers": {
            "get": operation(
                name="list_workers",
                summary="Workers, page by page; one that is present throughout appears exactly once",
                scope=Scope.WORKERS_READ,
                parameters=[
                    any_of("environment", "Workers of this environment."),
                    any_of("liveness", "Workers of this liveness.", [word.value for word in Liveness]),
                    any_of("status", "Workers that report this status."),
                    any_of("text", "Workers whose id holds this text; case matters."),
                    CURSOR,
                    LIMIT,
                ],
                responses=responses({"description": "A page", "content": answer_of("WorkerList")}, READ),
            )
        },
        "/api/v1/workers/{worker_id}": {
            "get": operation(
                name="get_worker",
                summary="One worker, with its recent transitions",
                scope=Scope.WORKERS_READ,
                parameters=[_WORKER_ID],
                responses=responses(
                    {"description": "The worker", "content": answer_of("WorkerDetail")},
                    (*AUTH, "404", "503"),
                    contract=True,
                ),
            ),
            "delete": operation(
                name="delete_worker",
                summary="Erase a worker's record, metadata and logs at once",
                scope=Scope.ADMIN,
                parameters=[_WORKER_ID],
                responses=responses(NO_CONTENT, (*AUTH, "404", "503"), code="204", contract=True),
            ),
        },
    }


def _fleet_paths() -> dict[str, Schema]:
    return {
        "/api/v1/status": {
            "get": operation(
                name="get_status",
                summary="Counts by environment and liveness, true at this moment",
                scope=Scope.WORKERS_READ,
                responses=responses({"description": "The counts", "content": answer_of("Status")}, READ),
            )
        },
        "/api/v1/tenants": {
            "get": operation(
                name="list_tenants",
                summary="The tenants of which there is a worker",
                scope=Scope.OPERATOR,
                responses=responses({"description": "Their names", "content": answer_of("TenantList")}, READ),
            )
        },
        "/api/v1/events": {
            "get": operation(
                name="list_events",
                summary="The history, page by page; oldest first it never ends, so that a poller goes on",
                scope=Scope.WORKERS_READ,
                parameters=[
                    any_of("environment", "Events of workers that were in this environment."),
                    any_of("worker_id", "Events of this worker."),
                    any_of("type", "Events of this type.", [kind.value for kind in EventKind]),
                    query("order", "Oldest or newest first.", {"type": "string", "enum": ["asc", "desc"]}),
                    CURSOR,
                    LIMIT,
                ],
                responses=responses({"description": "A page", "content": answer_of("EventList")}, READ),
            )
        },
    }


def _own_paths() -> dict[str, Schema]:
    probe: Schema = {"description": "Yes", "content": answer_of("Probe")}
    no: Schema = {"description": "No; the reasons say why", "content": answer_of("Probe")}
    schema: Schema = {"description": "This document", "content": {"application/json": {"schema": {"type": "object"}}}}
    text: Schema = {"schema": {"type": "string"}}
    exposition: Schema = {
        "description": "All metrics, in the format that the Accept header asks for",
        "content": {"text/plain": text, "application/openmetrics-text": text},
    }

    def probing(name: str, summary: str) -> Schema:
        told = {**responses(probe, ()), "503": no}
        return {"get": operation(name=name, summary=summary, scope=None, responses=told)}

    def page(name: str, summary: str, success: Schema) -> Schema:
        told = responses(success, AUTH)
        return {"get": operation(name=name, summary=summary, scope=Scope.METRICS_READ, responses=told)}

    return {
        "/api/v1/revocations": {
            "post": operation(
                name="revoke_tokens",
                summary="Refuse one token, or those of a subject that were issued until now; in force within 5 s",
                scope=Scope.ADMIN,
                body=ref("RevocationRequest"),
                responses=responses(NO_CONTENT, (*AUTH, "408", "413", "415", "422", "429", "503"), code="204"),
            )
        },
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
        "paths": {**_worker_paths(), **_fleet_paths(), **oncall_paths(), **_own_paths()},
        "components": {
            "schemas": {**CONTRACT, **OURS, **ONCALL},
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
