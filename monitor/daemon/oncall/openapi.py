"""The on-call part of the OpenAPI document: incidents, silences, deliveries, receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.api.openapi.components import COUNT, FLAG, FREE, TEXT, TIME, Schema, listing, nullable, record, ref
from monitor.api.openapi.operations import (
    AUTH,
    CURSOR,
    LIMIT,
    NO_CONTENT,
    READ,
    READ_ONE,
    answer,
    any_of,
    operation,
    query,
)
from monitor.auth import Scope
from monitor.daemon.oncall.models import DELIVERY_STATES, INCIDENT_STATES, SILENCE_STATES
from monitor.liveness import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TIME_OR_NULL: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_MONITOR: Final = ref("Monitor")
_KIND: Final[Schema] = {"type": "string", "enum": [kind.value for kind in EventKind]}
_OUTCOME: Final[Schema] = {
    "type": "string",
    "enum": ["queued", "part_of", "delivered", "superseded", "silenced", "damped", "dead_lettered", "dropped"],
}

_INCIDENT: Final[dict[str, Schema]] = {
    "id": {"type": "string", "pattern": "^inc_[0-9a-f]{32}$"},
    "kind": {"type": "string", "enum": ["worker", "environment"]},
    "tenant": TEXT,
    "worker_id": nullable("string"),
    "environment_name": TEXT,
    "generation": nullable("integer"),
    "opened_by": _KIND,
    "opened_at": TIME,
    "detected_at": TIME,
    "updated_by": _KIND,
    "reason": TEXT,
    "closed_by": nullable("string"),
    "closed_at": _TIME_OR_NULL,
    "ack": {"oneOf": [ref("Ack"), {"type": "null"}]},
    "receivers": listing(TEXT),
    "part_of": nullable("string"),
    "members": COUNT,
    "members_open": COUNT,
}
_SILENCE: Final[dict[str, Schema]] = {
    "id": {"type": "string", "pattern": "^sil_[0-9a-f]{32}$"},
    "tenant": TEXT,
    "matchers": record(environment=nullable("string"), worker_id=nullable("string"), metadata=FREE, exact=FLAG),
    "state": {"type": "string", "enum": list(SILENCE_STATES)},
    "starts_at": TIME,
    "ends_at": TIME,
    "comment": TEXT,
    "author": TEXT,
    "created_at": TIME,
    "ended_at": _TIME_OR_NULL,
    "ended_by": nullable("string"),
}
_DELIVERY: Final[dict[str, Schema]] = {
    "nid": {"type": "string", "pattern": "^ntf_[0-9a-f]{32}$"},
    "receiver": TEXT,
    "type": TEXT,
    "tenant": TEXT,
    "outcome": _OUTCOME,
    "at": TIME,
    "created_at": TIME,
    "attempts": COUNT,
    "reason": TEXT,
    "cause": {"type": "string", "description": "Kind of the last failure; empty: no failure."},
    "answer": {
        "type": "string",
        "description": "Beginning of the receiver's answer to the last failed attempt, at most 2 KiB.",
    },
    "reminder": COUNT,
    "event_id": nullable("string"),
    "worker_id": nullable("string"),
    "environment_name": nullable("string"),
    "group": FREE,
}
_RECEIVER: Final[dict[str, Schema]] = {
    "name": TEXT,
    "queued": COUNT,
    "dead_letters": COUNT,
    "dead_letters_standing": COUNT,
    "lag_seconds": {"type": "number", "minimum": 0},
    "disabled": {"type": ["string", "null"], "description": "Why the receiver is disabled; null: it is enabled."},
}


def _closed(required: Iterable[str], **properties: Schema) -> Schema:
    """An object without other members."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _page(name: str, item: str) -> Schema:
    return record(**{name: listing(ref(item))}, next_cursor=nullable("string"), monitor=_MONITOR)


_PATTERN: Final[Schema] = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": 256,
    "description": "`*` is the only wildcard; `?`, `[` and `]` are refused. With `exact` a literal text.",
}

ONCALL: Final[dict[str, Schema]] = {
    "Ack": record(by=TEXT, comment=TEXT, at=TIME),
    "AckRequest": _closed(
        (),
        by={"type": ["string", "null"], "maxLength": 256, "description": "By default the token's subject."},
        comment={"type": "string", "maxLength": 1_000, "default": ""},
    ),
    "Incident": record(**_INCIDENT),
    "IncidentDetail": record(**_INCIDENT, monitor=_MONITOR),
    "IncidentList": _page("incidents", "Incident"),
    "Matchers": {
        **_closed(
            (),
            environment=_PATTERN,
            worker_id=_PATTERN,
            metadata={"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 16},
            exact={"type": "boolean", "default": False, "description": "Compare all values literally."},
        ),
        "description": "Workers that the silence matches. All given matchers must match; at least one is required.",
    },
    "SilenceRequest": {
        **_closed(
            ("matchers",),
            matchers=ref("Matchers"),
            comment={"type": "string", "maxLength": 1_000, "default": ""},
            author={"type": ["string", "null"], "maxLength": 256, "description": "By default the token's subject."},
            starts_at={**_TIME_OR_NULL, "description": "By default now."},
            ends_at=_TIME_OR_NULL,
            for_seconds={"type": ["number", "null"], "minimum": 1, "description": "Instead of `ends_at`."},
        ),
        "description": "Exactly one of `ends_at` and `for_seconds` is required.",
    },
    "Silence": record(**_SILENCE),
    "SilenceDetail": record(**_SILENCE, monitor=_MONITOR),
    "SilenceAdded": record(**_SILENCE, warnings=listing(TEXT), monitor=_MONITOR),
    "SilenceList": _page("silences", "Silence"),
    "Delivery": record(**_DELIVERY),
    "DeliveryDone": record(**_DELIVERY, monitor=_MONITOR),
    "Replayed": record(replayed=COUNT, over=COUNT, left=COUNT, next_cursor=nullable("string"), monitor=_MONITOR),
    "DeliveryDetail": record(
        **_DELIVERY,
        body={"type": ["object", "null"], "description": "The body as sent; null if it is not kept any more."},
        monitor=_MONITOR,
    ),
    "DeliveryList": _page("deliveries", "Delivery"),
    "ReplayRequest": _closed(
        (), force={"type": "boolean", "default": False, "description": "Replay it even if it is overtaken."}
    ),
    "EventOutcomes": record(
        event_id=TEXT,
        outcomes=listing(record(receiver=TEXT, outcome=_OUTCOME, at=TIME, nid=nullable("string"), reason=TEXT)),
        monitor=_MONITOR,
    ),
    "Receiver": record(**_RECEIVER),
    "ReceiverDetail": record(**_RECEIVER, monitor=_MONITOR),
    "ReceiverList": record(receivers=listing(ref("Receiver")), monitor=_MONITOR),
    "Trial": record(
        receiver=TEXT,
        nid=TEXT,
        delivered=FLAG,
        error=nullable("string"),
        seconds={"type": "number", "minimum": 0},
        monitor=_MONITOR,
    ),
}

_CHANGE: Final = (*AUTH, "404", "408", "413", "415", "422", "503")
_NOTHING: Final[Schema] = {"type": "object", "additionalProperties": False}
_RECEIVER_FILTER: Final = query(
    "receiver", "The receiver. By default the notification is searched at all receivers.", {"type": "string"}
)


def _named(name: str, description: str) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "minLength": 1, "maxLength": 256},
    }


_INCIDENT_ID: Final = _named("incident_id", "The id of an incident.")
_SILENCE_ID: Final = _named("silence_id", "The id of a silence.")
_NID: Final = _named("nid", "The id of a notification, its `webhook-id`.")
_EVENT_ID: Final = _named("event_id", "The id of an event.")
_NAME: Final = _named("name", "The name of a receiver.")


def oncall_paths() -> dict[str, Schema]:
    """The paths of the on-call API."""
    return {**_incident_paths(), **_silence_paths(), **_delivery_paths(), **_receiver_paths()}


def _change(
    name: str,
    summary: str,
    success: Schema,
    *problems: str,
    parameters: Sequence[Schema],
    body: Schema = _NOTHING,
    scope: Scope = Scope.ALERTS_WRITE,
    operator: bool = True,
) -> Schema:
    """An operation that changes state, with an optional body."""
    return operation(
        name,
        summary,
        success,
        (*_CHANGE, *problems),
        scope=scope,
        operator=operator,
        parameters=parameters,
        body=body,
        body_required=False,
    )


def _incident_paths() -> dict[str, Schema]:
    detail = answer("The incident", "IncidentDetail")
    states: Schema = {"type": "string", "enum": list(INCIDENT_STATES), "default": "open"}
    state = query("state", "Incidents in this state.", states)
    acknowledging = "Acknowledge an incident: no reminder is begun after the answer; the first ack remains"
    return {
        "/api/v1/incidents": {
            "get": operation(
                "list_incidents",
                "List incidents, newest first",
                answer("A page", "IncidentList"),
                parameters=[state, any_of("environment", "Incidents of this environment."), CURSOR, LIMIT],
            )
        },
        "/api/v1/incidents/{incident_id}": {
            "get": operation("get_incident", "Get an incident", detail, READ_ONE, parameters=[_INCIDENT_ID])
        },
        "/api/v1/incidents/{incident_id}/ack": {
            "post": _change(
                "acknowledge_incident",
                acknowledging,
                detail,
                "409",
                parameters=[_INCIDENT_ID],
                body=ref("AckRequest"),
                operator=False,
            )
        },
    }


def _silence_paths() -> dict[str, Schema]:
    states = any_of("state", "Silences in this state.", [*SILENCE_STATES, "all"])
    return {
        "/api/v1/silences": {
            "get": operation(
                "list_silences",
                "List silences, newest first; by default those that are active or pending",
                answer("A page", "SilenceList"),
                parameters=[states, CURSOR, LIMIT],
            ),
            "post": operation(
                "add_silence",
                "Suppress notifications for matching workers until a given time; detection continues",
                answer("The silence, and warnings", "SilenceAdded"),
                (*AUTH, "408", "413", "415", "422", "429", "503"),
                scope=Scope.ALERTS_WRITE,
                body=ref("SilenceRequest"),
                code="201",
            ),
        },
        "/api/v1/silences/{silence_id}": {
            "get": operation(
                "get_silence",
                "Get a silence",
                answer("The silence", "SilenceDetail"),
                READ_ONE,
                parameters=[_SILENCE_ID],
            ),
            "delete": operation(
                "end_silence",
                "End a silence now; workers that are still down and were never notified are notified",
                NO_CONTENT,
                READ_ONE,
                scope=Scope.ALERTS_WRITE,
                parameters=[_SILENCE_ID],
                code="204",
            ),
        },
    }


def _delivery_paths() -> dict[str, Schema]:
    done = answer("The notification", "DeliveryDone")
    one = [_NID, _RECEIVER_FILTER]
    outcome = query(
        "outcome",
        "Notifications in flight, dead-lettered, or finished in another way.",
        {"type": "string", "enum": list(DELIVERY_STATES), "default": "dead_lettered"},
    )
    return {
        "/api/v1/deliveries": {
            "get": operation(
                "list_deliveries",
                "List notifications, newest first; by default the dead letters",
                answer("A page", "DeliveryList"),
                (*READ, "404"),
                operator=True,
                parameters=[
                    query("receiver", "Notifications to this receiver.", {"type": "string"}),
                    outcome,
                    CURSOR,
                    LIMIT,
                ],
            )
        },
        "/api/v1/deliveries/{nid}": {
            "get": operation(
                "get_delivery",
                "Get a notification, with its body if that is still kept",
                answer("The notification", "DeliveryDetail"),
                (*READ, "404"),
                operator=True,
                parameters=one,
            )
        },
        "/api/v1/deliveries/{nid}/replay": {
            "post": _change(
                "replay_delivery",
                "Requeue a dead letter with the same id and body",
                done,
                "409",
                parameters=one,
                body=ref("ReplayRequest"),
            )
        },
        "/api/v1/deliveries/replay": {
            "post": _change(
                "replay_deliveries",
                "Requeue the dead letters of a receiver, page by page, newest first",
                answer("The numbers of dead letters", "Replayed"),
                parameters=[{**_RECEIVER_FILTER, "required": True, "description": "The receiver."}, CURSOR],
            )
        },
        "/api/v1/deliveries/{nid}/drop": {
            "post": _change("drop_delivery", "Drop a dead letter", done, "409", parameters=one)
        },
        "/api/v1/events/{event_id}/outcomes": {
            "get": operation(
                "event_outcomes",
                "Get the outcome of an event at each receiver; for the newest events only",
                answer("The outcomes", "EventOutcomes"),
                READ_ONE,
                parameters=[_EVENT_ID],
            )
        },
    }


def _receiver_paths() -> dict[str, Schema]:
    return {
        "/api/v1/receivers": {
            "get": operation(
                "list_receivers",
                "List the receivers with the status of their queues",
                answer("The receivers", "ReceiverList"),
                operator=True,
            )
        },
        "/api/v1/receivers/{name}/enable": {
            "post": _change(
                "enable_receiver",
                "Enable a receiver that was disabled because it answered that it is gone",
                answer("The receiver", "ReceiverDetail"),
                parameters=[_NAME],
                scope=Scope.ADMIN,
            )
        },
        "/api/v1/receivers/{name}/test": {
            "post": _change(
                "test_receiver",
                "Send a test notification now and return the result",
                answer("The result", "Trial"),
                "429",
                parameters=[_NAME],
                scope=Scope.ADMIN,
            )
        },
    }
