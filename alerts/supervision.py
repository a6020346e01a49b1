"""Supervision of long-running parts: a part that fails is restarted, and the others continue (P30)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 30.0
"""A part that has run for this long since its last failure counts as healthy again."""

_log: FilteringBoundLogger = structlog.get_logger()


class Part:
    """One part of the alert service.

    ``name``: its name in logs and in ``/healthz``. ``run``: its work; it is called again after a failure, the first
    time at the earliest after half of ``first_pause_s``.
    """

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], first_pause_s: float) -> None:
        self.name: Final = name
        self._run = run
        self._first_pause_s = first_pause_s
        self._failures = 0
        self._failed_s = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether the part waits to be restarted, or was restarted only recently."""
        return self._failures > 0 and asyncio.get_running_loop().time() - self._failed_s < self._pause_s + STEADY_S

    async def keep_running(self) -> None:
        """Run the part until it ends normally. After a failure: log it, pause, and run the part again."""
        while True:
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 - no error may end the other parts
                if not self.is_failing:
                    self._failures = 0
                self._failures += 1
                self._failed_s = asyncio.get_running_loop().time()
                pause_s = random.uniform(self._pause_s / 2, self._pause_s)  # noqa: S311 - jitter
                _log.error(
                    "alerts.part_failed", part=self.name, error=repr(error), restart_s=round(pause_s, 3), exc_info=error
                )
                await asyncio.sleep(pause_s)
            else:
                return

    @property
    def _pause_s(self) -> float:
        return float(min(LONGEST_PAUSE_S, self._first_pause_s * 2 ** min(self._failures - 1, 16)))
