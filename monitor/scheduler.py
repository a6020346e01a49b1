"""The scheduler: runs the sweeper's passes at their times. The only module that knows APScheduler.

Liveness never depends on when a tick comes: deadlines are judged by the store's time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIDY_INTERVAL_S: Final = 30.0


class Scheduler:
    """Calls ``sweep`` every ``interval_s`` and ``tidy`` every 30 s, neither twice at once.

    A pass that is still running when its next tick comes lets that tick go. ``on_error`` gets what a
    pass raised; later passes go on.
    """

    def __init__(
        self,
        *,
        sweep: Callable[[], Awaitable[None]],
        tidy: Callable[[], Awaitable[None]],
        interval_s: float,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._on_error = on_error
        self._stopping = False
        self._running: dict[str, asyncio.Task[None]] = {}
        self._scheduler = AsyncIOScheduler(
            # Runs a job where the tick comes, in the event loop. The one for coroutines cancels its jobs at shutdown,
            # in the middle, and calls that an error (its issues 233, 675); so a job only starts a task of our own,
            # which is awaited at stop.
            executors={"default": DebugExecutor()},
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        )
        self._add("sweep", sweep, interval_s)
        self._add("tidy", tidy, TIDY_INTERVAL_S)

    def _add(self, name: str, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        async def run() -> None:
            await work()

        def tick() -> None:
            if not self._stopping and name not in self._running:
                task = asyncio.create_task(run(), name=name)
                self._running[name] = task
                task.add_done_callback(lambda done: self._ended(name, done))

        trigger: dict[str, Any] = {"trigger": "interval", "seconds": interval_s}
        self._scheduler.add_job(tick, **trigger)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self._running[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    def start(self) -> None:
        """Begin; must be called inside the running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """No further pass begins; the running ones finish."""
        self._stopping = True
        self._scheduler.shutdown(wait=False)
        while self._running:
            await asyncio.wait(list(self._running.values()))
