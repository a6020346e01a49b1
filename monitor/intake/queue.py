"""The intake: beats that arrive while a call to the store is in flight form the next batch.

Each partition has a few queues, each with its own task, so that the store works on one call while the members of
another get their answers. All orders about one worker go through the same queue, so they commit in the order of their
arrival. Each request has its own answer: a request that goes away never cancels its batch, and a batch that fails
answers exactly its members. Nothing is acknowledged before the store has answered (P10). Without load the
added latency is one round trip: no timer delays a batch, and each queue has one timer that ends orders past their
timeout.
"""

import asyncio
import functools
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from monitor.clock import monotonic_s
from monitor.errors import IntakeFullError, OverShareError, SlowDownError, StoreUnavailableError
from monitor.events import Moved
from monitor.intake.backlog import Graces
from monitor.intake.batches import BATCH_BYTES, BATCH_LIMIT, error_of, extent, mark_registering
from monitor.shares import Tenants, over_share
from monitor.store import Store
from monitor.store.quotas import POOLED
from monitor.store.results import REFUSED, STORED
from monitor.workers import KEEP, Beat, Disconnect, Forget, WorkerKey

log = structlog.get_logger(__name__)

DEEP: Final = 256
DEEP_LIMIT: Final = 512
"""Batch limit of a queue longer than ``DEEP``: there the number of round trips bounds the throughput."""
CAPACITY_BYTES: Final = 67_108_864
LANES: Final = 2
"""Queues per partition: with two, 64 connections had 1.1 times the rate of one queue, 256 had 1.4 times."""
SPREAD_S: Final = (2, 1, 3)
"""Retry-After of a full intake in seconds, in rotation, so that clients do not all return at once. Not longer: a
worker with an interval of a minute may have a grace of ten seconds."""
SHORT_GRACE_MS: Final = 10_000
"""A worker with a shorter grace retries after one second."""
LONGEST_WAIT: Final = 0.5
LONGEST_WAIT_S: Final = 1.0
"""Maximum wait of a queue's first order: this part of the timeout, and at most this many seconds. A queue beyond it is
full, however short it is. Otherwise, with a store that is too slow, all orders would wait until no time was left for
the call, and next to none would be stored."""

LATEST_WAIT: Final = 1.5
"""The factor by which a queue may exceed the maximum wait before it is full for tenants with few orders too."""
COUNT_S: Final = 0.05
"""How often each tenant's waiting orders are counted, while that matters."""

Order = Beat | Disconnect | Forget
Answer = Callable[[int, Exception | None], None]
"""Called once, with a result or an error. The result of a beat is its effective interval in milliseconds, that of
a disconnect the number for ``Store.confirm``, that of a deletion 0."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A waiting order. ``answer`` is None after it was called, or when the request has given up."""

    order: Order
    answer: Answer | None
    size: int
    """Characters of a beat's metadata, system information and logs."""
    until_s: float = field(init=False)
    """Set when the order is accepted."""

    def settle(self, result: int, error: Exception | None = None) -> None:
        if self.answer is not None:
            answer, self.answer = self.answer, None
            try:
                answer(result, error)
            except Exception:
                # An error in one answer must not keep the other members from their answers.
                log.exception("intake.answer_failed")


@dataclass(slots=True, eq=False)
class _Lane:
    """One queue of a partition. The orders in flight came before all waiting orders about the same workers."""

    partition: int
    waiting: deque[_Waiting] = field(default_factory=deque)
    """Beats, of which one call takes many."""
    alone: dict[str, deque[_Waiting]] = field(default_factory=dict)
    """By tenant, the next one first: orders that need a call of their own, and later beats of the same workers."""
    keys: Counter[WorkerKey] = field(default_factory=Counter)
    """Number of orders in ``alone``, by worker."""
    is_turn: bool = False
    """Whether one of ``alone`` is next. Beats and ``alone`` alternate, or disconnects would hold up beats (P29)."""
    in_flight: list[_Waiting] = field(default_factory=list)
    is_alone: bool = False
    """Whether the order in flight came from ``alone``."""
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


class Intake:
    """Accepts orders about workers and answers each one after the store has answered.

    Belongs to one event loop. It holds ``capacity`` orders, and refuses when the waiting orders bring
    ``capacity_bytes`` of metadata, logs and system information. ``on_moved`` is called with the transitions of each
    committed call. ``lanes`` is the number of queues per partition. With several ``tenants`` each has its share of
    both capacities (``monitor/shares.py``). ``on_refused`` is called with the tenant of each refused order.
    """

    def __init__(
        self,
        store: Store,
        *,
        capacity: int,
        on_moved: Callable[[list[Moved]], None],
        capacity_bytes: int = CAPACITY_BYTES,
        lanes: int = LANES,
        tenants: Tenants | None = None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        # Below half of the capacities no tenant can be over its share.
        self._half, self._half_bytes = capacity / 2, capacity_bytes / 2
        self._waiting_bytes = 0
        self._tenants = tenants or Tenants()
        self._on_refused = on_refused
        self._held: Counter[str] = Counter()
        self._held_bytes: Counter[str] = Counter()
        """Waiting orders and their bytes, by tenant, as of the last count."""
        self._counted_s = -math.inf
        self._spread = itertools.cycle(SPREAD_S)
        self._is_hasty = min(store.settings.graces_ms) < SHORT_GRACE_MS
        self.graces = Graces(store.settings.graces_ms)
        self._timeout_s = store.settings.timeout_s
        self._longest_s = min(LONGEST_WAIT * self._timeout_s, LONGEST_WAIT_S)
        self._least_s = self._timeout_s - self._longest_s
        """Minimum time left of the timeout of a queue's first order, while the queue is not full."""
        self._on_moved = on_moved
        self._waiting = 0
        self._lanes = [[_Lane(partition) for _ in range(lanes)] for partition in range(store.partitions)]
        self._only_lanes = self._lanes[0] if store.partitions == 1 else None
        self._waiting_for_room: set[asyncio.Task[None]] = set()

    async def apply(self, order: Order) -> int:
        """Apply an order, behind earlier orders about the same worker. Return its result, as ``Answer`` gets it.

        A disconnect that changes nothing succeeds.

        Raises:
            QuotaExceededError: a quota of the tenant is reached by a beat.
            UnknownWorkerError: there is no such worker to disconnect or to erase.
            NotAllowedError: the token's environments do not cover the worker's.
            IntakeFullError, OverShareError: too many orders are waiting; nothing was sent.
            StoreUnavailableError: no answer in time; the order may or may not be applied. A beat may be replayed.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(result: int, error: Exception | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        waiting = _Waiting(order, answer, extent(order) if isinstance(order, Beat) else 0)
        self._submit(waiting)
        try:
            return await done
        finally:
            waiting.answer = None  # the request has given up: an order that was not sent yet will not be sent

    async def drain(self) -> None:
        """Wait until every accepted order has its answer. The caller has stopped submitting."""
        while tasks := [lane.task for lanes in self._lanes for lane in lanes if lane.task is not None] + [
            *self._waiting_for_room
        ]:
            await asyncio.wait(tasks)

    def submit_beat(self, beat: Beat, answer: Answer) -> None:
        """Submit a beat as ``apply`` does, without waiting: ``answer`` is called later, once.

        Raises:
            IntakeFullError: too many orders are waiting; nothing was accepted.
        """
        self._submit(_Waiting(beat, answer, extent(beat)))

    def _submit(self, waiting: _Waiting) -> None:
        order = waiting.order
        key = order.key
        lanes = self._only_lanes or self._lanes[self._store.partition_of(key)]
        lane = lanes[hash(key.worker_id) % len(lanes)]
        now_s, queue, is_alone = monotonic_s(), lane.waiting, True
        if isinstance(order, Beat):
            if order.grace_ms is not KEEP and order.grace_ms is not None:
                self.graces.add(order.grace_ms)
            is_alone = bool(lane.keys) and key in lane.keys
        if is_alone:
            queue = lane.alone.get(key.tenant) or deque()
        if (
            self._waiting >= self._half
            or self._waiting_bytes >= self._half_bytes
            or (queue and queue[0].until_s < now_s + self._least_s)
        ) and (refusal := self._refusal(waiting, queue, now_s, is_alone=is_alone)) is not None:
            self._on_refused(key.tenant)
            raise refusal
        waiting.until_s = now_s + self._timeout_s
        queue.append(waiting)
        if is_alone:
            lane.keys[key] += 1
            lane.alone[key.tenant] = queue
        self._waiting += 1
        self._waiting_bytes += waiting.size
        if lane.timer is None:
            lane.timer = asyncio.get_running_loop().call_at(waiting.until_s, self._expire, lane)
        if lane.task is None:
            lane.task = asyncio.get_running_loop().create_task(self._work(lane), name=f"intake-{lane.partition}")

    def _refusal(
        self, waiting: _Waiting, queue: deque[_Waiting], now_s: float, *, is_alone: bool
    ) -> SlowDownError | None:
        """Return why an order is refused, or None. A tenant is over its share if it holds more than it leaves free."""
        waited_s = now_s + self._timeout_s - queue[0].until_s if queue else 0.0
        longest_s = self._longest_s
        if self._tenants.several:
            if now_s >= self._counted_s + COUNT_S:
                self._count(now_s)
            tenant = waiting.order.key.tenant
            held, held_bytes = self._held[tenant], self._held_bytes[tenant]
            if (
                over_share(held, 1, self._capacity - self._waiting)
                or over_share(held_bytes, waiting.size, self._capacity_bytes - self._waiting_bytes)
                or (waited_s > longest_s and (is_alone or 2 * held > self._waiting))
            ):
                message = "the tenant's share of what may wait for the store is used up"
                return OverShareError(message, self.full(waiting.order).retry_after_s)
            longest_s *= LATEST_WAIT
        if self._waiting >= self._capacity or self._waiting_bytes >= self._capacity_bytes or waited_s > longest_s:
            return self.full(waiting.order)
        if self._tenants.several:
            self._held[tenant] += 1
            self._held_bytes[tenant] += waiting.size
        return None

    def _count(self, now_s: float) -> None:
        self._counted_s = now_s
        self._held.clear()
        self._held_bytes.clear()
        for lane in itertools.chain.from_iterable(self._lanes):
            for waiting in itertools.chain(lane.waiting, *lane.alone.values()):
                self._held[waiting.order.key.tenant] += 1
                self._held_bytes[waiting.order.key.tenant] += waiting.size

    def oldest_s(self) -> float:
        """Return the age of the oldest waiting beat in seconds; 0 for none."""
        now_s = monotonic_s()
        lanes = itertools.chain.from_iterable(self._lanes)
        firsts = (lane.waiting if lane.is_alone or not lane.in_flight else lane.in_flight for lane in lanes)
        until_s = min((first[0].until_s for first in firsts if first), default=now_s + self._timeout_s)
        return now_s + self._timeout_s - until_s

    def full(self, order: Order | None = None) -> IntakeFullError:
        """Return the error for an order, or for a batch request, that does not fit."""
        grace_ms = order.grace_ms if isinstance(order, Beat) else None
        hasty = grace_ms < SHORT_GRACE_MS if isinstance(grace_ms, int) else self._is_hasty
        return IntakeFullError(f"{self._waiting} beats are waiting already", 1 if hasty else next(self._spread))

    def _expire(self, lane: _Lane) -> None:
        """Answer orders past their timeout. Those in flight may still be stored."""
        now_s = monotonic_s()
        lane.timer = None
        nearest_s = math.inf
        for queue in (lane.in_flight, lane.waiting, *lane.alone.values()):
            for waiting in queue:
                if waiting.until_s > now_s:
                    nearest_s = min(nearest_s, waiting.until_s)
                    break
                waiting.settle(0, StoreUnavailableError("the store did not answer in time"))
        if nearest_s < math.inf:
            lane.timer = asyncio.get_running_loop().call_at(nearest_s, self._expire, lane)

    async def _work(self, lane: _Lane) -> None:
        """Make one call after another. Its members get their answers while the store works on the next call."""
        settle: Callable[[], None] | None = None
        try:
            while lane.waiting or lane.alone or settle is not None:
                batch = lane.in_flight = self._next(lane)
                if settle is None:
                    settle = await self._call(lane.partition, batch)
                    continue
                call = asyncio.create_task(self._call(lane.partition, batch)) if batch else None
                if call is not None:
                    await asyncio.sleep(0)  # lets the call be sent now
                settle()
                settle = None if call is None else await call
        finally:
            lane.task = None
            lane.in_flight = []
            for waiting in itertools.chain(lane.waiting, *lane.alone.values()):
                self._waiting -= 1
                self._waiting_bytes -= waiting.size
                waiting.settle(0, StoreUnavailableError("the intake is stopping"))
            lane.waiting.clear()
            lane.alone.clear()
            lane.keys.clear()

    async def _call(self, partition: int, batch: list[_Waiting]) -> Callable[[], None]:
        """Make one call. Return the function that answers its members."""
        try:
            return await self._commit(partition, batch)
        except StoreUnavailableError as error:
            # Later orders are still tried while they wait: they have time left, or expire by themselves.
            return functools.partial(_fail, batch, error)
        except BaseException as error:
            # No member may wait without end, whatever the error. The error itself goes to the owner of the loop.
            _fail(batch, StoreUnavailableError(f"the intake failed: {error!r}"))
            raise

    def _next(self, lane: _Lane) -> list[_Waiting]:
        """Return the orders of the next call: one of ``alone`` if it is its turn, else beats.

        An order whose request has given up was answered 503. It is dropped here: it must not be applied late.
        """
        lane.is_alone = False
        if lane.alone and (lane.is_turn or not lane.waiting):
            tenant, queue = next(iter(lane.alone.items()))
            # Only after the beats that came before it: one of them may be of the same worker.
            if not lane.waiting or lane.waiting[0].until_s > queue[0].until_s:
                lane.is_turn, lane.is_alone = False, True
                return self._next_alone(lane, tenant)
        lane.is_turn = True
        return self._next_batch(lane)

    def _next_alone(self, lane: _Lane, tenant: str) -> list[_Waiting]:
        queue = lane.alone.pop(tenant)
        waiting = queue.popleft()
        if queue:
            lane.alone[tenant] = queue
        key = waiting.order.key
        lane.keys[key] -= 1
        if not lane.keys[key]:
            del lane.keys[key]
        self._waiting -= 1
        self._waiting_bytes -= waiting.size
        return [] if waiting.answer is None else [waiting]

    def _next_batch(self, lane: _Lane) -> list[_Waiting]:
        """Return the next beats, at most as many as fit one call."""
        batch: list[_Waiting] = []
        queue = lane.waiting
        count, size, given_up = len(queue), 0, 0
        limit = BATCH_LIMIT if count <= DEEP else DEEP_LIMIT
        while queue and len(batch) < limit and size < BATCH_BYTES:
            waiting = queue.popleft()
            if waiting.answer is None:
                given_up += waiting.size
                continue
            batch.append(waiting)
            size += waiting.size
        self._waiting -= count - len(queue)
        self._waiting_bytes -= size + given_up
        return batch

    async def _commit(self, partition: int, batch: list[_Waiting]) -> Callable[[], None]:
        if not batch:
            return functools.partial(self._settle, [], [])
        order = batch[0].order
        if isinstance(order, Beat):
            beats: list[Beat] = [waiting.order for waiting in batch]  # type: ignore[misc]  # as the first one
            result = await self._store.beat(partition, beats)
            self.graces.add(result.least_grace_ms)
            moved, outcomes = result.moved, result.outcomes
            if moved:
                mark_registering(beats, moved)
        else:
            if isinstance(order, Disconnect):
                change = await self._store.disconnect(order)
            else:
                change = await self._store.delete(order.key, allowed=order.allowed, reason="deleted")
            # REFUSED: there was nothing to do.
            moved, outcomes = change.moved, [(STORED if change.outcome == REFUSED else change.outcome, change.run)]
        if moved:
            self._on_moved(moved)
        return functools.partial(self._settle, batch, outcomes)

    def _settle(self, batch: list[_Waiting], outcomes: Sequence[tuple[int, int]]) -> None:
        """Answer each member of a batch with its outcome."""
        for waiting, (outcome, number) in zip(batch, outcomes, strict=True):
            if outcome == STORED:
                waiting.settle(number)
            elif outcome in POOLED:
                task = asyncio.create_task(self._again(waiting, outcome), name="intake-quota")
                self._waiting_for_room.add(task)
                task.add_done_callback(self._waiting_for_room.discard)
            else:
                waiting.settle(0, error_of(outcome, waiting.order.key, self._store.settings))

    async def _again(self, waiting: _Waiting, outcome: int) -> None:
        """Submit an order again if another partition has room for it, else refuse it.

        An order about the same worker that arrives meanwhile may commit first.
        """
        key, room = waiting.order.key, self._store.quotas.has_room
        try:
            if not await room(key.tenant, self._store.partition_of(key), outcome, sizes=[waiting.size]):
                waiting.settle(0, error_of(outcome, key, self._store.settings))
            elif waiting.answer is not None:
                self._submit(waiting)
        except (SlowDownError, StoreUnavailableError) as error:
            waiting.settle(0, error)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for waiting in batch:
        waiting.settle(0, error)
