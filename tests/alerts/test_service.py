"""From the event stream to the receivers: what is promised of alerts, on real servers."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from redis.asyncio import Redis
from structlog.testing import capture_logs

from alerts.errors import Cause, PermanentDeliveryError, TransientDeliveryError
from alerts.groups.attempts import AGAIN_MS
from alerts.groups.classify import worker_key
from alerts.groups.fleet import Fleet
from alerts.groups.silences import Matchers, Silence
from alerts.groups.state import NotificationRecord, Outcome
from alerts.receivers import Notification, Receiver
from alerts.receivers.webhook import WebhookReceiver
from alerts.rendering.payload import Wording
from alerts.routing.routes import Route
from alerts.service import AlertService, AlertSettings
from alerts.store.group_store import Want
from alerts.store.tags import base_of_group
from monitor.events import Event, rfc3339
from monitor.liveness import EnvironmentHealth, EventKind, Liveness
from tests.support import parts, servers
from tests.support.alerts_daemons import Daemon
from tests.support.alerts_fakes import (
    CALM,
    SECRET,
    START_MS,
    Clock,
    FakeFleet,
    Inbox,
    ListSource,
    Tally,
    dead_letters,
    event,
    events,
    nid_of,
    until,
    webhook_server,
)
from tests.support.stores import alert_store

LEASE_MS = 15_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def daemon(store_url: str, clock: Clock) -> AsyncIterator[Callable[..., Any]]:
    """Makes and starts daemons on the store; they are stopped at the end."""
    made: list[Daemon] = []

    async def make(
        receivers: list[Receiver],
        stream: list[Event] | ListSource,
        *,
        routes: list[Route] | None = None,
        fleet: Fleet = CALM,
        **changes: Any,
    ) -> Daemon:
        source = stream if isinstance(stream, ListSource) else ListSource(stream)
        everywhere = [
            Route(
                receivers=tuple(receiver.name for receiver in receivers),
                events=frozenset(EventKind),
                repeat_interval_ms=0,
            )
        ]
        chosen = everywhere if routes is None else routes
        started = Daemon(store_url, receivers, source, clock, chosen, fleet=fleet, **changes)
        made.append(started)
        await started.service.start()
        return started

    yield make
    for started in made:
        await started.service.stop(0)


def _ids(stream: list[Event], receiver: str = "ops") -> list[str]:
    return [nid_of(item, receiver) for item in stream]


def _fails_until(attempts: int) -> Callable[[Notification, int], None]:
    def answer(_notification: Notification, attempt: int) -> None:
        if attempt < attempts:
            raise TransientDeliveryError("HTTP 500")

    return answer


async def test_p5_every_event_reaches_every_matching_receiver_once(daemon: Any) -> None:
    stream = events(workers=60, each=4)
    ops, log = Inbox("ops"), Inbox("log")
    running = await daemon([ops, log], stream)
    await until(running.is_idle)
    assert sorted(ops.ids()) == sorted(_ids(stream))
    assert sorted(log.ids()) == sorted(_ids(stream, "log"))
    # An outcome is recorded first, and then counted.
    await until(lambda: running.outcomes == {("ops", "delivered"): 240, ("log", "delivered"): 240})
    assert running.service.failing() == []


async def test_p7_each_worker_is_reported_in_order_though_attempts_fail(daemon: Any) -> None:
    stream = events(workers=7, each=5)
    ops = Inbox(answer=_fails_until(3), timeout_s=3_600)
    running = await daemon([ops], stream)

    await until(lambda: running.is_idle_a_retry_later(lambda: len(ops.attempts)))
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for item in ops.accepted:
        by_key[item.key].append(item.nid)
    for worker in range(7):
        of_worker = [item for item in stream if item.worker_id == f"w{worker}"]
        assert by_key[f"w4:acmew{worker}"] == _ids(of_worker)
    assert running.outcomes["ops", "failed"] == 2 * 35


async def test_p6_attempts_carry_one_id_and_equal_bytes(daemon: Any) -> None:
    async def third_time_lucky(_request: web.Request, number: int) -> web.Response:
        return web.Response(status=(500, 500, 200)[number])

    async with webhook_server(third_time_lucky) as hook:
        receiver = WebhookReceiver(name="ops", url=hook.url, secrets=(SECRET,), allow_private=True)
        running = await daemon([receiver], [event()])

        await until(lambda: running.is_idle_a_retry_later(lambda: len(hook.requests)))
        await running.service.stop()
    assert len(hook.requests) == 3
    assert len({body for _, body in hook.requests}) == 1
    assert set(hook.ids()) == set(_ids([event()]))
    assert len({headers["webhook-timestamp"] for headers, _ in hook.requests}) == 3


async def test_p6_an_event_that_is_routed_again_after_its_delivery_is_not_sent_again(daemon: Any) -> None:
    stream = events(workers=5, each=2)
    ops = Inbox()
    source = ListSource(stream)
    source.acks_are_lost = True
    running = await daemon([ops], source)
    await until(lambda: len(ops.accepted) == 10)
    source.acks_are_lost = False
    await until(running.is_idle)
    assert sorted(ops.ids()) == sorted(_ids(stream))


async def test_p5_a_crash_between_send_and_record_sends_the_same_again(daemon: Any, clock: Clock) -> None:
    ops = Inbox(gate=asyncio.Event())
    running = await daemon([ops], [event()])
    await until(lambda: len(ops.attempts) == 1)
    await running.cut()
    ops.gate = None
    again = await daemon([ops], running.source)
    await until(lambda: again.source.acked == 1)
    assert len(ops.attempts) == 1
    clock.ms += LEASE_MS
    await until(again.is_idle)
    assert [item.nid for item in ops.attempts] == _ids([event()]) * 2
    assert ops.attempts[0].body == ops.attempts[1].body


async def test_p5_a_daemon_cut_off_mid_queue_loses_nothing(daemon: Any, clock: Clock) -> None:
    stream = events(workers=50, each=4)
    ops = Inbox()
    for delivered in (20, 60, 120):
        running = await daemon([ops], ListSource(stream))
        await until(lambda count=delivered: len(ops.accepted) >= count)  # type: ignore[misc]
        await running.cut()
        clock.ms += LEASE_MS
    running = await daemon([ops], ListSource(stream))
    await until(running.is_idle)
    assert set(ops.ids()) == set(_ids(stream))


async def test_p21_a_dead_and_a_slow_receiver_delay_no_other(daemon: Any) -> None:
    stream = events(workers=40, each=2)
    dead = Inbox("dead", answer=_fails_until(10_000))
    slow = Inbox("slow", gate=asyncio.Event())
    ops = Inbox("ops")
    running = await daemon([dead, slow, ops], stream)
    await until(lambda: len(ops.accepted) == 80)
    assert sorted(ops.ids()) == sorted(_ids(stream))
    assert len(slow.attempts) == 8
    assert slow.accepted == dead.accepted == []

    async def settled() -> bool:
        groups = {stats.receiver: stats.groups for stats in await running.service.health()}
        return groups == {"dead": 40, "slow": 40, "ops": 0}

    await until(settled)


async def test_p5_what_is_given_up_is_a_dead_letter_and_the_next_goes_on(daemon: Any, store_url: str) -> None:
    def answer(item: Notification, _attempt: int) -> None:
        if item.nid == first:
            raise TransientDeliveryError("HTTP 500")
        if item.nid == second:
            raise PermanentDeliveryError("HTTP 400")

    stream = events(workers=1, each=3)
    first, second, third = _ids(stream)
    ops = Inbox(answer=answer, timeout_s=3_600)
    running = await daemon([ops], stream)

    with capture_logs() as logs:
        await until(lambda: running.is_idle_a_retry_later(lambda: len(ops.attempts)))
    assert ops.ids() == [third]
    assert Counter(item.nid for item in ops.attempts) == {first: 12, second: 1, third: 1}
    dead = await dead_letters(store_url)
    assert [(letter.nid, letter.attempts) for letter in dead] == [(first, 12), (second, 1)]
    assert [line["reason"] for line in logs if line["event"] == "delivery.dead_lettered"] == [
        "gave_up: HTTP 500",
        "permanent: HTTP 400",
    ]
    failed = [line for line in logs if line["event"] == "delivery.failed"]
    assert [line["attempt"] for line in failed] == list(range(1, 12))
    assert all(0 < line["next_attempt_s"] <= 1 for line in failed)


async def test_a_refusal_that_may_be_mended_is_tried_again_and_counted_by_its_kind(daemon: Any) -> None:
    async def answer(_request: web.Request, number: int) -> web.Response:
        return web.Response(status=(404, 401, 403)[number], text="mended soon") if number < 3 else web.Response()

    async with webhook_server(answer) as hook:
        ops = WebhookReceiver(name="ops", url=hook.url, secrets=(SECRET,), allow_private=True)
        with capture_logs() as logs:
            running = await daemon([ops], [event(1)])
            await until(lambda: running.outcomes["ops", "failed"] == 1)
            [note] = await _notes(running, Outcome.QUEUED)
            [seen] = await running.service.groups["ops"].read([Want(group=note.group)])
            assert seen.group is not None
            assert seen.group.in_flight is not None
            assert (seen.group.in_flight.cause, seen.group.in_flight.answer) == ("not_found", "mended soon")
            await until(lambda: running.is_idle_a_retry_later(lambda: len(hook.requests)))
    assert hook.ids() == [nid_of(event(1))] * 4
    assert running.causes == {("ops", "not_found"): 1, ("ops", "auth"): 2}
    failed = [(line["cause"], line["reason"]) for line in logs if line["event"] == "delivery.failed"]
    assert [cause for cause, _ in failed] == ["not_found", "auth", "auth"]
    assert "mended soon" not in str(logs)  # it may quote the notification
    assert (await running.service.health())[0].open_dead_letters == 0


async def _notes(running: Daemon, outcome: Outcome) -> list[NotificationRecord]:
    groups = running.service.groups["ops"]
    return await parts.notifications(groups, outcome, before_ms=2 * START_MS, offset=0, limit=100)


class Refusing:
    """Refuses the pages of some workers for good, as long as they are in the set."""

    def __init__(self, *workers: str) -> None:
        self.workers = set(workers)

    def __call__(self, notification: Notification, _attempt: int) -> None:
        if any(notification.key.endswith(worker) for worker in self.workers):
            raise PermanentDeliveryError("receiver 'ops': HTTP 413", cause=Cause.TOO_LARGE)


async def _health(running: Daemon) -> int:
    return int((await running.service.health())[0].open_dead_letters)


async def test_p31_a_page_that_was_given_up_is_retried_with_the_next_acceptance(daemon: Any) -> None:
    refusing = Refusing("-w")
    ops = Inbox(answer=refusing)
    given_up, other, third = event(1, worker_id="-w"), event(1, worker_id="x", position="2-0"), recovered_event("-w")
    running = await daemon([ops], [given_up])
    await until(lambda: running.outcomes["ops", "dead_lettered"] == 1)
    assert (await _health(running), ops.accepted) == (1, [])
    refusing.workers.clear()
    running.source.stream.append(other)
    running.service.wakeup()
    await until(lambda: len(ops.accepted) == 2)
    assert ops.ids() == [nid_of(other), nid_of(given_up)]  # its id and body are those of the first attempt
    assert len({item.body for item in ops.attempts if item.nid == nid_of(given_up)}) == 1
    await until(running.is_idle_now)
    assert await _health(running) == 0
    running.source.stream.append(third)
    running.service.wakeup()
    await until(lambda: len(ops.accepted) == 3)
    assert ops.accepted[-1].event_type == "worker.recovered"  # P18
    assert await dead_letters_of(running) == []


async def test_p31_the_next_acceptance_counts_whichever_daemon_it_is_at(daemon: Any) -> None:
    refusing = Refusing("-w")
    given_up, other = event(1, worker_id="-w"), event(1, worker_id="x", position="2-0")
    elsewhere, here = Inbox(answer=refusing), Inbox(answer=refusing)
    owner = await daemon([elsewhere], [given_up])
    await until(lambda: owner.outcomes["ops", "dead_lettered"] == 1)
    refusing.workers.clear()
    owner.source.leased_elsewhere = True
    await owner.service.stop(0)
    source = ListSource([other])
    source.is_owner = False  # so it sees no queue of the owner
    running = await daemon([here], source)
    assert await _health(running) == 1
    await until(lambda: here.ids() == [nid_of(other), nid_of(given_up)])
    await until(running.is_idle_now)
    assert await _health(running) == 0


async def test_p31_an_acceptance_counts_for_a_page_that_another_daemon_gave_up_shortly_before(
    daemon: Any, clock: Clock
) -> None:
    refusing = Refusing("-w")
    given_up, other = event(1, worker_id="-w"), event(1, worker_id="x", position="2-0")
    elsewhere, here = Inbox(answer=refusing), Inbox(answer=refusing)
    source = ListSource([])
    source.is_owner = False  # so it sees no queue of the owner
    running = await daemon([here], source)
    assert await _health(running) == 0
    owner = await daemon([elsewhere], [given_up])
    await until(lambda: owner.outcomes["ops", "dead_lettered"] == 1)
    refusing.workers.clear()
    owner.source.leased_elsewhere = True
    await owner.service.stop(0)
    clock.ms += 1_000
    source.stream.append(other)
    running.service.wakeup()
    await until(running.is_idle_now)
    assert here.ids() == [nid_of(other)]
    clock.ms += 1_000
    assert await _health(running) == 1  # now it knows of the page
    await until(lambda: here.ids() == [nid_of(other), nid_of(given_up)])


async def test_p31_without_an_acceptance_it_is_retried_within_an_hour_one_attempt_at_a_time(
    daemon: Any, clock: Clock
) -> None:
    refusing = Refusing("-w")
    ops = Inbox(answer=refusing)
    running = await daemon([ops], [event(1, worker_id="-w")])
    await until(lambda: running.outcomes["ops", "dead_lettered"] == 1)
    for hour in range(2, 4):
        clock.ms += AGAIN_MS - 1
        await until(running.is_idle_now)
        assert len(ops.attempts) == hour - 1
        clock.ms += 1
        await until(lambda hour=hour: running.outcomes["ops", "failed"] == hour - 1)  # type: ignore[misc]
        assert (len(ops.attempts), await _health(running)) == (hour, 1)
    refusing.workers.clear()
    clock.ms += AGAIN_MS
    await until(lambda: len(ops.accepted) == 1)
    await until(running.is_idle_now)
    assert {item.nid for item in ops.attempts} == {nid_of(event(1, worker_id="-w"))}
    assert (await _health(running), running.outcomes["ops", "dead_lettered"]) == (0, 1)


async def test_p31_a_page_that_is_refused_for_good_is_not_retried_with_every_acceptance(
    daemon: Any, clock: Clock
) -> None:
    ops = Inbox(answer=Refusing("-w"))
    running = await daemon([ops], [event(1, worker_id="-w")])
    await until(lambda: running.outcomes["ops", "dead_lettered"] == 1)
    for number in range(2, 32):
        running.source.stream.append(event(1, worker_id=f"x{number}", position=f"{number}-0"))
        running.service.wakeup()
        await until(lambda number=number: len(ops.accepted) == number - 1)  # type: ignore[misc]
        clock.ms += 10_000
        await until(running.is_idle_now)
    refused = [item for item in ops.attempts if item.key.endswith("-w")]
    assert len(refused) <= 5  # in five minutes: at once, then after one, two and four


async def test_p31_a_page_whose_outage_is_over_is_forgotten_and_no_resolved_follows(daemon: Any, clock: Clock) -> None:
    refusing = Refusing("-w")
    ops = Inbox(answer=refusing)
    running = await daemon([ops], [event(1, worker_id="-w")])
    await until(lambda: running.outcomes["ops", "dead_lettered"] == 1)
    refusing.workers.clear()
    running.source.stream.append(recovered_event("-w"))
    running.service.wakeup()
    await until(running.is_idle)
    assert (ops.accepted, await _health(running)) == ([], 0)
    assert len(await dead_letters_of(running)) == 1  # it is listed as what it was
    clock.ms += AGAIN_MS
    await until(running.is_idle_now)
    assert ops.accepted == []


async def test_p31_reminders_of_a_page_given_up_go_on_and_an_accepted_one_reports_it(daemon: Any, clock: Clock) -> None:
    refusing = Refusing("-w")
    ops = Inbox(answer=refusing)
    everything = Route(receivers=("ops",), events=frozenset(EventKind), repeat_interval_ms=600_000)
    running = await daemon([ops], [event(1, worker_id="-w")], routes=[everything])
    await until(lambda: running.outcomes["ops", "dead_lettered"] == 1)
    refusing.workers.clear()
    clock.ms += 600_000
    await until(lambda: len(ops.accepted) == 1)
    assert ops.ids() != [nid_of(event(1, worker_id="-w"))]
    assert json.loads(ops.accepted[0].body)["data"]["reminder"] == 1
    await until(running.is_idle_now)
    assert await _health(running) == 0


async def test_p31_a_page_that_may_have_arrived_is_retried_under_the_same_id(daemon: Any, clock: Clock) -> None:
    def hangs(_notification: Notification, attempt: int) -> None:
        if attempt <= 12:
            raise TransientDeliveryError("receiver 'ops': no answer within 5 s", cause=Cause.TIMEOUT, unknown=True)

    ops = Inbox(answer=hangs)
    running = await daemon([ops], [event(1)])
    await until(lambda: _dies(running, ops))
    assert await _health(running) == 1
    clock.ms += AGAIN_MS
    await until(lambda: len(ops.accepted) == 1)
    assert {item.nid for item in ops.attempts} == {nid_of(event(1))}
    await until(running.is_idle_now)
    assert await _health(running) == 0


async def _dies(running: Daemon, ops: Inbox) -> bool:
    await running.is_idle_a_retry_later(lambda: len(ops.attempts))
    return running.outcomes["ops", "dead_lettered"] == 1


async def test_p31_a_group_that_was_given_up_is_retried_and_over_when_its_last_member_is(
    daemon: Any, clock: Clock
) -> None:
    refusing = Refusing("}")
    ops = Inbox(answer=refusing)
    by_environment = Route(
        receivers=("ops",), events=frozenset(EventKind), group_by=("tenant", "environment"), repeat_interval_ms=0
    )
    running = await daemon(
        [ops], [event(1, worker_id=name, position=f"{ord(name)}-0") for name in ("a", "b")], routes=[by_environment]
    )
    await until(lambda: running.outcomes["ops", "dead_lettered"] >= 1)
    await until(running.is_idle_now)
    tried = len(ops.attempts)
    clock.ms += AGAIN_MS
    await until(lambda: len(ops.attempts) == tried + 1)
    assert ops.attempts[-1].nid == ops.attempts[-2].nid
    await until(running.is_idle_now)
    assert await _health(running) == 1
    running.source.stream += [recovered_event(name) for name in ("a", "b")]
    running.service.wakeup()
    await until(running.is_idle)
    assert (ops.accepted, await _health(running)) == ([], 0)


def recovered_event(worker_id: str) -> Event:
    return event(
        2,
        worker_id=worker_id,
        position=f"{9_000 + ord(worker_id[-1])}-0",
        kind=EventKind.RECOVERED,
        old=Liveness.STALE,
        new=Liveness.ALIVE,
    )


async def dead_letters_of(running: Daemon) -> list[NotificationRecord]:
    return await _notes(running, Outcome.DEAD_LETTERED)


async def test_p5_an_event_that_cannot_be_rendered_is_recorded_and_passed(daemon: Any, store_url: str) -> None:
    stream = [event(1, worker_id="a"), event(1, worker_id="b", worker_metadata_json="{"), event(1, worker_id="c")]
    stream = [replace(item, position=f"{number}-0") for number, item in enumerate(stream, 1)]
    ops = Inbox()
    with capture_logs() as logs:
        running = await daemon([ops], stream)
        await until(lambda: len(ops.accepted) == 2)
        await until(running.is_idle)
    assert sorted(ops.ids()) == sorted(_ids([stream[0], stream[2]]))
    assert running.outcomes["ops", "unrenderable"] == 1
    (letter,) = await dead_letters(store_url)
    assert letter.nid == nid_of(stream[1])
    assert "delivery.unrenderable" in {line["event"] for line in logs}


async def test_the_partition_of_another_daemon_is_left_to_it(daemon: Any) -> None:
    ops = Inbox()
    source = ListSource([event()])
    source.leased_elsewhere = True
    running = await daemon([ops], source)
    await until(lambda: source.refusals >= 2)
    assert source.acked == 0
    source.leased_elsewhere = False
    await until(running.is_idle)
    assert len(ops.accepted) == 1


async def test_an_outage_of_the_event_store_is_logged_once_and_survived(daemon: Any) -> None:
    ops = Inbox()
    source = ListSource([event()])
    source.down = True
    with capture_logs() as logs:
        running = await daemon([ops], source)
        await until(lambda: any(line["event"] == "router.store_unavailable" for line in logs))
        source.down = False
        await until(running.is_idle)
    of_partition = [line["event"] for line in logs if line.get("partition") == 0]
    assert of_partition == ["router.store_unavailable", "router.resumed"]


async def test_p5_an_outage_of_the_queue_store_loses_nothing(clock: Clock) -> None:
    stream = events(workers=30, each=4)
    ops = Inbox()
    with servers.running(servers.valkey_binary(), "--appendfsync", "always") as server:
        routes = [Route(receivers=("ops",), events=frozenset(EventKind), repeat_interval_ms=0)]
        running = Daemon(server.url, [ops], ListSource(stream), clock, routes)
        await running.service.start()
        await until(lambda: len(ops.accepted) >= 20)
        server.kill()
        again = servers.start(servers.valkey_binary(), server.directory)
        try:
            clock.ms += LEASE_MS
            await until(lambda: set(ops.ids()) == set(_ids(stream)))
            await until(running.is_idle)
            await running.service.stop()
        finally:
            again.kill()
    assert running.service.failing() == []
    # This process remembers what was accepted while the store was away; only attempts cut in two repeat.
    assert len(ops.accepted) - len(stream) <= 8


async def test_p6_an_id_accepted_while_the_store_was_away_is_not_sent_again_by_the_same_daemon(clock: Clock) -> None:
    ops = Inbox(gate=(gate := asyncio.Event()))
    with servers.running(servers.valkey_binary(), "--appendfsync", "always") as server:
        running = Daemon(
            server.url,
            [ops],
            ListSource([event()]),
            clock,
            [Route(receivers=("ops",), events=frozenset(EventKind), repeat_interval_ms=0)],
        )
        with capture_logs() as logs:
            await running.service.start()
            await until(lambda: len(ops.attempts) == 1)
            server.kill()
            gate.set()
            await until(lambda: len(ops.accepted) == 1)
            clock.ms += LEASE_MS
            await until(lambda: any(line["event"] == "delivery.unrecorded" for line in logs))
            again = servers.start(servers.valkey_binary(), server.directory)
            try:
                await until(running.is_idle)
                await running.service.stop()
            finally:
                again.kill()
    assert len(ops.attempts) == 1
    assert running.outcomes == {("ops", "delivered"): 1}


async def test_p23_without_confirmation_nothing_is_sent_and_it_is_logged_once(clock: Clock) -> None:
    ops = Inbox()
    with servers.running(servers.valkey_binary()) as server, capture_logs() as logs:
        service = AlertService(
            AlertSettings(
                receivers=[ops],
                routes=[Route(receivers=("ops",), events=frozenset(EventKind), repeat_interval_ms=0)],
                wording=Wording(public_url="", redact=()),
            ),
            store=alert_store(server.url, durability="replicas:1"),
            source=ListSource([event()]),
            partitions=1,
            fleet=CALM,
            now_ms=clock,
            counts=Tally(),
        )
        await service.start()
        await until(lambda: any(line["event"] == "durability.unconfirmed" for line in logs))
        clock.ms += 60_000
        queued = (await service.health())[0].queued
        await service.stop(0)
    assert (ops.attempts, queued) == ([], 1)
    assert [line["event"] for line in logs].count("durability.unconfirmed") == 1


async def test_p6_what_waited_for_a_slot_for_half_of_the_margin_is_given_back_unsent(daemon: Any, clock: Clock) -> None:
    def ready() -> int:
        return sum(len(one._ready) for one in running.service._deliveries.values())

    ops = Inbox(gate=(gate := asyncio.Event()))
    # More than it can send while the gate is open.
    running = await daemon([ops], events(workers=400, each=1))
    await until(lambda: len(ops.attempts) == 8)
    for _ in range(8):  # some end, so that it claims ahead; what comes next hangs
        gate.set()
        await until(lambda: len(ops.attempts) >= 16)
        gate.clear()
        if ready():
            break
    await until(lambda: ready() > 0)
    clock.ms += 5_001
    running.service.wakeup()
    await until(lambda: ready() == 0)
    gate.set()
    await until(running.is_idle)
    assert len(ops.ids()) == len(set(ops.ids())) == 400


async def test_p21_a_receiver_gets_no_more_attempts_at_once_than_its_concurrency(daemon: Any) -> None:
    class Counting(Inbox):
        permits = asyncio.Semaphore(0)
        at_once = most = 0

        async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await self.permits.acquire()
            await super().send(notification, attempt=attempt, now_ms=now_ms)
            self.at_once -= 1

    ops = Counting()
    running = await daemon([ops], events(workers=40, each=1))
    for accepted in range(1, 41):  # one ends at a time, while it claims ahead
        await until(lambda accepted=accepted: ops.at_once == min(8, 41 - accepted))  # type: ignore[misc]
        ops.permits.release()
        await until(lambda accepted=accepted: len(ops.accepted) == accepted)  # type: ignore[misc]
    await until(running.is_idle)
    assert ops.most == 8


async def test_what_is_resent_periodically_is_tried_as_often_when_it_failed(daemon: Any) -> None:
    ops = Inbox(answer=_fails_until(12), resend_ms=500, takes_groups=False)
    with capture_logs() as logs:
        running = await daemon([ops], [event()])
        await until(lambda: running.is_idle_a_retry_later(lambda: len(ops.attempts)) if not ops.accepted else True)
    pauses = [line["next_attempt_s"] for line in logs if line["event"] == "delivery.failed"]
    assert len(pauses) == 11
    assert max(pauses) <= 0.5


async def test_stop_lets_the_attempts_in_flight_end_and_claims_no_further_group(daemon: Any) -> None:
    ops = Inbox(gate=(gate := asyncio.Event()))
    running = await daemon([ops], events(workers=20, each=1))
    await until(lambda: len(ops.attempts) == 8)
    stopping = asyncio.create_task(running.service.stop(10))
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert len(ops.accepted) == len(ops.attempts) == 8
    assert ops.closed
    assert running.outcomes == {("ops", "delivered"): 8}


async def test_p30_an_attempt_that_ends_in_a_bug_is_tried_again_and_the_others_go_on(daemon: Any) -> None:
    broken = Inbox("broken", answer=_bug_until(3))
    ops = Inbox("ops")
    with capture_logs() as logs:
        running = await daemon([broken, ops], [event(1)])
        await until(lambda: running.is_idle_a_retry_later(lambda: len(broken.attempts) + len(ops.attempts)))
    assert len(ops.accepted) == len(broken.accepted) == 1
    assert {item.nid for item in broken.attempts} == {nid_of(event(1), "broken")}
    reasons = [line["reason"] for line in logs if line["event"] == "delivery.failed"]
    assert reasons == ["receiver 'broken': internal error, LookupError"] * 2
    assert running.service.failing() == []


def _bug_until(attempts: int) -> Callable[[Notification, int], None]:
    def answer(_notification: Notification, attempt: int) -> None:
        if attempt < attempts:
            raise LookupError("a bug for the test")

    return answer


async def test_p30_a_part_that_fails_is_named_and_started_again_and_the_others_go_on(daemon: Any) -> None:
    class Unreachable(Inbox):
        async def reach(self) -> None:
            raise UnicodeError("label empty or too long")

    odd, ops = Unreachable("odd"), Inbox("ops")
    running = await daemon([odd, ops], [event(1), event(1, worker_id="x", position="2-0")])
    await until(lambda: len(odd.accepted) == len(ops.accepted) == 2)
    await until(lambda: running.service.failing() == ["survey"])
    running.source.broken = LookupError("another bug")
    running.service.wakeup()
    await until(lambda: running.service.failing() == ["survey", "router 0"])
    running.source.broken = None
    running.source.stream.append(event(2, worker_id="y", position="3-0"))
    await until(lambda: len(odd.accepted) == len(ops.accepted) == 3)  # it was started again


async def test_p30_a_receiver_that_routing_fails_for_ends_no_other_receiver(daemon: Any, store_url: str) -> None:
    odd, ops = Inbox("odd"), Inbox("ops")
    running = await daemon([odd, ops], [event(1)], first_pause_s=0.01)
    await until(lambda: len(odd.accepted) == len(ops.accepted) == 1)
    await _spoil(store_url, "odd", worker_key(event(1)))
    # At one receiver the second event belongs to a group that cannot be read.
    with capture_logs() as logs:
        running.source.stream += [
            event(2, position="2-0", kind=EventKind.FAILED),
            event(1, worker_id="x", position="3-0"),
        ]
        running.service.wakeup()
        await until(lambda: len(ops.accepted) == 3 and len(odd.accepted) == 2)
    lost = [line for line in logs if line["event"] == "router.events_lost"]
    assert [(line["receiver"], line["event_ids"]) for line in lost] == [
        ("odd", [event(2, kind=EventKind.FAILED).event_id])
    ]
    assert "routing to odd" in running.service.failing()
    running.source.stream.append(event(1, worker_id="y", position="4-0"))
    running.service.wakeup()
    await until(lambda: len(ops.accepted) == 4 and "routing to odd" not in running.service.failing())
    assert "events lost for odd" in running.service.failing()  # for a person to see, also when all goes well again


async def _spoil(store_url: str, receiver: str, group: str) -> None:
    """Make the stored state of a group invalid JSON."""
    redis = Redis.from_url(store_url)
    key = f"{base_of_group(group, 1)}to:{receiver}:groups"
    packed = await redis.hget(key, group)
    assert isinstance(packed, bytes)
    version, token, until_ms, _, tenant = msgspec.msgpack.decode(packed)
    await redis.hset(key, group, msgspec.msgpack.encode([version, token, until_ms, "{", tenant]))
    await redis.aclose()


async def test_a_receiver_that_is_no_longer_configured_is_reported_with_its_backlog(
    daemon: Any, store_url: str
) -> None:
    old = await daemon([Inbox("old", answer=_fails_until(10_000)), Inbox("done")], [event()])
    await until(lambda: old.outcomes["old", "failed"] == 1 and old.outcomes["done", "delivered"] == 1)
    await old.service.stop(0)
    with capture_logs() as logs:
        await daemon([Inbox()], [])
        await until(lambda: sum(line["event"] == "receiver.removed" for line in logs) == 2)
    removed = {
        line["receiver"]: (line["queued"], line["open_downs"]) for line in logs if line["event"] == "receiver.removed"
    }
    assert removed == {"old": (1, 0), "done": (0, 1)}
    assert [letter.reason for letter in await dead_letters(store_url, "old")] == ["undeliverable: receiver removed"]
    with capture_logs() as logs:
        await daemon([Inbox(is_there=False)], [])
        await until(lambda: any(line["event"] == "receiver.unreachable" for line in logs))  # said last at a start
    assert "receiver.removed" not in {line["event"] for line in logs}


def stale(worker: str, number: int, **changes: Any) -> Event:
    return event(2, worker_id=worker, position=f"{START_MS}-{number}", **changes)


def over(worker: str, number: int, kind: EventKind = EventKind.RECOVERED) -> Event:
    return event(
        3,
        worker_id=worker,
        position=f"{START_MS}-{number}",
        kind=kind,
        old=Liveness.STALE,
        new=Liveness.ALIVE,
        since_ms=START_MS - 10,
    )


def types(inbox: Inbox) -> list[str]:
    return [item.event_type for item in inbox.accepted]


async def test_p18_the_end_goes_to_the_receivers_that_were_notified_whatever_the_routes_say_now(daemon: Any) -> None:
    source = ListSource([stale("w", 1)])
    ops, new = Inbox("ops"), Inbox("new")
    before = await daemon([ops, new], source, routes=[Route(receivers=("ops",))])
    await until(lambda: before.outcomes["ops", "delivered"] == 1)
    await before.service.stop(0)
    source.stream.append(over("w", 2, EventKind.STOPPED))
    await daemon([ops, new], source, routes=[Route(receivers=("new",), environments=("other",))])
    await until(lambda: len(ops.accepted) == 2)
    assert types(ops) == ["worker.stale", "worker.stopped"]
    assert new.attempts == []


async def test_p18_what_is_over_before_it_was_sent_is_never_sent_and_has_an_outcome(daemon: Any) -> None:
    ops = Inbox()
    running = await daemon([ops], [stale("w", 1), over("w", 2)])
    await until(running.is_idle)
    [seen] = await running.service.groups["ops"].read(
        [Want(group="w4:acmew", events=(stale("w", 1).event_id, over("w", 2).event_id))]
    )
    assert [one.outcome for one in seen.outcomes if one is not None] == [Outcome.SUPERSEDED] * 2
    assert ops.attempts == []


async def test_p7_a_group_is_notified_once_with_its_members_and_once_when_it_is_over(daemon: Any, clock: Clock) -> None:
    source = ListSource([stale(f"w{number}", number) for number in range(1, 4)])
    ops = Inbox()
    route = Route(receivers=("ops",), group_by=("environment",), group_wait_ms=2_000)
    running = await daemon([ops], source, routes=[route])
    await until(lambda: source.acked == 3)
    clock.ms += 2_000
    await until(lambda: len(ops.accepted) == 1)
    body = json.loads(ops.accepted[0].body)
    assert (body["type"], len(body["data"]["events"])) == ("group.firing", 3)
    source.stream += [over(f"w{number}", 10 + number) for number in range(1, 4)]
    running.service.wakeup()
    await until(lambda: len(ops.accepted) == 2)
    assert types(ops) == ["group.firing", "group.resolved"]
    await until(running.is_idle)
    assert (await running.service.health())[0].groups == 0


async def test_b4_no_more_workers_are_expected_than_there_are_and_returns_on_their_way_are_waited_for(
    daemon: Any, clock: Clock
) -> None:
    # Of twelve workers eleven are stale; six are back when the news are due, and their events are on the way.
    now = {"health": EnvironmentHealth(expected=1, silent=0, down=11)}
    ops = Inbox()
    route = Route(receivers=("ops",), group_by=("environment",), group_wait_ms=2_000)
    running = await daemon([ops], [], fleet=FakeFleet(lambda: now["health"]), routes=[route])
    running.source.stream += [stale(f"w{number}", number) for number in range(1, 12)]
    running.service.wakeup()
    await until(lambda: running.source.acked == 11)
    now["health"] = EnvironmentHealth(expected=7, silent=0, down=5)
    clock.ms += 2_000
    running.source.stream += [over(f"w{number}", 20 + number) for number in range(1, 7)]
    running.service.wakeup()
    await until(lambda: running.source.acked == 17)
    clock.ms += 250
    await until(lambda: len(ops.accepted) == 1)
    data = json.loads(ops.accepted[0].body)["data"]
    assert (data["counts"]["firing"], data["counts"]["expected"]) == (5, 12)
    assert data["summary"].startswith("5 of 12 workers in prod are stale")
    # If the events do not come, the notification waits only a short time, and still counts no more workers than exist.
    running.source.stream += [event(4, worker_id=f"w{n}", position=f"{START_MS}-{40 + n}") for n in range(1, 4)]
    running.service.wakeup()
    await until(lambda: running.source.acked == 20)
    clock.ms += 61_000
    await until(lambda: len(ops.accepted) == 2)
    data = json.loads(ops.accepted[1].body)["data"]
    assert (data["counts"]["firing"], data["counts"]["expected"]) == (8, 12)


async def test_p16_ten_thousand_deaths_at_once_are_one_notification(daemon: Any, clock: Clock) -> None:
    def health() -> EnvironmentHealth:
        left = 10_000 - source.acked
        return EnvironmentHealth(expected=left, silent=left)

    source = ListSource([stale(f"w{number}", number) for number in range(10_000)])
    ops = Inbox()
    running = await daemon([ops], source, fleet=FakeFleet(health))
    await until(lambda: source.acked == 10_000, timeout_s=60)
    clock.ms += 2_000
    await until(lambda: len(ops.accepted) == 1)
    body = json.loads(ops.accepted[0].body)
    assert body["data"]["counts"]["firing"] == 10_000
    assert len(body["data"]["events"]) + body["data"]["truncated"] == 10_000
    source.stream += [over(f"w{number}", 20_000 + number) for number in range(10_000)]
    running.service.wakeup()
    await until(lambda: source.acked == 20_000, timeout_s=60)
    clock.ms += 60_000
    await until(running.is_idle)
    assert types(ops)[-1] == "group.resolved"
    assert set(types(ops)[:-1]) == {"group.firing"}
    assert len(ops.accepted) <= 3


def silence_of_all() -> Silence:
    return Silence(
        id="sil_" + "0" * 32,
        tenant="acme",
        matchers=Matchers(worker_id="w*"),
        starts_ms=START_MS,
        ends_ms=START_MS + 30_000,
        comment="a deploy",
        author="anna",
        created_ms=START_MS,
    )


async def test_p17_a_silenced_worker_is_notified_once_when_the_silence_ends_and_it_is_still_down(
    daemon: Any, clock: Clock
) -> None:
    ops = Inbox()
    running = await daemon([ops], [])
    await running.service.silences.add(silence_of_all(), now_ms=START_MS)
    running.source.stream += [stale("w1", 1), stale("w2", 2), stale("x", 3)]
    with capture_logs() as logs:
        running.service.wakeup()
        await until(lambda: len(ops.accepted) == 1 and running.tally.decisions["ops", "silenced"] == 2)
        running.source.stream += [over("w2", 4)]
        running.service.wakeup()
        await until(lambda: running.source.acked == 4)
    held = [one for one in logs if one["event"] == "delivery.held_back"]
    assert sorted(one["group"] for one in held) == ["w4:acmew1", "w4:acmew2"]
    assert {(one["reason"], one["next_decision_at"]) for one in held} == {("silenced", rfc3339(START_MS + 30_000))}
    clock.ms += 30_000
    await until(lambda: len(ops.accepted) == 2)
    await until(running.is_idle)
    assert [item.key for item in ops.accepted] == ["w4:acmex", "w4:acmew1"]
    assert running.tally.decisions["ops", "first"] == 2


async def test_p5_the_outage_of_a_group_that_was_over_before_its_silence_was_silenced(
    daemon: Any, clock: Clock
) -> None:
    ops = Inbox()
    running = await daemon(
        [ops], [], routes=[Route(receivers=("ops",), group_by=("environment",), group_wait_ms=1_000)]
    )
    await running.service.silences.add(silence_of_all(), now_ms=START_MS)
    down, end = stale("w1", 1), over("w1", 2)
    running.source.stream += [down]
    running.service.wakeup()
    await until(lambda: running.source.acked == 1)
    clock.ms += 1_000
    await until(lambda: running.tally.decisions["ops", "silenced"] == 1)
    running.source.stream += [end]
    running.service.wakeup()
    await until(lambda: running.source.acked == 2)
    await until(running.is_idle)
    found = [await running.service.groups["ops"].outcome(one.event_id) for one in (down, end)]
    assert [one and one.outcome for one in found] == [Outcome.SILENCED, Outcome.SILENCED]
    assert ops.attempts == []


async def test_p19_an_ack_that_the_group_missed_ends_the_reminders_all_the_same(daemon: Any, clock: Clock) -> None:
    ops = Inbox()
    route = Route(receivers=("ops",), repeat_interval_ms=60_000)
    running = await daemon([ops], [stale("w", 1)], routes=[route])
    await until(lambda: running.outcomes["ops", "delivered"] == 1)
    clock.ms += 60_000
    await until(lambda: running.outcomes["ops", "delivered"] == 2)
    incident_id = json.loads(ops.accepted[0].body)["data"]["incident_id"]
    await running.service.incidents.acknowledge("acme", incident_id, by="operator", comment="", now_ms=clock())
    clock.ms += 60_000
    await until(running.is_idle)
    assert [json.loads(item.body)["data"]["reminder"] for item in ops.accepted] == [0, 1]


async def test_a_receiver_that_is_gone_is_disabled_and_loses_nothing(daemon: Any) -> None:
    def gone(_notification: Notification, _attempt: int) -> None:
        raise PermanentDeliveryError("HTTP 410", disable=True)

    ops = Inbox(answer=gone)
    running = await daemon([ops], [stale("w", 1)])
    await until(lambda: running.outcomes["ops", "failed"] == 1)
    [stats] = await running.service.health()
    assert stats.disabled == "HTTP 410"
    ops.answer = lambda _notification, _attempt: None
    assert await running.service.groups["ops"].enable()
    await running.service.wake()
    await until(running.is_idle)
    assert types(ops) == ["worker.stale"]
    assert len(ops.attempts) == 2


async def test_a_receiver_that_is_not_there_at_the_start_is_a_warning(daemon: Any) -> None:
    async with webhook_server() as hook:
        there = WebhookReceiver(name="there", url=hook.url, secrets=(SECRET,), allow_private=True)
        private = WebhookReceiver(name="private", url=hook.url, secrets=(SECRET,))
        with capture_logs() as logs:
            await daemon([there, private, Inbox("away", is_there=False), Inbox()], [])
            await until(lambda: sum(line["event"] == "receiver.unreachable" for line in logs) == 2)
        assert hook.requests == []
    lines = {line["receiver"]: line["reason"] for line in logs if line["event"] == "receiver.unreachable"}
    assert set(lines) == {"private", "away"}
    assert "allow_private" in lines["private"]
