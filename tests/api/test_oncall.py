"""Incidents, silences, deliveries and receivers over HTTP, on a real store."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from alerts.errors import PermanentDeliveryError, TransientDeliveryError
from alerts.groups import worker_rules
from alerts.groups.attempts import begin_attempt, dead_letter, deliver, fail, schedule_retry
from alerts.groups.classify import Role, environment_key, worker_key
from alerts.groups.decisions import Decision
from alerts.groups.state import CreateNotification, Draft, Outcome, Timing
from alerts.routing.enqueue import Offer, offer_all
from alerts.routing.routes import Target
from alerts.store.group_store import Change, Want
from monitor.auth import Scope
from monitor.events import Event, rfc3339
from monitor.liveness import EventKind, Liveness
from tests.support import api, parts, servers
from tests.support.alerts_fakes import Inbox, event
from tests.support.api import Api
from tests.support.incidents import record

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

HOUR_MS = 3_600_000
INCIDENTS = "/api/v1/incidents"
SILENCES = "/api/v1/silences"
DELIVERIES = "/api/v1/deliveries"
RECEIVERS = "/api/v1/receivers"
NO_ID = "0" * 32


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Api]:
    receivers = {"ops": (), "chat": (), "own": ("acme",)}
    async with api.running(store_url, receivers=receivers, partitions=2) as running:
        await running.sweep()
        yield running


def recovered(seq: int = 2, **changes: Any) -> Event:
    return event(seq, kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE, **changes)


async def note(lastseen: Api, *events: Event) -> list[str | None]:
    """Record incidents and add events to groups at `ops`, as the router does. Returns the ids of the incidents."""
    now_ms = lastseen.store.clock.now_ms()
    noted = await record(lastseen.alerts.incidents, 0, events, lambda one: {"ops": worker_key(one)}, now_ms=now_ms)
    offers = [
        Offer(
            event=one,
            key=worker_key(one),
            target=Target(key=worker_key(one), timing=Timing(repeat_ms=1_000)),
            incident_id=what.incident_id,
        )
        for one, what in zip(events, noted, strict=True)
    ]
    await offer_all(lastseen.alerts.groups["ops"], offers, now_ms=now_ms)
    return [what.incident_id for what in noted]


async def attempt_once(lastseen: Api, one: Event, end: Callable[[Draft], None]) -> str:
    """Create the next notification of an event's worker, and one attempt with this end. Returns its id."""
    groups, now_ms = lastseen.alerts.groups["ops"], lastseen.store.clock.now_ms()
    [seen] = await groups.read([Want(group=worker_key(one))])
    assert seen.group is not None
    draft = Draft(seen.group, now_ms)
    in_flight = worker_rules.create(
        draft, CreateNotification(role=Role.DOWN, event=seen.group.pending[0]), receiver="ops"
    )
    body = lastseen.alerts.wording.single(one, incident_id=seen.group.incident_id, reminder=0, health=None)
    draft.record(in_flight, Outcome.QUEUED, body=body)
    begin_attempt(draft)
    end(draft)
    change = Change(
        draft=draft,
        version=seen.version,
        due_ms=worker_rules.due_ms(draft.group, now_ms),
        over=worker_rules.is_over(draft.group),
    )
    assert await groups.save([change], now_ms=now_ms) == [True]
    return in_flight.nid


def refuse(draft: Draft) -> None:
    dead_letter(draft, reason="404 from ops")


def is_problem(answer: httpx2.Response, status: int, *words: str) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"], answer.text
    return True


async def post(lastseen: Api, path: str, body: object = None, **token: Any) -> httpx2.Response:
    headers = lastseen.auth(**token) if token else None
    return await lastseen.client.post(path, json=body, headers=headers)


# Incidents


async def test_an_incident_is_shown_and_belongs_to_its_tenant(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    one = await lastseen.json(f"{INCIDENTS}/{incident_id}")
    listed = await lastseen.json(INCIDENTS)
    more = {"monitor", "notifications"}
    assert listed["incidents"] == [{name: value for name, value in one.items() if name not in more}]
    assert listed["next_cursor"] is None
    assert set(one["monitor"]) == {"degraded", "reasons", "last_sweep_age_seconds"}
    assert one["id"] == f"inc_{event().event_id}"
    assert (one["kind"], one["worker_id"], one["environment_name"]) == ("worker", "w", "prod")
    assert (one["opened_by"], one["updated_by"], one["closed_at"], one["ack"]) == ("worker.stale",) * 2 + (None,) * 2
    assert one["opened_at"] == rfc3339(event().due_ms)
    assert one["receivers"] == ["ops"]
    other = lastseen.auth("other")
    assert (await lastseen.json(INCIDENTS, **other))["incidents"] == []
    assert is_problem(await lastseen.client.get(f"{INCIDENTS}/{incident_id}", headers=other), 404)
    assert is_problem(await post(lastseen, f"{INCIDENTS}/{incident_id}/ack", tenant="other"), 404)


async def test_a_restricted_token_sees_its_own_incidents_only(lastseen: Api) -> None:
    prod, stage = await note(lastseen, event(), event(worker_id="v", environment_name="stage"))
    for changes in ({"environments": ("prod",)}, {"worker_id": "w"}):
        headers = lastseen.auth(**changes)
        assert [one["id"] for one in (await lastseen.json(INCIDENTS, **headers))["incidents"]] == [prod]
        assert is_problem(await lastseen.client.get(f"{INCIDENTS}/{stage}", headers=headers), 404)
        assert is_problem(await post(lastseen, f"{INCIDENTS}/{stage}/ack", **changes), 404)
    assert (await lastseen.json(f"{INCIDENTS}?environment=stage", **lastseen.auth(environments=("prod",))))[
        "incidents"
    ] == []


async def test_incidents_come_page_by_page_those_opened_last_first(lastseen: Api) -> None:
    events = [event(worker_id=f"w{n}", due_ms=event().due_ms + n) for n in range(7)]
    ids = await note(lastseen, *events)
    await note(lastseen, recovered(worker_id="w3"))
    found, cursor = [], ""
    for _ in range(20):
        page = await lastseen.json(f"{INCIDENTS}?state=all&limit=2{cursor}")
        found += [one["id"] for one in page["incidents"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == ids[::-1]
    [closed] = (await lastseen.json(f"{INCIDENTS}?state=closed"))["incidents"]
    assert (closed["worker_id"], closed["closed_by"]) == ("w3", "worker.recovered")
    assert len((await lastseen.json(INCIDENTS))["incidents"]) == 6


async def test_p19_after_the_ack_is_answered_no_reminder_is_due(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    await attempt_once(lastseen, event(), deliver)
    answer = await post(lastseen, f"{INCIDENTS}/{incident_id}/ack", {"comment": "on it\nreally"})
    assert answer.status_code == 200, answer.text
    ack = answer.json()["ack"]
    assert (ack["by"], ack["comment"]) == ("tests", "on it\nreally")
    [seen] = await lastseen.alerts.groups["ops"].read([Want(group=worker_key(event()))])
    assert seen.group is not None
    assert seen.group.acked
    again = await post(lastseen, f"{INCIDENTS}/{incident_id}/ack", {"by": "another operator"})
    assert again.json()["ack"] == ack
    assert (await lastseen.json(f"{INCIDENTS}/{incident_id}"))["ack"] == ack


async def held_back(lastseen: Api, one: Event, decision: str, until_ms: int) -> None:
    """Store this decision in the worker's group at `ops`, as the planner does."""
    groups, now_ms = lastseen.alerts.groups["ops"], lastseen.store.clock.now_ms()
    [seen] = await groups.read([Want(group=worker_key(one))])
    assert seen.group is not None
    draft = Draft(seen.group, now_ms)
    draft.group.waits_for, draft.group.waits_until_ms = decision, until_ms
    assert await groups.save([Change(draft=draft, version=seen.version, due_ms=until_ms)], now_ms=now_ms) == [True]


async def test_an_incident_says_why_a_receiver_was_not_notified(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    path = f"{INCIDENTS}/{incident_id}"
    waiting = {"receiver": "ops", "notified": False, "decision": None, "next_decision_at": None, "nid": None}
    waiting |= {"attempts": 0, "error": ""}
    assert (await lastseen.json(path))["notifications"] == [waiting]
    until_ms = lastseen.store.clock.now_ms() + HOUR_MS
    await held_back(lastseen, event(), Decision.SILENCED, until_ms)
    silenced = waiting | {"decision": "silenced", "next_decision_at": rfc3339(until_ms)}
    assert (await lastseen.json(path))["notifications"] == [silenced]
    assert (await post(lastseen, f"{path}/ack")).json()["notifications"] == [silenced]
    nid = await attempt_once(lastseen, event(), lambda draft: fail_once(draft, until_ms))
    retried = waiting | {"decision": "retry", "next_decision_at": rfc3339(until_ms), "nid": nid, "attempts": 1}
    assert (await lastseen.json(path))["notifications"] == [retried | {"error": "503 from ops"}]
    await note(lastseen, recovered())
    assert (await lastseen.json(path))["notifications"] == []


def fail_once(draft: Draft, again_ms: int) -> None:
    fail(draft, error="503 from ops", cause="server_error")
    schedule_retry(draft, due_ms=again_ms, unknown=False)


async def test_a_restricted_token_does_not_see_the_notifications_of_a_group(lastseen: Api) -> None:
    now_ms = lastseen.store.clock.now_ms()
    key = environment_key("acme", "prod")
    [noted] = await record(lastseen.alerts.incidents, 0, [event()], lambda _: {"ops": key}, now_ms=now_ms)
    target = Target(key=key, timing=Timing())
    offer = Offer(event=event(), key=key, target=target, incident_id=noted.incident_id)
    await offer_all(lastseen.alerts.groups["ops"], [offer], now_ms=now_ms)
    path = f"{INCIDENTS}/{noted.incident_id}"
    assert [one["receiver"] for one in (await lastseen.json(path))["notifications"]] == ["ops"]
    for restriction in ({"worker_id": "w"}, {"environments": ("prod",)}):
        assert (await lastseen.json(path, **lastseen.auth(**restriction)))["notifications"] == []


async def test_a_decision_that_a_newer_daemon_made_is_no_error(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    await held_back(lastseen, event(), "of_the_next_release", 0)
    [at] = (await lastseen.json(f"{INCIDENTS}/{incident_id}"))["notifications"]
    assert at["decision"] is None


async def test_an_incident_says_that_a_receiver_was_notified(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    await attempt_once(lastseen, event(), deliver)
    [at] = (await lastseen.json(f"{INCIDENTS}/{incident_id}"))["notifications"]
    assert (at["receiver"], at["notified"], at["decision"], at["nid"]) == ("ops", True, "notified", None)
    assert (await post(lastseen, f"{INCIDENTS}/{incident_id}/ack")).status_code == 200
    [at] = (await lastseen.json(f"{INCIDENTS}/{incident_id}"))["notifications"]
    assert (at["notified"], at["decision"]) == (True, "acknowledged")


async def test_an_incident_says_that_a_receiver_refused_its_notification(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    await attempt_once(lastseen, event(), refuse)
    [at] = (await lastseen.json(f"{INCIDENTS}/{incident_id}"))["notifications"]
    assert (at["notified"], at["decision"], at["nid"]) == (False, "dead_lettered", None)


async def test_a_closed_incident_cannot_be_taken_over(lastseen: Api) -> None:
    [incident_id, _] = await note(lastseen, event(), recovered())
    assert is_problem(await post(lastseen, f"{INCIDENTS}/{incident_id}/ack"), 409, "closed")
    assert is_problem(await post(lastseen, f"{INCIDENTS}/inc_{NO_ID}/ack"), 404)
    assert is_problem(await lastseen.client.get(f"{INCIDENTS}/%00%FF"), 404)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("state=broken", "'state' is 'broken'"),
        ("cursor=WzEsImluY194Il0", "cursor"),
        ("cursor=WzEyMywiaW5jXyVzIl0", "cursor"),
        ("kind=worker", "known parameters: state, environment"),
        ("state=open&state=all", "'state' is 'all': it is given more than once"),
        ("limit=0", "'limit' is '0': an integer from 1 to 1000 is expected"),
        ("environment=%FF", "percent-encoded UTF-8 is expected"),
        ("environment=" + "x" * 16_400, "at most 16384 bytes are expected"),
        ("&".join(f"environment={n}" for n in range(21)), "length <= 20"),
    ],
)
async def test_a_query_that_cannot_be_used_is_named(lastseen: Api, query: str, words: str) -> None:
    assert is_problem(await lastseen.client.get(f"{INCIDENTS}?{query}"), 422, words)


async def test_a_bad_value_with_a_bad_host_is_no_error_of_the_server(lastseen: Api) -> None:
    for host in ("localhost:abc", "h:99999"):
        headers = {**lastseen.auth(), "host": host}
        answer = await lastseen.client.get(f"{INCIDENTS}?limit=x", headers=headers)
        assert is_problem(answer, 400, "Host")


# Silences


def silence(**changes: Any) -> dict[str, Any]:
    return {"matchers": {"worker_id": "w*"}, "comment": "deploy", "for_seconds": 3600, **changes}


async def test_a_silence_is_kept_listed_and_ended(lastseen: Api) -> None:
    await lastseen.beat("w1")
    now_ms = lastseen.store.clock.now_ms()
    answer = await post(lastseen, SILENCES, silence())
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["warnings"] == []
    assert (made["state"], made["author"], made["comment"]) == ("active", "tests", "deploy")
    assert made["matchers"] == {"environment": None, "worker_id": "w*", "metadata": {}, "exact": False}
    one = await lastseen.json(f"{SILENCES}/{made['id']}")
    assert {**one, "warnings": []} == {**made, "monitor": one["monitor"]}
    [kept] = (await lastseen.alerts.silences.active(["acme"]))["acme"]
    assert now_ms <= kept.starts_ms
    assert kept.ends_ms == kept.starts_ms + HOUR_MS
    assert [found["id"] for found in (await lastseen.json(SILENCES))["silences"]] == [made["id"]]
    for _ in range(2):
        assert (await lastseen.client.delete(f"{SILENCES}/{made['id']}")).status_code == 204
    ended = await lastseen.json(f"{SILENCES}/{made['id']}")
    assert (ended["state"], ended["ended_by"], ended["ends_at"]) == ("ended", "tests", made["ends_at"])
    assert (await lastseen.json(SILENCES))["silences"] == []
    for state in ("ended", "all"):
        assert len((await lastseen.json(f"{SILENCES}?state={state}"))["silences"]) == 1


async def test_p17_when_a_silence_is_ended_every_waiting_group_is_checked_again(lastseen: Api) -> None:
    made = (await post(lastseen, SILENCES, silence())).json()
    await note(lastseen, event())
    groups, now_ms = lastseen.alerts.groups["ops"], lastseen.store.clock.now_ms()
    [claimed] = await parts.claim(groups, limit=1, lease_ms=1_000, now_ms=now_ms)
    draft = Draft(claimed.group, now_ms)
    waits = Change(draft=draft, version=claimed.version, token=claimed.token, release=True, due_ms=now_ms + HOUR_MS)
    assert await groups.save([waits], now_ms=now_ms) == [True]
    assert await parts.claim(groups, limit=1, lease_ms=1_000, now_ms=now_ms) == []
    assert (await lastseen.client.delete(f"{SILENCES}/{made['id']}")).status_code == 204
    assert lastseen.alerts.woken == 1
    assert len(await parts.claim(groups, limit=1, lease_ms=1_000, now_ms=lastseen.store.clock.now_ms())) == 1


async def test_a_silence_that_matches_no_worker_is_accepted_with_a_warning(lastseen: Api) -> None:
    await lastseen.beat("w1", "stage", worker_metadata={"rack": "r7"})
    for matchers, warned in (
        ({"worker_id": "x*"}, True),
        ({"worker_id": "w*", "environment": "prod"}, True),
        ({"environment": "st*"}, False),
        ({"environment": "stage", "metadata": {"rack": "r*"}}, False),
        ({"metadata": {"rack": "q*"}}, True),
    ):
        answer = await post(lastseen, SILENCES, silence(matchers=matchers))
        assert answer.status_code == 201
        assert bool(answer.json()["warnings"]) is warned, matchers
    assert (await post(lastseen, SILENCES, silence(), tenant="other")).json()["warnings"] == [
        "it matches no worker that is known now"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matchers": {}}, ["matchers is '{}'", "at least one of"]),
        ({"matchers": {"tenant": "x"}}, ["unknown field `tenant`", "$.matchers"]),
        ({"matchers": {"worker_id": ""}}, ["matchers.worker_id is ''"]),
        ({"matchers": {"worker_id": "w?"}}, ["matchers.worker_id is 'w?'", "only wildcard", "with exact"]),
        ({"matchers": {"environment": "[a]"}}, ["matchers.environment is '[a]'", "only wildcard"]),
        ({"matchers": {"metadata": {"k": "*" * 9}}}, ["matchers.metadata.k is", "more than 8 stars"]),
        ({"matchers": {"worker_id": "a\x07"}}, ["matchers.worker_id", "control characters"]),
        ({"matchers": {"metadata": {"k": 1}}}, ["Expected `str`, got `int`"]),
        ({"comment": " "}, ["comment is ' '"]),
        ({"comment": None}, ["Expected `str`, got `null`", "$.comment"]),
        ({"author": "x" * 257}, ["author is 'xxx"]),
        ({"color": "red"}, ["unknown field `color`"]),
        ({"for_seconds": 0}, ["for_seconds is '0"]),
        ({"for_seconds": 1e300}, ["for_seconds is '1e+300'"]),
        ({"for_seconds": None}, ["ends_at is 'None'", "give ends_at or for_seconds"]),
        ({"ends_at": "2099-01-01T00:00:00Z"}, ["ends_at is '2099-01-01T00:00:00Z'", "not both"]),
        ({"for_seconds": None, "ends_at": "2020-01-01T00:00:00Z"}, ["ends_at is '2020", "after the start"]),
        ({"for_seconds": None, "ends_at": "2099-01-01T00:00:00"}, ["ends_at", "offset"]),
        ({"for_seconds": None, "ends_at": "tomorrow"}, ["ends_at is 'tomorrow'"]),
        ({"for_seconds": None, "ends_at": "9999-12-31T23:59:59.999-12:00"}, ["ends_at", "1970 to 9999"]),
        ({"starts_at": "2020-01-01T00:00:00Z"}, ["for_seconds is '3600", "in the future"]),
        (
            {"for_seconds": None, "starts_at": "2099-01-02T00:00:00Z", "ends_at": "2099-01-01T00:00:00Z"},
            ["ends_at is '2099-01-01T00:00:00Z'", "after the start, 2099-01-02T00:00:00.000Z"],
        ),
    ],
)
async def test_a_silence_that_cannot_be_is_refused_with_the_field_and_its_value(
    lastseen: Api, changes: dict[str, Any], words: list[str]
) -> None:
    assert is_problem(await post(lastseen, SILENCES, silence(**changes)), 422, *words)
    assert (await lastseen.json(f"{SILENCES}?state=all"))["silences"] == []


async def test_texts_are_taken_up_to_the_lengths_of_the_schema_and_no_longer(lastseen: Api) -> None:
    [incident_id] = await note(lastseen, event())
    for more in (1, 0):
        name, comment = "x" * (256 + more), "y" * (1_000 + more)
        for changes in (
            {"matchers": {"worker_id": name}},
            {"matchers": {"environment": name, "exact": True}},
            {"matchers": {"metadata": {name: "v"}}},
            {"matchers": {"metadata": {"k": name}}},
            {"author": name},
            {"comment": comment},
        ):
            answer = await post(lastseen, SILENCES, silence(**changes))
            assert answer.status_code == (422 if more else 201), answer.text
        for changes in ({"by": name}, {"comment": comment}):
            answer = await post(lastseen, f"{INCIDENTS}/{incident_id}/ack", changes)
            assert answer.status_code == (422 if more else 200), answer.text


async def test_a_body_that_is_no_json_is_refused_as_what_it_is(lastseen: Api) -> None:
    for content, kind, status in (
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"\xff", "application/json", 422),
        (b"", "application/json", 422),
        (b"[" * 50_000, "application/json", 422),
        (b"{}", "text/plain", 415),
        (b" " * 65_537, "application/json", 413),
    ):
        answer = await lastseen.client.post(SILENCES, content=content, headers={"content-type": kind})
        assert is_problem(answer, status)


async def test_silences_are_their_tenants(lastseen: Api) -> None:
    made = (await post(lastseen, SILENCES, silence())).json()
    other = lastseen.auth("other")
    assert is_problem(await lastseen.client.get(f"{SILENCES}/{made['id']}", headers=other), 404)
    assert is_problem(await lastseen.client.delete(f"{SILENCES}/{made['id']}", headers=other), 404)
    assert (await lastseen.json(f"{SILENCES}?state=all", **other))["silences"] == []
    assert (await lastseen.json(f"{SILENCES}/{made['id']}"))["state"] == "active"


@pytest.mark.parametrize(
    ("restriction", "matchers", "allowed"),
    [
        ({"environments": ("prod", "qa")}, {"environment": "qa"}, True),
        ({"environments": ("prod", "qa")}, {"environment": "qa", "worker_id": "*"}, True),
        ({"environments": ("prod",)}, {"worker_id": "w"}, False),
        ({"environments": ("prod",)}, {"environment": "*"}, False),
        ({"environments": ("prod",)}, {"environment": "stage"}, False),
        ({"environments": ("pro*",)}, {"environment": "pro*"}, False),
        ({"worker_id": "w"}, {"worker_id": "w"}, True),
        ({"worker_id": "w"}, {"worker_id": "v"}, False),
        ({"worker_id": "w*"}, {"worker_id": "w*"}, False),
        ({"worker_id": "w"}, {"environment": "prod"}, False),
        ({"worker_id": "*"}, {"worker_id": "*", "exact": True}, True),
        ({"environments": ("*",)}, {"environment": "*", "exact": True}, True),
        ({"environments": ("*",)}, {"environment": "*"}, False),
    ],
)
async def test_a_restricted_token_silences_only_what_it_may_see(
    lastseen: Api, restriction: dict[str, Any], matchers: dict[str, str], *, allowed: bool
) -> None:
    answer = await post(lastseen, SILENCES, silence(matchers=matchers), **restriction)
    if allowed:
        assert answer.status_code == 201
        assert len((await lastseen.json(SILENCES, **lastseen.auth(**restriction)))["silences"]) == 1
    else:
        assert is_problem(answer, 403, "matchers.")
        made = (await post(lastseen, SILENCES, silence(matchers=matchers))).json()
        headers = lastseen.auth(**restriction)
        assert (await lastseen.json(SILENCES, **headers))["silences"] == []
        assert is_problem(await lastseen.client.delete(f"{SILENCES}/{made['id']}", headers=headers), 404)


async def test_silences_come_page_by_page(lastseen: Api) -> None:
    made = [(await post(lastseen, SILENCES, silence())).json()["id"] for _ in range(5)]
    found, cursor = [], ""
    for _ in range(10):
        page = await lastseen.json(f"{SILENCES}?limit=2{cursor}")
        found += [one["id"] for one in page["silences"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(found) == sorted(made)


# Deliveries


async def test_a_dead_letter_is_listed_shown_and_sent_again(lastseen: Api) -> None:
    await note(lastseen, event())
    nid = await attempt_once(lastseen, event(), refuse)
    [listed] = (await lastseen.json(DELIVERIES))["deliveries"]
    assert (listed["nid"], listed["receiver"], listed["outcome"]) == (nid, "ops", "dead_lettered")
    assert (listed["type"], listed["worker_id"], listed["reason"]) == ("worker.stale", "w", "404 from ops")
    assert (listed["event_id"], listed["attempts"]) == (event().event_id, 1)
    shown = await lastseen.json(f"{DELIVERIES}/{nid}?receiver=ops")
    assert shown["body"]["data"]["event_id"] == event().event_id
    answer = await post(lastseen, f"{DELIVERIES}/{nid}/replay")
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == "queued"
    assert lastseen.alerts.woken == 1
    assert (await lastseen.json(DELIVERIES))["deliveries"] == []
    [queued] = (await lastseen.json(f"{DELIVERIES}?outcome=queued"))["deliveries"]
    assert (queued["nid"], queued["attempts"]) == (nid, 0)
    assert is_problem(await post(lastseen, f"{DELIVERIES}/{nid}/drop"), 409, "queued")


async def test_an_overtaken_down_is_sent_again_only_by_force(lastseen: Api) -> None:
    await note(lastseen, event())
    nid = await attempt_once(lastseen, event(), refuse)
    await note(lastseen, recovered())
    assert is_problem(await post(lastseen, f"{DELIVERIES}/{nid}/replay", {"force": False}), 409, "overtaken", "force")
    assert (await post(lastseen, f"{DELIVERIES}/{nid}/replay", {"force": True})).json()["outcome"] == "queued"


async def test_all_dead_letters_of_a_receiver_are_sent_again_but_those_that_are_over(lastseen: Api) -> None:
    await note(lastseen, event(), event(worker_id="v"))
    nid, over = (
        await attempt_once(lastseen, event(), refuse),
        await attempt_once(lastseen, event(worker_id="v"), refuse),
    )
    await note(lastseen, recovered(worker_id="v"))
    answer = await post(lastseen, f"{DELIVERIES}/replay?receiver=ops")
    assert {name: answer.json()[name] for name in ("replayed", "over", "left", "next_cursor")} == {
        "replayed": 1,
        "over": 1,
        "left": 0,
        "next_cursor": None,
    }
    [queued] = (await lastseen.json(f"{DELIVERIES}?outcome=queued"))["deliveries"]
    [left] = (await lastseen.json(DELIVERIES))["deliveries"]
    assert (queued["nid"], left["nid"]) == (nid, over)
    [receiver] = [one for one in await receivers_of(lastseen) if one["name"] == "ops"]
    assert (receiver["dead_letters"], receiver["dead_letters_standing"]) == (1, 0)
    assert is_problem(await post(lastseen, f"{DELIVERIES}/replay"), 422, "'receiver'")
    assert is_problem(await post(lastseen, f"{DELIVERIES}/replay?receiver=pager"), 404, "'pager'")


async def receivers_of(lastseen: Api) -> list[dict[str, Any]]:
    listed = await lastseen.json(RECEIVERS, **lastseen.auth("x", scopes=(Scope.OPERATOR,)))
    return list(listed["receivers"])


async def test_all_dead_letters_of_a_receiver_are_those_that_the_token_may_see(lastseen: Api) -> None:
    await note(lastseen, event())
    await attempt_once(lastseen, event(), refuse)
    for restriction in ({"tenant": "other"}, {"environments": ("stage",)}, {"worker_id": "v"}):
        answer = await post(lastseen, f"{DELIVERIES}/replay?receiver=ops", **restriction)
        assert answer.json()["replayed"] == 0
    assert len((await lastseen.json(DELIVERIES))["deliveries"]) == 1


async def test_a_dropped_dead_letter_is_finished_and_has_no_body(lastseen: Api) -> None:
    await note(lastseen, event())
    nid = await attempt_once(lastseen, event(), refuse)
    for _ in range(2):
        assert (await post(lastseen, f"{DELIVERIES}/{nid}/drop")).json()["outcome"] == "dropped"
    assert (await lastseen.json(f"{DELIVERIES}/{nid}"))["body"] is None
    [finished] = (await lastseen.json(f"{DELIVERIES}?outcome=finished"))["deliveries"]
    assert finished["nid"] == nid
    assert is_problem(await post(lastseen, f"{DELIVERIES}/{nid}/replay"), 409, "dropped")


@pytest.mark.parametrize(
    "restriction", [{"tenant": "other"}, {"environments": ("stage",)}, {"worker_id": "v"}], ids=["t", "e", "w"]
)
async def test_a_delivery_is_shown_only_to_tokens_that_may_see_its_worker(
    lastseen: Api, restriction: dict[str, Any]
) -> None:
    await note(lastseen, event())
    nid = await attempt_once(lastseen, event(), refuse)
    headers = lastseen.auth(**restriction)
    assert (await lastseen.json(DELIVERIES, **headers))["deliveries"] == []
    assert is_problem(await lastseen.client.get(f"{DELIVERIES}/{nid}", headers=headers), 404)
    assert is_problem(await post(lastseen, f"{DELIVERIES}/{nid}/replay", {"force": True}, **restriction), 404)
    assert is_problem(await post(lastseen, f"{DELIVERIES}/{nid}/drop", **restriction), 404)
    assert len((await lastseen.json(DELIVERIES))["deliveries"]) == 1


async def test_what_cannot_be_asked_of_deliveries_is_named(lastseen: Api) -> None:
    assert is_problem(await lastseen.client.get(f"{DELIVERIES}?outcome=dead"), 422, "'outcome' is 'dead'")
    assert is_problem(await lastseen.client.get(f"{DELIVERIES}?receiver=pager"), 404, "'pager'")
    assert is_problem(await lastseen.client.get(f"{DELIVERIES}/ntf_{NO_ID}"), 404, NO_ID)
    assert is_problem(await lastseen.client.get(f"{DELIVERIES}/ntf_%FF%00"), 404)
    assert is_problem(await post(lastseen, f"{DELIVERIES}/ntf_{NO_ID}/replay", {"force": 1}), 422, "$.force")
    assert is_problem(await post(lastseen, f"{DELIVERIES}/ntf_{NO_ID}/drop", {"x": 1}), 422, "`x`")


async def test_p5_the_outcomes_of_an_event_are_shown_to_tokens_that_may_see_it(lastseen: Api) -> None:
    await lastseen.beat("w")
    assert (await post(lastseen, "/api/v1/workers/w/disconnect", {"reason": "crash"})).status_code == 204
    history = [
        one
        for part in range(2)
        for one in (await lastseen.store.history(part, "acme", after="", limit=10, newest_first=True)).events
    ]
    [failed] = [one for one in history if one.kind is EventKind.FAILED]
    path = f"/api/v1/events/{failed.event_id}/outcomes"
    assert (await lastseen.json(path))["outcomes"] == []
    await note(lastseen, failed)
    assert [one["outcome"] for one in (await lastseen.json(path))["outcomes"]] == ["queued"]
    nid = await attempt_once(lastseen, failed, refuse)
    [one] = (await lastseen.json(path))["outcomes"]
    assert (one["receiver"], one["outcome"], one["nid"], one["reason"]) == ("ops", "dead_lettered", nid, "404 from ops")
    for restriction in ({"tenant": "other"}, {"environments": ("stage",)}, {"worker_id": "v"}):
        assert is_problem(await lastseen.client.get(path, headers=lastseen.auth(**restriction)), 404)
    assert is_problem(await lastseen.client.get(f"/api/v1/events/{NO_ID}/outcomes"), 404, NO_ID)


# Receivers


async def test_receivers_are_listed_and_a_disabled_one_is_enabled_again(lastseen: Api) -> None:
    await note(lastseen, event())
    await attempt_once(lastseen, event(), refuse)
    await lastseen.alerts.groups["ops"].disable("410 Gone")
    operator = lastseen.auth(scopes=(Scope.OPERATOR,))
    listed = (await lastseen.json(RECEIVERS, **operator))["receivers"]
    assert [(one["name"], one["dead_letters"], one["disabled"]) for one in listed] == [
        ("chat", 0, None),
        ("ops", 1, "410 Gone"),
        ("own", 0, None),
    ]
    for _ in range(2):
        answer = await post(lastseen, f"{RECEIVERS}/ops/enable", scopes=(Scope.OPERATOR,))
        assert (answer.status_code, answer.json()["disabled"]) == (200, None)
    assert lastseen.alerts.woken == 2
    assert is_problem(await post(lastseen, f"{RECEIVERS}/pager/enable"), 404, "'pager'")


async def test_a_test_is_a_down_and_its_resolved_of_a_worker_that_says_what_it_is(lastseen: Api) -> None:
    answer = await post(lastseen, f"{RECEIVERS}/own/test")
    assert (answer.json()["delivered"], answer.json()["error"]) == (True, None)
    inbox = lastseen.alerts.receivers["own"]
    assert isinstance(inbox, Inbox)
    assert [one.event_type for one in inbox.accepted] == ["worker.stale", "worker.recovered"]
    assert inbox.accepted[0].nid == answer.json()["nid"]
    for one in inbox.accepted:
        data = json.loads(one.body)["data"]
        assert {data["worker_id"], data["tenant"], data["environment_name"]} == {"lastseen-test"}
        assert data["reason"] == "test"
    assert (await lastseen.json(f"{DELIVERIES}?outcome=finished"))["deliveries"] == []
    assert is_problem(await post(lastseen, f"{RECEIVERS}/pager/test"), 404)


@pytest.mark.parametrize("error", [PermanentDeliveryError("401 from own"), TransientDeliveryError("503 from own")])
async def test_a_test_says_what_the_receiver_said(lastseen: Api, error: Exception) -> None:
    inbox = lastseen.alerts.receivers["own"]
    assert isinstance(inbox, Inbox)

    def answer(*_: object) -> None:
        raise error

    inbox.answer = answer
    sample = (await post(lastseen, f"{RECEIVERS}/own/test")).json()
    assert (sample["delivered"], sample["error"]) == (False, str(error))
    assert len(inbox.attempts) == 1


# Permissions


async def forget_test(lastseen: Api, receiver: str = "own") -> None:
    """Reset the limit on tests of a receiver."""
    async with Redis.from_url(lastseen.store.settings.url) as redis:
        await redis.delete(f"{{ls.shared:0}}:to:{receiver}:test")


async def test_b8_a_shared_receiver_is_the_operators_and_a_tenants_own_is_its_admins(lastseen: Api) -> None:
    names = [one["name"] for one in (await lastseen.json(RECEIVERS))["receivers"]]
    assert names == ["own"]
    assert (await lastseen.json(RECEIVERS, **lastseen.auth("other")))["receivers"] == []
    for order in ("enable", "test"):
        await forget_test(lastseen)
        assert is_problem(await post(lastseen, f"{RECEIVERS}/ops/{order}"), 403, "'ops'", "scope 'operator'")
        assert is_problem(await post(lastseen, f"{RECEIVERS}/own/{order}", tenant="other"), 404, "'own'")
        assert (await post(lastseen, f"{RECEIVERS}/own/{order}")).status_code == 200
        await forget_test(lastseen)
        for name in ("own", "ops"):
            answer = await post(lastseen, f"{RECEIVERS}/{name}/{order}", tenant="x", scopes=(Scope.OPERATOR,))
            assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("restriction", [{"worker_id": "w"}, {"environments": ("prod",)}])
async def test_b8_a_restricted_token_has_no_business_with_receivers(lastseen: Api, restriction: dict[str, Any]) -> None:
    for scopes in (tuple(Scope), (Scope.ADMIN, Scope.WORKERS_READ)):
        for name in ("own", "ops"):
            for order in ("enable", "test"):
                answer = await post(lastseen, f"{RECEIVERS}/{name}/{order}", scopes=scopes, **restriction)
                assert is_problem(answer, 403, "restricted")
        answer = await lastseen.client.get(RECEIVERS, headers=lastseen.auth(scopes=scopes, **restriction))
        assert is_problem(answer, 403, "restricted")
    # A restricted token does not see the deliveries for other workers either, whatever its scopes.
    await note(lastseen, event(worker_id="v", environment_name="stage"))
    nid = await attempt_once(lastseen, event(worker_id="v", environment_name="stage"), refuse)
    headers = lastseen.auth(scopes=tuple(Scope), **restriction)
    assert (await lastseen.json(DELIVERIES, **headers))["deliveries"] == []
    assert is_problem(await lastseen.client.get(f"{DELIVERIES}/{nid}", headers=headers), 404)


async def test_b8_a_receiver_is_tested_once_in_ten_seconds_and_the_wait_is_said(lastseen: Api) -> None:
    answers = [await post(lastseen, f"{RECEIVERS}/own/test") for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] + [429] * 19
    assert all(1 <= int(answer.headers["retry-after"]) <= 10 for answer in answers[1:])
    assert is_problem(answers[-1], 429, "own was tested less than 10 s ago")
    inbox = lastseen.alerts.receivers["own"]
    assert isinstance(inbox, Inbox)
    assert len(inbox.accepted) == 2
    operator = lastseen.auth(scopes=(Scope.OPERATOR,))
    assert (await lastseen.client.post(f"{RECEIVERS}/own/test", headers=operator)).status_code == 429
    assert (await lastseen.client.post(f"{RECEIVERS}/ops/test", headers=operator)).status_code == 200


async def test_b8_an_operator_sees_and_replays_what_is_sent_to_any_tenant(lastseen: Api) -> None:
    await note(lastseen, event(), event(worker_id="v"))
    nid, other = (
        await attempt_once(lastseen, event(), refuse),
        await attempt_once(lastseen, event(worker_id="v"), refuse),
    )
    operator = lastseen.auth("x", scopes=(Scope.OPERATOR,))
    listed = (await lastseen.json(DELIVERIES, **operator))["deliveries"]
    assert {one["nid"] for one in listed} == {nid, other}
    assert (await lastseen.json(f"{DELIVERIES}/{nid}", **operator))["tenant"] == "acme"
    assert (await lastseen.client.post(f"{DELIVERIES}/{nid}/replay", headers=operator)).json()["outcome"] == "queued"
    assert (await lastseen.client.post(f"{DELIVERIES}/{other}/drop", headers=operator)).json()["outcome"] == "dropped"
    assert (await lastseen.json(DELIVERIES, **lastseen.auth("x")))["deliveries"] == []


WRITES = (
    ("POST", f"{INCIDENTS}/inc_{NO_ID}/ack", Scope.ALERTS_WRITE),
    ("POST", SILENCES, Scope.ALERTS_WRITE),
    ("DELETE", f"{SILENCES}/sil_{NO_ID}", Scope.ALERTS_WRITE),
    ("POST", f"{DELIVERIES}/ntf_{NO_ID}/replay", Scope.ALERTS_WRITE),
    ("POST", f"{DELIVERIES}/replay?receiver=own", Scope.ALERTS_WRITE),
    ("POST", f"{DELIVERIES}/ntf_{NO_ID}/drop", Scope.ALERTS_WRITE),
    ("POST", f"{RECEIVERS}/own/enable", Scope.ADMIN),
    ("POST", f"{RECEIVERS}/own/test", Scope.ADMIN),
)
READS = tuple(
    ("GET", path, Scope.WORKERS_READ)
    for path in (
        *(INCIDENTS, f"{INCIDENTS}/inc_{NO_ID}", SILENCES, f"{SILENCES}/sil_{NO_ID}", DELIVERIES),
        *(f"{DELIVERIES}/ntf_{NO_ID}", f"/api/v1/events/{NO_ID}/outcomes", RECEIVERS),
    )
)


@pytest.mark.parametrize(("method", "path", "scope"), [*WRITES, *READS])
async def test_every_path_asks_for_its_scope_and_no_other(lastseen: Api, method: str, path: str, scope: Scope) -> None:
    either = {scope, Scope.OPERATOR} if "/deliveries" in path or "/receivers" in path else {scope}
    others = tuple(one for one in Scope if one not in either)
    for scopes, refused in ((others, True), *(((one,), False) for one in either)):
        if path.endswith("/test"):
            await forget_test(lastseen)
        headers = lastseen.auth(scopes=scopes)
        answer = await lastseen.client.request(method, path, headers=headers)
        assert (answer.status_code == 403) is refused, answer.text
    assert (await lastseen.client.request(method, path, headers={"authorization": "Bearer x.y.z"})).status_code == 401


async def test_with_the_store_down_nothing_is_acknowledged(store_url: str) -> None:
    del store_url
    with servers.running(servers.valkey_binary()) as server:
        async with api.running(server.url, receivers={"own": ("acme",)}) as lastseen:
            await lastseen.sweep()
            server.kill()
            for method, path, _ in (*WRITES, *READS):
                if path.endswith("/test"):
                    continue
                body = silence() if path == SILENCES and method == "POST" else None
                answer = await lastseen.client.request(method, path, json=body)
                assert is_problem(answer, 503), path
                assert answer.headers["retry-after"] == "1"
