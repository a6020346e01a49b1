"""Dead-lettered pages that are offered again while others come and go."""

from collections.abc import Callable

import pytest

from alerts.delivery.given_up import AGAIN_PAUSE_MS, GivenUp
from alerts.store.group_store import GroupStore
from alerts.store.tags import bases_of
from monitor.errors import StoreUnavailableError
from tests.support.alerts_fakes import START_MS
from tests.support.stores import Interrupted


async def offering(store_url: str, meanwhile: Callable[[GivenUp], None]) -> GivenUp:
    """Offer the dead letters of two parts, in which there are none; something comes with the first call."""

    async def come() -> None:
        meanwhile(given_up)

    store = Interrupted(store_url, "notifications", come, partitions=4)
    given_up = GivenUp(GroupStore(store, "ops"))
    given_up.note(bases_of(4)[:2])
    given_up.accepted(START_MS)
    try:
        assert await given_up.offer(now_ms=START_MS) == []
    finally:
        await store.close()
    return given_up


async def test_p31_a_part_that_gets_its_first_dead_letter_meanwhile_is_offered_next_time(store_url: str) -> None:
    new = bases_of(4)[5]
    given_up = await offering(store_url, lambda one: one.note([new]))
    assert given_up.tags == given_up.unasked == {new}


async def test_p31_an_acceptance_counts_that_comes_meanwhile_or_whose_offer_failed(store_url: str) -> None:
    def accept(one: GivenUp) -> None:
        one.accepted(START_MS)

    async def fail() -> None:
        raise StoreUnavailableError("down for the test")

    assert (await offering(store_url, accept)).unasked == set(bases_of(4)[:2])
    store = Interrupted(store_url, "notifications", fail, partitions=4)
    given_up = GivenUp(GroupStore(store, "ops"))
    given_up.note(bases_of(4)[:1])
    given_up.accepted(START_MS)
    with pytest.raises(StoreUnavailableError):
        await given_up.offer(now_ms=START_MS)
    assert given_up.unasked == set(bases_of(4)[:1])
    assert await given_up.offer(now_ms=START_MS + AGAIN_PAUSE_MS) == []
    await store.close()
