"""The alerting half of the daemon, put together."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import structlog

from alerts.delivery import CONCURRENCY, Delivery
from alerts.errors import StoreUnavailableError
from alerts.pacing import POLL_S, Outage, cancel_all
from alerts.queue import DeliveryQueue, QueueStats, QueueStore
from alerts.retry import RetryPolicy
from alerts.router import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from structlog.typing import FilteringBoundLogger

    from alerts.durability import Durability
    from alerts.receivers import Receiver
    from alerts.router import EventSource
    from alerts.routing import Route

STOP_TIMEOUT_S: Final = 10.0

_log: FilteringBoundLogger = structlog.get_logger()


class AlertService:
    """A router for each partition and a delivery for each receiver, in one event loop.

    Args:
        redis_url: the store, ``redis://``, ``rediss://`` or ``unix://``.
        receivers: where notifications go. Closed by ``stop``.
        routes: which events go where; they may name these receivers only.
        source: the event streams.
        partitions: how many there are.
        durability: what the store must confirm before anything is sent.
        now_ms: the store's time, in milliseconds.
        on_outcome: told of each outcome, ``(receiver, outcome)``; for metrics.
        on_failure: told of a part that ended from a bug, ``(name of the part, exception)``. The other parts
            go on; whether the daemon should is for the owner to say.
        policy: when to try a failed delivery again.
        source_errors: what ``source`` raises when the store does not answer.
        concurrency: attempts in flight at one receiver.
        poll_s: how often each part looks for work that nobody told it of, in seconds.

    Raises:
        ValueError: two receivers have one name, or a route names one that there is not.
    """

    def __init__(
        self,
        *,
        redis_url: str,
        receivers: Sequence[Receiver],
        routes: Sequence[Route],
        source: EventSource,
        partitions: int,
        durability: Durability,
        now_ms: Callable[[], int],
        on_outcome: Callable[[str, str], None],
        on_failure: Callable[[str, BaseException], None],
        policy: RetryPolicy | None = None,
        source_errors: tuple[type[Exception], ...] = (),
        concurrency: int = CONCURRENCY,
        poll_s: float = POLL_S,
    ) -> None:
        _check(receivers, routes)
        self._store = QueueStore(redis_url=redis_url, receivers=len(receivers))
        self._receivers = tuple(receivers)
        self._durability = durability
        self._now_ms = now_ms
        self._on_failure = on_failure
        self._queues = {receiver.name: DeliveryQueue(self._store, receiver.name) for receiver in receivers}
        self._deliveries = {
            receiver.name: Delivery(
                receiver=receiver,
                queue=self._queues[receiver.name],
                policy=policy or RetryPolicy(),
                durability=durability,
                now_ms=now_ms,
                on_outcome=on_outcome,
                concurrency=concurrency,
                poll_s=poll_s,
            )
            for receiver in receivers
        }
        self._routers = tuple(
            Router(
                partition=partition,
                source=source,
                queues=self._queues,
                routes=routes,
                now_ms=now_ms,
                on_outcome=on_outcome,
                on_queued=lambda name: self._deliveries[name].nudge(),
                source_errors=source_errors,
                poll_s=poll_s,
            )
            for partition in range(partitions)
        )
        self._routing: list[asyncio.Task[None]] = []
        self._delivering: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every part. Does not wait for the store: the parts wait for it themselves, and log it."""
        self._routing = [self._own("survey", self._survey())]
        self._routing += [self._own(f"router {number}", router.run()) for number, router in enumerate(self._routers)]
        self._delivering = [self._own(f"delivery {name}", part.run()) for name, part in self._deliveries.items()]

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop routing, then let the attempts in flight end within ``timeout_s`` seconds. Idempotent."""
        await cancel_all(self._routing)
        await asyncio.gather(*(part.stop(timeout_s) for part in self._deliveries.values()))
        # A claim that was under way when the stop came may have started attempts since.
        if self._delivering:
            await asyncio.wait(self._delivering, timeout=timeout_s)
        await cancel_all(self._delivering)
        await asyncio.gather(*(part.stop(0) for part in self._deliveries.values()))
        for receiver in self._receivers:
            await receiver.close()
        await self._store.close()

    def nudge(self) -> None:
        """There are new events: look for them now and not at the next poll."""
        for router in self._routers:
            router.nudge()

    async def health(self) -> list[QueueStats]:
        """The state of each receiver's queue. Raises ``StoreUnavailableError``."""
        now_ms = self._now_ms()
        return list(await asyncio.gather(*(queue.stats(now_ms=now_ms) for queue in self._queues.values())))

    async def _survey(self) -> None:
        """Say once what the store has that was not configured, and what it lacks that was."""
        outage = Outage("survey")
        while True:
            try:
                if not await self._store.can_confirm(self._durability):
                    _log.warning("durability.unavailable", durability=self._durability.mode.value)
                for name in await self._store.register(self._queues):
                    await self._report_removed(name)
            except StoreUnavailableError as error:
                await asyncio.sleep(outage.failed(error, uniform=random.uniform))
                continue
            outage.over()
            return

    async def _report_removed(self, name: str) -> None:
        stats = await DeliveryQueue(self._store, name).stats(now_ms=self._now_ms())
        _log.warning("receiver.removed", receiver=name, queued=stats.queued, dead=stats.dead)
        if not stats.queued:
            await self._store.forget(name)

    def _own(self, name: str, part: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(part, name=f"alerts {name}")
        task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("alerts.part_ended", part=name, error=repr(error), exc_info=error)
        self._on_failure(name, error)


def _check(receivers: Sequence[Receiver], routes: Sequence[Route]) -> None:
    names = [receiver.name for receiver in receivers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} receivers are named {name!r}")
    for route in routes:
        for name in route.receivers:
            if name not in names:
                raise ValueError(f"a route names the receiver {name!r}, which is not configured")
