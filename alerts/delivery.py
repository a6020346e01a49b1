"""From a receiver's queue to the receiver."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from alerts.durability import Confirmation, Durability
from alerts.errors import DeliveryError, StoreUnavailableError, TransientDeliveryError
from alerts.pacing import POLL_S, Nudge, Outage, cancel_all
from alerts.queue import CLAIM_LIMIT, Finish
from alerts.retry import GiveUp, Retry, decide

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from alerts.queue import Claimed, DeliveryQueue
    from alerts.receivers import Receiver
    from alerts.retry import RetryPolicy

LEASE_MARGIN_S: Final = 10.0
"""How much longer than the receiver's timeout a lease lasts: half of it is for waiting for a free slot,
half for recording the outcome."""

CONCURRENCY: Final = 8
"""Attempts in flight at one receiver."""

_UNRECORDED_KEPT: Final = 10_000

_log: FilteringBoundLogger = structlog.get_logger()


class Outcome(StrEnum):
    """What an attempt came to, as metrics count it."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """To be tried again."""
    DEAD_LETTERED = "dead_lettered"


class Delivery:
    """Empties one receiver's queue: claims, sends, records the outcome.

    While the store confirms a claim, which takes a disk's time, the attempts of the claim before go on: it
    claims ahead, twice as many as have ended since the last claim, so nothing for a receiver that hangs.

    Knows of no other receiver, so that a dead or slow one delays nobody else (P21). Several daemons may
    work on one queue. An attempt whose outcome was not recorded is made again, with the same id and body,
    when its lease ends.

    Args:
        receiver: where to send.
        queue: its queue.
        policy: when to try again.
        durability: what the store must confirm before anything is sent (P23).
        now_ms: the store's time.
        on_outcome: told of each attempt, ``(receiver, outcome)``.
        concurrency: attempts in flight at once.
        poll_s: how often to look for what is due, in seconds.
        uniform: draws from ``[a, b]``.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        queue: DeliveryQueue,
        policy: RetryPolicy,
        durability: Durability,
        now_ms: Callable[[], int],
        on_outcome: Callable[[str, str], None],
        concurrency: int = CONCURRENCY,
        poll_s: float = POLL_S,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.nudge = Nudge()
        self._receiver = receiver
        self._queue = queue
        self._policy = policy
        self._durability = durability
        self._now_ms = now_ms
        self._on_outcome = on_outcome
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._uniform = uniform
        self._lease_ms = round((receiver.timeout_s + LEASE_MARGIN_S) * 1000)
        self._outage = Outage("delivery", receiver=receiver.name)
        self._confirmation = Confirmation.CONFIRMED
        self._stopping = False
        self._in_flight: set[asyncio.Task[None]] = set()
        self._ready: deque[tuple[Claimed, int]] = deque()  # claimed, not sent, with the end of its lease
        self._landed_since_claim = 0
        self._unrecorded: OrderedDict[str, None] = OrderedDict()
        self._bug: BaseException | None = None

    async def run(self) -> None:
        """Deliver until ``stop``. What it raises is a bug: an outage of the store or the receiver is not raised."""
        while not self._stopping:
            if self._bug is not None:
                raise self._bug
            try:
                busy = await self._step()
            except StoreUnavailableError as error:
                await self.nudge.wait(self._outage.failed(error, uniform=self._uniform))
                continue
            self._outage.over()
            if not busy:
                await self.nudge.wait(self._poll_s)

    async def stop(self, timeout_s: float) -> None:
        """Claim nothing more, give the attempts in flight ``timeout_s`` seconds, then cancel them.

        What was not sent is given back at once; what a claim under way still brings, ``run`` gives back. What
        was cancelled may have arrived; it is sent again when its lease ends. Idempotent.
        """
        self._stopping = True
        self.nudge()
        unsent = [item for item, _ in self._ready]
        self._ready.clear()
        with contextlib.suppress(StoreUnavailableError):
            await self._release(unsent)
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=timeout_s)
        await cancel_all(self._in_flight)

    async def _step(self) -> bool:
        """Claim what there is room for and start sending it; whether it was anything."""
        await self._release_overdue()
        self._fill()
        ahead = min(CLAIM_LIMIT, 2 * self._landed_since_claim)
        room = self._concurrency - len(self._in_flight) + ahead - len(self._ready)
        if room <= 0:
            return False
        self._landed_since_claim = 0
        now_ms = self._now_ms()
        claim = await self._queue.claim(limit=room, lease_ms=self._lease_ms, now_ms=now_ms, durability=self._durability)
        self._note(claim.confirmation)
        if self._stopping:
            await self._release([*claim.items])
            return False
        self._ready.extend((item, now_ms + self._lease_ms) for item in claim.items)
        self._fill()
        return bool(claim.items)

    def _fill(self) -> None:
        """Start what is ready, as far as there are free slots."""
        while self._ready and len(self._in_flight) < self._concurrency and not self._overdue(self._ready[0][1]):
            item, lease_end_ms = self._ready.popleft()
            task = asyncio.create_task(self._attempt(item, lease_end_ms=lease_end_ms))
            self._in_flight.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._landed_since_claim += 1
        if not task.cancelled():
            self._bug = self._bug or task.exception()
        if self._bug is None:
            self._fill()
        self.nudge()

    def _overdue(self, lease_end_ms: int) -> bool:
        """Whether a lease is too short by now for an attempt and the record of its outcome."""
        return self._now_ms() > lease_end_ms - self._lease_ms + LEASE_MARGIN_S * 500

    async def _release_overdue(self) -> None:
        late = []
        while self._ready and self._overdue(self._ready[0][1]):
            late.append(self._ready.popleft()[0])
            self._landed_since_claim = 0  # too slow a receiver to claim ahead for
        await self._release(late)

    async def _release(self, items: Sequence[Claimed]) -> None:
        """Give back what was not sent. On an error the rest comes back when its lease ends."""
        now_ms = self._now_ms()
        for item in items:
            await self._queue.release(item, due_ms=now_ms)

    async def _attempt(self, item: Claimed, *, lease_end_ms: int) -> None:
        nid = item.notification.nid
        if nid not in self._unrecorded:
            try:
                async with asyncio.timeout(self._receiver.timeout_s + LEASE_MARGIN_S / 2):
                    await self._receiver.send(item.notification, attempt=item.attempt, now_ms=self._now_ms())
            except DeliveryError as error:
                await self._failed(item, error, lease_end_ms=lease_end_ms)
                return
            except TimeoutError:
                late = TransientDeliveryError(f"receiver {self._receiver.name!r}: the attempt did not end in time")
                await self._failed(item, late, lease_end_ms=lease_end_ms)
                return
        await self._delivered(item, lease_end_ms=lease_end_ms)

    async def _delivered(self, item: Claimed, *, lease_end_ms: int) -> None:
        nid = item.notification.nid
        # Should the store be away until the lease ends, this process at least will not send it again.
        self._unrecorded[nid] = None
        while len(self._unrecorded) > _UNRECORDED_KEPT:
            self._unrecorded.popitem(last=False)
        recorded = await self._record(
            lambda: self._queue.complete(item, now_ms=self._now_ms()), item, lease_end_ms=lease_end_ms
        )
        if recorded:
            self._unrecorded.pop(nid, None)
            self._on_outcome(self._receiver.name, Outcome.DELIVERED)
            _log.info("delivery.delivered", **self._about(item))

    async def _failed(self, item: Claimed, error: DeliveryError, *, lease_end_ms: int) -> None:
        now_ms = self._now_ms()
        match decide(
            error,
            attempts=item.attempt,
            first_attempt_ms=item.first_attempt_ms,
            now_ms=now_ms,
            policy=self._policy,
            uniform=self._uniform,
        ):
            case Retry(reason=reason, due_ms=due_ms):
                if await self._record(
                    lambda: self._queue.postpone(item, due_ms=due_ms), item, lease_end_ms=lease_end_ms
                ):
                    self._on_outcome(self._receiver.name, Outcome.FAILED)
                    next_s = (due_ms - now_ms) / 1000
                    facts = {"reason": str(error), "retry": reason.value, "next_attempt_s": next_s}
                    _log.warning("delivery.failed", **self._about(item), **facts)
            case GiveUp(reason=reason):
                text = f"{reason.value}: {error}"
                if await self._record(
                    lambda: self._queue.bury(item, reason=text, now_ms=self._now_ms()), item, lease_end_ms=lease_end_ms
                ):
                    self._on_outcome(self._receiver.name, Outcome.DEAD_LETTERED)
                    _log.error("delivery.dead_lettered", **self._about(item), reason=text)

    async def _record(self, call: Callable[[], Awaitable[Finish]], item: Claimed, *, lease_end_ms: int) -> bool:
        """Record an outcome, patiently while the lease lasts; whether it is recorded."""
        while True:
            try:
                finish = await call()
            except StoreUnavailableError as error:
                pause_s = self._outage.failed(error, uniform=self._uniform)
                if self._now_ms() + pause_s * 1000 >= lease_end_ms:
                    _log.warning("delivery.unrecorded", **self._about(item), error=str(error))
                    return False
                await asyncio.sleep(pause_s)
                continue
            if finish is Finish.LEASE_LOST:
                _log.warning("delivery.lease_lost", **self._about(item))
            return finish is not Finish.LEASE_LOST

    def _note(self, confirmation: Confirmation) -> None:
        """Log a change in what the store confirms, once."""
        if confirmation is not self._confirmation:
            self._confirmation = confirmation
            mode = self._durability.mode.value
            log = _log.info if confirmation is Confirmation.CONFIRMED else _log.warning
            log(f"durability.{confirmation.value}", receiver=self._receiver.name, durability=mode)

    def _about(self, item: Claimed) -> dict[str, object]:
        notification = item.notification
        return {
            "nid": notification.nid,
            "receiver": self._receiver.name,
            "type": notification.event_type,
            "attempt": item.attempt,
        }
