"""Who sends too much: the limits on beats per second of a worker and of a tenant, in this process.

Not in the store: there a limit would cost what it is to protect. ``docs/decisions/`` has the reasons and what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from monitor.clock import monotonic_ns
from monitor.errors import SlowDownError
from monitor.metrics.registry import Limit
from monitor.rate_limit import NS, Limiter, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.workers import WorkerKey

LONGEST_S: Final = 3_600


class RateLimitedError(SlowDownError):
    """A worker or a tenant sends more than it may, or a receiver is tested again too soon (429)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeatRates:
    """What one process lets through of a worker and of a tenant; None: everything. A batch has at most ``batch``."""

    worker: Rate | None
    tenant: Rate | None
    batch: int


class Admission:
    """Counts beats as they come in, whatever becomes of them. Belongs to one event loop.

    ``on_refused`` is called with the limit that was met, and the tenant.
    """

    def __init__(
        self,
        rates: BeatRates,
        *,
        on_refused: Callable[[Limit, str], None] = lambda *_: None,
        now_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._rates = rates
        self._on_refused = on_refused
        self._now_ns = now_ns
        self._workers = None if rates.worker is None else Limiter(rates.worker)
        self._disconnects = None if rates.worker is None else Limiter(rates.worker)
        self._tenants = None if rates.tenant is None else Limiter(rates.tenant, most_count=rates.batch)

    def refused(self, key: WorkerKey) -> RateLimitedError | None:
        """Take one beat of this worker; the error, if it may not come in now."""
        if self._workers is not None and (wait_ns := self._workers.wait_ns(hash(key), self._now_ns())):
            return self._worker_error(key, wait_ns)
        return None if self._tenants is None else self.batch_refused(key.tenant, 1)

    def disconnect_refused(self, key: WorkerKey) -> RateLimitedError | None:
        """As ``refused``, for a disconnect: a worker that beats too often may still say that it has failed."""
        wait_ns = 0 if self._disconnects is None else self._disconnects.wait_ns(hash(key), self._now_ns())
        if wait_ns:
            return self._worker_error(key, wait_ns)
        return None if self._tenants is None else self.batch_refused(key.tenant, 1)

    def worker_refused(self, key: WorkerKey) -> RateLimitedError | None:
        """As ``refused``, for a beat of a batch, which was counted for its tenant."""
        wait_ns = 0 if self._workers is None else self._workers.wait_ns(hash(key), self._now_ns())
        return self._worker_error(key, wait_ns) if wait_ns else None

    def batch_refused(self, tenant: str, count: int) -> RateLimitedError | None:
        """Take so many beats of this tenant, or none of them; the error, if they may not come in now."""
        if self._tenants is None:
            return None
        wait_ns = self._tenants.wait_for_ns(hash(tenant), self._now_ns(), count)
        if not wait_ns:
            return None
        self._on_refused(Limit.TENANT_RATE, tenant)
        return self._error("tenant", self._rates.tenant, wait_ns)

    def _worker_error(self, key: WorkerKey, wait_ns: int) -> RateLimitedError:
        self._on_refused(Limit.WORKER_RATE, key.tenant)
        return self._error("worker", self._rates.worker, wait_ns)

    def _error(self, whose: str, rate: Rate | None, wait_ns: int) -> RateLimitedError:
        per_s = 0 if rate is None else rate.per_s
        message = f"too many beats of this {whose}: limits.{whose}_beats_per_second is {per_s} in this process"
        return RateLimitedError(message, min(-(-wait_ns // NS), LONGEST_S))
