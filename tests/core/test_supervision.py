"""A part of the alert service that fails: for how long it is named, and how soon it is started again (P30)."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from structlog.testing import capture_logs

from alerts.loops import LONGEST_PAUSE_S, STEADY_S, Part
from tests.support.alerts_fakes import until


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time can be moved on by hand."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    async def move(self, seconds: float) -> None:
        """Move its time on, and have what is due by then begin."""
        self.ahead_s += seconds
        await asyncio.sleep(0)


class Failing:
    """The work of a part: fails when the test asks for a failure, and counts its starts."""

    def __init__(self) -> None:
        self.starts = 0
        self._fails = asyncio.Event()

    async def run(self) -> None:
        self.starts += 1
        self._fails.clear()
        await self._fails.wait()
        raise LookupError("a bug for the test")

    async def fail(self) -> None:
        """Fail once, and return when the part waits to be started again."""
        self._fails.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def _run(work: Callable[[Loop], Coroutine[Any, Any, None]]) -> None:
    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work(loop))


def _pauses(logs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [line["restart_s"] for line in logs if line["event"] == "alerts.part_failed"]


def test_p30_a_part_that_runs_again_is_named_for_half_a_minute_and_then_no_more() -> None:
    async def work(loop: Loop) -> None:
        failing = Failing()
        part = Part("router 0", failing.run, 0.5)
        running = asyncio.create_task(part.keep_running())
        await until(lambda: failing.starts == 1)
        assert not part.is_failing
        await failing.fail()
        assert part.is_failing
        await loop.move(0.5)
        await until(lambda: failing.starts == 2)
        await loop.move(STEADY_S - 1)
        assert part.is_failing
        await loop.move(1)
        assert not part.is_failing
        running.cancel()

    _run(work)


def test_p30_pauses_before_a_restart_double_up_to_half_a_minute_and_begin_anew_after_a_steady_run() -> None:
    async def work(loop: Loop) -> None:
        failing = Failing()
        part = Part("delivery ops", failing.run, 0.5)
        with capture_logs() as logs:
            running = asyncio.create_task(part.keep_running())
            for starts in range(1, 11):
                await until(lambda starts=starts: failing.starts == starts)  # type: ignore[misc]
                await failing.fail()
                await loop.move(LONGEST_PAUSE_S)
            await until(lambda: failing.starts == 11)
            await loop.move(2 * STEADY_S)
            await failing.fail()
        running.cancel()
        longest = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 0.5]
        assert [most / 2 <= pause <= most for pause, most in zip(_pauses(logs), longest, strict=True)] == [True] * 11

    _run(work)
