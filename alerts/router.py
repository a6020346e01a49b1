"""From the event stream into the receivers' queues."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import structlog

from alerts.errors import StoreUnavailableError, UnrenderableEventError
from alerts.notification import Notification, notification_id, notification_of
from alerts.pacing import POLL_S, Nudge, Outage
from alerts.payload import render
from alerts.routing import receivers_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from alerts.queue import DeliveryQueue
    from alerts.routing import Route
    from monitor.events import Event

BATCH: Final = 100
"""Events per pass, so that one call of ``put`` per receiver takes them all."""

_log: FilteringBoundLogger = structlog.get_logger()


class EventSource(Protocol):
    """The event streams, one for each partition, each with at most one router at a time."""

    async def take(self, partition: int, limit: int) -> list[Event] | None:
        """The oldest events of the partition that are not acked, in order, at most ``limit``.

        The call takes or renews the lease of the partition's router; None means that another daemon has
        it. Events that were taken and not acked come again.
        """

    async def ack(self, partition: int, position: str) -> bool:
        """Mark every event up to ``position`` as handed over.

        False means that the lease was lost and nothing was marked: the daemon that has it now takes the
        same events, and queueing is idempotent. Idempotent.
        """


class Router:
    """Hands one partition's events over to the queues of their receivers.

    The hand-off is at least once: an event is acked after all its notifications are queued, and what is
    queued twice is queued once, by its id. An event that cannot be rendered is recorded as a dead letter
    at each of its receivers, and passed.

    Args:
        partition: whose stream to read.
        source: the streams.
        queues: the queue of every receiver that a route names.
        routes: which events go where.
        now_ms: the store's time, asked once for each pass.
        on_outcome: told of ``(receiver, "unrenderable")``.
        on_queued: told of each receiver whose queue has got something.
        source_errors: what ``source`` raises when the store does not answer.
        poll_s: how often to look for events that nobody told of, in seconds.
    """

    def __init__(
        self,
        *,
        partition: int,
        source: EventSource,
        queues: Mapping[str, DeliveryQueue],
        routes: Sequence[Route],
        now_ms: Callable[[], int],
        on_outcome: Callable[[str, str], None],
        on_queued: Callable[[str], None],
        source_errors: tuple[type[Exception], ...] = (),
        poll_s: float = POLL_S,
    ) -> None:
        self.nudge = Nudge()
        self._partition = partition
        self._source = source
        self._queues = queues
        self._routes = tuple(routes)
        self._now_ms = now_ms
        self._on_outcome = on_outcome
        self._on_queued = on_queued
        self._errors: tuple[type[Exception], ...] = (StoreUnavailableError, *source_errors)
        self._poll_s = poll_s
        self._outage = Outage("router", partition=partition)

    async def run(self) -> NoReturn:
        """Route for ever; ends only by being cancelled, which is safe at any point."""
        while True:
            try:
                more = await self.step()
            except self._errors as error:
                await asyncio.sleep(self._outage.failed(error, uniform=random.uniform))
                continue
            self._outage.over()
            if not more:
                await self.nudge.wait(self._poll_s)

    async def step(self) -> bool:
        """One pass over at most ``BATCH`` events; whether there may be more at once.

        Raises ``StoreUnavailableError`` or one of ``source_errors``; the same events come again.
        """
        events = await self._source.take(self._partition, BATCH)
        if not events:
            return False
        now_ms = self._now_ms()
        queued: defaultdict[str, list[Notification]] = defaultdict(list)
        for event in events:
            receivers = receivers_for(self._routes, event)
            if not receivers:
                continue
            try:
                body = render(event)
                for receiver in receivers:
                    queued[receiver].append(notification_of(event, receiver=receiver, body=body, now_ms=now_ms))
            except UnrenderableEventError as error:
                await self._reject(event, receivers, error, now_ms=now_ms)
        for receiver, notifications in queued.items():
            if await self._queues[receiver].put(notifications, now_ms=now_ms):
                self._on_queued(receiver)
        if not await self._source.ack(self._partition, events[-1].position):
            _log.warning("router.lease_lost", partition=self._partition, position=events[-1].position)
            return False
        return len(events) == BATCH

    async def _reject(
        self, event: Event, receivers: Sequence[str], error: UnrenderableEventError, *, now_ms: int
    ) -> None:
        # Its parts may be what is wrong with it, so it goes by its position.
        position = f"{event.partition}/{event.position}"
        _log.error("router.event_unrenderable", position=position, kind=event.kind.value, error=str(error))
        for receiver in receivers:
            record = Notification(
                nid=notification_id(receiver=receiver, event_id=position),
                receiver=receiver,
                key=position,
                event_type=event.kind.value,
                body=json.dumps({"position": position, "event": repr(event)}),
                created_ms=now_ms,
            )
            if await self._queues[receiver].reject(record, reason=str(error), now_ms=now_ms):
                self._on_outcome(receiver, "unrenderable")
