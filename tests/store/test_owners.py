"""Partitions and their owners, on a real store: each has one, by the lease that the daemons' pulses carry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from monitor.blindness import GAP_MS
from monitor.ownership import LEASE_MS, SPARE_MS, Bid, Ownership
from monitor.pulse import Pulse
from monitor.reasons import Reason
from monitor.store import Store, StoreFullError
from monitor.store.outbox import ROUTING_LAG_S, Outbox
from tests.support.proxies import Watched
from tests.support.stores import ManualClock, acked, beat, opened, owned

PARTITIONS: Final = 16


# The lease -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def daemons(url: str, *names: str, **changes: Any) -> AsyncIterator[list[Store]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(url, daemon=name, **changes)) for name in names]


async def token(store: Store, bid: Bid = Bid.OWN, **changes: Any) -> int:
    """Pulse; the token of the lease."""
    return (await store.pulse(0, bid=bid, **changes)).lease.token


async def test_a_partition_whose_owner_is_lost_has_another_within_2_s(store_url: str) -> None:
    assert LEASE_MS + 2 * 250 <= 2_000, "the lease, the pulse that asks for the daemons, and the next one, which bids"
    async with daemons(store_url, "d1", "d2") as (lost, other):
        first = await token(lost)
        t = (await other.pulse(0)).now_ms
        clock = ManualClock(store_url)
        assert await token(other) == 0
        await clock.set(t + GAP_MS)
        assert await token(other) == 0
        result = await other.pulse(0, asks=True)
        assert "d2" in result.lease.daemons
        await clock.set(t + LEASE_MS + 1)
        result = await other.pulse(0, bid=Bid.OWN, asks=True)
        assert result.lease.token > first
        assert result.lease.daemons == {"d2"}, "the lost one is no longer preferred anywhere"
        assert await token(lost) == 0, "it comes back too late"


async def test_an_owner_that_stops_hands_over_at_once(store_url: str) -> None:
    async with daemons(store_url, "d1", "d2") as (stopping, other):
        first = await token(stopping)
        assert await token(other) == 0
        result = await stopping.pulse(0, ends=True)
        assert result.lease.token == 0
        after = await other.pulse(0, bid=Bid.OWN, asks=True)
        assert after.lease.token == first + 1
        assert after.lease.daemons == {"d2"}


async def test_a_partition_that_its_preferred_owner_does_not_take_goes_to_any_daemon_and_not_before(
    store_url: str,
) -> None:
    async with daemons(store_url, "d1", "d2") as (preferred, other):
        await token(preferred)
        t = (await preferred.lease(0, bid=Bid.NONE)).now_ms
        clock = ManualClock(store_url)
        await clock.set(t + SPARE_MS - 50)
        assert await token(other, Bid.NONE) == 0
        assert await token(other, Bid.SPARE) == 0
        await clock.set(t + SPARE_MS)
        assert await token(other, Bid.NONE) == 0
        assert await token(other, Bid.SPARE) > 0
        assert await token(preferred) == 0, "it comes too late"
        assert await token(other, Bid.SPARE) == 0, "given up, for the preferred one"
        assert await token(preferred) > 0


async def test_an_owner_that_is_behind_with_beats_stays_the_owner(store_url: str) -> None:
    async with daemons(store_url, "d1", "d2") as (behind, other):
        first = await token(behind)
        t = (await other.pulse(0)).now_ms
        for step in range(1, 5):
            await ManualClock(store_url).set(t + step * LEASE_MS // 2)
            assert await token(behind, behind=True) == first
            assert await token(other) == 0


async def test_an_idle_owner_writes_its_lease_only_when_half_of_it_is_over(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        t = (await store.lease(0, bid=Bid.OWN)).now_ms

        async def until() -> int:
            return int(await redis.hget("{ls:0}:router", "until"))  # type: ignore[arg-type]

        clock, first = ManualClock(store_url), await until()
        for after_ms, renewed in ((LEASE_MS // 3, False), (LEASE_MS // 2 + 50, True)):
            await clock.set(t + after_ms)
            assert await token(store) == 1
            assert (await until() > first) is renewed


async def test_p26_a_full_store_whose_pulses_are_refused_has_an_owner_all_the_same(store_url: str) -> None:
    async with opened(store_url) as store, Redis.from_url(store_url) as redis:
        await store.beat(0, [beat()])
        ownership = Ownership("d1", 1, sweep_interval_s=1.0)
        pulse = Pulse(store, ownership, on_sums=lambda _count, _ms: None)
        assert await acked(store, 0, "0-0")  # the functions of the alerts are there before the store is full
        try:
            await redis.config_set("maxmemory", 1)
            with pytest.raises(StoreFullError):
                await store.pulse(0)
            await pulse._send(0)
            outbox = Outbox(store, ownership)
            taken = await outbox.claim(0, 10)
            assert taken is not None
            assert await acked(store, taken.token, taken.last)
        finally:
            await redis.config_set("maxmemory", 0)


# Routing -------------------------------------------------------------------------------------------------------------


class Owner(Watched):
    """A daemon whose pulses run, and that routes what its partitions have into ``routed``."""

    def __init__(self, store: Store, routed: list[str]) -> None:
        super().__init__()
        self.ownership = Ownership(store.settings.daemon, store.partitions, sweep_interval_s=1.0)
        self.store = store
        self.outbox = Outbox(store, self.ownership)
        self._routed = routed
        self.waiting: asyncio.Queue[int | None] = asyncio.Queue()
        self.pulse = Pulse(
            store, self.ownership, on_sums=lambda _count, _ms: self.changed(), on_waiting=self.waiting.put_nowait
        )

    @property
    def partitions(self) -> set[int]:
        return {one for one in range(PARTITIONS) if self.ownership.token(one)}

    async def route(self) -> None:
        while (partition := await self.waiting.get()) is not None:
            taken = await self.outbox.claim(partition, 100)
            if taken and taken.events and await acked(self.store, taken.token, taken.last, partition=partition):
                self._routed += [event.worker_id for event in taken.events]
                self.changed()


@asynccontextmanager
async def owner(url: str, name: str, routed: list[str]) -> AsyncIterator[Owner]:
    """A running daemon. It stops cleanly: it is not cancelled between an acknowledgement and its note in ``routed``."""
    async with opened(url, daemon=name, partitions=PARTITIONS) as store:
        made = Owner(store, routed)
        pulsing, routing = asyncio.create_task(made.pulse.run()), asyncio.create_task(made.route())
        try:
            yield made
        finally:
            pulsing.cancel()
            await asyncio.gather(pulsing, return_exceptions=True)
            await made.pulse.end()
            made.waiting.put_nowait(None)
            await routing


async def shared(*owners: Owner) -> None:
    """Return when each partition has its owner and each daemon some."""

    def is_shared() -> bool:
        own = [one.partitions for one in owners]
        return all(own) and sum(map(len, own)) == len(set().union(*own)) == PARTITIONS

    await owners[-1].until(is_shared, "each partition to have one owner, and each daemon a partition")


async def test_daemons_share_the_partitions_and_no_event_is_lost_or_routed_twice_when_they_come_and_go(
    store_url: str,
) -> None:
    routed: list[str] = []
    numbers = iter(range(10_000))

    async with opened(store_url, daemon="intake", partitions=PARTITIONS) as store:

        async def register(count: int) -> None:
            for _ in range(count):
                one = beat(f"w{next(numbers)}")
                await store.beat(store.partition_of(one.key), [one])
                await asyncio.sleep(0)

        async with owner(store_url, "d1", routed) as first:
            await shared(first)
            await register(50)
            async with owner(store_url, "d2", routed) as second:
                await asyncio.gather(shared(first, second), register(100))
                async with owner(store_url, "d3", routed) as third:
                    await asyncio.gather(shared(first, second, third), register(100))
                    before = len(routed)
                    await register(50)
                    await third.until(lambda: len(routed) >= before, "more of them")
                await asyncio.gather(shared(first, second), register(100))
            await asyncio.gather(shared(first), register(50))
            await first.until(lambda: len(routed) >= 450, "all of them")
    assert sorted(routed) == sorted(f"w{number}" for number in range(450))


async def test_a_daemon_that_does_not_own_a_partition_makes_no_call_for_its_events(store_url: str) -> None:
    async with daemons(store_url, "d1", "d2") as (store, other), Redis.from_url(store_url) as redis:
        await store.beat(0, [beat()])
        await store.lease(0, bid=Bid.OWN)
        outbox = Outbox(other, await owned(other))
        await redis.config_resetstat()
        assert await outbox.claim(0, 10) is None
        assert "cmdstat_fcall" not in await redis.info("commandstats")


@pytest.mark.parametrize("bid", [Bid.OWN, Bid.NONE], ids=["the owner is stuck", "there is no owner"])
async def test_p27_events_that_no_daemon_routes_are_a_reason_at_each(store_url: str, bid: Bid) -> None:
    async with daemons(store_url, "d1", "d2") as (store, other):
        recorded_ms = (await store.beat(0, [beat()])).now_ms
        ownership = Ownership("d2", 1, sweep_interval_s=1.0)
        outbox = Outbox(other, ownership)
        for after_s, reasons in ((ROUTING_LAG_S - 0.5, []), (ROUTING_LAG_S + 0.5, [Reason.ROUTING_LAG])):
            await ManualClock(store_url).set(recorded_ms + round(after_s * 1_000))
            await store.lease(0, bid=bid)
            ownership.note(0, Bid.NONE, (await other.pulse(0)).lease)
            assert outbox.reasons() == reasons


# Independent partitions ----------------------------------------------------------------------------------------------


async def test_p22_a_partition_that_takes_no_pulses_hides_no_other_and_is_named(store_url: str) -> None:
    async with opened(store_url, partitions=2) as store, Redis.from_url(store_url) as redis:
        await redis.delete("{ls:0}:meta")
        await redis.set("{ls:0}:meta", "damaged")
        pulse = Pulse(store, ownership := Ownership("d1", 2, sweep_interval_s=1.0), on_sums=lambda _count, _ms: None)
        with capture_logs() as lines:
            pulse._taken_s = [0.0, 0.0]
            for _ in range(3):
                await asyncio.gather(pulse._send(0), pulse._send(1))
        assert [(line["event"], line["partition"]) for line in lines] == [("pulse.store_unavailable", 0)]
        assert [ownership.token(0), ownership.token(1)] == [0, 1]
        assert pulse.failing() == ["partition 0"]
        assert pulse.reasons() == [Reason.BLIND]
        assert await store.takes_beats(), "the other does"
        await redis.set("{ls:1}:meta", "damaged")
        assert not await store.takes_beats()
        pulse._taken_s = [0.0, 0.0]
        assert pulse.failing() == [], "it is the store, and no partition of it"
