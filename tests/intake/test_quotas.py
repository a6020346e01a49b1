"""Quotas of a tenant over several partitions: refused at the quota, and not before, wherever the workers are."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from monitor.errors import QuotaExceededError
from monitor.intake.backlog import Graces
from monitor.intake.batches import BatchIntake
from monitor.intake.queue import Intake
from monitor.store import Store
from tests.support.stores import ManualClock, beat, opened

CASES = [(quota, partitions) for quota in (100, 1_000, 10_000) for partitions in (1, 4, 64, 256)]


@dataclass
class Rig:
    """A daemon's intake of single beats and of many."""

    store: Store
    single: Intake
    many: BatchIntake

    async def stored(self, names: Iterable[str], **changes: Any) -> list[bool]:
        """Send beats one after another. Returns which are stored; the others are over the quota."""
        found = []
        for name in names:
            try:
                await self.single.apply(beat(name, **changes))
                found.append(True)
            except QuotaExceededError:
                found.append(False)
        return found

    async def stored_at_once(self, names: Sequence[str], **changes: Any) -> int:
        refused = await self.many.beats([beat(name, **changes) for name in names])
        assert all(isinstance(one, QuotaExceededError | None) for one in refused)
        return refused.count(None)


@asynccontextmanager
async def rig(url: str, **changes: Any) -> AsyncIterator[Rig]:
    async with opened(url, **changes) as store:
        many = BatchIntake(store, graces=Graces(store.settings.graces_ms), on_moved=lambda _: None)
        yield Rig(store, Intake(store, capacity=100_000, on_moved=lambda _: None), many)


def names(count: int, seed: int = 1) -> list[str]:
    source = random.Random(seed)  # noqa: S311 - ids
    return [f"{source.getrandbits(64):016x}" for _ in range(count)]


async def workers(url: str) -> int:
    """The number of workers in all partitions, as the store keeps them."""
    async with Redis.from_url(url) as redis:
        return sum([await redis.hlen(key) async for key in redis.scan_iter("{ls:*}:records", count=1_000)])


@pytest.mark.parametrize(("quota", "partitions"), CASES)
async def test_p26_the_first_worker_that_is_refused_is_the_one_after_the_quota(
    store_url: str, quota: int, partitions: int
) -> None:
    async with rig(store_url, partitions=partitions, workers_per_tenant=quota) as one:
        ids, alone = names(quota + 20), min(quota, 100)
        at_once = quota - alone
        assert await one.stored_at_once(ids[:at_once]) == at_once
        assert await one.stored(ids[at_once:]) == [True] * alone + [False] * 20
    assert await workers(store_url) == quota


@pytest.mark.parametrize(("quota", "partitions"), [(100, 256), (1_000, 256), (1_000, 4)])
async def test_p26_many_more_registrations_at_once_fill_the_quota_and_no_more(
    store_url: str, quota: int, partitions: int
) -> None:
    """Of several daemons, single beats and many at once. None is answered that the store is not available."""
    changes = {"partitions": partitions, "workers_per_tenant": quota}
    async with AsyncExitStack() as stack:
        rigs = [await stack.enter_async_context(rig(store_url, daemon=f"d{n}", **changes)) for n in range(3)]
        ids = names(5 * quota)
        singly = [rigs[0].single.apply(beat(name)) for name in ids[: 3 * quota]]
        many = [one.stored_at_once(ids[(3 + n) * quota :][:quota]) for n, one in enumerate(rigs[1:])]
        answers = await asyncio.gather(*singly, *many, return_exceptions=True)
    kinds = Counter(type(answer) for answer in answers[: 3 * quota])
    assert set(kinds) <= {int, QuotaExceededError}, kinds
    assert kinds[int] + sum(answers[3 * quota :]) == await workers(store_url) == quota  # type: ignore[arg-type]


async def test_p26_a_tenant_at_its_quota_costs_no_more_calls_and_another_tenant_nothing(store_url: str) -> None:
    async with rig(store_url, partitions=16, workers_per_tenant=32) as one, Redis.from_url(store_url) as redis:
        ids = names(1_000)
        assert await one.stored_at_once(ids[:32]) == 32
        assert await one.stored(ids[32:33]) == [False]
        await redis.config_resetstat()
        assert await one.stored(ids[33:133]) == [False] * 100
        assert all(await one.stored(ids[:32]))  # known workers go on
        stats = await redis.info("commandstats")
        assert stats["cmdstat_fcall"]["calls"] <= 132 + 2 * 2 * 16  # two divisions, if that takes longer than a second
        await redis.config_resetstat()
        assert await one.stored(["a", "b"], tenant="other") == [True, True]
        stats = await redis.info("commandstats")
        assert stats["cmdstat_fcall"]["calls"] == 2


async def test_p26_the_place_of_a_worker_that_is_erased_is_free_again_in_any_partition(store_url: str) -> None:
    async with rig(store_url, partitions=16, workers_per_tenant=40) as one:
        ids = names(80)
        assert await one.stored_at_once(ids[:40]) == 40
        assert await one.stored(ids[40:41]) == [False]
        for name in ids[:40]:
            erased = await one.store.delete(beat(name).key, allowed=None, reason="deleted")
        await ManualClock(store_url, 16).set(erased.now_ms + 1_001)
        one.store.quotas._full_until_s.clear()  # as a second later
        assert await one.stored_at_once(ids[40:]) == 40
        assert await one.stored(ids[:1]) == [False]
    assert await workers(store_url) == 40


async def test_p26_a_partition_whose_last_worker_of_a_tenant_is_erased_gets_no_more_than_was_divided(
    store_url: str,
) -> None:
    async with rig(store_url, partitions=4, workers_per_tenant=40) as one:
        by_partition: dict[int, list[str]] = {}
        for name in names(1_000):
            by_partition.setdefault(one.store.partition_of(beat(name).key), []).append(name)
        [first] = by_partition[0][:1]
        assert await one.stored([first]) == [True]
        assert await one.stored_at_once(by_partition[1][:39]) == 39
        await one.store.delete(beat(first).key, allowed=None, reason="deleted")
        for partition in range(4):
            await one.stored_at_once(by_partition[partition][50:90])
    assert await workers(store_url) == 40


async def test_p26_another_quota_counts_from_the_next_start(store_url: str) -> None:
    ids = names(200)
    for quota in (30, 60, 40):
        async with rig(store_url, partitions=16, workers_per_tenant=quota) as one:
            await one.stored_at_once(ids)
        assert await workers(store_url) == max(30, min(60, quota), 60 if quota == 40 else 0)


async def test_p26_the_bytes_of_a_tenant_are_one_quota_over_all_partitions(store_url: str) -> None:
    async with rig(store_url, partitions=16, bytes_per_tenant=1 << 20) as one:
        text = '"' + "x" * 2_000 + '"'
        stored = await one.stored_at_once(names(1_000), metadata_json=text)
    worker = 300 + 4 * 16 + 2 * 2_000
    assert 0.9 * (1 << 20) / worker <= stored <= (1 << 20) / 2_000
