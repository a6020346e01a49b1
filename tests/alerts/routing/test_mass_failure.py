"""Mass failures: the rule, and its state in the store."""

import asyncio
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import msgspec
import pytest
from redis.asyncio import Redis

from alerts.delivery.circuit_breaker import FAILURES, FIRST_PAUSE_MS, LONGEST_PAUSE_MS, Breaker
from alerts.groups.classify import environment_key
from alerts.groups.mass_failure import (
    LONGEST_WINDOW_MS,
    FailureState,
    FailureWindow,
    Rule,
    incident_of,
    observe,
    silent_now,
    since_of,
)
from alerts.rendering.payload import Wording
from alerts.routing.routes import ENVIRONMENT_WAIT_MS, Route
from alerts.service import AlertService, AlertSettings
from alerts.store.group_store import Want
from alerts.store.mass_failures import KEPT_MS, FailureVerdict, MassFailures
from alerts.store.tags import shared_base
from monitor.daemon.alerts import StoredFleet
from monitor.events import Event
from monitor.liveness import EnvironmentHealth, EventKind, Liveness
from tests.support.alerts_fakes import START_MS, FakeFleet, Inbox, Tally, event, until
from tests.support.incidents import judged
from tests.support.stores import ManualClock, alert_store, beat, found, opened, outbox_of

INTERVAL_MS = 30_000
RULE = Rule()


def death(number: int, *, due_ms: int = START_MS, partition: int = 0) -> Event:
    position = f"{START_MS}-{number}"
    return event(2, worker_id=f"w{number}", due_ms=due_ms, position=position, partition=partition)


def back(number: int, *, of_ms: int = START_MS) -> Event:
    return event(
        3,
        worker_id=f"w{number}",
        kind=EventKind.RECOVERED,
        old=Liveness.STALE,
        new=Liveness.ALIVE,
        since_ms=of_ms,
        position=f"{START_MS}-{1_000 + number}",
    )


def judge(
    window: FailureWindow, deaths: list[Event], *, expected: int, silent: int = 0, now_ms: int = START_MS
) -> FailureState:
    return observe(window, deaths, [], EnvironmentHealth(expected=expected, silent=silent), rule=RULE, now_ms=now_ms)


@pytest.mark.parametrize(
    ("dead", "others", "state"),
    [
        (4, 0, FailureState.CALM),  # fewer than five never are
        (5, 0, FailureState.DECLARED),
        (5, 20, FailureState.DECLARED),  # 5 of 25
        (5, 21, FailureState.CALM),  # 5 of 26
        (199, 801, FailureState.CALM),
        (200, 800, FailureState.DECLARED),
    ],
)
def test_p16_a_mass_failure_is_at_least_five_and_a_fifth_of_the_expected(
    dead: int, others: int, state: FailureState
) -> None:
    assert judge(FailureWindow(), [death(number) for number in range(dead)], expected=others) is state


def test_p16_the_first_death_is_suspected_when_many_have_missed_beats() -> None:
    assert judge(FailureWindow(), [death(1)], expected=99, silent=19) is FailureState.SUSPECTED
    assert judge(FailureWindow(), [death(1)], expected=99, silent=18) is FailureState.CALM


@pytest.mark.parametrize(("fallen", "state"), [(200, FailureState.SUSPECTED), (199, FailureState.CALM)])
def test_p16_the_first_deaths_are_suspected_when_many_more_are_recorded_and_wait(
    fallen: int, state: FailureState
) -> None:
    health = EnvironmentHealth(expected=1_000 - fallen, silent=0, fallen=fallen)
    assert observe(FailureWindow(), [death(1)], [], health, rule=RULE, now_ms=START_MS) is state


@pytest.mark.parametrize(
    ("kind", "state"), [(EventKind.REJECTED, FailureState.SUSPECTED), (EventKind.STALE, FailureState.CALM)]
)
def test_p16_those_whose_beats_are_refused_count_where_beats_are_refused(kind: EventKind, state: FailureState) -> None:
    health = EnvironmentHealth(expected=800, silent=0, fallen=1, rejected=200)
    assert observe(FailureWindow(), [replace(death(1), kind=kind)], [], health, rule=RULE, now_ms=START_MS) is state


def test_p16_deaths_count_from_an_interval_before_the_newest() -> None:
    later_ms = START_MS + 1_000
    assert since_of(FailureWindow(), []) is None
    assert since_of(FailureWindow(), [death(1), death(2, due_ms=later_ms)]) == later_ms - INTERVAL_MS
    assert since_of(FailureWindow(newest_due_ms=later_ms), [death(1)]) == later_ms - INTERVAL_MS
    assert since_of(FailureWindow(), [replace(death(1), interval_ms=86_400_000)]) == START_MS - LONGEST_WINDOW_MS


def test_p16_deaths_of_different_intervals_are_not_one_failure() -> None:
    window = FailureWindow()
    for number in range(10):
        due_ms = START_MS + number * 2 * INTERVAL_MS
        assert judge(window, [death(number, due_ms=due_ms)], expected=20, now_ms=due_ms) is FailureState.CALM
    assert silent_now(window) == 1


def test_p16_a_worker_that_beats_once_a_day_makes_no_failure_of_a_days_deaths() -> None:
    window = FailureWindow()
    judge(window, [replace(death(0), interval_ms=86_400_000)], expected=20)
    for number in range(1, 10):
        due_ms = START_MS + number * 3_600_000
        assert judge(window, [death(number, due_ms=due_ms)], expected=20, now_ms=due_ms) is FailureState.CALM


def test_p16_the_expected_size_is_learned_again_after_a_failure() -> None:
    window = FailureWindow()
    assert judge(window, [death(number) for number in range(50)], expected=50) is FailureState.DECLARED
    later_ms = START_MS + 3 * INTERVAL_MS
    assert judge(window, [death(60, due_ms=later_ms)], expected=49, now_ms=later_ms) is FailureState.CALM


def test_p16_while_a_failure_lasts_further_deaths_are_part_of_it_and_of_its_incident() -> None:
    window = FailureWindow()
    judge(window, [death(number) for number in range(50)], expected=50)
    first = incident_of(window, "acme", "prod")
    assert (
        judge(window, [death(51, due_ms=START_MS + 1_000)], expected=49, now_ms=START_MS + 1_000)
        is FailureState.DECLARED
    )
    assert incident_of(window, "acme", "prod") == first
    much_ms = START_MS + 10 * INTERVAL_MS
    again = [death(number, due_ms=much_ms) for number in range(100, 150)]
    assert judge(window, again, expected=10, now_ms=much_ms) is FailureState.DECLARED
    assert incident_of(window, "acme", "prod") != first


def test_p16_a_failure_lasts_an_interval_to_the_millisecond() -> None:
    window, until_ms = FailureWindow(), START_MS + INTERVAL_MS
    deaths = [death(number) for number in range(50)]
    judge(window, deaths, expected=50)
    again = [death(number, due_ms=until_ms) for number in range(100, 150)]
    for now_ms, is_same in ((until_ms - 1, True), (until_ms, False)):
        lasting = deepcopy(window)
        first = incident_of(lasting, "acme", "prod")
        assert judge(lasting, again, expected=50, now_ms=now_ms) is FailureState.DECLARED
        assert (incident_of(lasting, "acme", "prod") == first) is is_same
    returned = [back(number) for number in range(46)]
    for now_ms, state in ((until_ms - 1, FailureState.DECLARED), (until_ms, FailureState.CALM)):
        ending = deepcopy(window)
        health = EnvironmentHealth(expected=96, silent=0)
        assert observe(ending, [], returned, health, rule=RULE, now_ms=now_ms) is state


def test_p16_a_failure_that_was_recorded_late_lasts_an_interval_from_then() -> None:
    """As after an outage of the monitor: what is recorded a moment later is part of the same incident."""
    window, late_ms = FailureWindow(), START_MS + 10 * INTERVAL_MS
    assert judge(window, [death(number) for number in range(50)], expected=60, now_ms=late_ms) is FailureState.DECLARED
    first = incident_of(window, "acme", "prod")
    for passed_ms, is_same in ((INTERVAL_MS - 1, True), (INTERVAL_MS, False)):
        lasting = deepcopy(window)
        rest = [death(number, due_ms=START_MS + 100) for number in range(50, 60)]
        assert judge(lasting, rest, expected=50, now_ms=late_ms + passed_ms) is FailureState.DECLARED
        assert (incident_of(lasting, "acme", "prod") == first) is is_same


@pytest.mark.parametrize(("older_ms", "state"), [(0, FailureState.DECLARED), (1, FailureState.CALM)])
def test_p16_deaths_an_interval_apart_are_one_failure_and_no_more(older_ms: int, state: FailureState) -> None:
    window, due_ms = FailureWindow(), START_MS - START_MS % INTERVAL_MS
    judge(window, [death(number, due_ms=due_ms - older_ms) for number in range(4)], expected=1)
    newest = death(5, due_ms=due_ms + INTERVAL_MS)
    assert judge(window, [newest], expected=0, now_ms=due_ms + INTERVAL_MS) is state


def test_a_death_that_is_routed_again_counts_once_and_one_that_is_over_not_at_all() -> None:
    window = FailureWindow()
    deaths = [death(number) for number in range(3)]
    judge(window, deaths, expected=97)
    judge(window, deaths, expected=97)
    assert silent_now(window) == 3
    observe(window, [], [back(1)], EnvironmentHealth(expected=98, silent=0), rule=RULE, now_ms=START_MS)
    observe(window, [], [back(1)], EnvironmentHealth(expected=98, silent=0), rule=RULE, now_ms=START_MS)
    assert silent_now(window) == 2


def quiet(number: int, *, due_ms: int, since_ms: int = START_MS) -> Event:
    """Its rejected beats have ended."""
    one = death(number, due_ms=due_ms)
    return replace(one, seq=3, old=Liveness.STALE, since_ms=since_ms, position=f"{START_MS}-{500 + number}")


def test_p16_a_worker_whose_rejected_beats_end_is_no_second_death() -> None:
    window = FailureWindow()
    deaths = [replace(death(number), kind=EventKind.REJECTED) for number in range(3)]
    assert judge(window, deaths, expected=7) is FailureState.CALM
    ended = [quiet(number, due_ms=START_MS + 1_000) for number in range(3)]
    assert judge(window, ended, expected=7) is FailureState.CALM
    assert silent_now(window) == 3


def test_p16_workers_that_had_been_rejected_for_long_and_fall_silent_together_are_one_failure() -> None:
    window = FailureWindow()
    later_ms = START_MS + 100 * INTERVAL_MS
    ended = [quiet(number, due_ms=later_ms) for number in range(5)]
    assert judge(window, ended, expected=20, now_ms=later_ms) is FailureState.DECLARED


def test_p16_deaths_in_other_partitions_count_within_the_interval_before_the_newest_of_all() -> None:
    health = EnvironmentHealth(expected=10, silent=0)
    due_ms = START_MS - START_MS % INTERVAL_MS
    for apart_ms, state in ((INTERVAL_MS, FailureState.DECLARED), (INTERVAL_MS + 1_000, FailureState.CALM)):
        other, own = FailureWindow(), FailureWindow()
        judge(other, [death(number, due_ms=due_ms) for number in range(3)], expected=1_000)
        late = [death(number, due_ms=due_ms + apart_ms) for number in range(3, 5)]
        assert observe(own, late, [], health, others=[other], rule=RULE, now_ms=due_ms + apart_ms) is state


def test_p16_a_long_interval_in_another_partition_makes_no_later_failure_longer() -> None:
    other, own = FailureWindow(), FailureWindow()
    judge(other, [replace(death(0), interval_ms=86_400_000)], expected=1_000)
    far_ms = START_MS + LONGEST_WINDOW_MS + 1_000
    deaths = [death(number, due_ms=far_ms) for number in range(5)]
    health = EnvironmentHealth(expected=5, silent=0)
    state = observe(own, deaths, [], health, others=[other], rule=RULE, now_ms=far_ms)
    assert (state, own.declared_until_ms) == (FailureState.DECLARED, far_ms + INTERVAL_MS)


def test_b4_those_who_are_back_count_once_for_the_threshold() -> None:
    # 30 workers: six fell silent, and five of them are expected again before their returns are routed.
    health = EnvironmentHealth(expected=29, silent=0, down=1)
    assert health.size(6) == 30
    state = observe(FailureWindow(), [death(n) for n in range(6)], [], health, rule=Rule(least=1), now_ms=START_MS)
    assert (Rule(least=1).threshold(29 + 6), state) == (7, FailureState.DECLARED)


async def test_p16_several_daemons_count_each_death_once(store_url: str) -> None:
    fleet = FakeFleet(lambda: EnvironmentHealth(expected=20, silent=0))
    stores = [alert_store(store_url, partitions=2) for _ in range(2)]
    try:
        one, other = (MassFailures(store, rule=RULE, fleet=fleet) for store in stores)
        deaths = [death(number) for number in range(4)]
        for store, mass_failures in zip(stores, (one, other), strict=True):
            verdict = await judged(store, mass_failures, 0, deaths, now_ms=START_MS)
            assert verdict.state is FailureState.CALM
        verdict = await judged(stores[1], other, 1, [death(9, partition=1)], now_ms=START_MS)
        assert verdict.state is FailureState.DECLARED
        assert verdict.incident_id is not None
        late_ms = START_MS + 10 * INTERVAL_MS
        calm = await judged(stores[0], one, 0, [], [back(1)], now_ms=late_ms)
        assert calm.state is FailureState.CALM
    finally:
        for store in stores:
            await store.close()


@pytest.mark.parametrize("partitions", [2, 16])
async def test_p16_of_partitions_that_judge_at_once_one_counts_all_deaths(store_url: str, partitions: int) -> None:
    """None of them has enough deaths, and each may read the others before it has written its own."""
    fleet = FakeFleet(lambda: EnvironmentHealth(expected=10, silent=0))
    for turn in range(10):
        at_ms = START_MS + turn * 10 * INTERVAL_MS
        stores = [alert_store(store_url, partitions=partitions) for _ in range(partitions)]  # as of as many daemons
        try:
            judging = [
                judged(
                    store,
                    MassFailures(store, rule=RULE, fleet=fleet),
                    partition,
                    [
                        death(turn * 100 + n, due_ms=at_ms + partition, partition=partition)
                        for n in range(6 // partitions or 1)
                    ],
                    now_ms=at_ms,
                )
                for partition, store in enumerate(stores)
            ]
            verdicts = await asyncio.gather(*judging)
        finally:
            for store in stores:
                await store.close()
        declared = [verdict for verdict in verdicts if verdict.state is FailureState.DECLARED]
        assert declared
        assert len({verdict.incident_id for verdict in declared}) == 1


async def test_p16_routers_of_many_partitions_count_every_death_and_share_one_reading(store_url: str) -> None:
    partitions, each, readings = 64, 31, 0

    def reading() -> EnvironmentHealth:
        nonlocal readings
        readings += 1
        return EnvironmentHealth(expected=0, silent=0, fallen=partitions * each)

    await found(store_url, partitions=partitions)  # or each of the 64 calls at once finds it empty
    store = alert_store(store_url, partitions=partitions)
    try:
        mass_failures = MassFailures(store, rule=RULE, fleet=FakeFleet(reading))

        async def judge(partition: int) -> FailureVerdict:
            deaths = [death(partition * each + number, partition=partition) for number in range(each)]
            return await judged(store, mass_failures, partition, deaths, now_ms=START_MS)

        verdicts = await asyncio.gather(*map(judge, range(partitions)))
        assert {verdict.state for verdict in verdicts} == {FailureState.DECLARED}
        assert len({verdict.incident_id for verdict in verdicts}) == 1
        async with Redis.from_url(store_url, decode_responses=True) as redis:
            known = await redis.hgetall(shared_base("4:acmeprod", partitions) + "failure:4:acmeprod")
        windows = [msgspec.json.decode(text, type=FailureWindow) for name, text in known.items() if name.isdigit()]
        assert sum(map(silent_now, windows)) == partitions * each
        assert readings <= 2  # one for each second
    finally:
        await store.close()


async def test_p16_deaths_that_go_on_for_longer_than_a_day_are_not_forgotten_meanwhile(store_url: str) -> None:
    store = alert_store(store_url)
    mass_failures = MassFailures(store, rule=RULE, fleet=FakeFleet(lambda: EnvironmentHealth(expected=20, silent=0)))

    async def dies(number: int, at_ms: int, environment: str = "prod") -> FailureState:
        died = replace(death(number, due_ms=at_ms), environment_name=environment)
        return (await judged(store, mass_failures, 0, [died], now_ms=at_ms)).state

    try:
        later_ms = START_MS + KEPT_MS
        assert await dies(0, START_MS) is FailureState.CALM
        for number in range(1, 5):
            assert await dies(number, later_ms - 1) is FailureState.CALM
        assert await dies(0, later_ms, "other") is FailureState.CALM  # forgets what has not changed for a day
        assert await dies(5, later_ms) is FailureState.DECLARED
    finally:
        await store.close()


async def test_p24_environments_of_one_name_are_counted_by_tenant(store_url: str) -> None:
    fleet = FakeFleet(lambda: EnvironmentHealth(expected=20, silent=0))
    store = alert_store(store_url)
    try:
        mass_failures = MassFailures(store, rule=RULE, fleet=fleet)
        # Also where a tenant's name and an environment's make the same text.
        for number, (tenant, name) in enumerate((("acme", "prod"), ("other", "prod"), ("acm", "eprod"))):
            deaths = [replace(death(number * 10 + n), tenant=tenant, environment_name=name) for n in range(4)]
            verdict = await judged(store, mass_failures, 0, deaths, now_ms=START_MS)
            assert verdict.state is FailureState.CALM
        fifth = replace(death(99), tenant="other")
        verdict = await judged(store, mass_failures, 0, [fifth], now_ms=START_MS)
        assert verdict.state is FailureState.DECLARED
        for name in ("prod", "stage"):
            other = [replace(death(100), tenant="acm" if name == "prod" else "acme", environment_name=name)]
            verdict = await judged(store, mass_failures, 0, other, now_ms=START_MS)
            assert verdict.state is FailureState.CALM
    finally:
        await store.close()


def test_p21_a_receiver_that_answers_between_failures_is_not_in_trouble() -> None:
    breaker = Breaker(uniform=lambda _, longest: longest)
    for _ in range(3 * FAILURES):
        for _ in range(FAILURES - 1):
            assert not breaker.failed(now_ms=START_MS)
        assert not breaker.succeeded()
        assert breaker.room(8, in_flight=3, now_ms=START_MS) == 8


def test_p21_a_receiver_in_trouble_is_tried_by_one_attempt_at_a_time_with_growing_pauses() -> None:
    breaker = Breaker(uniform=lambda _, longest: longest)
    for _ in range(FAILURES - 1):
        assert not breaker.failed(now_ms=START_MS)
        assert breaker.room(8, in_flight=0, now_ms=START_MS) == 8
    assert breaker.failed(now_ms=START_MS)
    assert breaker.room(8, in_flight=0, now_ms=START_MS + FIRST_PAUSE_MS - 1) == 0
    assert breaker.room(8, in_flight=1, now_ms=START_MS + FIRST_PAUSE_MS) == 0
    assert breaker.room(8, in_flight=0, now_ms=START_MS + FIRST_PAUSE_MS) == 1
    for _ in range(20):
        assert not breaker.failed(now_ms=START_MS)
    assert breaker.room(8, in_flight=0, now_ms=START_MS + LONGEST_PAUSE_MS) == 1
    assert breaker.succeeded()
    assert breaker.room(8, in_flight=3, now_ms=START_MS) == 8
    assert not breaker.succeeded()


@pytest.mark.parametrize("partitions", [1, 2])
async def test_p16_a_quarter_of_a_fleet_whose_end_was_recorded_before_routing_is_one_notification(
    store_url: str, partitions: int
) -> None:
    """As when the routing daemon was killed: another sweeps, and takes over the routing two seconds later."""
    ops = Inbox()
    async with opened(store_url, partitions=partitions) as store:
        clock = ManualClock(store_url, partitions)

        async def beats(numbers: Sequence[int]) -> int:
            now_ms = 0
            for partition in range(partitions):
                some = [beat(f"w{number}", interval_ms=1_000, grace_ms=1_000) for number in numbers]
                own = [one for one in some if store.partition_of(one.key) == partition]
                for at in range(0, len(own), 100):
                    now_ms = (await store.beat(partition, own[at : at + 100])).now_ms
            return now_ms

        now_ms = await beats(range(1_000)) + 1_500
        await clock.set(now_ms)
        await beats([number for number in range(1_000) if number % 4])
        now_ms += 600
        await clock.set(now_ms)
        for partition in range(partitions):
            while (await store.sweep(partition, limit=100)).more:
                pass

        service = AlertService(
            AlertSettings(
                receivers=[ops],
                routes=[Route(receivers=("ops",))],
                wording=Wording(public_url="", redact=()),
                rule=RULE,
            ),
            store=alert_store(store_url, partitions=partitions),
            source=await outbox_of(store),
            partitions=partitions,
            fleet=StoredFleet(store),
            now_ms=store.clock.now_ms,
            counts=Tally(),
            poll_s=0.01,
            router_poll_s=0.01,
        )

        async def gathered() -> bool:
            [seen] = await service.groups["ops"].read([Want(group=environment_key("acme", "prod"))])
            return seen.group is not None and seen.group.firing == 250

        await service.start()
        try:
            await until(gathered)
            await clock.set(now_ms + ENVIRONMENT_WAIT_MS)
            await store.swept(0)  # its answer carries the time
            service.wakeup()
            await until(lambda: bool(ops.accepted))
            [first] = ops.accepted
            assert first.event_type == "group.firing"
            assert json.loads(first.body)["data"]["counts"]["firing"] == 250
        finally:
            await service.stop(0)
