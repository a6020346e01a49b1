"""From the configuration's alerts section to the running alert service."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from alerts.durability import Durability, DurabilityMode
from alerts.receivers import open_receiver
from alerts.receivers.log import LogSettings
from alerts.receivers.webhook import WebhookSettings
from alerts.retry import RetryPolicy
from alerts.routing import Route
from alerts.service import AlertService
from monitor.store import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from alerts.receivers import ReceiverSettings
    from monitor.daemon.config import Config, Receiver
    from monitor.store.outbox import Outbox


def _receiver(receiver: Receiver) -> ReceiverSettings:
    if receiver.type == "log":
        return LogSettings(name=receiver.name)
    return WebhookSettings(
        name=receiver.name,
        url=str(receiver.url),
        secrets=tuple("whsec_" + base64.b64encode(secret).decode() for secret in receiver.secrets),
        allow_private=receiver.allow_private,
        timeout_s=receiver.timeout_ms / 1_000,
    )


def alert_service(
    config: Config,
    *,
    redis_url: str,
    outbox: Outbox,
    now_ms: Callable[[], int],
    on_outcome: Callable[[str, str], None],
    on_failure: Callable[[str, BaseException], None],
) -> AlertService:
    """The alerting half of the daemon, not yet started."""
    alerts, durability = config.alerts, config.store.durability
    return AlertService(
        redis_url=redis_url,
        receivers=[open_receiver(_receiver(receiver)) for receiver in alerts.effective_receivers],
        routes=[
            Route(receivers=route.receivers, events=route.kinds, environments=route.environments, tenants=route.tenants)
            for route in alerts.effective_routes
        ],
        source=outbox,
        partitions=config.store.partitions,
        durability=Durability(mode=DurabilityMode(durability.mode), replicas=durability.replicas),
        now_ms=now_ms,
        on_outcome=on_outcome,
        on_failure=on_failure,
        policy=RetryPolicy(
            initial_ms=alerts.retry_initial_ms, max_ms=alerts.retry_max_ms, retry_for_ms=alerts.retry_for_ms
        ),
        source_errors=(StoreUnavailableError,),
        concurrency=alerts.queue_concurrency,
    )
