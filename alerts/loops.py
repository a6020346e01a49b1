"""The loops of this package: what they wait for, and their restart after a failure.

A loop waits for a wakeup, through an outage of the store, and after colliding writes. One that fails is restarted, and
the others continue (P30).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from monitor.errors import StoreUnavailableError

POLL_S: Final = 0.25
"""How often a loop polls for work that comes without a wakeup: work of another daemon, or a retry that is due."""
TRIES: Final = 20
"""Maximum tries of a compare-and-set loop."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""Pause before a part that failed is restarted: at first at most the one, later at most the other."""
STEADY_S: Final = 30.0
"""A part that has run for this long since its last failure counts as healthy again."""

_CANCEL_AGAIN_S: Final = 0.1
_FIRST_BACKOFF_S: Final = 0.1
_MAX_BACKOFF_S: Final = 2.0
_FIRST_RETRY_S: Final = 0.005
_MAX_RETRY_S: Final = 0.05

_log: FilteringBoundLogger = structlog.get_logger()


class Wakeup:
    """Wakes one waiting loop. A wakeup during the loop's work is not lost."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Wake the loop, now or when it waits next."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next wakeup, or after ``timeout_s`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and return when all have ended, with whatever result.

    Tasks that continue are cancelled again: on Python 3.11 ``asyncio.wait_for``, which redis-py uses for sending, loses
    a cancellation that arrives together with its result (gh-86296, fixed in 3.12).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


class StoreBackoff:
    """Back-off of one loop while the store is unavailable. Logs the begin and the end of each outage once.

    ``unavailable`` and ``resumed`` are the two log events.
    """

    def __init__(self, unavailable: str, resumed: str, **context: object) -> None:
        self._unavailable = unavailable
        self._resumed = resumed
        self._context = context
        self._failures = 0

    def failed(self, error: Exception, *, uniform: Callable[[float, float], float]) -> float:
        """Record a failure. Returns the seconds to wait before the next try, at most 2."""
        if not self._failures:
            _log.warning(self._unavailable, error=str(error), **self._context)
        ceiling_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(self._failures, 16))
        self._failures += 1
        return uniform(ceiling_s / 2, ceiling_s)

    def over(self) -> None:
        """Record that the store answers again."""
        if self._failures:
            _log.info(self._resumed, failures=self._failures, **self._context)
            self._failures = 0


class Tries:
    """The tries of one compare-and-set loop: read, decide, write if nothing has changed since.

    From the second collision on there is a random pause before the next try, so that the same processes do not collide
    again. All pauses together are shorter than 1 s. ``what`` is the subject of the error; ``left``: tries left.
    """

    def __init__(self, what: str, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._what = what
        self._sleep = sleep
        self.left = TRIES

    async def begin(self) -> None:
        """Begin a try. Raises ``StoreUnavailableError`` if none is left."""
        if not self.left:
            raise StoreUnavailableError(f"{self._what} has changed during each of {TRIES} tries")
        further = TRIES - self.left - 2  # collisions after the second
        if further >= 0:
            await self._sleep(random.uniform(0, min(_MAX_RETRY_S, _FIRST_RETRY_S * 2**further)))  # noqa: S311 - jitter
        self.left -= 1


def nothing(_point: str) -> None:
    """The failpoint of the product: it does nothing. Tests hand in one that ends the process at a named point."""


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
