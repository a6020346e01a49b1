"""Resources of the HTTP API that tenants share, and their division among tenants (P29)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from monitor.metrics.registry import Limit
from monitor.shares import Shares, Tenants

WAIT_S: Final = 2.0
"""Maximum wait of a request for a place."""
BATCHES_AT_ONCE: Final = 8
BATCHES_WAITING: Final = 64
READS_AT_ONCE: Final = 4
READS_WAITING: Final = 256
ANSWER_BYTES: Final = 134_217_728
"""Maximum bytes of large answers that clients have not read yet."""


class Places:
    """Limits concurrent expensive requests. A request that finds no place waits for at most ``wait_s``."""

    def __init__(self, places: Shares, waiting: Shares, *, wait_s: float) -> None:
        self._places = places
        self._waiting = waiting
        self._wait_s = wait_s
        self._queue: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Hold a place during the block.

        Raises:
            OverShareError: other requests of this tenant use its share, or wait for it.
            NoRoomError: no place is free for any tenant.
        """
        await self._take(tenant)
        try:
            yield
        finally:
            self._give(tenant)

    async def _take(self, tenant: str) -> None:
        if self._places.fits(tenant):
            self._places.acquire(tenant)
            return
        self._waiting.acquire(tenant)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((tenant, granted))
        try:
            await asyncio.wait((granted,), timeout=self._wait_s)
        except asyncio.CancelledError:
            if granted.done():
                self._give(tenant)
            raise
        finally:
            self._waiting.give(tenant)
            if not granted.done():
                self._queue.remove((tenant, granted))
        if not granted.done():
            raise self._places.refusal(tenant)

    def _give(self, tenant: str) -> None:
        self._places.give(tenant)
        for one in tuple(self._queue):
            waiting, granted = one
            if self._places.fits(waiting):
                self._places.acquire(waiting)
                granted.set_result(None)
                self._queue.remove(one)


class Shared:
    """The shares of one process.

    Args:
        body_bytes: bytes of incomplete bodies.
        batch_bytes: bytes of batches, as sent and inflated.
        answer_bytes: bytes of large answers that clients have not read yet.
        wait_s: maximum wait of a request for a place.
        hit: called with the limit and the tenant of each refusal.
    """

    def __init__(
        self,
        *,
        body_bytes: int,
        batch_bytes: int,
        answer_bytes: int = ANSWER_BYTES,
        wait_s: float = WAIT_S,
        hit: Callable[[Limit, str], None] = lambda *_: None,
    ) -> None:
        self.tenants = Tenants()

        def shares(total: int, what: str, limit: Limit) -> Shares:
            return Shares(total, self.tenants, what=what, on_refused=partial(hit, limit))

        self.bodies = shares(body_bytes, "bytes of unfinished bodies", Limit.BODY_BYTES)
        self.batch_bytes = shares(batch_bytes, "bytes of batches", Limit.BATCH_BYTES)
        self.answers = shares(answer_bytes, "bytes of large answers", Limit.ANSWER_BYTES)

        def places(total: int, waiting: int, what: str, limit: Limit) -> Places:
            return Places(shares(total, what, limit), shares(waiting, f"waiting {what}", limit), wait_s=wait_s)

        self.batches = places(BATCHES_AT_ONCE, BATCHES_WAITING, "batches", Limit.BATCH_PLACES)
        self.reads = places(READS_AT_ONCE, READS_WAITING, "reads", Limit.READERS)
