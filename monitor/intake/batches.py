"""How beats are batched into store calls: batch size, the meaning of outcomes, and requests with many beats."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import structlog

from monitor.errors import NotAllowedError, QuotaExceededError, StoreUnavailableError, UnknownWorkerError
from monitor.events import Moved
from monitor.intake.backlog import Graces
from monitor.liveness import EventKind
from monitor.store import Store, StoreSettings
from monitor.store.quotas import POOLED
from monitor.store.results import (
    DAMAGED,
    NOT_ALLOWED,
    OVER_BYTES,
    OVER_ENVIRONMENTS,
    OVER_TIMINGS,
    OVER_WORKERS,
    STORED,
    UNKNOWN,
    BeatsResult,
)
from monitor.workers import KEEP, Beat, WorkerKey

log = structlog.get_logger(__name__)
_Refusal = QuotaExceededError | NotAllowedError

BATCH_LIMIT: Final = 128
"""One call with this many beats blocks the store for about a millisecond, a little more when all beats register."""
BATCH_BYTES: Final = 262_144
"""A batch ends at this much metadata, logs and system information: the store needs longer for them than for beats."""
CHUNKS_AT_ONCE: Final = 2
"""Calls in flight to one partition for requests with many beats, so that the store has the next call at once."""

_QUOTAS: Final = {
    OVER_WORKERS: ("workers_per_tenant", "no new worker"),
    OVER_ENVIRONMENTS: ("environments_per_tenant", "no new environment"),
    OVER_BYTES: ("bytes_per_tenant", "no more metadata, system information and logs, and no new worker"),
    OVER_TIMINGS: ("timings_per_tenant", "declare an interval and a grace that others have too"),
}
"""The limit behind an outcome, and its consequence."""


def extent(beat: Beat) -> int:
    """Return the size in characters of a beat's metadata, system information and logs."""
    metadata, system, logs = beat.metadata_json, beat.system_info_json, beat.logs_json
    size = 0 if metadata is KEEP else len(metadata)
    if system is KEEP and logs is KEEP:
        return size
    if system is not KEEP and system is not None:
        size += len(system)
    if logs is not KEEP and logs is not None:
        size += len(logs)
    return size


def error_of(outcome: int, key: WorkerKey, settings: StoreSettings) -> Exception:
    """Return the error for the caller, for an outcome that changed nothing."""
    if outcome in _QUOTAS:
        name, what = _QUOTAS[outcome]
        return QuotaExceededError(f"limits.{name} = {getattr(settings, name)} is reached: {what}")
    if outcome == NOT_ALLOWED:
        return NotAllowedError(key)
    if outcome == UNKNOWN:
        return UnknownWorkerError(key)
    if outcome == DAMAGED:
        log.error("worker.record_damaged", tenant=key.tenant, worker_id=key.worker_id)
        return StoreUnavailableError("the record of the worker can't be read")
    return StoreUnavailableError(f"the store answered an unknown outcome: {outcome}")


def mark_registering(beats: Iterable[Beat], moved: Sequence[Moved]) -> None:
    """Set ``registers`` on the beats with unknown fields that have registered their workers."""
    registered = {(one.tenant, one.worker_id) for one in moved if one.kind is EventKind.REGISTERED}
    for beat in beats if registered else ():
        if beat.unknown is not None and (beat.key.tenant, beat.key.worker_id) in registered:
            beat.unknown.registers = True


class BatchIntake:
    """Stores the beats of batch requests, beside the intake of single beats. Belongs to one event loop.

    ``on_moved`` is called with the transitions of each committed call.
    """

    def __init__(self, store: Store, *, graces: Graces, on_moved: Callable[[list[Moved]], None]) -> None:
        self._store = store
        self._graces = graces
        self._timeout_s = store.settings.timeout_s
        self._on_moved = on_moved
        self._chunks = [asyncio.Semaphore(CHUNKS_AT_ONCE) for _ in range(store.partitions)]

    async def beats(self, beats: Sequence[Beat]) -> list[_Refusal | None]:
        """Store the beats of one request, each of another worker. Return None or the store's refusal for each beat.

        The beats bypass the queues of single beats, in calls of their own, a few at a time, so that single beats
        are not held up. An order about the same worker that arrives meanwhile may commit before or after its beat.

        Raises:
            StoreUnavailableError: some beats could not be stored in time; a replay is harmless.
        """
        refused: list[_Refusal | None] = [None] * len(beats)

        async def send(partition: int, chunks: Iterator[Sequence[int]]) -> None:
            for chunk in chunks:  # shared by the senders of a partition
                left = chunk
                while left:
                    left = await self._send_once(partition, beats, left, refused)

        try:
            async with asyncio.TaskGroup() as group:
                for partition, indexes in self._by_partition(beats).items():
                    chunks = _chunks(indexes, beats)
                    for _ in range(min(CHUNKS_AT_ONCE, -(-len(indexes) // BATCH_LIMIT))):
                        group.create_task(send(partition, chunks))
        except* StoreUnavailableError as errors:
            raise errors.exceptions[0] from None
        return refused

    async def _send_once(
        self, partition: int, beats: Sequence[Beat], indexes: Sequence[int], refused: list[_Refusal | None]
    ) -> list[int]:
        """Send those of ``beats``, and note the refusals. Return those worth another try: a quota was divided again."""
        result = await self._send_chunk(partition, [beats[index] for index in indexes])
        pooled: dict[int, list[int]] = {}
        for index, (outcome, _) in zip(indexes, result.outcomes, strict=True):
            refused[index] = None
            if outcome != STORED:
                error = error_of(outcome, beats[index].key, self._store.settings)
                if not isinstance(error, _Refusal):
                    raise error
                refused[index] = error
            if outcome in POOLED:
                pooled.setdefault(outcome, []).append(index)
        self._graces.add(result.least_grace_ms)
        if result.moved:
            mark_registering((beats[index] for index in indexes), result.moved)
            self._on_moved(result.moved)
        again: list[int] = []
        for outcome, some in pooled.items():
            sizes, tenant = [extent(beats[index]) for index in some], beats[some[0]].key.tenant
            if await self._store.quotas.has_room(tenant, partition, outcome, sizes=sizes):
                again += some
        return again

    async def _send_chunk(self, partition: int, beats: list[Beat]) -> BeatsResult:
        try:
            async with asyncio.timeout(self._timeout_s), self._chunks[partition]:
                return await self._store.beat(partition, beats)
        except TimeoutError as error:
            raise StoreUnavailableError("the store did not answer in time") from error

    def _by_partition(self, beats: Sequence[Beat]) -> dict[int, Sequence[int]]:
        if self._store.partitions == 1:
            return {0: range(len(beats))}
        found: dict[int, list[int]] = {}
        for index, beat in enumerate(beats):
            found.setdefault(self._store.partition_of(beat.key), []).append(index)
        return {**found}


def _chunks(indexes: Sequence[int], beats: Sequence[Beat]) -> Iterator[Sequence[int]]:
    """Split the beats of one partition into chunks that fit one call."""
    begin = size = 0
    for end, index in enumerate(indexes, 1):
        size += extent(beats[index])
        if end - begin == BATCH_LIMIT or size >= BATCH_BYTES or end == len(indexes):
            yield indexes[begin:end]
            begin, size = end, 0
