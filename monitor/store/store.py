"""The worker store. Each method calls functions of its library; the connections are in ``connection.py``.

Concurrency: a ``Store`` belongs to one event loop. Every method is one function call on one partition,
atomic in the store, and replaying it is harmless. Each answer carries the store's time into ``clock``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from copy import copy
from functools import partial
from typing import Any, Final

import structlog

from monitor.blindness import Cause, Window
from monitor.clock import StoreClock
from monitor.durability import Confirmation, DurabilityMode
from monitor.errors import StoreUnavailableError
from monitor.events import Moved, Taken
from monitor.liveness import EnvironmentHealth, Trigger
from monitor.ownership import Bid, Lease
from monitor.pace import in_pieces
from monitor.store import codec, counts, schema
from monitor.store.coalescing import CoalescedCall
from monitor.store.connection import Connection
from monitor.store.quotas import Quotas
from monitor.store.results import (
    LATE,
    UNKNOWN,
    BeatsResult,
    Census,
    ChangeResult,
    History,
    Page,
    PulseResult,
    SweepResult,
    Want,
)
from monitor.store.settings import LONGEST_MS, StoreSettings
from monitor.workers import Beat, Disconnect, Evidence, Worker, WorkerKey, partition_of

log = structlog.get_logger(__name__)

EVENTS_TRIMMED_PER_CALL: Final = 100
BEHIND: Final = 2
"""The argument of ``pulse`` from a daemon that is behind with beats; 0 and 1 say whether it ends."""


class Store:
    """See the module. Created by ``open``; ``close`` closes the connections."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        self.partitions = settings.partitions
        self.clock = StoreClock()
        self.found_again = CoalescedCall(self._found_again, name="found again")
        """Founds the store again if it is empty; raises as every call."""
        self.connection = Connection(
            settings.url,
            namespace=settings.namespace,
            timeout_s=settings.timeout_s,
            clock=self.clock,
            found=self.found_again,
        )
        """For other data in the store, and for questions about its server."""
        self._read = self.connection.read
        self._confirmed = [
            CoalescedCall(partial(self._confirmed_call, "confirm", number), name=f"confirm-{number}")
            for number in range(settings.partitions)
        ]
        self._took_write = 0
        """The partition that has taken the last probe's write."""
        self.last_sweep = CoalescedCall(self._last_sweep, name="last sweep")
        """(now, time of the oldest last full sweep of all partitions); raises as every call."""
        self._beat_settings = codec.beat_settings(settings)
        self.quotas = Quotas(self.connection, settings)

    @classmethod
    async def open(cls, settings: StoreSettings) -> "Store":
        """Connect, check the server, load the library, check the schema.

        A full store opens too, if it is already a store of ours: beats are refused until there is room.

        Raises:
            StoreUnavailableError: no answer, or no room for a new store.
            StoreRefusedError: the server evicts keys or has no functions.
            SchemaError: the data is of a newer release or of another number of partitions.
            InstallationError: the data belongs to another installation.
        """
        async with AsyncExitStack() as stack:
            store = cls(settings)
            stack.push_async_callback(store.close)
            await schema.open_partitions(store.connection, settings)
            stack.pop_all()
        return store

    async def close(self) -> None:
        """Close every connection."""
        await self.connection.close()

    async def _found_again(self) -> None:
        if await schema.found_again(self.connection, self.settings, since_ms=self.clock.now_ms()):
            log.warning("store.founded_again", partitions=self.partitions)

    def inside(self) -> "Store":
        """Return the same store for the daemon's own reads, which do not wait behind those of requests."""
        view = copy(self)
        view._read = self.connection.read_inside  # noqa: SLF001 - the same class
        return view

    def partition_of(self, key: WorkerKey) -> int:
        """Return the partition of a worker."""
        return partition_of(key, self.partitions)

    # Writing ------------------------------------------------------------------------------------------------------

    async def beat(self, partition: int, beats: Sequence[Beat]) -> BeatsResult:
        """Apply at most 512 beats of one partition, in order. Each beat is atomic; an ordinary batch is one call.

        A batch with many transitions takes several calls, so that none blocks the store for long. If a call fails,
        those before it have been applied.
        """
        outcomes: list[tuple[int, int]] = []
        moved: list[Moved] = []
        size = len(beats)
        grace_ms = LONGEST_MS
        while True:
            part = beats[len(outcomes) : len(outcomes) + size] if outcomes else beats
            profiles, rows = codec.beat_arguments(part)
            arguments = (self._beat_settings, profiles, rows)
            now_ms, runs, moves, least_ms = await self._in_time(self.connection.write, "beat", partition, *arguments)
            grace_ms = min(grace_ms, least_ms or grace_ms)
            for outcome, interval_ms, count in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
                outcomes += [(outcome, interval_ms)] * count
            moved += codec.moved(moves)
            if len(outcomes) >= len(beats):
                return BeatsResult(now_ms=now_ms, outcomes=outcomes, moved=moved, least_grace_ms=grace_ms)
            # The call ended early at its limit of events. The rest of the batch is likely to be similar.
            size = sum(runs[2::3])

    async def takes_beats(self) -> bool:
        """Whether at least one partition takes a write now: the one that did last or, if it does not, any other."""

        async def takes(partition: int) -> bool:
            try:
                await self.beat(partition, [])
            except StoreUnavailableError:
                return False
            self._took_write = partition
            return True

        first = self._took_write
        return await takes(first) or any(
            await asyncio.gather(*(takes(other) for other in range(self.partitions) if other != first))
        )

    async def disconnect(self, disconnect: Disconnect) -> ChangeResult:
        """Apply a disconnect. ``REFUSED`` means that it changed nothing.

        A failure registers an unknown worker, within the tenant's quotas. A clean disconnect of a stopped worker makes
        no transition, but replaces its announced absence: ``STORED``, with no moves.
        """
        partition, args = self.partition_of(disconnect.key), codec.disconnect_argument(disconnect)
        answer = await self._in_time(self.connection.write, "disconnect", partition, args)
        if answer[1] == UNKNOWN and disconnect.trigger is Trigger.DISCONNECT_FAILURE:
            answer = await self._in_time(self.connection.write, "fail", partition, args, self._beat_settings)
        now_ms, outcome, moves, *run = answer
        return ChangeResult(now_ms=now_ms, outcome=outcome, moved=codec.moved(moves), run=run[0] if run else 0)

    async def delete(self, key: WorkerKey, *, allowed: tuple[str, ...] | None, reason: str) -> ChangeResult:
        """Erase a worker's record, metadata and logs immediately."""
        args = codec.encode([key.tenant, key.worker_id, allowed, reason])
        now_ms, outcome, moves = await self._in_time(self.connection.once, "delete", self.partition_of(key), args)
        return ChangeResult(now_ms=now_ms, outcome=outcome, moved=codec.moved(moves))

    async def _in_time(self, call: Callable[..., Awaitable[Any]], function: str, partition: int, *args: bytes) -> Any:
        """Make a call that the store must not apply after our timeout, because the sender was then answered 503.

        Raises:
            StoreUnavailableError: as every call, or the store received the call too late twice.
        """
        for _ in range(2):
            before_ms = self.clock.now_ms() + round(self.settings.timeout_s * 1_000)
            answer = await call(function, partition, *args, before_ms)
            if answer[1] != LATE:
                return answer
            # The answer came within our timeout, so the call was not late by our clock: the store's clock has jumped.
        raise StoreUnavailableError("the store received the call too late")

    async def sweep(self, partition: int, *, limit: int) -> SweepResult:
        """Expire at most ``limit`` workers whose deadline has passed."""
        now_ms, more, moves, damaged, blind = await self.connection.write("sweep", partition, limit)
        return SweepResult(now_ms=now_ms, more=bool(more), moved=codec.moved(moves), damaged=damaged, blind=bool(blind))

    async def purge(self, partition: int, *, limit: int, retention_ms: int) -> SweepResult:
        """Forget at most ``limit`` workers that have not been alive for ``retention_ms``."""
        now_ms, more, moves = await self.connection.write("purge", partition, limit, retention_ms, "retention passed")
        return SweepResult(now_ms=now_ms, more=bool(more), moved=codec.moved(moves))

    async def trim(self, partition: int, *, keep_ms: int, most: int) -> int:
        """Drop events of the history: those older than ``keep_ms``, and above ``most`` the oldest of the longest one.

        Return the number of dropped events, which is bounded per call.
        """
        _, dropped = await self.connection.write("trim", partition, keep_ms, most, EVENTS_TRIMMED_PER_CALL)
        return int(dropped)

    async def confirm(self, partition: int, *, run: int = 0) -> None:
        """Return when all earlier commits are as durable as ``settings`` ask; at once if they ask for nothing.

        Concurrent callers wait for one write. A server without WAITAOF can't confirm, and is assumed to.

        Args:
            partition: where the commits were made.
            run: number of the server's run that made the caller's commit; 0: not checked. Connections move to a new
                primary one by one, and a new primary would confirm a commit that it does not have.

        Raises:
            StoreUnavailableError: not within the timeout, or by another run; the commits may still be durable.
        """
        if self.settings.durability.mode is DurabilityMode.MEMORY:
            return
        try:
            async with asyncio.timeout(2 * self.settings.timeout_s):
                # A running confirmation may have begun before the commit; the next one covers it.
                _, confirmed_by = await self._confirmed[partition]()
        except TimeoutError as error:
            raise StoreUnavailableError("the store did not confirm in time") from error
        if run not in {0, confirmed_by}:
            raise StoreUnavailableError("the write was made on another server than the one that confirmed")

    async def _confirmed_call(self, function: str, partition: int, *args: bytes | str | int) -> Any:
        """Call a function. Return its answer once the commits that it has seen are as durable as ``settings`` ask."""
        durability = self.settings.durability
        answer, confirmation = await self.connection.write_confirmed(durability, function, partition, *args)
        if confirmation is Confirmation.UNCONFIRMED:
            raise StoreUnavailableError("the store did not confirm in time")
        return answer

    # Blindness ----------------------------------------------------------------------------------------------------

    async def pulse(
        self, partition: int, *, ends: bool = False, behind: bool = False, bid: Bid = Bid.NONE, asks: bool = False
    ) -> PulseResult:
        """Report that this daemon accepts beats; ``ends``: that it accepts none from now on.

        ``behind``: that it is behind with the beats that have come. This is no pulse, and its workers do not expire.
        ``bid``: for the partition's lease. ``asks``: for the daemons that pulse.
        """
        daemon, says = self.settings.daemon, BEHIND if behind else int(ends)
        answer = await self.connection.write("pulse", partition, daemon, says, int(bid), int(asks))
        now_ms, skew_ms, newest, windows, blind_ms, lease, others = answer
        daemons = frozenset((daemon, *(other.decode() for other in others))) if asks else frozenset()
        return PulseResult(
            lease=Lease(now_ms, lease[0], lease[1], lease[2], daemons),
            now_ms=now_ms,
            skew_ms=skew_ms,
            window=Window(begin_ms=newest[0], end_ms=newest[1]) if newest else None,
            cause=Cause(newest[2].decode()) if newest else None,
            windows=windows,
            blind_ms=blind_ms,
        )

    async def evidence(self, partition: int, evidence: Sequence[Evidence]) -> None:
        """Store at most 512 refused beats of one partition as evidence of life (P11). Unknown workers are ignored."""
        await self.connection.write("evidence", partition, codec.evidence_argument(evidence))

    # The outbox ---------------------------------------------------------------------------------------------------

    async def lease(self, partition: int, *, bid: Bid) -> Lease:
        """Bid for the partition's lease without a pulse, which a full store does not take."""
        now_ms, lease = await self.connection.write("lease", partition, self.settings.daemon, int(bid))
        return Lease(now_ms, *lease)

    async def claim(self, partition: int, *, token: int, limit: int, confirmed: bool = False) -> Taken | None:
        """Read the events after the router's cursor; None if another daemon has the lease by now.

        ``confirmed``: they are as durable as ``settings`` ask, on the server that they were read from.
        """
        call = self._confirmed_call if confirmed else self.connection.write
        _, is_owner, entries = await call("claim", partition, token, limit, int(confirmed))
        last = entries[-1][0].decode() if entries else ""
        return Taken(last=last, events=codec.events(partition, entries), token=token) if is_owner else None

    # Reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: WorkerKey) -> tuple[int, int, Worker | None]:
        """Return (now in ms, time of the last full sweep, the worker with its last transitions)."""
        now_ms, swept_ms, row, past = await self._read("get", self.partition_of(key), key.tenant, key.worker_id)
        return now_ms, swept_ms, None if row is None else codec.worker(row, past)

    async def list_workers(
        self,
        partition: int,
        tenant: str,
        *,
        after: str,
        limit: int,
        environments: tuple[str, ...] | None,
        want: Want | None,
    ) -> Page:
        """Return at most ``limit`` workers of one partition after ``after``; the caller filters the result."""
        filters = codec.encode([environments, want])
        now_ms, swept_ms, last, rows = await self._read("list", partition, tenant, after, limit, filters)
        return Page(
            now_ms=now_ms,
            swept_ms=swept_ms,
            last=last.decode(),
            workers=await in_pieces(lambda some: list(map(codec.worker, some)), rows),
        )

    async def count_workers(self, tenant: str | None) -> Census:
        """Count the workers of one tenant or of all, by environment and liveness."""
        return await counts.count_workers(self._read, self.partitions, tenant)

    async def environment_health(
        self, tenant: str, environment_name: str, since_ms: int | None = None
    ) -> EnvironmentHealth:
        """Return the health of an environment: cheap enough for every death.

        ``since_ms``: count workers that became stale from then on; None: count none.
        """
        return await counts.environment_health(self._read, self.partitions, tenant, environment_name, since_ms)

    async def swept(self, partition: int) -> tuple[int, int]:
        """Return (now, time of the partition's last full sweep); reads no worker and no event."""
        now_ms, swept_ms, *_ = await self.connection.probe("get", partition, "", "")
        return now_ms, swept_ms

    async def _last_sweep(self) -> tuple[int, int]:
        answers = await asyncio.gather(*(self.swept(partition) for partition in range(self.partitions)))
        return max(now_ms for now_ms, _ in answers), min(swept_ms for _, swept_ms in answers)

    async def history(self, partition: int, tenant: str, *, after: str, limit: int, newest_first: bool) -> History:
        """Return at most ``limit`` of a tenant's events in one partition, after the position ``after`` (empty: all)."""
        order = "desc" if newest_first else "asc"
        now_ms, swept_ms, written_ms, entries = await self._read("history", partition, tenant, after, limit, order)
        return History(
            now_ms=now_ms,
            swept_ms=swept_ms,
            written_ms=written_ms,
            events=await in_pieces(partial(codec.events, partition), entries),
        )
