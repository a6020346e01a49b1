"""Builds the alert service from the configuration."""

from typing import Final

from alerts.delivery.counts import Counts
from alerts.groups.classify import DOWN, OUT
from alerts.groups.flapping import Flapping, begun
from alerts.groups.fleet import StoredWorker, WorkerOutage
from alerts.groups.mass_failure import Rule
from alerts.rendering.payload import Wording
from alerts.retry import RetryPolicy
from alerts.routing.routes import Route
from alerts.service import AlertService, AlertSettings
from alerts.store.retention import Retention
from monitor.daemon.config.model import Config
from monitor.events import Event
from monitor.liveness import EnvironmentHealth
from monitor.store import Store
from monitor.store.codec import Outline, outline
from monitor.store.library import rendered
from monitor.store.library_client import LibraryClient
from monitor.store.outbox import Outbox
from monitor.workers import Worker, WorkerKey

LIBRARY: Final = rendered("alerts.store", "alerts.lua", name="lastseen_alerts")
"""The function library of the alerts."""


class StoredFleet:
    """The fleet port of the alerts, implemented on the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def environment_health(self, tenant: str, environment: str, since_ms: int | None = None) -> EnvironmentHealth:
        """Health of an environment."""
        return await self._store.environment_health(tenant, environment, since_ms)

    async def outage(self, event: Event, since_ms: int = 0, *, stored: StoredWorker | None = None) -> WorkerOutage:
        """Current state of the outage that an event reports."""
        worker: Worker | Outline | None
        if stored is None:
            _, _, worker = await self._store.get(WorkerKey(event.tenant, event.worker_id))
        else:
            worker = None if stored.record is None else outline(stored.record, stored.transitions)
        if worker is None or worker.generation != event.generation:
            return WorkerOutage(is_ongoing=False, before=0)
        newer = [one for one in worker.transitions if one.seq > event.seq]
        # With more transitions since the event than are kept, the outage counts as ended: the worker was back once.
        is_known = len(newer) == max(0, worker.seq - event.seq)
        before = [(one.kind, one.due_ms) for one in worker.transitions if one.seq < event.seq]
        return WorkerOutage(
            is_ongoing=worker.stored in OUT and is_known and all(one.kind in DOWN for one in newer),
            before=sum(due_ms >= since_ms for due_ms in begun(before)),
        )


def alert_service(config: Config, *, store: Store, outbox: Outbox, counts: Counts) -> AlertService:
    """Create the alert service; the caller starts it."""
    alerts = config.alerts
    mass, flapping = alerts.mass_failure, alerts.flapping
    settings = AlertSettings(
        receivers=[receiver.open() for receiver in alerts.effective_receivers],
        routes=[
            Route(
                receivers=route.receivers,
                events=route.kinds,
                environments=route.environments,
                tenants=route.tenants,
                group_by=route.group_by,
                group_wait_ms=route.group_wait_ms,
                group_interval_ms=route.group_interval_ms,
                repeat_interval_ms=route.repeat_interval_ms,
            )
            for route in alerts.effective_routes
        ],
        owners={one.name: frozenset(one.tenants) for one in alerts.effective_receivers if one.tenants},
        wording=Wording(public_url=alerts.public_url, redact=alerts.redact),
        rule=Rule(share=mass.share, least=mass.least, hold_ms=mass.hold_ms) if mass.enabled else None,
        flapping=(
            Flapping(outages=flapping.outages, within_ms=flapping.within_ms, hold_ms=flapping.hold_ms)
            if flapping.enabled
            else None
        ),
        policy=RetryPolicy(
            initial_ms=alerts.retry_initial_ms, max_ms=alerts.retry_max_ms, retry_for_ms=alerts.retry_for_ms
        ),
        history=Retention(age_ms=alerts.history_ms, most=alerts.history_most),
        concurrency=alerts.queue_concurrency,
    )
    return AlertService(
        settings,
        store=LibraryClient(
            store.connection.address,
            LIBRARY,
            namespace=config.store.namespace,
            partitions=store.partitions,
            durability=config.store.durability,
            confirming=len(settings.receivers) + 1,  # each receiver, and the survey at the start
            found=store.found_again,
        ),
        source=outbox,
        partitions=config.store.partitions,
        fleet=StoredFleet(store.inside()),
        now_ms=store.clock.now_ms,
        counts=counts,
    )
