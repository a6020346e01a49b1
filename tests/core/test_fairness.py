"""Share of an event loop iteration that requests may take."""

import asyncio

from monitor.clock import monotonic_s
from monitor.http.fairness import SLICE_S, TimeSlices
from monitor.http.stall import HELD_UP_S, Stall


class Busy:
    """A connection whose request takes a whole slice."""

    def __init__(self, done: list[int], number: int) -> None:
        self._done, self._number = done, number

    def go_on(self) -> None:
        self._done.append(self._number)
        until_s = monotonic_s() + SLICE_S
        while monotonic_s() < until_s:
            pass


async def test_p28_what_has_come_at_once_is_taken_in_its_order_and_others_have_turns_between() -> None:
    slices = TimeSlices(asyncio.get_running_loop(), Stall())
    done: list[int] = []
    assert slices.admit(Busy(done, 0))
    Busy(done, 0).go_on()
    assert slices.oldest_s() == 0
    for number in range(1, 4):
        assert not slices.admit(Busy(done, number))
    for number in range(1, 4):
        assert slices.oldest_s() > (number - 1) * SLICE_S
        await asyncio.sleep(0)
        assert done == list(range(number + 1))
    await asyncio.sleep(0)
    assert slices.admit(Busy(done, 4)), "none waits any more"
    assert slices.oldest_s() == 0


async def test_p28_how_long_requests_wait_for_a_turn_is_shown_by_the_one_that_came_first() -> None:
    slices = TimeSlices(asyncio.get_running_loop(), Stall())
    done: list[int] = []
    first, second = Busy(done, 1), Busy(done, 2)
    assert slices.admit(Busy(done, 0))
    Busy(done, 0).go_on()
    assert not slices.admit(first)
    Busy(done, 0).go_on()
    assert not slices.admit(second)
    assert slices.oldest_s() >= SLICE_S
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == [0, 0, 1, 2]
    assert slices.oldest_s() == 0


async def test_p28_a_slice_of_a_turn_ends_with_it() -> None:
    slices = TimeSlices(asyncio.get_running_loop(), Stall())
    assert slices.admit(Busy([], 0))
    assert monotonic_s() < slices.open_until_s
    await asyncio.sleep(0)
    assert slices.open_until_s <= monotonic_s()


async def test_p1_nothing_is_parsed_unasked_in_a_turn_that_may_read_what_is_old() -> None:
    stall = Stall()
    slices = TimeSlices(asyncio.get_running_loop(), stall)
    stall.turn(monotonic_s() - 2 * HELD_UP_S)
    assert stall.is_recent(monotonic_s()), "the loop has not turned for longer than it may"
    assert slices.admit(Busy([], 0))
    assert slices.open_until_s <= monotonic_s()
