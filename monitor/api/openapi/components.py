"""Schemas written by hand: those of the published contract, unchanged, and Lastseen's own that are not generated."""

from __future__ import annotations

from typing import Final

from monitor.liveness import LONGEST_ABSENCE_MS

Schema = dict[str, object]

TEXT: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def ref(name: str) -> Schema:
    """A reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def listing(items: Schema) -> Schema:
    """An array of these items."""
    return {"type": "array", "items": items}


def record(**properties: Schema) -> Schema:
    """An object with these members, all required."""
    return {"type": "object", "required": list(properties), "properties": properties}


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

_MORE: Final[dict[str, Schema]] = {
    "interval_seconds": {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "description": "Interval at which beats are expected; clamped to the configured bounds; null: the default.",
    },
    "grace_seconds": {
        "type": ["number", "null"],
        "minimum": 0,
        "description": "Tolerated delay after the interval; clamped to the configured bounds; null: the default.",
    },
    "system_info": {"type": ["object", "null"], "additionalProperties": True},
    "logs": {"type": ["array", "null"], "items": {"type": "string"}},
}

OURS: Final[dict[str, Schema]] = {
    "HeartbeatExtras": {
        "type": "object",
        "description": "Fields in addition to the published ones. Omitted fields keep their last value.",
        "properties": _MORE,
    },
    "WorkerIdHeartbeatRequest": {
        "type": "object",
        "description": "A beat of the worker in the path. Omitted fields keep their last value.",
        "properties": {
            "status": {"type": "string", "maxLength": 256, "default": "active"},
            "tasks_processed": {"type": "integer", "default": 0},
            "current_task_id": {"type": ["string", "null"], "maxLength": 256},
            "worker_metadata": {"type": "object", "additionalProperties": True, "default": {}},
            **_MORE,
        },
    },
    "DisconnectRequest": {
        "type": "object",
        "required": ["reason"],
        "properties": {
            "reason": {"type": "string", "description": "`shutdown`, `done` or `completed` may be a clean stop."},
            "exit_code": {
                "type": ["integer", "null"],
                "description": "Clean with `shutdown`: null, 0, 130, 143, -2, -15; with `done` and `completed`: 0.",
            },
            "environment_name": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": 256,
                "description": "Environment of an unknown worker, registered by a failure. Ignored for known workers.",
            },
            "error_message": {"type": ["string", "null"]},
            "back_in_seconds": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "maximum": LONGEST_ABSENCE_MS // 1_000,
                "description": "Announces an absence, for a clean stop only. Without a beat in this time it is stale.",
            },
        },
    },
    "BatchAnswer": {
        **record(
            stored=COUNT,
            superseded={
                **COUNT,
                "description": "Valid beats that were replaced by a later one of the same worker in this batch.",
            },
            rejected=listing(ref("RejectedBeat")),
        ),
        "description": "Every beat of the batch is stored, superseded or rejected.",
    },
    "RejectedBeat": record(
        index={**COUNT, "description": "Index in the array, or of the line, from 0; blank lines count."},
        worker_id={"type": ["string", "null"], "description": "Null if it could not be read."},
        status={"type": "integer", "enum": [403, 413, 422, 429], "description": "Status of the same beat sent alone."},
        detail={
            "description": "The first faults for 422, else a message.",
            "oneOf": [{"type": "string"}, listing(ref("ValidationError"))],
        },
    ),
    "Probe": {
        "type": "object",
        "required": ["status", "reasons"],
        "properties": {
            "status": {"type": "string", "enum": ["ok", "degraded", "not_ready"]},
            "reasons": listing(TEXT),
            "failing": listing(TEXT),
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "reason": {"type": "string", "description": "Why a token was refused; only with 401."},
        },
    },
}
