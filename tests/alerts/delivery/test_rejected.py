"""P11 at the receivers: a living worker with rejected beats is notified as such, and again when it falls silent."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from alerts.groups.fleet import Fleet
from alerts.groups.mass_failure import Rule
from alerts.receivers.webhook import WebhookReceiver
from alerts.rendering.payload import Wording
from alerts.routing.acknowledge import acknowledge_at
from alerts.routing.router import Router
from alerts.routing.routes import ReceiverTraits, Route
from alerts.service import AlertService, AlertSettings
from alerts.store.group_store import GroupPart, GroupStore, Want
from alerts.store.incidents import IncidentStore
from alerts.store.routing import RoutingStore
from monitor.daemon.alerts import StoredFleet
from monitor.events import Event
from monitor.liveness import EnvironmentHealth, EventKind, Liveness
from monitor.store import Store
from monitor.store.outbox import Outbox
from monitor.workers import Evidence, Rejection, WorkerKey
from tests.support import parts
from tests.support.alerts_daemons import Daemon
from tests.support.alerts_fakes import (
    CALM,
    SECRET,
    START_MS,
    Clock,
    FakeFleet,
    Hook,
    Inbox,
    ListSource,
    Tally,
    event,
    until,
    webhook_server,
)
from tests.support.stores import ManualClock, alert_store, beat, opened, outbox_of

REPEAT_MS = 60_000
REACH_MS = 90_000
LEGACY = frozenset({EventKind.STALE, EventKind.FAILED, EventKind.RECOVERED})
"""Events of a route from before ``worker.rejected`` existed."""


def rejected(worker: str = "w", number: int = 1, **changes: Any) -> Event:
    facts: dict[str, Any] = {"reason": "token expired", "rejected_reason": "token expired"}
    facts |= {"rejected_ms": START_MS - 5_000, "rejected_subject": "svc"}
    return at(worker, number, **{"kind": EventKind.REJECTED, **facts, **changes})


def silent(worker: str = "w", number: int = 2, **changes: Any) -> Event:
    """Its rejected beats have ended as well."""
    facts = {"old": Liveness.STALE, "since_ms": START_MS - 10, "due_ms": START_MS - 5_000 + REACH_MS}
    return rejected(worker, number, **{"kind": EventKind.STALE, "reason": "rejected beats ended", **facts, **changes})


def back(worker: str = "w", number: int = 3, kind: EventKind = EventKind.RECOVERED) -> Event:
    new = {EventKind.RECOVERED: Liveness.ALIVE, EventKind.STOPPED: Liveness.STOPPED, EventKind.FORGOTTEN: None}[kind]
    return at(worker, number, kind=kind, old=Liveness.STALE, new=new, reason="beat", since_ms=START_MS - 10)


def at(worker: str, number: int, **changes: Any) -> Event:
    """An event at position ``number`` of the stream, whatever its worker."""
    return event(number, worker_id=worker, **{"position": f"{START_MS}-{number}", **changes})


def notified(inbox: Inbox) -> list[tuple[str, str | None]]:
    bodies = [json.loads(item.body) for item in inbox.accepted]
    return [(body["type"], body["data"].get("previous_type")) for body in bodies]


def summaries(inbox: Inbox) -> list[str]:
    return [json.loads(item.body)["data"]["summary"] for item in inbox.accepted]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def daemon(store_url: str, clock: Clock) -> AsyncIterator[Callable[..., Any]]:
    """Makes and starts daemons on the store; they are stopped at the end."""
    made: list[Daemon] = []

    async def make(receivers: list[Any], *, fleet: Fleet = CALM, **route: Any) -> Daemon:
        names = tuple(receiver.name for receiver in receivers)
        routes = [Route(receivers=names, **{"repeat_interval_ms": REPEAT_MS, **route})]
        made.append(Daemon(store_url, receivers, ListSource([]), clock, routes, fleet=fleet))
        await made[-1].service.start()
        return made[-1]

    yield make
    for started in made:
        await started.service.stop(0)


async def happens(running: Daemon, *stream: Event) -> None:
    """Append the events to the stream, and wait until they are routed and acknowledged."""
    running.source.stream += stream
    running.service.wakeup()
    await until(lambda: running.source.acked == len(running.source.stream))


@pytest.mark.parametrize("kind", [EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN])
async def test_p11_p18_rejected_then_silent_then_over_is_two_downs_of_one_incident_and_one_resolved_at_a_webhook(
    daemon: Any, kind: EventKind
) -> None:
    def has(number: int) -> bool:
        return len(hook.requests) == number

    async with webhook_server() as hook:
        ops = WebhookReceiver(name="ops", url=hook.url, secrets=(SECRET,), allow_private=True)
        running = await daemon([ops])
        for number, one in enumerate((rejected(), silent(), back(kind=kind)), start=1):
            await happens(running, one)
            await until(functools.partial(has, number))
        await until(running.is_idle)
    bodies = [json.loads(body) for _, body in hook.requests]
    assert [body["type"] for body in bodies] == ["worker.rejected", "worker.stale", kind.value]
    assert [body["data"]["severity"] for body in bodies] == ["warning", "critical", "info"]
    assert [body["data"]["previous_type"] for body in bodies] == [None, "worker.rejected", "worker.stale"]
    assert len({body["data"]["incident_id"] for body in bodies}) == 1
    assert len(set(hook.ids())) == 3
    alive, dead, _ = (body["data"]["summary"] for body in bodies)
    assert alive.startswith("Worker w in prod is alive, but its heartbeats are rejected: token expired, sent by svc ")
    assert dead.startswith("Worker w in prod is stale: since ")
    assert bodies[0]["data"]["rejected"] == {"reason": "token expired", "at": "2026-09-21T14:13:15.000Z", "sub": "svc"}


async def test_p11_a_worker_whose_heartbeats_are_accepted_again_had_not_been_silent(daemon: Any) -> None:
    ops = Inbox()
    running = await daemon([ops])
    await happens(running, rejected())
    await until(lambda: len(ops.accepted) == 1)
    await happens(running, back(number=2))
    await until(running.is_idle)
    assert notified(ops) == [("worker.rejected", None), ("worker.recovered", "worker.rejected")]
    assert summaries(ops)[1].startswith("Worker w in prod is back: its heartbeats are accepted again, after ")
    assert "silence" not in summaries(ops)[1]


async def test_p18_what_a_receiver_was_not_notified_of_yet_is_sent_as_it_is_by_then(daemon: Any) -> None:
    ops = Inbox()
    running = await daemon([ops], group_wait_ms=1_000)
    await happens(running, rejected(), silent())
    running.clock.ms += 1_000
    await until(lambda: len(ops.accepted) == 1)
    await happens(running, back())
    await until(running.is_idle)
    assert notified(ops) == [("worker.stale", None), ("worker.recovered", "worker.stale")]


async def acknowledge(running: Daemon, incident_id: str, key: str) -> None:
    """Acknowledge as the API does."""
    now_ms = running.clock.ms
    incidents, groups = running.service.incidents, running.service.groups["ops"]
    incident = await incidents.acknowledge("acme", incident_id, by="ann", comment="renewing it", now_ms=now_ms)
    await acknowledge_at(groups, key, incident, now_ms=now_ms)


@pytest.mark.parametrize(
    ("group_by", "key", "sent"),
    [
        (("worker_id",), "w4:acmew", ("worker.rejected", "worker.stale", "worker.stale")),
        (("environment",), 'g{"environment": "prod", "tenant": "acme"}', ("group.firing",) * 3),
    ],
)
async def test_p19_an_ack_of_a_warning_is_none_of_what_becomes_of_it(
    daemon: Any, group_by: tuple[str, ...], key: str, sent: tuple[str, ...]
) -> None:
    ops = Inbox()
    running = await daemon([ops], group_by=group_by)
    await happens(running, rejected())
    await until(lambda: running.outcomes["ops", "delivered"] == 1)
    incident_id = f"inc_{rejected().event_id}"
    await acknowledge(running, incident_id, key)
    running.clock.ms += REPEAT_MS
    await until(running.is_idle_now)
    assert len(ops.accepted) == 1, "an acknowledged warning is not reminded of"
    await happens(running, silent())
    await until(lambda: running.outcomes["ops", "delivered"] == 2)
    assert (await running.service.incidents.get("acme", incident_id)).ack is None
    running.clock.ms += REPEAT_MS
    await until(lambda: running.outcomes["ops", "delivered"] == 3)
    await acknowledge(running, incident_id, key)
    running.clock.ms += REPEAT_MS
    await until(running.is_idle_now)
    assert tuple(item.event_type for item in ops.accepted) == sent
    assert [json.loads(item.body)["data"]["reminder"] for item in ops.accepted] == [0, 0, 1]


async def test_p19_an_ack_between_the_lapse_of_the_last_one_and_its_hand_over_is_not_lost(
    store_url: str, clock: Clock
) -> None:
    class Hung(GroupPart):
        async def save(self, *args: Any, **rest: Any) -> list[bool]:
            is_noted.set()
            await is_ongoing.wait()
            return await super().save(*args, **rest)

    is_noted, is_ongoing = asyncio.Event(), asyncio.Event()
    key = 'g{"environment": "prod", "tenant": "acme"}'
    incident_id = f"inc_{rejected().event_id}"
    source, store = ListSource([rejected()]), alert_store(store_url)
    incidents, groups = IncidentStore(store), GroupStore(store, "ops")

    def router(groups: GroupStore) -> Router:
        return Router(
            partition=0,
            source=source,
            batches=RoutingStore(store),
            incidents=incidents,
            mass_failures=None,
            groups={"ops": groups},
            traits={"ops": ReceiverTraits()},
            routes=[Route(receivers=("ops",), group_by=("environment",))],
            now_ms=clock,
            on_queued=lambda *_: None,
        )

    async def acks() -> tuple[int, bool]:
        [seen] = await groups.read([Want(group=key, members=("4:acmew",))])
        [member] = seen.members
        assert seen.group is not None
        assert member is not None
        return seen.group.acks, member.acked

    try:
        await router(groups).step()
        incident = await incidents.acknowledge("acme", incident_id, by="ann", comment="", now_ms=clock.ms)
        await acknowledge_at(groups, key, incident, now_ms=clock.ms)
        assert await acks() == (1, True)
        source.stream.append(silent())
        routing = asyncio.create_task(router(parts.made_of(Hung, store)).step())
        await is_noted.wait()
        incident = await incidents.acknowledge("acme", incident_id, by="bob", comment="", now_ms=clock.ms)
        await acknowledge_at(groups, key, incident, now_ms=clock.ms)
        is_ongoing.set()
        await routing
        assert await acks() == (1, True)
    finally:
        await store.close()


async def test_p16_a_fleet_whose_token_expired_is_one_notification_that_calls_no_worker_silent(
    daemon: Any, clock: Clock
) -> None:
    workers = 1_000

    def health() -> EnvironmentHealth:
        left = max(0, workers - running.source.acked)
        return EnvironmentHealth(expected=left, silent=left)

    ops = Inbox()
    running: Daemon = await daemon([ops], fleet=FakeFleet(health))
    names = [f"w{number:04d}" for number in range(workers)]
    await happens(running, *(rejected(name, number) for number, name in enumerate(names, start=1)))
    clock.ms += 2_000
    await until(lambda: running.outcomes["ops", "delivered"] == 1)
    [body] = [json.loads(item.body) for item in ops.accepted]
    assert body["type"] == "group.firing"
    assert body["data"]["counts"] == {
        "firing": workers,
        "rejected": workers,
        "new": workers,
        "recovered": 0,
        "expected": workers,
    }
    assert body["data"]["summary"].startswith(
        "1,000 of 1,000 workers in prod are alive, but their heartbeats are rejected (the first 50: token expired)"
    )
    whole = await running.service.incidents.get("acme", body["data"]["incident_id"])
    assert whole.reason == "the heartbeats of many workers are rejected at once: token expired"

    # Twelve of them fall silent: one update, with the count of each state.
    await happens(running, *(silent(name, 2_000 + number) for number, name in enumerate(names[:12])))
    clock.ms += 60_000
    await until(lambda: running.outcomes["ops", "delivered"] == 2)
    data = json.loads(ops.accepted[1].body)["data"]
    assert (data["counts"]["firing"], data["counts"]["rejected"], data["counts"]["new"]) == (workers, workers - 12, 12)
    assert "are silent or rejected (12 silent; 988 alive, but rejected (" in data["summary"]

    await happens(running, *(back(name, 5_000 + number) for number, name in enumerate(names)))
    clock.ms += 60_000
    await until(running.is_idle)
    assert [item.event_type for item in ops.accepted] == ["group.firing", "group.firing", "group.resolved"]


async def test_p18_a_route_that_knows_nothing_of_rejections_reports_the_silence_and_its_end(daemon: Any) -> None:
    ops = Inbox()
    running = await daemon([ops], events=LEGACY)
    await happens(running, rejected())
    assert ops.accepted == []
    await happens(running, silent())
    await until(lambda: len(ops.accepted) == 1)
    await happens(running, back())
    await until(running.is_idle)
    assert notified(ops) == [("worker.stale", None), ("worker.recovered", "worker.stale")]


async def test_p18_a_worker_that_was_rejected_and_came_back_is_nothing_to_such_a_route(daemon: Any) -> None:
    ops = Inbox()
    running = await daemon([ops], events=LEGACY)
    await happens(running, rejected(), back(number=2))
    await until(running.is_idle)
    assert ops.attempts == []


# From the worker store to the webhook


class Whole:
    """The worker store, its events, and an alert service that sends them to a webhook server."""

    def __init__(self, store: Store, url: str, hook: Hook, outbox: Outbox) -> None:
        self.store = store
        self.clock = ManualClock(url)
        self.hook = hook
        self.key = WorkerKey("acme", "w")
        ops = WebhookReceiver(name="ops", url=hook.url, secrets=(SECRET,), allow_private=True)

        self.service = AlertService(
            AlertSettings(
                receivers=[ops],
                routes=[Route(receivers=("ops",))],
                wording=Wording(public_url="", redact=()),
                rule=Rule(),
            ),
            store=alert_store(url),
            source=outbox,
            partitions=1,
            fleet=StoredFleet(store),
            now_ms=store.clock.now_ms,
            counts=Tally(),
            poll_s=0.01,
            router_poll_s=0.01,
        )

    async def beats(self) -> int:
        """One accepted heartbeat; when it was stored."""
        await self.store.beat(0, [beat("w", interval_ms=1_000, grace_ms=1_000)])
        _, _, worker = await self.store.get(self.key)
        assert worker is not None
        return worker.last_seen_ms

    async def is_refused(self, at_ms: int) -> int:
        """A refused heartbeat, at this moment or soon after: the service beside it may have made the next call."""
        await self.clock.set(at_ms)
        await self.store.evidence(
            0, [Evidence(key=self.key, allowed=None, rejection=Rejection.TOKEN_EXPIRED, subject="svc")]
        )
        _, _, worker = await self.store.get(self.key)
        assert worker is not None
        assert worker.rejected is not None
        return worker.rejected.at_ms

    async def pulses(self, from_ms: int, to_ms: int) -> None:
        """The monitor writes its pulse from one time to another."""
        for moment_ms in range(from_ms, to_ms + 1, 250):
            await self.clock.set(moment_ms)
            await self.store.pulse(0, ends=False)

    async def sent_after_sweep(self, number: int) -> dict[str, Any]:
        """Sweep now, wait until ``number`` notifications have come, and return the body of the newest."""
        await self.store.sweep(0, limit=100)
        self.service.wakeup()
        await until(lambda: len(self.hook.requests) == number)
        body: dict[str, Any] = json.loads(self.hook.requests[-1][1])
        return body


@pytest.fixture
async def whole(store_url: str) -> AsyncIterator[Whole]:
    async with webhook_server() as hook, opened(store_url) as store:
        made = Whole(store, store_url, hook, await outbox_of(store))
        await made.service.start()
        yield made
        await made.service.stop(0)


async def test_p11_p18_refused_heartbeats_their_end_and_the_return_are_sent_from_the_store_to_the_webhook(
    whole: Whole,
) -> None:
    last_ms = await whole.beats()
    refused_ms = await whole.is_refused(last_ms + 1_500)
    await whole.clock.set(last_ms + 2_000)
    first = await whole.sent_after_sweep(1)
    await whole.clock.set(refused_ms + 1_999)
    await whole.store.sweep(0, limit=100)
    await whole.clock.set(refused_ms + 2_000)
    second = await whole.sent_after_sweep(2)
    await whole.clock.set(last_ms + 6_000)
    await whole.beats()
    third = await whole.sent_after_sweep(3)
    assert [body["type"] for body in (first, second, third)] == ["worker.rejected", "worker.stale", "worker.recovered"]
    assert [body["data"]["severity"] for body in (first, second)] == ["warning", "critical"]
    assert (
        "is alive, but its heartbeats are rejected: token expired, sent by svc (last accepted "
        in first["data"]["summary"]
    )
    assert (
        "it sends no heartbeats at all; those before were rejected: token expired, sent by svc ("
        in second["data"]["summary"]
    )
    assert third["data"]["summary"].startswith("Worker w in prod is back after 6 s without an accepted heartbeat")
    assert len({body["data"]["incident_id"] for body in (first, second, third)}) == 1
    await whole.store.sweep(0, limit=100)
    assert len(whole.hook.requests) == 3


async def test_p2_a_death_that_is_noticed_after_our_own_outage_says_so_from_the_store_to_the_webhook(
    whole: Whole,
) -> None:
    await whole.store.pulse(0, ends=False)
    last_ms = await whole.beats()
    await whole.pulses(last_ms, last_ms + 250)
    back_ms = last_ms + 250 + 250_000
    # Not to the millisecond: the service's own calls move the store's time, and with it the end of the outage.
    await whole.pulses(back_ms, back_ms + 2_250)
    body = await whole.sent_after_sweep(1)
    assert body["data"]["monitor_outage"]["windows"] == 1
    assert "detected after the monitor's own outage of 4 min 10 s)" in body["data"]["summary"]
