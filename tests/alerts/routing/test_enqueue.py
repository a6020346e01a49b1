"""Events added to alert groups and delivered, on real servers: races, repetitions and invalid state."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from alerts.delivery.checks import LOOKED_AT
from alerts.delivery.loop import Delivery
from alerts.delivery.planner import BROKEN_PAUSE_MS, BROKEN_TRIES, Planner
from alerts.errors import PermanentDeliveryError, TransientDeliveryError
from alerts.groups.attempts import AGAIN_MS
from alerts.groups.classify import environment_key, worker_key
from alerts.groups.decisions import Decision
from alerts.groups.flapping import Flapping
from alerts.groups.incidents import environment_incident
from alerts.groups.mass_failure import FailureState, Rule
from alerts.groups.silences import Matchers, Silence
from alerts.groups.state import RECHECK_MS, AlertGroup, Outcome
from alerts.loops import cancel_all
from alerts.oncall.removed_receivers import REASON, end_groups
from alerts.receivers import Notification
from alerts.rendering.payload import Wording
from alerts.retry import RetryPolicy
from alerts.routing.acknowledge import acknowledge_at
from alerts.routing.enqueue import Offer, offer_all
from alerts.routing.routes import ReceiverTraits, Route, Target, targets_of
from alerts.store.group_store import GroupPart, GroupStore, Want
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import MassFailures
from alerts.store.receivers import ReceiverStore
from alerts.store.silences import SilenceStore
from monitor.errors import StoreUnavailableError
from monitor.events import Event
from monitor.liveness import EnvironmentHealth, EventKind, Liveness
from tests.support import parts
from tests.support.alerts_fakes import START_MS, Clock, FakeFleet, Inbox, Tally, event, nid_of, until
from tests.support.incidents import record
from tests.support.stores import alert_store

REPEAT_MS = 60_000
SWEEP_MS = 1_000
"""Maximum delay between the due time of an event and its detection."""
FLAPPING = Flapping()
SINGLE = Route(receivers=("ops",), repeat_interval_ms=REPEAT_MS)
GROUPED = Route(receivers=("ops",), group_by=("environment",), repeat_interval_ms=REPEAT_MS)
GROUP_KEY = 'g{"environment": "prod", "tenant": "acme"}'
PORTS = {"ops": ReceiverTraits()}


def down(worker: str = "w", seq: int = 1, kind: EventKind = EventKind.STALE, **changes: Any) -> Event:
    return event(seq, worker_id=worker, kind=kind, **changes)


def over(worker: str = "w", seq: int = 2, **changes: Any) -> Event:
    return event(seq, worker_id=worker, kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE, **changes)


def target(one: Event, route: Route, state: FailureState = FailureState.CALM) -> Target:
    return targets_of(one, routes=[route], traits=PORTS, state=state, hold_ms=1_000)["ops"]


class Rig:
    """One receiver: its alert groups, its delivery and a clock."""

    def __init__(self, store_url: str, **rest: Any) -> None:
        self.clock = Clock()
        self.inbox = Inbox(**rest)
        self.store = alert_store(store_url)
        self.groups = GroupStore(self.store, "ops")
        self.incidents = IncidentStore(self.store)
        self.silences = SilenceStore(self.store)
        self.health_is_down = 0
        self.fleet = FakeFleet(self.health)
        self._deliveries: list[Delivery] = []
        self.delivery = self.make_delivery()
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.create_task(self._look())

    def health(self) -> EnvironmentHealth:
        if self.health_is_down:
            self.health_is_down -= 1
            raise StoreUnavailableError("down for the test")
        return EnvironmentHealth(expected=1_000, silent=0)

    def make_delivery(self) -> Delivery:
        made = Delivery(
            receiver=self.inbox,
            groups=self.groups,
            planner=Planner(
                groups=self.groups,
                incidents=self.incidents,
                silences=self.silences,
                mass_failures=MassFailures(self.store, rule=Rule(), fleet=self.fleet),
                wording=Wording(public_url="", redact=()),
                fleet=self.fleet,
                flapping=FLAPPING,
                counts=Tally(),
            ),
            policy=RetryPolicy(initial_ms=1_000, max_ms=1_000, retry_for_ms=0, min_attempts=2),
            now_ms=self.clock,
            counts=Tally(),
            poll_s=0.01,
        )
        self._deliveries.append(made)
        return made

    async def _look(self) -> None:
        """Note at the deliveries what is due, as the service does."""
        queues = ReceiverStore(self.store)
        while True:
            with contextlib.suppress(StoreUnavailableError):
                for tag in self.groups.parts:
                    for one in await queues.queues(tag):
                        for delivery in self._deliveries:
                            delivery.note(tag, one.due_ms, has_open_dead_letters=one.has_open_dead_letters)
            await asyncio.sleep(0.01)

    def start(self) -> None:
        self._task = asyncio.create_task(self.delivery.run())

    async def stop(self) -> None:
        if self._task is not None:
            await self.delivery.stop(1)
            await self._task  # raises what was a bug
        await cancel_all([self._looking])
        await self.store.close()

    async def offer(self, *events: Event, route: Route = SINGLE, **rest: Any) -> None:
        offers = []
        for one in events:
            aim = target(one, route)
            offers.append(Offer(**{"event": one, "key": aim.key, "target": aim, **rest}))
        for tag, due_ms in (await offer_all(self.groups, offers, now_ms=self.clock.ms)).items():
            self.delivery.note(tag, due_ms)

    async def group(self, key: str = "w4:acmew") -> AlertGroup | None:
        [seen] = await self.groups.read([Want(group=key)])
        return seen.group

    async def rests(self) -> bool:
        """Nothing is due and nothing is leased."""
        for key in await parts.due(self.groups, offset=0, limit=100):
            [due] = await self.groups.read([Want(group=key)])
            if due.group is not None and due.group.in_flight is not None:
                return False
        return (await parts.stats(self.groups, now_ms=self.clock.ms)).lag_ms == 0

    async def outcome(self, one: Event) -> Outcome | None:
        """The outcome of an event as an operator sees it: that of its notification."""
        found = await self.groups.outcome(one.event_id)
        if found is None or found.outcome is not Outcome.PART_OF:
            return None if found is None else found.outcome
        assert found.nid is not None
        listed = await self.groups.notification(found.nid)
        return None if listed is None else listed.note.outcome


@pytest.fixture
async def rig(store_url: str) -> AsyncIterator[Rig]:
    made = Rig(store_url)
    yield made
    await made.stop()


def types(inbox: Inbox) -> list[str]:
    return [item.event_type for item in inbox.accepted]


# Adding events to groups


@pytest.mark.parametrize("route", [SINGLE, GROUPED])
async def test_p5_what_is_offered_again_changes_nothing(rig: Rig, route: Route) -> None:
    events = [down("a"), down("b"), over("b"), down("c"), down("c", 2, EventKind.FAILED)]
    await rig.offer(*events, route=route)
    keys = sorted({target(one, route).key for one in events})
    before = await rig.groups.read([Want(group=key, firing=10) for key in keys])
    await rig.offer(*events, route=route)
    await rig.offer(*events[2:], route=route)
    assert await rig.groups.read([Want(group=key, firing=10) for key in keys]) == before


async def test_p5_two_routers_at_once_bring_each_event_in_once(rig: Rig) -> None:
    events = [one for number in range(30) for one in (down(f"w{number}"), over(f"w{number}"))][:-5]
    await asyncio.gather(*(rig.offer(*events, route=GROUPED) for _ in range(4)))
    group = await rig.group(GROUP_KEY)
    assert group is not None
    still = {one.worker_id for one in events} - {one.worker_id for one in events if one.kind is EventKind.RECOVERED}
    assert (group.firing, group.unnotified, group.recovered, group.acks) == (len(still), len(still), 0, 0)
    [seen] = await rig.groups.read([Want(group=GROUP_KEY, firing=100)])
    assert {member.event.worker_id for member in seen.firing.values()} == still


async def test_p7_events_of_a_worker_are_taken_in_their_order(rig: Rig) -> None:
    facts = [event(seq, kind=EventKind.RESUMED, old=Liveness.STOPPED, new=Liveness.ALIVE) for seq in (1, 2, 3, 4)]
    route = Route(receivers=("ops",), events=frozenset(EventKind))
    await rig.offer(*facts, route=route)
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 4)
    assert rig.inbox.ids() == [nid_of(one) for one in facts]


async def test_an_end_without_a_down_is_superseded_and_leaves_no_group(rig: Rig) -> None:
    await rig.offer(over("a"))
    await rig.offer(over("b"), route=GROUPED)
    assert (await parts.stats(rig.groups, now_ms=START_MS)).groups == 0
    assert [await rig.outcome(one) for one in (over("a"), over("b"))] == [Outcome.SUPERSEDED] * 2


async def test_p6_a_router_that_hung_brings_nothing_back_that_was_sent(rig: Rig) -> None:
    """The hung router has read that no group exists. Before it writes, another router offers the same event. That
    one is sent, and its group ends."""

    class Hung(GroupPart):
        async def save(self, *args: Any, **rest: Any) -> list[bool]:
            await gate.wait()
            return await super().save(*args, **rest)

    gate = asyncio.Event()
    route = Route(receivers=("ops",), events=frozenset(EventKind))
    fact = event(1, kind=EventKind.RESUMED, old=Liveness.STOPPED, new=Liveness.ALIVE)
    aim = target(fact, route)
    offer = Offer(event=fact, key=aim.key, target=aim)
    hung = asyncio.create_task(offer_all(parts.made_of(Hung, rig.store), [offer], now_ms=START_MS))
    rig.start()
    await rig.offer(fact, route=route)
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    gate.set()
    await hung
    assert await rig.group() is None


async def test_p18_a_group_begun_by_an_event_of_another_group_knows_its_own_shape(rig: Rig) -> None:
    """The router ended after it recorded the incident. By then nothing is suspected, or no route matches."""
    rig.start()
    for worker, environment in (("a", "prod"), ("b", "lab")):
        stale = down(worker, environment_name=environment)
        key = environment_key("acme", environment)
        aim = target(stale, SINGLE) if worker == "a" else None
        await offer_all(rig.groups, [Offer(event=stale, key=key, target=aim)], now_ms=START_MS)
    await until(lambda: len(rig.inbox.accepted) == 2)
    groups = [json.loads(item.body)["data"]["group"] for item in rig.inbox.accepted]
    assert sorted(group["environment"] for group in groups) == ["lab", "prod"]
    await offer_all(rig.groups, [Offer(event=down("c"), key=GROUP_KEY, target=None)], now_ms=START_MS)
    group = await rig.group(GROUP_KEY)
    assert group is not None
    assert group.labels == {"tenant": "acme", "environment": "prod"}


async def test_p16_only_the_deaths_of_an_environment_declare_it(rig: Rig) -> None:
    key = environment_key("acme", "prod")
    aim = target(down("a"), SINGLE, FailureState.SUSPECTED)
    assert aim.key == key
    await rig.offer(down("a"), down("b"), key=key, target=aim)
    moved = over("a", environment_name="lab")
    await rig.offer(moved, key=key, target=None, failure_id="inc_of_lab")
    group = await rig.group(key)
    assert group is not None
    assert (group.declared, group.incident_id, group.firing) == (False, None, 1)


async def test_p18_the_end_of_a_worker_that_moved_goes_to_where_its_down_was(rig: Rig) -> None:
    first, last = down("a"), over("a", environment_name="lab")
    events = [first, last]
    notes = await record(rig.incidents, 0, events, lambda one: {"ops": target(one, GROUPED).key}, now_ms=START_MS)
    assert [note.targets for note in notes] == [{"ops": GROUP_KEY}] * 2


# Attempts


async def test_p19_a_reminder_that_is_refused_for_good_is_not_made_again_at_once(rig: Rig) -> None:
    def refuses_reminders(item: Notification, _attempt: int) -> None:
        if json.loads(item.body)["data"]["reminder"] > 0:
            raise PermanentDeliveryError("HTTP 400")

    rig.inbox.answer = refuses_reminders
    rig.start()
    await rig.offer(down())
    await rig.offer(down("a"), route=GROUPED)
    await until(lambda: len(rig.inbox.accepted) == 2)
    await until(rig.rests)  # both are recorded: when they are to be repeated counts from there
    rig.clock.ms += REPEAT_MS
    await until(lambda: len(rig.inbox.attempts) >= 4)
    await until(rig.rests)
    assert len(rig.inbox.attempts) == 4
    rig.clock.ms += REPEAT_MS
    await until(lambda: len(rig.inbox.attempts) >= 6)
    await until(rig.rests)
    assert len({item.nid for item in rig.inbox.attempts}) == len(rig.inbox.attempts) == 6


@pytest.mark.parametrize("route", [SINGLE, GROUPED])
async def test_p18_a_down_that_was_given_up_and_may_have_arrived_gets_its_resolved(rig: Rig, route: Route) -> None:
    def times_out(item: Notification, _attempt: int) -> None:
        if item.event_type in {"worker.stale", "group.firing"}:
            raise TransientDeliveryError("no answer", unknown=True)

    rig.inbox.answer = times_out
    rig.start()
    await rig.offer(down(), route=route)
    await until(lambda: len(rig.inbox.attempts) == 1)
    rig.clock.ms += 1_000

    async def is_dead() -> bool:
        rig.clock.ms += 10
        return (await parts.stats(rig.groups, now_ms=rig.clock.ms)).dead == 1

    await until(is_dead)
    await rig.offer(over(), route=route)
    await until(lambda: len(rig.inbox.accepted) == 1)
    assert types(rig.inbox) in (["worker.recovered"], ["group.resolved"])
    assert await rig.outcome(down()) is Outcome.DEAD_LETTERED


@pytest.mark.parametrize("route", [SINGLE, GROUPED])
@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (TransientDeliveryError("no answer", unknown=True), True),
        (TimeoutError(), True),
        (LookupError("a bug for the test"), True),
        (TransientDeliveryError("HTTP 500"), False),
    ],
)
async def test_p7_a_down_that_may_have_arrived_in_a_failed_attempt_gets_its_resolved(
    rig: Rig, route: Route, error: Exception, *, unknown: bool
) -> None:
    def fails(item: Notification, _attempt: int) -> None:
        if item.event_type in {"worker.stale", "group.firing"}:
            raise error

    async def has_failed() -> bool:
        group = await rig.group(key)
        return group is not None and group.in_flight is not None and bool(group.in_flight.error)

    key = target(down(), route).key
    rig.inbox.answer = fails
    rig.start()
    await rig.offer(down(), route=route)
    await until(has_failed)
    await rig.offer(over(), route=route)
    if unknown:
        await until(lambda: len(rig.inbox.accepted) == 1)
        assert types(rig.inbox) in (["worker.recovered"], ["group.resolved"])

    async def is_over() -> bool:
        return await rig.group(key) is None

    await until(is_over)
    assert await rig.outcome(down()) is (Outcome.DELIVERED if unknown else Outcome.SUPERSEDED)
    assert len(rig.inbox.attempts) == (2 if unknown else 1)


async def test_p5_events_of_a_group_that_is_over_before_it_was_delivered_have_an_outcome(rig: Rig) -> None:
    def fails(_item: Notification, _attempt: int) -> None:
        raise TransientDeliveryError("HTTP 500")

    rig.inbox.answer = fails
    rig.start()
    a = down("a")
    await rig.offer(a, route=GROUPED)
    await until(lambda: len(rig.inbox.attempts) == 1)
    await rig.offer(over("a", 3), route=GROUPED)

    async def is_over() -> bool:
        return await rig.group(GROUP_KEY) is None

    await until(is_over)
    assert [await rig.outcome(one) for one in (a, over("a", 3))] == [Outcome.SUPERSEDED] * 2
    b, failed = down("b"), down("b", 2, EventKind.FAILED)
    slow = Route(receivers=("ops",), group_by=("environment",), group_wait_ms=60_000)
    await rig.offer(b, failed, over("b", 3), route=slow)
    assert [await rig.outcome(one) for one in (b, failed, over("b", 3))] == [Outcome.SUPERSEDED] * 3


async def test_p5_all_that_was_pending_for_a_removed_receiver_has_an_outcome(rig: Rig) -> None:
    slow = Route(receivers=("ops",), group_by=("environment",), group_wait_ms=60_000)
    await rig.offer(down("a"), down("b"), route=slow)
    await rig.offer(down("c"))
    assert await end_groups(rig.groups, now_ms=START_MS) == (3, 0)
    assert [await rig.outcome(down(worker)) for worker in "abc"] == [Outcome.DEAD_LETTERED] * 3
    [note] = await parts.notifications(rig.groups, Outcome.DEAD_LETTERED, before_ms=START_MS, offset=0, limit=9)
    assert note.reason == REASON


@pytest.mark.parametrize("route", [SINGLE, GROUPED], ids=["single", "grouped"])
async def test_p31_a_page_that_was_given_up_is_no_open_dead_letter_after_its_receiver_is_removed(
    rig: Rig, route: Route
) -> None:
    def refuses(_item: Notification, _attempt: int) -> None:
        raise PermanentDeliveryError("HTTP 400")

    rig.inbox.answer = refuses
    await rig.offer(down("a"), route=route)
    rig.start()
    await until(lambda: _health(rig, 1))
    await until(rig.rests)
    assert await end_groups(rig.groups, now_ms=START_MS) == (0, 0)
    stats = await parts.stats(rig.groups, now_ms=START_MS)
    assert (stats.groups, stats.dead, stats.open_dead_letters) == (0, 1, 0)


async def test_p17_a_silence_over_a_worker_whose_metadata_is_no_json_stops_nothing(rig: Rig) -> None:
    silence = Silence(
        id="sil_" + "0" * 32,
        tenant="acme",
        matchers=Matchers(worker_id="w"),
        starts_ms=START_MS,
        ends_ms=START_MS + 30_000,
        comment="",
        author="",
        created_ms=START_MS,
    )
    await rig.silences.add(silence, now_ms=START_MS)
    rig.start()
    await rig.offer(down("bad", worker_metadata_json="{"), down("list", worker_metadata_json="[1]"), down("good"))
    await until(lambda: worker_key(down("good")) in [item.key for item in rig.inbox.accepted])


async def test_a_group_that_cannot_be_planned_blocks_no_other(rig: Rig) -> None:
    await rig.offer(down("bad"), down("good"))
    [seen] = await rig.groups.read([Want(group=worker_key(down("bad")))])
    assert seen.group is not None

    class Broken(Wording):
        def single(self, event: Event, **rest: Any) -> str:
            if event.worker_id == "bad":
                raise LookupError("a bug for the test")
            return super().single(event, **rest)

    rig.delivery._planner._wording = Broken(public_url="", redact=())
    with capture_logs() as logs:
        rig.start()
        await until(lambda: len(rig.inbox.accepted) == 1)
        await rig.offer(down("later"))
        await until(lambda: len(rig.inbox.accepted) == 2)
    assert [line["group"] for line in logs if line["event"] == "delivery.group_broken"] == ["w4:acmebad"]


class Unwordable(Wording):
    """Fails from a bug for one worker, and for groups."""

    def single(self, event: Event, **rest: Any) -> str:
        if event.worker_id == "bad":
            raise LookupError("a bug for the test")
        return super().single(event, **rest)

    def group(self, **_: Any) -> str:
        raise LookupError("a bug for the test")


@pytest.mark.parametrize("route", [SINGLE, GROUPED], ids=["single", "group"])
async def test_a_group_that_cannot_be_planned_is_named_and_a_dead_letter_after_some_minutes(
    rig: Rig, route: Route
) -> None:
    planner = rig.delivery._planner
    planner._wording = Unwordable(public_url="", redact=())
    await rig.offer(down("bad"), route=route)
    [key] = await parts.due(rig.groups, offset=0, limit=2)
    with capture_logs() as logs:
        rig.start()
        for tries in range(1, BROKEN_TRIES + 1):
            await until(
                lambda tries=tries: (
                    [  # type: ignore[misc]
                        line["tries"] for line in logs if line["event"] == "delivery.group_broken"
                    ]
                    == list(range(1, tries + 1))
                )
            )
            if tries < BROKEN_TRIES:
                await until(lambda tries=tries: _is_broken(rig, key, tries))  # type: ignore[misc]
                assert planner.is_failing(rig.clock.ms)
            rig.clock.ms += BROKEN_PAUSE_MS
        await until(lambda: _health(rig, 1))
    assert not planner.is_failing(rig.clock.ms)
    assert await rig.outcome(down("bad")) is Outcome.DEAD_LETTERED
    [note] = await parts.notifications(rig.groups, Outcome.DEAD_LETTERED, before_ms=2 * START_MS, offset=0, limit=9)
    assert (note.reason, note.cause) == ("internal error: LookupError('a bug for the test')", "internal_error")
    # When it is over nothing of it is left.
    await rig.offer(over("bad"), route=route)
    await until(lambda: _health(rig, 0))
    assert await rig.group(key) is None
    assert rig.inbox.attempts == []


async def test_only_consecutive_failures_to_plan_make_a_dead_letter(rig: Rig) -> None:
    planner = rig.delivery._planner
    good, bad = planner._wording, Unwordable(public_url="", redact=())
    planner._wording = bad
    await rig.offer(down("bad"))
    rig.start()
    await until(lambda: _is_broken(rig, "w4:acmebad", 1))
    planner._wording = good
    rig.clock.ms += BROKEN_PAUSE_MS
    rig.delivery.wakeup()
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    planner._wording = bad
    await rig.offer(down("bad", 2, EventKind.FAILED))
    with capture_logs() as logs:
        rig.delivery.wakeup()
        await until(lambda: bool(logs))
    assert [line["tries"] for line in logs if line["event"] == "delivery.group_broken"] == [1]


async def _is_broken(rig: Rig, key: str, tries: int) -> bool:
    group = await rig.group(key)
    return group is not None and group.broken == tries


async def _health(rig: Rig, count: int) -> bool:
    return (await parts.stats(rig.groups, now_ms=rig.clock.ms)).open_dead_letters == count


async def test_a_member_that_cannot_be_read_stops_its_group_only(rig: Rig, store_url: str) -> None:
    await rig.offer(down("bad"), route=GROUPED)
    [key] = await parts.due(rig.groups, offset=0, limit=2)
    async with Redis.from_url(store_url) as redis:
        [member] = await redis.hkeys(f"{{ls.shared:0}}:to:ops:members:{key}")
        await redis.hset(f"{{ls.shared:0}}:to:ops:members:{key}", member, "{")
    await rig.offer(down("good"))
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(lambda: rig.delivery._planner.is_failing(rig.clock.ms))


async def test_a_group_that_could_not_be_planned_while_the_store_is_down_is_released_at_once(rig: Rig) -> None:
    rig.health_is_down = 1
    await rig.offer(*(down(f"w{number}") for number in range(5)))
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 5, timeout_s=5)
    assert rig.clock.ms == START_MS


async def test_p21_a_refusal_shows_that_the_receiver_is_back(rig: Rig) -> None:
    def answer(item: Notification, _attempt: int) -> None:
        if item.key.startswith("w4:acmeslow"):
            raise TransientDeliveryError("HTTP 500")
        raise PermanentDeliveryError("HTTP 400")

    rig.inbox.answer = answer
    rig.start()
    with capture_logs() as logs:
        await rig.offer(*(down(f"slow{number}") for number in range(5)))
        await until(lambda: "receiver.in_trouble" in [line["event"] for line in logs])
        await rig.offer(down("bad"))

        def is_back() -> bool:
            rig.clock.ms += 5
            return "receiver.back" in [line["event"] for line in logs]

        await until(is_back)


# Acknowledgements


@pytest.mark.parametrize("route", [SINGLE, GROUPED])
async def test_p19_an_ack_that_comes_before_its_down_is_offered_counts(rig: Rig, route: Route) -> None:
    stale = down()
    aim = target(stale, route)

    async def note() -> Any:
        [noted] = await record(rig.incidents, 0, [stale], lambda _: {"ops": aim.key}, now_ms=START_MS)
        return noted

    incident_id = (await note()).incident_id
    incident = await rig.incidents.acknowledge("acme", incident_id, by="operator", comment="", now_ms=START_MS)
    await acknowledge_at(rig.groups, aim.key, incident, now_ms=START_MS)
    noted = await note()  # the router that was killed is followed by another
    rig.start()
    await rig.offer(stale, route=route, incident_id=noted.incident_id, acked=noted.acked)
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    rig.clock.ms += REPEAT_MS
    rig.delivery.wakeup()
    await rig.offer(down("other"))
    await until(lambda: len(rig.inbox.accepted) == 2)
    await until(rig.rests)
    assert [item.key for item in rig.inbox.accepted] == [aim.key, "w4:acmeother"]


async def test_p19_no_reminder_begins_once_the_incident_store_has_an_ack_or_the_end(rig: Rig) -> None:
    workers = ("acked", "ended", "lasts")
    for worker in workers:
        stale = down(worker)
        [noted] = await record(rig.incidents, 0, [stale], lambda one: {"ops": worker_key(one)}, now_ms=START_MS)
        await rig.offer(stale, incident_id=noted.incident_id)
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 3)
    await until(rig.rests)
    await rig.incidents.acknowledge("acme", f"inc_{down('acked').event_id}", by="operator", comment="", now_ms=START_MS)
    await record(rig.incidents, 0, [over("ended")], lambda one: {"ops": worker_key(one)}, now_ms=START_MS)
    rig.clock.ms += REPEAT_MS
    await until(lambda: len(rig.inbox.attempts) >= 4)
    await until(rig.rests)
    assert [item.key for item in rig.inbox.accepted[3:]] == ["w4:acmelasts"]


@pytest.mark.parametrize("route", [SINGLE, GROUPED], ids=["single", "grouped"])
async def test_p19_no_reminder_begins_of_what_the_worker_store_knows_to_be_over(rig: Rig, route: Route) -> None:
    """The end is recorded and waits to be routed, as when the daemon that routed was killed."""
    ended, lasts = down("ended"), down("lasts", environment_name="other")
    await rig.offer(ended, lasts, route=route)
    rig.start()
    rig.clock.ms += route.group_wait_ms
    await until(lambda: len(rig.inbox.accepted) == 2)
    await until(rig.rests)
    rig.fleet.over.add(ended.event_id)
    rig.clock.ms += REPEAT_MS
    rig.delivery.wakeup()
    await until(lambda: len(rig.inbox.accepted) == 3)
    await until(rig.rests)
    assert target(lasts, route).key == rig.inbox.accepted[2].key


@pytest.mark.parametrize("route", [SINGLE, GROUPED], ids=["single", "grouped"])
async def test_p31_a_page_given_up_is_not_retried_while_its_outage_seems_to_be_over(rig: Rig, route: Route) -> None:
    def refuse(_notification: Notification, _attempt: int) -> None:
        raise PermanentDeliveryError("HTTP 400")

    stale = down()
    key = target(stale, route).key
    rig.inbox.answer = refuse
    await rig.offer(stale, route=route)
    rig.start()
    rig.clock.ms += route.group_wait_ms
    rig.delivery.wakeup()
    await until(lambda: len(rig.inbox.attempts) == 1)
    await until(rig.rests)
    rig.fleet.over.add(stale.event_id)
    rig.clock.ms += AGAIN_MS
    rig.delivery.wakeup()

    async def is_settled() -> bool:
        group = await rig.group(key)
        return group is not None and group.waits_for == Decision.SETTLED

    await until(is_settled)
    await until(rig.rests)
    group = await rig.group(key)
    assert group is not None
    assert group.given_up is not None
    assert (group.in_flight, group.again_ms) == (None, rig.clock.ms + RECHECK_MS)
    assert len(rig.inbox.attempts) == 1
    rig.fleet.over.clear()
    rig.clock.ms += RECHECK_MS
    rig.delivery.wakeup()
    await until(lambda: len(rig.inbox.attempts) >= 2)  # a reminder may follow
    assert rig.inbox.attempts[1].nid == rig.inbox.attempts[0].nid
    await until(rig.rests)


@pytest.mark.parametrize("members", [LOOKED_AT, LOOKED_AT + 1])
async def test_p19_a_large_group_is_reminded_though_all_checked_members_are_over(rig: Rig, members: int) -> None:
    downs = [down(f"w{number:03}") for number in range(members)]
    await rig.offer(*downs, route=GROUPED)
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    rig.fleet.over |= {one.event_id for one in downs[:LOOKED_AT]}
    rig.clock.ms += REPEAT_MS
    await rig.offer(down("other", environment_name="other"))  # which comes after the group
    await until(lambda: "w4:acmeother" in [item.key for item in rig.inbox.accepted])
    await until(rig.rests)
    reminders = [item for item in rig.inbox.accepted[1:] if item.key == GROUP_KEY]
    assert len(reminders) == (members > LOOKED_AT)


async def test_p16_a_groups_notification_counts_what_is_new_since_the_last(rig: Rig) -> None:
    def counts() -> list[tuple[int, int, int]]:
        counts = [json.loads(item.body)["data"]["counts"] for item in rig.inbox.accepted]
        return [(one["firing"], one["new"], one["recovered"]) for one in counts]

    await rig.offer(down("a"), down("b"), route=GROUPED)
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    await rig.offer(over("a"), down("c"), down("d"), route=GROUPED)
    rig.clock.ms += GROUPED.group_interval_ms
    rig.delivery.wakeup()
    await until(lambda: len(rig.inbox.accepted) == 2)
    await until(rig.rests)
    assert counts() == [(2, 2, 0), (3, 2, 1)]


async def test_p17_a_silenced_death_that_the_worker_store_knows_to_be_over_is_not_notified(rig: Rig) -> None:
    """Its end is recorded, and waits to be routed, when the silence ends."""
    ended = down("ended")
    rig.fleet.over.add(ended.event_id)
    await rig.offer(ended, down("lasts"))
    rig.start()
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    assert [item.key for item in rig.inbox.accepted] == ["w4:acmelasts"]
    await rig.offer(over("ended"))
    assert await rig.outcome(ended) is await rig.outcome(over("ended")) is Outcome.SUPERSEDED


async def test_p20_a_worker_that_flaps_is_notified_once_its_outage_lasts(rig: Rig) -> None:
    rig.fleet.outages = FLAPPING.outages
    await rig.offer(down("short"), down("long"))
    rig.start()

    async def held() -> bool:
        return {await rig.outcome(down(worker)) for worker in ("short", "long")} == {Outcome.DAMPED}

    await until(held)
    await rig.offer(over("short"))
    await until(rig.rests)
    assert rig.inbox.attempts == []
    assert await rig.outcome(down("short")) is await rig.outcome(over("short")) is Outcome.DAMPED
    rig.clock.ms += FLAPPING.hold_ms + SWEEP_MS
    rig.delivery.wakeup()
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    data = json.loads(rig.inbox.accepted[0].body)["data"]
    assert (data["worker_id"], data["recent_outages"]) == ("long", FLAPPING.outages + 1)
    assert "its 4th outage within 1 h: ones of less than 5 min are not reported" in data["summary"]
    await rig.offer(over("long"))
    await until(lambda: len(rig.inbox.accepted) == 2)


async def test_p19_an_ack_of_one_failure_of_an_environment_is_none_of_the_next(rig: Rig) -> None:
    key = environment_key("acme", "prod")
    aim = target(down("a"), SINGLE, FailureState.DECLARED)
    rig.start()
    await rig.offer(down("a"), key=key, target=aim, failure_id="inc_first")
    rig.clock.ms += 2_000
    await until(lambda: len(rig.inbox.accepted) == 1)
    await until(rig.rests)
    failure = environment_incident("inc_first", down("a"), {})
    await acknowledge_at(rig.groups, key, failure, now_ms=rig.clock.ms)
    rig.inbox.gate = gate = asyncio.Event()
    await rig.offer(over("a"), key=key, target=aim)
    await until(lambda: len(rig.inbox.attempts) == 2)
    await rig.offer(down("b", environment_name="prod"), key=key, target=aim, failure_id="inc_second")
    rig.inbox.gate = None
    gate.set()
    await until(lambda: len(rig.inbox.accepted) == 2)
    rig.clock.ms += 2_000
    await until(lambda: len(rig.inbox.accepted) == 3)
    group = await rig.group(key)
    assert group is not None
    assert (group.acked, group.incident_id, group.declared) == (False, "inc_second", True)
    ids = [json.loads(item.body)["data"]["incident_id"] for item in rig.inbox.accepted]
    assert ids == ["inc_first", "inc_first", "inc_second"]
