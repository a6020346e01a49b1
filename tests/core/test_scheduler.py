"""When passes run: at their times, never two of a kind at once, and to their end at a stop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from apscheduler.events import EVENT_JOB_EXECUTED

from monitor.scheduler import TIDY_INTERVAL_S, Scheduler

INTERVAL_S = 0.01
PATIENCE_S = 20.0


class FakePass:
    """A pass under a test's control: it begins when it is called, and ends when ``gate`` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most_at_once = 0
        self.begun = 0
        self.ended = 0
        self.error: Exception | None = None
        self._changed = asyncio.Condition()

    async def __call__(self) -> None:
        self.begun += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        await self._notify_waiters()
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            self.ended += 1
        finally:
            self.running -= 1
            await self._notify_waiters()

    async def _notify_waiters(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; looked at whenever a pass begins or ends."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(condition)


async def nothing() -> None:
    """A pass with nothing to do."""


def scheduler_of(
    sweep: Callable[[], Coroutine[Any, Any, None]], *, tidy: Callable[[], Coroutine[Any, Any, None]] = nothing
) -> tuple[Scheduler, list[BaseException]]:
    errors: list[BaseException] = []
    return Scheduler(sweep=sweep, tidy=tidy, interval_s=INTERVAL_S, on_error=errors.append), errors


def ticks(scheduler: Scheduler, count: int) -> asyncio.Event:
    """Return an event that is set after ``count`` ticks."""
    left = count
    event = asyncio.Event()

    def note(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            event.set()

    scheduler._scheduler.add_listener(note, EVENT_JOB_EXECUTED)
    return event


async def test_sweeps_run_again_and_again() -> None:
    sweep = FakePass()
    scheduler, errors = scheduler_of(sweep)
    assert sweep.begun == 0
    scheduler.start()
    await sweep.until(lambda: sweep.ended >= 5)
    await scheduler.stop()
    assert errors == []


async def test_a_slow_pass_does_not_keep_the_next_ones_from_beginning_and_a_stop_waits_for_all() -> None:
    sweep = FakePass()
    sweep.gate.clear()
    scheduler, errors = scheduler_of(sweep)
    scheduler.start()
    await sweep.until(lambda: sweep.running >= 3)
    stopping = asyncio.create_task(scheduler.stop())
    await asyncio.create_task(nothing())
    assert not stopping.done()
    sweep.gate.set()
    await asyncio.wait_for(stopping, PATIENCE_S)
    assert (sweep.running, sweep.ended) == (0, sweep.begun)
    assert errors == []


async def test_a_slow_sweep_does_not_hold_up_the_housekeeping_nor_the_other_way_round() -> None:
    sweep, tidy = FakePass(), FakePass()
    sweep.gate.clear()
    scheduler, _ = scheduler_of(sweep, tidy=tidy)
    (_, tidy_job) = jobs_of(scheduler)
    scheduler.start()
    await sweep.until(lambda: sweep.running == 1)
    tidy_job.func()
    await tidy.until(lambda: tidy.ended == 1)
    assert sweep.ended == 0
    sweep.gate.set()
    await scheduler.stop()


def jobs_of(scheduler: Scheduler) -> list[Any]:
    """The jobs, in the order in which they were added; only before a start."""
    jobs: list[Any] = scheduler._scheduler.get_jobs()
    return jobs


async def test_both_passes_have_their_interval() -> None:
    scheduler, _ = scheduler_of(nothing)
    assert [job.trigger.interval.total_seconds() for job in jobs_of(scheduler)] == [INTERVAL_S, TIDY_INTERVAL_S]


async def test_a_stop_waits_for_the_pass_that_is_running_and_lets_no_other_begin() -> None:
    sweep = FakePass()
    sweep.gate.clear()
    scheduler, _ = scheduler_of(sweep)
    sweep_job, tidy_job = jobs_of(scheduler)
    scheduler.start()
    await sweep.until(lambda: sweep.running == 1)
    stopping = asyncio.create_task(scheduler.stop())
    await asyncio.create_task(nothing())
    assert not stopping.done()
    # A tick that had come already finds that it is over.
    sweep_job.func()
    tidy_job.func()
    assert sweep.begun == 1
    sweep.gate.set()
    await asyncio.wait_for(stopping, PATIENCE_S)
    assert (sweep.begun, sweep.ended, sweep.running) == (1, 1, 0)


async def test_a_stop_between_two_passes_is_over_at_once() -> None:
    sweep = FakePass()
    scheduler, errors = scheduler_of(sweep)
    scheduler.start()
    await sweep.until(lambda: sweep.ended >= 1)
    await asyncio.wait_for(scheduler.stop(), PATIENCE_S)
    assert sweep.running == 0
    assert errors == []


async def test_a_stop_in_the_moment_of_a_tick_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sweep = FakePass()
    scheduler, errors = scheduler_of(sweep)
    (sweep_job, _) = jobs_of(scheduler)
    scheduler.start()
    # Due now, so that the tick and the shutdown are in the same turn of the loop, in this order.
    sweep_job.modify(next_run_time=sweep_job.next_run_time - timedelta(hours=1))
    await scheduler.stop()
    for _ in range(5):  # more turns than the executor's callbacks take
        await asyncio.create_task(nothing())
    assert errors == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_what_a_pass_raises_is_reported_and_later_passes_go_on() -> None:
    sweep = FakePass()
    sweep.error = KeyError("a bug")
    scheduler, errors = scheduler_of(sweep)
    scheduler.start()
    await sweep.until(lambda: sweep.begun >= 3)
    assert [str(error) for error in errors[:2]] == ["'a bug'", "'a bug'"]
    reported = len(errors)
    sweep.error = None
    await sweep.until(lambda: sweep.ended >= 2)
    await scheduler.stop()
    assert len(errors) <= reported + 1  # the pass that was under way when the bug was mended


async def test_a_pass_that_ends_well_during_a_stop_is_no_error() -> None:
    sweep = FakePass()
    sweep.gate.clear()
    scheduler, errors = scheduler_of(sweep)
    scheduler.start()
    await sweep.until(lambda: sweep.running == 1)
    stopping = asyncio.create_task(scheduler.stop())
    await asyncio.create_task(nothing())
    sweep.gate.set()
    await asyncio.wait_for(stopping, PATIENCE_S)
    # The scheduler shuts down in a callback of the loop. An error of the shutdown is reported in a callback too.
    await asyncio.create_task(nothing())
    assert sweep.ended == 1
    assert errors == []


async def test_what_a_pass_raises_during_a_stop_is_reported_too() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
    sweep = FakePass()
    sweep.gate.clear()
    sweep.error = KeyError("a bug")
    scheduler, errors = scheduler_of(sweep)
    scheduler.start()
    await sweep.until(lambda: sweep.running == 1)
    stopping = asyncio.create_task(scheduler.stop())
    await asyncio.create_task(nothing())
    sweep.gate.set()
    await asyncio.wait_for(stopping, PATIENCE_S)
    await asyncio.create_task(nothing())
    assert [str(error) for error in errors] == ["'a bug'"]
