"""The scheduler: runs the sweeper's passes at their intervals. The only module that uses APScheduler.

Liveness never depends on the time of a tick: deadlines are judged by store time.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler

TIDY_INTERVAL_S: Final = 30.0


class Scheduler:
    """Calls ``sweep`` every ``interval_s`` and ``tidy`` every 30 s, also while an earlier pass still runs.

    A pass leaves out what the earlier one is still at. ``on_error`` gets the exception of a pass; later passes go on.
    """

    def __init__(
        self,
        *,
        sweep: Callable[[], Coroutine[Any, Any, None]],
        tidy: Callable[[], Coroutine[Any, Any, None]],
        interval_s: float,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._on_error = on_error
        self._stopping = False
        self._running: set[asyncio.Task[None]] = set()
        self._scheduler = AsyncIOScheduler(
            # Runs a job inline when its tick comes, in the event loop. The executor for coroutines cancels running jobs
            # at shutdown and reports that as an error (its issues 233, 675). So a job only starts a task of our own,
            # which ``stop`` awaits.
            executors={"default": DebugExecutor()},
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None},
        )
        self._add("sweep", sweep, interval_s)
        self._add("tidy", tidy, TIDY_INTERVAL_S)

    def _add(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], interval_s: float) -> None:
        def tick() -> None:
            if not self._stopping:
                task = asyncio.create_task(work(), name=name)
                self._running.add(task)
                task.add_done_callback(self._ended)

        self._scheduler.add_job(tick, "interval", seconds=interval_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    def start(self) -> None:
        """Start; must be called inside the running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """Start no further passes, and wait for the running ones."""
        self._stopping = True
        self._scheduler.shutdown(wait=False)
        while self._running:
            await asyncio.wait(self._running)
