"""Schemas that are not of a typed endpoint: those of the published contract, unchanged, and Lastseen's own."""

from __future__ import annotations

from typing import Any, Final

from monitor.api.contract.strict import DisconnectRequest, WorkerIdHeartbeatRequest

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def listing(items: Schema) -> Schema:
    """An array of these items."""
    return {"type": "array", "items": items}


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

PROBLEM: Final[Schema] = {
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
        "Problem": PROBLEM,
    }
