"""The intake: beats that arrive while a call to the store is in flight form the next batch.

One queue and one worker task per partition, so that what is said of a worker commits in the order in
which it arrived. Each request waits for its own future: a request that is cancelled never cancels its
batch, and a batch that fails answers exactly its members. Nothing is acknowledged before the store has
answered (P10). Without load the added latency is one round trip: there is no timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from monitor.store import StoreUnavailableError
from monitor.store.store import DAMAGED, NOT_ALLOWED, OVER_ENVIRONMENTS, OVER_WORKERS, REFUSED, STORED, UNKNOWN
from monitor.workers import Beat, Disconnect, Forget

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.store import Store
    from monitor.workers import Moved, WorkerKey

log = structlog.get_logger(__name__)

BATCH_LIMIT: Final = 128
"""One call of this many beats blocks the store for a millisecond or two, some more when all of them register."""
BATCH_BYTES: Final = 262_144
"""A batch ends at this much of metadata, logs and system information, which take the store longer than the beats."""

Order = Beat | Disconnect | Forget


class UnknownWorkerError(Exception):
    """There is no such worker under this tenant."""

    def __init__(self, key: WorkerKey) -> None:
        super().__init__(f"there is no worker {key.worker_id!r}")


class NotAllowedError(Exception):
    """The sender's token does not cover the environment that the worker is in, or is to be in."""

    def __init__(self, key: WorkerKey) -> None:
        super().__init__(f"the token does not cover the environment of worker {key.worker_id!r}")


class QuotaExceededError(Exception):
    """A new worker or environment would be one too many; known ones go on."""


class IntakeFullError(Exception):
    """More beats wait than the intake holds; nothing was taken in."""


@dataclass(slots=True)
class _Waiting:
    order: Order
    done: asyncio.Future[int]


@dataclass(slots=True)
class _Lane:
    waiting: deque[_Waiting] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Intake:
    """Takes orders about workers and answers each when the store has.

    Belongs to one event loop. ``on_moved`` is called with the transitions of each committed call.
    """

    def __init__(self, store: Store, *, capacity: int, on_moved: Callable[[list[Moved]], None]) -> None:
        self._store = store
        self._capacity = capacity
        self._on_moved = on_moved
        self._waiting = 0
        self._lanes = [_Lane() for _ in range(store.partitions)]

    async def beat(self, beat: Beat) -> int:
        """Store one beat; its effective interval in milliseconds.

        Raises:
            QuotaExceededError: a new worker or environment too many for the tenant.
            NotAllowedError: the token's environments do not cover it.
            IntakeFullError: too many are waiting; nothing was sent.
            StoreUnavailableError: no answer in time; whether it was stored is not known, a replay is harmless.
        """
        return await self._submit(beat)

    async def leave(self, disconnect: Disconnect) -> None:
        """Take a goodbye, behind what the same worker sent before. One that changes nothing is fine.

        Raises:
            UnknownWorkerError, NotAllowedError, IntakeFullError, StoreUnavailableError: as ``beat``.
        """
        await self._submit(disconnect)

    async def forget(self, forget: Forget) -> None:
        """Erase a worker.

        Raises:
            UnknownWorkerError, NotAllowedError, IntakeFullError, StoreUnavailableError: as ``beat``.
        """
        await self._submit(forget)

    async def drain(self) -> None:
        """Wait until everything that was taken in has its answer. The caller has stopped taking in."""
        while tasks := [lane.task for lane in self._lanes if lane.task is not None]:
            await asyncio.wait(tasks)

    async def _submit(self, order: Order) -> int:
        if self._waiting >= self._capacity:
            raise IntakeFullError(f"{self._waiting} beats are waiting already")
        partition = self._store.partition_of(order.key)
        lane = self._lanes[partition]
        waiting = _Waiting(order, asyncio.get_running_loop().create_future())
        lane.waiting.append(waiting)
        self._waiting += 1
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(partition, lane), name=f"intake-{partition}")
        try:
            async with asyncio.timeout(self._store.settings.timeout_s):
                return await waiting.done
        except TimeoutError as error:
            # It may be in flight and be stored all the same: a replay is harmless.
            raise StoreUnavailableError("the store did not answer in time") from error

    async def _work(self, partition: int, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch = self._next_batch(lane)
                if not batch:
                    return
                try:
                    await self._commit(partition, batch)
                except StoreUnavailableError as error:
                    for waiting in batch:
                        _fail(waiting, error)
                    # Those behind have time left, or have given up by themselves: each is tried while it waits.
                except BaseException as error:
                    # Whatever it was, no member may wait for ever; the error itself goes to the owner of the loop.
                    for waiting in batch:
                        _fail(waiting, StoreUnavailableError(f"the intake failed: {error!r}"))
                    raise
        finally:
            lane.task = None
            if lane.waiting:
                self._fail_all(lane, StoreUnavailableError("the intake is stopping"))

    def _next_batch(self, lane: _Lane) -> list[_Waiting]:
        """The next orders that one call can carry: beats up to the limit, anything else alone.

        One whose request has given up was answered 503, so it is dropped here: it must not be applied late.
        """
        batch: list[_Waiting] = []
        size = 0
        while lane.waiting and len(batch) < BATCH_LIMIT and size < BATCH_BYTES:
            if not lane.waiting[0].done.done():
                is_beat = isinstance(lane.waiting[0].order, Beat)
                if batch and not (is_beat and isinstance(batch[0].order, Beat)):
                    break
                batch.append(lane.waiting[0])
                size += _size_of(lane.waiting[0].order)
            lane.waiting.popleft()
            self._waiting -= 1
        return batch

    def _fail_all(self, lane: _Lane, error: Exception) -> None:
        self._waiting -= len(lane.waiting)
        while lane.waiting:
            _fail(lane.waiting.popleft(), error)

    async def _commit(self, partition: int, batch: list[_Waiting]) -> None:
        match batch[0].order:
            case Beat():
                beats = [waiting.order for waiting in batch if isinstance(waiting.order, Beat)]
                result = await self._store.beat(partition, beats)
                moved = result.moved
                for waiting, (outcome, interval_ms) in zip(batch, result.outcomes, strict=True):
                    self._answer(waiting, outcome, interval_ms)
            case Disconnect() as disconnect:
                change = await self._store.leave(disconnect)
                moved = change.moved
                self._answer(batch[0], change.outcome, 0)
            case Forget() as forget:
                change = await self._store.forget(forget.key, allowed=forget.allowed, reason="deleted")
                moved = change.moved
                self._answer(batch[0], change.outcome, 0)
            case unknown:
                assert_never(unknown)
        if moved:
            self._on_moved(moved)

    def _answer(self, waiting: _Waiting, outcome: int, interval_ms: int) -> None:
        settings = self._store.settings
        match outcome:
            case value if value in (STORED, REFUSED):
                if not waiting.done.done():
                    waiting.done.set_result(interval_ms)
            case value if value == OVER_WORKERS:
                limit = settings.workers_per_tenant
                _fail(waiting, QuotaExceededError(f"limits.workers_per_tenant = {limit} is reached: no new worker"))
            case value if value == OVER_ENVIRONMENTS:
                limit = settings.environments_per_tenant
                _fail(
                    waiting,
                    QuotaExceededError(f"limits.environments_per_tenant = {limit} is reached: no new environment"),
                )
            case value if value == NOT_ALLOWED:
                _fail(waiting, NotAllowedError(waiting.order.key))
            case value if value == DAMAGED:
                key = waiting.order.key
                log.error("worker.record_damaged", tenant=key.tenant, worker_id=key.worker_id)
                _fail(waiting, StoreUnavailableError("the record of the worker can't be read"))
            case value if value == UNKNOWN:
                _fail(waiting, UnknownWorkerError(waiting.order.key))
            case value:
                _fail(waiting, StoreUnavailableError(f"the store answered an outcome that is not known: {value}"))


def _size_of(order: Order) -> int:
    """Characters of what a beat brings beside itself."""
    if not isinstance(order, Beat):
        return 0
    return sum(
        len(part) for part in (order.metadata_json, order.system_info_json, order.logs_json) if isinstance(part, str)
    )


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)
