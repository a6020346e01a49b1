"""The scheduler: runs the sweeper's passes at their times. The only module that knows APScheduler.

Liveness never depends on when a tick comes: deadlines are judged by the store's time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.schedulers.asyncio import AsyncIOScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIDY_INTERVAL_S: Final = 30.0


class Scheduler:
    """Calls ``sweep`` every ``interval_s`` and ``tidy`` every 30 s, never twice at once.

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
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False
        # APScheduler says "maximum number of running instances reached" once a tick while a long pass runs.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        logging.getLogger("apscheduler.executors").setLevel(logging.CRITICAL)
        self._scheduler = AsyncIOScheduler(
            job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None}
        )
        self._scheduler.add_listener(lambda event: on_error(event.exception), EVENT_JOB_ERROR)
        self._add(sweep, interval_s)
        self._add(tidy, TIDY_INTERVAL_S)

    def _add(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        async def job() -> None:
            # APScheduler's shutdown cancels its jobs in the middle (its issues 233, 675); a task of our own is
            # awaited at stop instead.
            if self._stopping:
                return

            async def run() -> None:
                await work()

            task = asyncio.create_task(run())
            self._running.add(task)
            try:
                await asyncio.shield(task)
            finally:
                if task.done():
                    self._running.discard(task)

        trigger: dict[str, Any] = {"trigger": "interval", "seconds": interval_s}
        self._scheduler.add_job(job, **trigger)

    def start(self) -> None:
        """Begin; must be called inside the running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """No further pass begins; the running ones finish."""
        self._stopping = True
        running = set(self._running)
        self._scheduler.shutdown(wait=False)
        if running:
            await asyncio.wait(running)
