"""Rate limits: beats per second of a worker and of a tenant, in this process.

Not in the store: a limit there would load the store that it is to protect. ``docs/decisions/`` has the reasons and
the consequences.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from monitor.clock import monotonic_ns
from monitor.errors import SlowDownError
from monitor.metrics.registry import Limit
from monitor.rate_limit import NS, Limiter, Rate
from monitor.workers import WorkerKey

LONGEST_S: Final = 3_600


class RateLimitedError(SlowDownError):
    """A worker or a tenant is over its rate limit, or a receiver is tested again too soon (429)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BeatRates:
    """Rate limits in one process, per worker and per tenant; None: unlimited. ``batch``: maximum beats of a batch."""

    worker: Rate | None
    tenant: Rate | None
    batch: int


class Admission:
    """Applies the rate limits. Counts every received beat, also one that is rejected later. Belongs to one event loop.

    ``on_refused`` is called with the limit that was reached, and the tenant.
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
        """Count one beat of this worker. Returns the error if a limit refuses the beat."""
        if self._workers is not None and (wait_ns := self._workers.wait_ns(hash(key), self._now_ns())):
            return self._worker_error(key, wait_ns)
        return None if self._tenants is None else self.batch_refused(key.tenant, 1)

    def disconnect_refused(self, key: WorkerKey) -> RateLimitedError | None:
        """As ``refused``, for a disconnect. Counted separately: a worker over its limit can still report a failure."""
        wait_ns = 0 if self._disconnects is None else self._disconnects.wait_ns(hash(key), self._now_ns())
        if wait_ns:
            return self._worker_error(key, wait_ns)
        return None if self._tenants is None else self.batch_refused(key.tenant, 1)

    def worker_refused(self, key: WorkerKey) -> RateLimitedError | None:
        """As ``refused``, for one beat of a batch: ``batch_refused`` has counted the beat for the tenant."""
        wait_ns = 0 if self._workers is None else self._workers.wait_ns(hash(key), self._now_ns())
        return self._worker_error(key, wait_ns) if wait_ns else None

    def batch_refused(self, tenant: str, count: int) -> RateLimitedError | None:
        """Count ``count`` beats of this tenant, all or none. Returns the error if the limit refuses them."""
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
