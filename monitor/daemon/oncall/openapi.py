"""The on-call side in the OpenAPI document: incidents, silences, deliveries, receivers."""

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
    "cause": {"type": "string", "description": "The kind of the last failure; empty: there was none."},
    "answer": {"type": "string", "description": "How the receiver's answer to it began, at most 2 KiB."},
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
    "disabled": {"type": ["string", "null"], "description": "Why nothing is sent until somebody enables it."},
}


def _closed(required: Iterable[str], **properties: Schema) -> Schema:
    """A body in which nothing else may be."""
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
    "description": "`*` is the only wildcard; `?`, `[` and `]` are refused. With `exact` the text itself.",
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
            exact={"type": "boolean", "default": False, "description": "No value is a pattern."},
        ),
        "description": "Which workers the silence matches; all that are given have to fit, and one has to be given.",
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
        "description": "One of `ends_at` and `for_seconds` has to be given.",
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
        body={"type": ["object", "null"], "description": "As it was sent; null when it is kept no more."},
        monitor=_MONITOR,
    ),
    "DeliveryList": _page("deliveries", "Delivery"),
    "ReplayRequest": _closed(
        (), force={"type": "boolean", "default": False, "description": "Send it although it is overtaken."}
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
    "receiver", "The receiver; without it the notification is looked for at every one.", {"type": "string"}
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
    """The paths of the on-call side."""
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
    """An operation that changes something, and whose body may be left out."""
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
    state = query("state", "Which.", {"type": "string", "enum": list(INCIDENT_STATES), "default": "open"})
    taking = "Take an incident over: no reminder is begun after the answer; the first ack stands"
    return {
        "/api/v1/incidents": {
            "get": operation(
                "list_incidents",
                "Incidents, page by page, those opened last first",
                answer("A page", "IncidentList"),
                parameters=[state, any_of("environment", "Incidents of this environment."), CURSOR, LIMIT],
            )
        },
        "/api/v1/incidents/{incident_id}": {
            "get": operation("get_incident", "One incident", detail, READ_ONE, parameters=[_INCIDENT_ID])
        },
        "/api/v1/incidents/{incident_id}/ack": {
            "post": _change(
                "acknowledge_incident",
                taking,
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
                "Silences, the newest first; by default those that are active or pending",
                answer("A page", "SilenceList"),
                parameters=[states, CURSOR, LIMIT],
            ),
            "post": operation(
                "add_silence",
                "Suppress notifications for the workers that match, until a set end; detection continues",
                answer("The silence, and warnings", "SilenceAdded"),
                (*AUTH, "408", "413", "415", "422", "429", "503"),
                scope=Scope.ALERTS_WRITE,
                body=ref("SilenceRequest"),
                code="201",
            ),
        },
        "/api/v1/silences/{silence_id}": {
            "get": operation(
                "get_silence", "One silence", answer("The silence", "SilenceDetail"), READ_ONE, parameters=[_SILENCE_ID]
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
        "Those in flight, those given up, or those that have ended otherwise.",
        {"type": "string", "enum": list(DELIVERY_STATES), "default": "dead_lettered"},
    )
    return {
        "/api/v1/deliveries": {
            "get": operation(
                "list_deliveries",
                "Notifications, page by page, the newest first; by default the dead letters",
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
                "One notification, with its body while that is kept",
                answer("The notification", "DeliveryDetail"),
                (*READ, "404"),
                operator=True,
                parameters=one,
            )
        },
        "/api/v1/deliveries/{nid}/replay": {
            "post": _change(
                "replay_delivery",
                "Put a dead letter back into the queue, with the same id and body",
                done,
                "409",
                parameters=one,
                body=ref("ReplayRequest"),
            )
        },
        "/api/v1/deliveries/replay": {
            "post": _change(
                "replay_deliveries",
                "Put the dead letters of a receiver back into the queue, page by page, the newest first",
                answer("How many", "Replayed"),
                parameters=[{**_RECEIVER_FILTER, "required": True, "description": "The receiver."}, CURSOR],
            )
        },
        "/api/v1/deliveries/{nid}/drop": {
            "post": _change("drop_delivery", "Throw a dead letter away", done, "409", parameters=one)
        },
        "/api/v1/events/{event_id}/outcomes": {
            "get": operation(
                "event_outcomes",
                "What became of an event at each receiver; for the newest events that are kept",
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
                "The receivers, and how their queues stand",
                answer("The receivers", "ReceiverList"),
                operator=True,
            )
        },
        "/api/v1/receivers/{name}/enable": {
            "post": _change(
                "enable_receiver",
                "Go on sending to a receiver that said that it is gone",
                answer("The receiver", "ReceiverDetail"),
                parameters=[_NAME],
                scope=Scope.ADMIN,
            )
        },
        "/api/v1/receivers/{name}/test": {
            "post": _change(
                "test_receiver",
                "Send a test notification at once, and say what came of it",
                answer("What came of it", "Trial"),
                "429",
                parameters=[_NAME],
                scope=Scope.ADMIN,
            )
        },
    }
