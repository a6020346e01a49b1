"""Many beats of one request, in calls of their own."""

import asyncio

import pytest

from monitor.errors import NotAllowedError, QuotaExceededError, StoreUnavailableError
from monitor.intake.backlog import Graces
from monitor.intake.batches import BATCH_BYTES, BATCH_LIMIT, CHUNKS_AT_ONCE, BatchIntake
from monitor.intake.queue import Intake
from monitor.store import Store
from tests.support.stores import beat
from tests.support.watched import PATIENCE_S, alive, watched


def many_on(store: Store) -> BatchIntake:
    return BatchIntake(store, graces=Graces(store.settings.graces_ms), on_moved=lambda _: None)


async def test_many_beats_of_one_request_are_stored_in_full_calls(store_url: str) -> None:
    async with watched(store_url, partitions=3, workers_per_tenant=6_000) as store:
        many = many_on(store)
        assert await many.beats([beat(f"w{k}") for k in range(1_500)]) == [None] * 1_500
        assert await many.beats([]) == []
        assert len(store.calls) <= 3 + 1_500 // BATCH_LIMIT
        assert max(map(len, store.calls)) == BATCH_LIMIT
        assert await alive(store) == 1_500


async def test_each_of_many_beats_gets_the_answer_that_is_its_own(store_url: str) -> None:
    async with watched(store_url, workers_per_tenant=2) as store:
        many = many_on(store)
        orders = [beat("a"), beat("a", environment="qa", allowed=("dev",)), beat("b"), beat("c"), beat("a")]
        assert [type(answer) for answer in await many.beats(orders)] == [
            type(None),
            NotAllowedError,
            type(None),
            QuotaExceededError,
            type(None),
        ]


async def test_a_beat_that_is_refused_is_the_same_one_whichever_call_carries_it(store_url: str) -> None:
    async with watched(store_url, workers_per_tenant=2_000) as store:
        orders = [beat(f"w{k}") for k in range(3 * BATCH_LIMIT)]
        foreign = {5, BATCH_LIMIT + 7, 3 * BATCH_LIMIT - 1}
        for index in foreign:
            orders[index] = beat(f"w{index}", environment="qa", allowed=("dev",))
        answers = await many_on(store).beats(orders)
        assert {index for index, answer in enumerate(answers) if answer is not None} == foreign
        for index in foreign:
            assert f"'w{index}'" in str(answers[index])


async def test_p28_the_graces_of_workers_in_a_request_of_many_bound_how_long_beats_may_wait(store_url: str) -> None:
    async with watched(store_url, partitions=2) as store:
        graces = Graces(store.settings.graces_ms)
        many = BatchIntake(store, graces=graces, on_moved=lambda _: None)
        await many.beats([beat(f"w{k}", grace_ms=4_000 - 100 * k) for k in range(10)])
        assert graces.shortest_ms() == 3_100
        await many.beats([beat("w9")])
        assert graces.shortest_ms() == 3_100, "it is kept with the worker"


async def test_p28_a_single_beat_goes_between_the_many_of_a_request(store_url: str) -> None:
    async with watched(store_url) as store:
        many = many_on(store)
        store.gate.clear()
        request = asyncio.create_task(many.beats([beat(f"w{k}") for k in range(20 * BATCH_LIMIT)]))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        intake = Intake(store, capacity=10, on_moved=lambda _: None)
        single = asyncio.create_task(intake.apply(beat("single")))
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(request, single)
        assert len(store.calls) == 21
        assert ["single" in call for call in store.calls].index(True) <= CHUNKS_AT_ONCE


async def test_large_beats_of_a_request_go_in_smaller_calls(store_url: str) -> None:
    async with watched(store_url) as store:
        large = "{" + '"x":"' + "y" * 16_000 + '"}'
        await many_on(store).beats([beat(f"w{k}", metadata_json=large) for k in range(100)])
        assert max(map(len, store.calls)) == -(-BATCH_BYTES // len(large))


async def test_p10_many_beats_fail_together_when_some_were_not_stored(store_url: str) -> None:
    async with watched(store_url) as store:
        many = many_on(store)
        store.bug = StoreUnavailableError("no")
        with pytest.raises(StoreUnavailableError, match="no"):
            await many.beats([beat(f"w{k}") for k in range(10 * BATCH_LIMIT)])
        assert len(store.calls) <= CHUNKS_AT_ONCE, "what was not sent yet is not sent any more"
        store.bug = None
        assert await many.beats([beat("a")]) == [None]


async def test_a_cancelled_request_of_many_sends_no_more(store_url: str) -> None:
    async with watched(store_url) as store:
        many = many_on(store)
        store.gate.clear()
        request = asyncio.create_task(many.beats([beat(f"w{k}") for k in range(10 * BATCH_LIMIT)]))
        await asyncio.wait_for(store.called.wait(), PATIENCE_S)
        request.cancel()
        await asyncio.wait([request])
        store.gate.set()
        assert len(store.calls) <= CHUNKS_AT_ONCE
        assert await many.beats([beat("next")]) == [None]
