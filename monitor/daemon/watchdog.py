"""The outgoing heartbeat: pings an external service while this monitor is healthy, and stops when it is not (P27).

A monitor can report neither its own death nor that its alerts are not delivered. So an external service expects a
request at an interval and raises an alarm when none comes: healthchecks.io, Uptime Kuma, Dead Man's Snitch, Cronitor,
or a server that records requests. All of them accept a plain GET.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiohttp
import structlog

from alerts.receivers.http import NoAnswerError, exchange, guarded_session
from monitor.clock import monotonic_s
from monitor.metrics.registry import PingOutcome

log = structlog.get_logger(__name__)

RECHECK_S: Final = 1.0
"""Time between checks of the reasons while a due ping is held back."""
PATIENCE_S: Final = 5.0
"""A due ping waits this long for reasons to pass, such as the first sweep after a start, before it is withheld."""
RETRY_S: Final = 10.0
"""Time to the retry of a failed ping, if the interval is longer."""


class Watchdog:
    """Sends a GET to ``url`` every ``interval_s`` seconds while ``reasons`` returns none.

    Belongs to one event loop. Redirects are not followed, only the start of the answer is read, and ``timeout_s``
    limits the whole exchange. Private addresses are refused unless ``allow_private``. ``reasons`` does not raise.
    ``on_outcome`` is called for each ping that was sent, failed or was withheld; each change is logged once.
    """

    def __init__(
        self,
        *,
        url: str,
        interval_s: float,
        timeout_s: float,
        allow_private: bool,
        reasons: Callable[[], Awaitable[Sequence[str]]],
        on_outcome: Callable[[PingOutcome], None],
    ) -> None:
        self._url = url
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._reasons = reasons
        self._on_outcome = on_outcome
        self._withheld: Sequence[str] = ()
        self._fails = False

    async def run(self) -> None:
        """Send until cancelled; the first ping is due at once."""
        session = guarded_session(allow_private=self._allow_private, timeout_s=self._timeout_s, connections=1)
        async with session:
            due_s = monotonic_s()
            patience_s = min(PATIENCE_S, self._interval_s)
            while True:
                reasons = await self._reasons()
                if reasons:
                    if monotonic_s() - due_s >= patience_s:
                        self._withhold(reasons)
                        due_s += self._interval_s  # this ping is skipped
                        patience_s = 0.0
                    await asyncio.sleep(min(RECHECK_S, self._interval_s))
                    continue
                self._resume()
                due_s = monotonic_s()
                patience_s = min(PATIENCE_S, self._interval_s)
                sent = await self._ping(session)
                due_s += self._interval_s if sent else min(RETRY_S, self._interval_s)
                await asyncio.sleep(max(due_s - monotonic_s(), 0.0))

    def _withhold(self, reasons: Sequence[str]) -> None:
        self._on_outcome(PingOutcome.WITHHELD)
        if not self._withheld:
            log.warning("watchdog.withheld", reasons=[str(reason) for reason in reasons])
        self._withheld = reasons

    def _resume(self) -> None:
        if self._withheld:
            log.info("watchdog.resumed", reasons=[str(reason) for reason in self._withheld])
        self._withheld = ()

    async def _ping(self, session: aiohttp.ClientSession) -> bool:
        """Send one ping. Returns whether the answer was 2xx."""
        try:
            answer = await exchange(session, "GET", self._url, headers={}, timeout_s=self._timeout_s)
            failure = "" if answer.is_accepting else f"HTTP {answer.status}"
        except NoAnswerError as error:
            failure = str(error)
        self._on_outcome(PingOutcome.FAILED if failure else PingOutcome.SENT)
        if failure and not self._fails:
            log.warning("watchdog.ping_failed", reason=failure)
        if self._fails and not failure:
            log.info("watchdog.ping_succeeded")
        self._fails = bool(failure)
        return not failure
