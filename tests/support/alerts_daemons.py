"""An alert service on a real store, with an event source, a clock and receivers that a test holds in its hands."""

import asyncio
from collections.abc import Callable

from alerts.groups.fleet import Fleet
from alerts.groups.mass_failure import Rule
from alerts.loops import FIRST_PAUSE_S, cancel_all
from alerts.receivers import Receiver
from alerts.rendering.payload import Wording
from alerts.retry import RetryPolicy
from alerts.routing.routes import Route
from alerts.service import AlertService, AlertSettings
from alerts.store.retention import Retention
from tests.support import parts
from tests.support.alerts_fakes import CALM, Clock, ListSource, Tally
from tests.support.stores import alert_store

POLICY = RetryPolicy(initial_ms=1_000, max_ms=1_000, retry_for_ms=5_000, min_attempts=12)


class Daemon:
    """A service on a store, its clock and its source; `cut` ends it as a crash would."""

    def __init__(
        self,
        url: str,
        receivers: list[Receiver],
        source: ListSource,
        clock: Clock,
        routes: list[Route],
        *,
        fleet: Fleet = CALM,
        history: Retention | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
        poll_s: float = 0.01,
    ) -> None:
        self.tally = Tally()
        self.outcomes, self.causes = self.tally.outcomes, self.tally.causes
        self.source = source
        self.clock = clock
        self.service = AlertService(
            AlertSettings(
                receivers=receivers,
                routes=routes,
                wording=Wording(public_url="", redact=()),
                rule=Rule(),
                policy=POLICY,
                history=history or Retention(),
            ),
            store=alert_store(url, routed=source.routed),
            source=source,
            partitions=1,
            fleet=fleet,
            now_ms=clock,
            counts=self.tally,
            poll_s=poll_s,
            router_poll_s=poll_s,
            first_pause_s=first_pause_s,
        )

    async def cut(self) -> None:
        """Cancel every task at once and record nothing."""
        await cancel_all(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
        await self.service.stop(0)

    async def is_idle_a_retry_later(self, attempts: Callable[[], int]) -> bool:
        """As `is_idle`; moves the clock on when every attempt has an outcome: a retry, or a receiver that is spared."""
        if self.outcomes.total() == attempts():
            self.clock.ms += 1_000
        return await self.is_idle()

    async def is_idle(self) -> bool:
        if self.source.acked < len(self.source.stream):
            return False
        return not any([await parts.due(groups, offset=0, limit=1) for groups in self.service.groups.values()])

    async def is_idle_now(self) -> bool:
        """Nothing is due at this moment; what waits for a later one may wait."""
        if self.source.acked < len(self.source.stream):
            return False
        return not any(one.lag_ms for one in await self.service.health())
