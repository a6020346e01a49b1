"""The on-call commands: silences, incidents, deliveries and receivers of a running daemon."""

import base64
import secrets
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from monitor.auth import Scope
from monitor.daemon.cli.access import (
    FAILED,
    MISUSED,
    NOWHERE,
    Access,
    duration_option,
    fail,
    say,
    say_item,
    say_json,
    warn,
)
from monitor.daemon.cli.client import Client
from monitor.liveness import EventKind
from monitor.settings.key_material import WEBHOOK_PREFIX

silence = App(name="silence")
incidents = App(name="incidents")
deliveries = App(name="deliveries")
alerts = App(name="alerts")

_SECRET_BYTES: Final = 32
INCIDENTS_READ: Final = 10_000
"""Maximum incidents of a tenant that are read, because they are sorted here."""

_Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON, one item per line.")]
_Most = Annotated[int, Parameter(name="--limit", help="Maximum number of items.")]
_ReceiverName = Annotated[str | None, Parameter(name="--receiver", help="Name of the receiver. Default: any.")]
_Receiver = Annotated[str, Parameter(help="Name of the receiver.")]
_IncidentId = Annotated[str, Parameter(help="Id of the incident.")]
_NotificationId = Annotated[str, Parameter(help="Id of the notification.")]


@silence.command(name="add")
def add_silence(
    *,
    worker_id: Annotated[str | None, Parameter(help="Pattern of the worker id; * is the only wildcard.")] = None,
    environment: Annotated[str | None, Parameter(help="Pattern of the environment.")] = None,
    metadata: Annotated[
        tuple[str, ...],
        Parameter(negative_iterable=(), help="Pattern of a metadata value, as name=pattern. Repeated: all must match."),
    ] = (),
    exact: Annotated[bool, Parameter(negative=(), help="Compare literally: no value is a pattern.")] = False,
    for_: Annotated[str | None, Parameter(name="--for", help="Duration from the start, such as 2h.")] = None,
    until: Annotated[str | None, Parameter(help="End, such as 2026-11-24T16:00:00Z; instead of --for.")] = None,
    from_: Annotated[str | None, Parameter(name="--from", help="Start. Default: now.")] = None,
    comment: Annotated[str, Parameter(help="Reason.")] = "",
    author: Annotated[str | None, Parameter(help="Author. Default: the token's subject.")] = None,
    access: Access = NOWHERE,
) -> None:
    """Add a silence and print its id.

    Example: lastseen silence add --worker-id w1 --exact --for 2h
    """
    if (for_ is None) == (until is None):
        fail(MISUSED, "--for or --until: one of them is needed, and not both")
    patterns: dict[str, str] = {}
    for text in metadata:
        name, _, pattern = text.partition("=")
        if not (name and pattern):
            fail(MISUSED, f"--metadata: must be name=pattern, got {text!r}")
        patterns[name] = pattern
    body: dict[str, object] = {
        "matchers": {"worker_id": worker_id, "environment": environment, "metadata": patterns, "exact": exact},
        "starts_at": from_,
        "ends_at": until,
        "for_seconds": None if for_ is None else duration_option("--for", for_) / 1_000,
        "comment": comment,
        "author": author,
    }
    with access.client(Scope.ALERTS_WRITE) as client:
        made = client.post("silences", body=body)
    for warning in made["warnings"]:
        warn(f"warning: {warning}")
    say(made["id"])


@silence.command(name="list")
def list_silences(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=(), help="Include ended silences.")] = False,
    limit: _Most = 1_000,
    json: _Json = False,
    access: Access = NOWHERE,
) -> None:
    """List the silences that are active or pending.

    Example: lastseen silence list --all
    """
    with access.clients(Scope.WORKERS_READ) as clients:
        for one in _listed(access, clients, "silences", limit, state="all" if all_ else None):
            matchers = one["matchers"]
            named = [f"{name}={matchers[name]}" for name in ("environment", "worker_id") if matchers[name]]
            named += [f"metadata.{name}={pattern}" for name, pattern in matchers["metadata"].items()]
            named += ["(exact)"] if matchers["exact"] else []
            whose = [one["tenant"]] if len(clients) > 1 else []
            words = [one["id"], one["state"], one["starts_at"], one["ends_at"], *whose, " ".join(named)]
            say_item(one, *words, one["author"], one["comment"], as_json=json)


@silence.command(name="end")
def end_silence(
    silence_id: Annotated[str, Parameter(help="Id of the silence.")], /, *, access: Access = NOWHERE
) -> None:
    """End a silence now. Workers that are still down and were never notified are notified then.

    Example: lastseen silence end sil_5c0e4f2a9d7b4e61a3f8b2c6d1e09a47
    """
    with access.client(Scope.ALERTS_WRITE) as client:
        client.delete("silences", silence_id)


@incidents.command(name="list")
def list_incidents(
    *,
    state: Annotated[str, Parameter(help="open, closed or all.")] = "open",
    environment: Annotated[
        tuple[str, ...], Parameter(negative_iterable=(), help="Environment of the incident. Repeated: any of them.")
    ] = (),
    limit: _Most = 100,
    json: _Json = False,
    access: Access = NOWHERE,
) -> None:
    """List incidents by severity, then newest first. Members of an environment's incident are not listed separately.

    Example: lastseen incidents list --state all
    """
    with access.clients(Scope.WORKERS_READ) as clients:
        found = [
            one
            for client in clients
            for one in client.pages("incidents", most=INCIDENTS_READ, state=state, environment=list(environment))
        ]
        if not found:
            access.check_known()
    found.sort(key=lambda one: one["opened_at"], reverse=True)
    found.sort(key=_gravity)
    if not json:
        whole = {one["id"] for one in found if one["kind"] != "worker"}
        found = [one for one in found if one["part_of"] not in whole]
    for one in found[:limit]:
        taken = f"acknowledged by {one['ack']['by']}" if one["ack"] else ""
        say_item(one, *_words(one, *([one["tenant"]] if len(clients) > 1 else [])), taken, as_json=json)
    more = any(client.has_more for client in clients)
    if len(found) > limit or more:
        warn(f"lastseen: {min(limit, len(found))} of {'more than ' * more}{len(found)}; --limit shows more")


@incidents.command(name="show")
def show_incident(incident_id: _IncidentId, /, *, json: _Json = False, access: Access = NOWHERE) -> None:
    """Print an incident and where its notifications stand: why a receiver was notified, or was not.

    Example: lastseen incidents show inc_9b0f2d6c4e8a41d7b3c5f1e2a7d80946
    """
    with access.client(Scope.WORKERS_READ) as client:
        one = client.get("incidents", incident_id)
    if json:
        say_json(one)
        return
    say(*_words(one), one["reason"])
    for at in one["notifications"]:
        words = [at["receiver"], "notified" if at["notified"] else "not notified"]
        words += [at["decision"]] if at["decision"] not in {None, "notified"} else []
        words += [f"next decision {at['next_decision_at']}"] if at["next_decision_at"] else []
        say(*words, *([at["error"]] if at["error"] else []))


@incidents.command(name="ack")
def acknowledge(
    incident_id: _IncidentId,
    /,
    *,
    comment: Annotated[str, Parameter(help="Comment, such as what is being done.")] = "",
    by: Annotated[str | None, Parameter(help="Who acknowledges. Default: the token's subject.")] = None,
    access: Access = NOWHERE,
) -> None:
    """Acknowledge an incident: no further reminder of it is sent.

    Example: lastseen incidents ack inc_9b0f2d6c4e8a41d7b3c5f1e2a7d80946
    """
    with access.client(Scope.ALERTS_WRITE) as client:
        ack = client.post("incidents", incident_id, "ack", body={"comment": comment, "by": by})["ack"]
    say(f"acknowledged by {ack['by']} at {ack['at']}")


def _words(incident: Mapping[str, Any], *whose: str) -> tuple[str, ...]:
    """The first columns of an incident's line. ``whose``: its tenant, if it is shown."""
    is_worker = incident["kind"] == "worker"
    who = incident["worker_id"] if is_worker else f"{incident['members_open']} of {incident['members']} workers"
    end = f"closed {incident['closed_at']}" if incident["closed_at"] else "open"
    return incident["id"], incident["opened_at"], end, *whose, incident["environment_name"], who, incident["updated_by"]


@deliveries.command(name="list")
def list_deliveries(
    *,
    receiver: _ReceiverName = None,
    outcome: Annotated[str, Parameter(help="dead_lettered, queued or finished.")] = "dead_lettered",
    limit: _Most = 100,
    json: _Json = False,
    access: Access = NOWHERE,
) -> None:
    """List notifications, newest first. Without --outcome: the dead letters.

    Example: lastseen deliveries list --outcome queued
    """
    with access.client(Scope.WORKERS_READ, operator=True) as client:
        for one in _listed(access, [client], "deliveries", limit, receiver=receiver, outcome=outcome):
            about = one["worker_id"] or " ".join(f"{name}={value}" for name, value in one["group"].items())
            words = [one["nid"], one["at"], one["receiver"], one["outcome"], one["type"], about]
            say_item(one, *words, f"{one['attempts']} attempts", one["reason"], as_json=json)


@deliveries.command(name="show")
def show_delivery(nid: _NotificationId, /, *, receiver: _ReceiverName = None, access: Access = NOWHERE) -> None:
    """Print one notification as JSON, with its body if that is still kept.

    Example: lastseen deliveries show ntf_1f6a8c3e5b7d49028ce4a6f0b2d51379
    """
    with access.client(Scope.WORKERS_READ, operator=True) as client:
        say_json(client.get("deliveries", nid, receiver=receiver))


@deliveries.command(name="replay")
def replay(
    nid: Annotated[str | None, Parameter(help="Id of the notification; or --all.")] = None,
    /,
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=(), help="All dead letters of --receiver.")] = False,
    receiver: _ReceiverName = None,
    force: Annotated[bool, Parameter(negative=(), help="Replay it even if it is overtaken.")] = False,
    access: Access = NOWHERE,
) -> None:
    """Requeue a dead letter with the same id and body, or all dead letters of a receiver.

    Example: lastseen deliveries replay --all --receiver ops
    """
    if (nid is None) != all_ or (all_ and (receiver is None or force)):
        fail(MISUSED, "the id of a notification, or --all --receiver NAME without --force, is expected")
    with access.client(Scope.ALERTS_WRITE, operator=True) as client:
        if nid is None:
            _replay_all(client, str(receiver))
            return
        done = client.post("deliveries", nid, "replay", body={"force": force}, receiver=receiver)
    say(done["nid"], done["receiver"], done["outcome"])


def _replay_all(client: Client, receiver: str) -> None:
    counts = {"replayed": 0, "over": 0, "left": 0}
    cursor: str | None = None
    while True:
        done = client.post("deliveries", "replay", receiver=receiver, cursor=cursor)
        counts = {name: count + done[name] for name, count in counts.items()}
        cursor = done["next_cursor"]
        if cursor is None:
            break
    say(f"{counts['replayed']} replayed, {counts['over']} overtaken, {counts['left']} skipped")


@deliveries.command(name="drop")
def drop(nid: _NotificationId, /, *, receiver: _ReceiverName = None, access: Access = NOWHERE) -> None:
    """Drop a dead letter and delete its body.

    Example: lastseen deliveries drop ntf_1f6a8c3e5b7d49028ce4a6f0b2d51379
    """
    with access.client(Scope.ALERTS_WRITE, operator=True) as client:
        done = client.post("deliveries", nid, "drop", receiver=receiver)
    say(done["nid"], done["receiver"], done["outcome"])


@deliveries.command(name="outcomes")
def outcomes(
    event_id: Annotated[str, Parameter(help="Id of the event.")], /, *, json: _Json = False, access: Access = NOWHERE
) -> None:
    """Print the outcome of an event at each receiver.

    Example: lastseen deliveries outcomes 52b4f0a1c7d84e9396b2d5e8f1a3c604
    """
    with access.client(Scope.WORKERS_READ) as client:
        for one in client.get("events", event_id, "outcomes")["outcomes"]:
            say_item(one, one["receiver"], one["outcome"], one["at"], one["nid"], one["reason"], as_json=json)


@alerts.command(name="list")
def list_receivers(*, json: _Json = False, access: Access = NOWHERE) -> None:
    """List the receivers with the status of their queues.

    Example: lastseen alerts list
    """
    with access.client(Scope.WORKERS_READ, operator=True) as client:
        for one in client.get("receivers")["receivers"]:
            state = "enabled" if one["disabled"] is None else f"disabled: {one['disabled']}"
            words = [f"{one['queued']} queued", f"{one['dead_letters']} dead letters"]
            say_item(one, one["name"], *words, f"{one['lag_seconds']:g} s behind", state, as_json=json)


@alerts.command(name="test")
def try_receiver(receiver: _Receiver, /, *, access: Access = NOWHERE) -> None:
    """Send a test notification now and print the result.

    Example: lastseen alerts test ops
    """
    with access.client(Scope.ADMIN, operator=True) as client:
        result: dict[str, Any] = client.post("receivers", receiver, "test")
    if not result["delivered"]:
        fail(FAILED, f"lastseen: {result['error']}")
    say(f"{receiver} accepted the test within {result['seconds']:g} s")


@alerts.command(name="enable")
def enable_receiver(receiver: _Receiver, /, *, access: Access = NOWHERE) -> None:
    """Enable a receiver that was disabled because it answered that it is gone.

    Example: lastseen alerts enable ops
    """
    with access.client(Scope.ADMIN, operator=True) as client:
        client.post("receivers", receiver, "enable")
    say(f"{receiver} is enabled")


@alerts.command(name="secret")
def make_secret() -> None:
    """Create a webhook secret and print it.

    Example: (umask 077; lastseen alerts secret > keys/ops)
    """
    say(WEBHOOK_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def _listed(
    access: Access, clients: list[Client], name: str, limit: int, **query: str | None
) -> Iterator[dict[str, Any]]:
    """Yield at most ``limit`` items of a list. Warns on stderr if there are more; exits if the tenant is unknown."""
    items = (one for client in clients for one in client.pages(name, most=limit, **query))
    count = 0
    for one in islice(items, max(limit, 0)):
        count += 1
        yield one
    if not count:
        access.check_known()
    if next(items, None) or any(client.has_more for client in clients):
        warn(f"lastseen: {count} shown, there are more; --limit shows more")


def _gravity(incident: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Sort key: open before closed, environments before workers, down before rejected."""
    rejected = incident["updated_by"] == EventKind.REJECTED
    return incident["closed_at"] is not None, incident["kind"] == "worker", rejected
