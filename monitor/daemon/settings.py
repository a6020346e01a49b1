"""Maps the configuration to the settings of single parts of the daemon."""

import hashlib

from monitor.api.admission import BeatRates
from monitor.api.contract.limits import BeatLimits
from monitor.daemon.config.model import Config
from monitor.embedded import share_of_memory
from monitor.rate_limit import Rate
from monitor.store import StoreSettings
from monitor.store.settings import EnvironmentRule
from monitor.sweeper import SweepSettings


def store_settings(config: Config, url: str, daemon: str) -> StoreSettings:
    """The settings of the store."""
    usual = config.liveness
    return StoreSettings(
        url=url,
        partitions=config.store.partitions,
        daemon=daemon,
        namespace=config.store.namespace,
        installation=_installation(config),
        timeout_s=config.store.timeout_ms / 1_000,
        interval_ms=usual.interval_ms,
        grace_ms=usual.grace_ms,
        rules=tuple(
            EnvironmentRule(
                match=rule.match,
                interval_ms=usual.interval_ms if rule.interval_ms is None else rule.interval_ms,
                grace_ms=usual.grace_ms if rule.grace_ms is None else rule.grace_ms,
            )
            for rule in config.environments
        ),
        workers_per_tenant=config.limits.workers_per_tenant,
        environments_per_tenant=config.limits.environments_per_tenant,
        timings_per_tenant=config.limits.timings_per_tenant,
        bytes_per_tenant=_bytes_per_tenant(config),
        min_interval_ms=usual.min_interval_ms,
        max_interval_ms=usual.max_interval_ms,
        min_grace_ms=usual.min_grace_ms,
        max_grace_ms=usual.max_grace_ms,
        status_events=usual.status_changed_events,
        durability=config.store.durability,
    )


def _bytes_per_tenant(config: Config) -> int:
    """Quota of a tenant. At most half of an embedded store, so that one tenant cannot fill it for all (P29)."""
    quota, store = config.limits.bytes_per_tenant, config.store
    return min(quota, (store.maxmemory_bytes or share_of_memory()) // 2) if store.embedded else quota


def _installation(config: Config) -> tuple[str, ...]:
    """Names of this installation in a shared store. Default: from the keys, of which replicas always share some."""
    if config.store.embedded:
        return ()
    if config.store.installation:
        return (config.store.installation,)
    return tuple(hashlib.sha256(b"lastseen installation\0" + key.key).hexdigest()[:16] for key in config.auth.keys)


def beat_rates(config: Config) -> BeatRates:
    """The rate limits of one process."""
    limits = config.limits

    def rate(per_s: int, burst: int) -> Rate | None:
        return Rate(per_s=per_s, burst=burst) if per_s else None

    return BeatRates(
        worker=rate(limits.worker_beats_per_second, limits.worker_beats_burst),
        tenant=rate(limits.tenant_beats_per_second, limits.tenant_beats_burst),
        batch=limits.batch_beats,
    )


def sweep_settings(config: Config) -> SweepSettings:
    """The settings of the sweeper."""
    return SweepSettings(
        chunk=config.liveness.sweep_chunk,
        retention_ms=config.liveness.retention_ms,
        event_retention_ms=config.liveness.event_retention_ms,
        events=config.limits.events,
    )


def beat_limits(config: Config) -> BeatLimits:
    """The limits on the parts of a beat."""
    return BeatLimits(
        metadata_bytes=config.limits.metadata_bytes,
        logs_bytes=config.limits.logs_bytes,
        system_info_bytes=config.limits.system_info_bytes,
        min_interval_ms=config.liveness.min_interval_ms,
        max_interval_ms=config.liveness.max_interval_ms,
        min_grace_ms=config.liveness.min_grace_ms,
        max_grace_ms=config.liveness.max_grace_ms,
    )
