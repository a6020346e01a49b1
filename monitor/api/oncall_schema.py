"""The on-call side in the OpenAPI document: incidents, silences, deliveries, receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.api.components import COUNT, FLAG, FREE, TEXT, TIME, Schema, listing, nullable, record, ref
from monitor.api.oncall import DELIVERY_STATES, INCIDENT_STATES, SILENCE_STATES
from monitor.api.operations import AUTH, CURSOR, LIMIT, NO_CONTENT, READ, answer_of, any_of, operation, query, responses
from monitor.auth import Scope
from monitor.liveness import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def _incident_paths() -> dict[str, Schema]:
    return {
        "/api/v1/incidents": {
            "get": operation(
                name="list_incidents",
                summary="Incidents, page by page, those opened last first",
                scope=Scope.WORKERS_READ,
                parameters=[
                    query("state", "Which.", {"type": "string", "enum": list(INCIDENT_STATES), "default": "open"}),
                    any_of("environment", "Incidents of this environment."),
                    CURSOR,
                    LIMIT,
                ],
                responses=responses({"description": "A page", "content": answer_of("IncidentList")}, READ),
            )
        },
        "/api/v1/incidents/{incident_id}": {
            "get": operation(
                name="get_incident",
                summary="One incident",
                scope=Scope.WORKERS_READ,
                parameters=[_INCIDENT_ID],
                responses=responses(
                    {"description": "The incident", "content": answer_of("IncidentDetail")}, (*AUTH, "404", "503")
                ),
            )
        },
        "/api/v1/incidents/{incident_id}/ack": {
            "post": operation(
                name="acknowledge_incident",
                summary="Take an incident over: no reminder is begun after the answer; the first ack stands",
                scope=Scope.ALERTS_WRITE,
                parameters=[_INCIDENT_ID],
                body=ref("AckRequest"),
                body_required=False,
                responses=responses(
                    {"description": "The incident", "content": answer_of("IncidentDetail")}, (*_CHANGE, "409")
                ),
            )
        },
    }


def _silence_paths() -> dict[str, Schema]:
    states = [*SILENCE_STATES, "all"]
    return {
        "/api/v1/silences": {
            "get": operation(
                name="list_silences",
                summary="Silences, the newest first; by default those that are active or pending",
                scope=Scope.WORKERS_READ,
                parameters=[any_of("state", "Silences in this state.", states), CURSOR, LIMIT],
                responses=responses({"description": "A page", "content": answer_of("SilenceList")}, READ),
            ),
            "post": operation(
                name="add_silence",
                summary="Tell nobody of the workers that match, until a set end; detection goes on",
                scope=Scope.ALERTS_WRITE,
                body=ref("SilenceRequest"),
                responses=responses(
                    {"description": "The silence, and warnings", "content": answer_of("SilenceAdded")},
                    (*AUTH, "408", "413", "415", "422", "429", "503"),
                    code="201",
                ),
            ),
        },
        "/api/v1/silences/{silence_id}": {
            "get": operation(
                name="get_silence",
                summary="One silence",
                scope=Scope.WORKERS_READ,
                parameters=[_SILENCE_ID],
                responses=responses(
                    {"description": "The silence", "content": answer_of("SilenceDetail")}, (*AUTH, "404", "503")
                ),
            ),
            "delete": operation(
                name="end_silence",
                summary="End a silence now; who is still down and was never told of is told of",
                scope=Scope.ALERTS_WRITE,
                parameters=[_SILENCE_ID],
                responses=responses(NO_CONTENT, (*AUTH, "404", "503"), code="204"),
            ),
        },
    }


def _delivery_paths() -> dict[str, Schema]:
    done: Schema = {"description": "The notification", "content": answer_of("DeliveryDone")}
    return {
        "/api/v1/deliveries": {
            "get": operation(
                name="list_deliveries",
                summary="Notifications, page by page, the newest first; by default the dead letters",
                scope=Scope.WORKERS_READ,
                operator=True,
                parameters=[
                    query("receiver", "Notifications to this receiver.", {"type": "string"}),
                    query(
                        "outcome",
                        "Those in attempts, those given up, or those that are done otherwise.",
                        {"type": "string", "enum": list(DELIVERY_STATES), "default": "dead_lettered"},
                    ),
                    CURSOR,
                    LIMIT,
                ],
                responses=responses({"description": "A page", "content": answer_of("DeliveryList")}, (*READ, "404")),
            )
        },
        "/api/v1/deliveries/{nid}": {
            "get": operation(
                name="get_delivery",
                summary="One notification, with its body while that is kept",
                scope=Scope.WORKERS_READ,
                operator=True,
                parameters=[_NID, _RECEIVER_FILTER],
                responses=responses(
                    {"description": "The notification", "content": answer_of("DeliveryDetail")}, (*READ, "404")
                ),
            )
        },
        "/api/v1/deliveries/{nid}/replay": {
            "post": operation(
                name="replay_delivery",
                summary="Put a dead letter back into the queue, with the same id and body",
                scope=Scope.ALERTS_WRITE,
                operator=True,
                parameters=[_NID, _RECEIVER_FILTER],
                body=ref("ReplayRequest"),
                body_required=False,
                responses=responses(done, (*_CHANGE, "409")),
            )
        },
        "/api/v1/deliveries/replay": {
            "post": operation(
                name="replay_deliveries",
                summary="Put the dead letters of a receiver back into the queue, page by page, the newest first",
                scope=Scope.ALERTS_WRITE,
                operator=True,
                parameters=[{**_RECEIVER_FILTER, "required": True, "description": "The receiver."}, CURSOR],
                body=_NOTHING,
                body_required=False,
                responses=responses({"description": "How many", "content": answer_of("Replayed")}, _CHANGE),
            )
        },
        "/api/v1/deliveries/{nid}/drop": {
            "post": operation(
                name="drop_delivery",
                summary="Throw a dead letter away",
                scope=Scope.ALERTS_WRITE,
                operator=True,
                parameters=[_NID, _RECEIVER_FILTER],
                body=_NOTHING,
                body_required=False,
                responses=responses(done, (*_CHANGE, "409")),
            )
        },
        "/api/v1/events/{event_id}/outcomes": {
            "get": operation(
                name="event_outcomes",
                summary="What became of an event at each receiver; for the newest events that are kept",
                scope=Scope.WORKERS_READ,
                parameters=[_EVENT_ID],
                responses=responses(
                    {"description": "The outcomes", "content": answer_of("EventOutcomes")}, (*AUTH, "404", "503")
                ),
            )
        },
    }


def _receiver_paths() -> dict[str, Schema]:
    return {
        "/api/v1/receivers": {
            "get": operation(
                name="list_receivers",
                summary="The receivers, and how their queues stand",
                scope=Scope.WORKERS_READ,
                operator=True,
                responses=responses({"description": "The receivers", "content": answer_of("ReceiverList")}, READ),
            )
        },
        "/api/v1/receivers/{name}/enable": {
            "post": operation(
                name="enable_receiver",
                summary="Go on sending to a receiver that said that it is gone",
                scope=Scope.ADMIN,
                operator=True,
                parameters=[_NAME],
                body=_NOTHING,
                body_required=False,
                responses=responses({"description": "The receiver", "content": answer_of("ReceiverDetail")}, _CHANGE),
            )
        },
        "/api/v1/receivers/{name}/test": {
            "post": operation(
                name="test_receiver",
                summary="Send a test notification at once, and say what came of it",
                scope=Scope.ADMIN,
                operator=True,
                parameters=[_NAME],
                body=_NOTHING,
                body_required=False,
                responses=responses(
                    {"description": "What came of it", "content": answer_of("Trial")}, (*_CHANGE, "429")
                ),
            )
        },
    }
