"""The commands of the on-call side: silences, incidents, deliveries and receivers of a running daemon."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from monitor.auth import Scope
from monitor.daemon.cli.access import FAILED, MISUSED, Access, asking, fail, say, say_json, warn
from monitor.liveness import EventKind
from monitor.settings.key_material import WEBHOOK_PREFIX
from monitor.settings.units import duration_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from monitor.daemon.cli.client import Client

silence = App(name="silence")
incidents = App(name="incidents")
deliveries = App(name="deliveries")
alerts = App(name="alerts")

_NOWHERE: Final = Access()
_SECRET_BYTES: Final = 32
INCIDENTS_READ: Final = 10_000
"""Incidents of a tenant that are read at most, to be sorted."""

_Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON, one item on a line.")]
_Most = Annotated[int, Parameter(name="--limit", help="At most so many.")]
_ReceiverName = Annotated[str | None, Parameter(name="--receiver", help="The receiver; else any.")]


@silence.command(name="add")
def add_silence(
    *,
    worker_id: Annotated[str | None, Parameter(help="Workers whose id fits; * is the only wildcard.")] = None,
    environment: Annotated[str | None, Parameter(help="Workers whose environment fits.")] = None,
    metadata: Annotated[
        tuple[str, ...],
        Parameter(negative_iterable=(), help="Workers that report this, as name=pattern; several: all."),
    ] = (),
    exact: Annotated[bool, Parameter(negative=(), help="The values are no patterns: each stands for itself.")] = False,
    for_: Annotated[str | None, Parameter(name="--for", help="For how long from the start, such as 2h.")] = None,
    until: Annotated[str | None, Parameter(help="Until when, as 2026-11-24T16:00:00Z; instead of --for.")] = None,
    from_: Annotated[str | None, Parameter(name="--from", help="From when on; by default from now on.")] = None,
    comment: Annotated[str, Parameter(help="Why.")] = "",
    author: Annotated[str | None, Parameter(help="Who; by default whoever the token is for.")] = None,
    access: Access = _NOWHERE,
) -> int:
    """Begin a silence; prints its id."""
    if (for_ is None) == (until is None):
        fail(MISUSED, "--for or --until: one of them is needed, and not both")
    pairs = [text.partition("=") for text in metadata]
    for text, (name, equals, pattern) in zip(metadata, pairs, strict=True):
        if not (name and equals and pattern):
            fail(MISUSED, f"--metadata: must be name=pattern, got {text!r}")
    body: dict[str, object] = {
        "matchers": {
            "worker_id": worker_id,
            "environment": environment,
            "metadata": {name: pattern for name, _, pattern in pairs},
            "exact": exact,
        },
        "starts_at": from_,
        "ends_at": until,
        "for_seconds": None if for_ is None else _seconds("--for", for_),
        "comment": comment,
        "author": author,
    }
    client = access.client(Scope.ALERTS_WRITE)
    with asking():
        made = client.post("silences", body=body)
    for warning in made["warnings"]:
        warn(f"warning: {warning}")
    say(made["id"])
    return 0


@silence.command(name="list")
def list_silences(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=(), help="Those that are over, too.")] = False,
    limit: _Most = 1_000,
    json: _Json = False,
    access: Access = _NOWHERE,
) -> int:
    """Print the silences that are active or pending."""
    clients = access.clients(Scope.WORKERS_READ)
    with asking():
        for one in _listed(access, clients, "silences", limit, state="all" if all_ else None):
            if json:
                say_json(one)
            else:
                matchers = one["matchers"]
                named = [f"{name}={matchers[name]}" for name in ("environment", "worker_id") if matchers[name]]
                named += [f"metadata.{name}={pattern}" for name, pattern in matchers["metadata"].items()]
                named += ["(exact)"] if matchers["exact"] else []
                say(
                    one["id"],
                    one["state"],
                    one["starts_at"],
                    one["ends_at"],
                    *([one["tenant"]] if len(clients) > 1 else []),
                    " ".join(named),
                    one["author"],
                    one["comment"],
                )
    return 0


@silence.command(name="end")
def end_silence(silence_id: Annotated[str, Parameter(help="Its id.")], /, *, access: Access = _NOWHERE) -> int:
    """End a silence now. Workers that are still down and were never reported are reported then."""
    client = access.client(Scope.ALERTS_WRITE)
    with asking():
        client.delete("silences", silence_id)
    return 0


@incidents.command(name="list")
def list_incidents(
    *,
    state: Annotated[str, Parameter(help="open, closed or all.")] = "open",
    environment: Annotated[
        tuple[str, ...], Parameter(negative_iterable=(), help="Of this environment; several: any.")
    ] = (),
    limit: _Most = 100,
    json: _Json = False,
    access: Access = _NOWHERE,
) -> int:
    """Print incidents, the gravest first and of those the newest. Members stand for in their environment's incident."""
    clients = access.clients(Scope.WORKERS_READ)
    with asking():
        given = list(environment)
        found = [*_listed(access, clients, "incidents", INCIDENTS_READ, is_cut=False, state=state, environment=given)]
    found.sort(key=lambda one: one["opened_at"], reverse=True)
    found.sort(key=_gravity)
    if not json:
        whole = {one["id"] for one in found if one["kind"] != "worker"}
        found = [one for one in found if one["part_of"] not in whole]
    for one in found[:limit]:
        if json:
            say_json(one)
        else:
            who = one["worker_id"] if one["kind"] == "worker" else f"{one['members_open']} of {one['members']} workers"
            taken = f"acknowledged by {one['ack']['by']}" if one["ack"] else ""
            closed = f"closed {one['closed_at']}" if one["closed_at"] else "open"
            whose = [one["tenant"]] if len(clients) > 1 else []
            say(one["id"], one["opened_at"], closed, *whose, one["environment_name"], who, one["updated_by"], taken)
    more = any(client.has_more for client in clients)
    if len(found) > limit or more:
        warn(f"lastseen: {min(limit, len(found))} of {'more than ' * more}{len(found)}; --limit shows more")
    return 0


@incidents.command(name="ack")
def acknowledge(
    incident_id: Annotated[str, Parameter(help="Its id.")],
    /,
    *,
    comment: Annotated[str, Parameter(help="What is being done about it.")] = "",
    by: Annotated[str | None, Parameter(help="Who; by default whoever the token is for.")] = None,
    access: Access = _NOWHERE,
) -> int:
    """Take an incident over: no reminder of it is begun any more."""
    client = access.client(Scope.ALERTS_WRITE)
    with asking():
        ack = client.post("incidents", incident_id, "ack", body={"comment": comment, "by": by})["ack"]
    say(f"acknowledged by {ack['by']} at {ack['at']}")
    return 0


@deliveries.command(name="list")
def list_deliveries(
    *,
    receiver: _ReceiverName = None,
    outcome: Annotated[str, Parameter(help="dead_lettered, queued or finished.")] = "dead_lettered",
    limit: _Most = 100,
    json: _Json = False,
    access: Access = _NOWHERE,
) -> int:
    """Print notifications, the newest first; without --outcome the dead letters."""
    clients = [access.client(Scope.WORKERS_READ, operator=True)]
    with asking():
        for one in _listed(access, clients, "deliveries", limit, receiver=receiver, outcome=outcome):
            if json:
                say_json(one)
            else:
                about = one["worker_id"] or " ".join(f"{name}={value}" for name, value in one["group"].items())
                tries = f"{one['attempts']} attempts"
                say(one["nid"], one["at"], one["receiver"], one["outcome"], one["type"], about, tries, one["reason"])
    return 0


@deliveries.command(name="show")
def show_delivery(
    nid: Annotated[str, Parameter(help="Its id.")], /, *, receiver: _ReceiverName = None, access: Access = _NOWHERE
) -> int:
    """Print one notification as JSON, with its body while that is kept."""
    client = access.client(Scope.WORKERS_READ, operator=True)
    with asking():
        say_json(client.get("deliveries", nid, receiver=receiver))
    return 0


@deliveries.command(name="replay")
def replay(
    nid: Annotated[str | None, Parameter(help="Its id; or --all.")] = None,
    /,
    *,
    all_: Annotated[bool, Parameter(name="--all", negative=(), help="Every one of --receiver.")] = False,
    receiver: _ReceiverName = None,
    force: Annotated[bool, Parameter(negative=(), help="Although it is overtaken.")] = False,
    access: Access = _NOWHERE,
) -> int:
    """Put a dead letter back into the queue, with the same id and body; or all of a receiver."""
    if (nid is None) != all_ or (all_ and (receiver is None or force)):
        fail(MISUSED, "the id of a notification, or --all --receiver NAME without --force, is expected")
    client = access.client(Scope.ALERTS_WRITE, operator=True)
    if nid is None:
        return _replay_all(client, str(receiver))
    with asking():
        done = client.post("deliveries", nid, "replay", body={"force": force}, receiver=receiver)
    say(done["nid"], done["receiver"], done["outcome"])
    return 0


def _replay_all(client: Client, receiver: str) -> int:
    counts = {"replayed": 0, "over": 0, "left": 0}
    cursor: str | None = None
    while True:
        with asking():
            done = client.post("deliveries", "replay", receiver=receiver, cursor=cursor)
        counts = {name: count + done[name] for name, count in counts.items()}
        cursor = done["next_cursor"]
        if cursor is None:
            say(f"{counts['replayed']} replayed, {counts['over']} over, {counts['left']} left alone")
            return 0


@deliveries.command(name="drop")
def drop(
    nid: Annotated[str, Parameter(help="Its id.")], /, *, receiver: _ReceiverName = None, access: Access = _NOWHERE
) -> int:
    """Throw a dead letter away; its body goes."""
    client = access.client(Scope.ALERTS_WRITE, operator=True)
    with asking():
        done = client.post("deliveries", nid, "drop", receiver=receiver)
    say(done["nid"], done["receiver"], done["outcome"])
    return 0


@deliveries.command(name="outcomes")
def outcomes(
    event_id: Annotated[str, Parameter(help="The id of an event.")],
    /,
    *,
    json: _Json = False,
    access: Access = _NOWHERE,
) -> int:
    """Print what became of an event at each receiver."""
    client = access.client(Scope.WORKERS_READ)
    with asking():
        for one in client.get("events", event_id, "outcomes")["outcomes"]:
            if json:
                say_json(one)
            else:
                say(one["receiver"], one["outcome"], one["at"], one["nid"], one["reason"])
    return 0


@alerts.command(name="list")
def list_receivers(*, json: _Json = False, access: Access = _NOWHERE) -> int:
    """Print the receivers, and how their queues stand."""
    client = access.client(Scope.WORKERS_READ, operator=True)
    with asking():
        for one in client.get("receivers")["receivers"]:
            if json:
                say_json(one)
            else:
                state = "enabled" if one["disabled"] is None else f"disabled: {one['disabled']}"
                lag = f"{one['lag_seconds']:g} s behind"
                say(one["name"], f"{one['queued']} queued", f"{one['dead_letters']} dead letters", lag, state)
    return 0


@alerts.command(name="test")
def try_receiver(receiver: Annotated[str, Parameter(help="Its name.")], /, *, access: Access = _NOWHERE) -> int:
    """Send a test notification at once, and say what came of it."""
    client = access.client(Scope.ADMIN, operator=True)
    with asking():
        trial: dict[str, Any] = client.post("receivers", receiver, "test")
    if not trial["delivered"]:
        fail(FAILED, f"lastseen: {trial['error']}")
    say(f"{receiver} accepted the test within {trial['seconds']:g} s")
    return 0


@alerts.command(name="enable")
def enable_receiver(receiver: Annotated[str, Parameter(help="Its name.")], /, *, access: Access = _NOWHERE) -> int:
    """Go on sending to a receiver that said that it is gone."""
    client = access.client(Scope.ADMIN, operator=True)
    with asking():
        client.post("receivers", receiver, "enable")
    say(f"{receiver} is enabled")
    return 0


@alerts.command(name="secret")
def make_secret() -> int:
    """Print a new secret for a webhook: `(umask 077; lastseen alerts secret > keys/ops)`."""
    say(WEBHOOK_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())
    return 0


def _listed(
    access: Access,
    clients: list[Client],
    name: str,
    limit: int,
    *,
    is_cut: bool = True,
    **query: str | list[str] | None,
) -> Iterator[dict[str, Any]]:
    """At most ``limit`` items of a list; says on stderr that there is more, and that there is nothing of a tenant."""
    count = 0
    more = False
    for client in clients:
        for one in client.pages(name, name, most=limit, **query):
            more = is_cut and count >= limit
            if more:
                break
            count += 1
            yield one
    if not count:
        access.check_known()
    if more or (is_cut and any(client.has_more for client in clients)):
        warn(f"lastseen: {count} shown, there are more; --limit shows more")


def _gravity(incident: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Open ones first, of whole environments before those of workers, and what is down before what is rejected."""
    rejected = incident["updated_by"] == EventKind.REJECTED
    return incident["closed_at"] is not None, incident["kind"] == "worker", rejected


def _seconds(option: str, text: str) -> float:
    try:
        return duration_ms(text) / 1_000
    except ValueError as error:
        fail(MISUSED, f"{option}: {error}, got {text!r}")
