"""Gauges of the values behind the reasons for being degraded: queues and the store."""

import math
from typing import Final

from prometheus_client import CollectorRegistry, Gauge


class ConditionGauges:
    """Gauges of queues and store. An unknown value is NaN; for a receiver it is absent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def store(name: str, documentation: str) -> Gauge:
            gauge = Gauge(f"lastseen_{name}", documentation, registry=registry)
            gauge.set(math.nan)
            return gauge

        def receiver(name: str, documentation: str) -> Gauge:
            return Gauge(f"lastseen_{name}", documentation, ["receiver"], registry=registry)

        self.up: Final = store("store_up", "Whether the store took the last probe's write.")
        self.used_bytes: Final = store("store_memory_used_bytes", "Memory that the store uses.")
        self.limit_bytes: Final = store("store_memory_limit_bytes", "The store's maxmemory; 0: none.")
        self.durable: Final = store("store_durable", "Whether the store confirms writes as store.durability asks.")
        self.confirm_s: Final = store("store_confirm_seconds", "How long the last confirmation took.")
        self.routing_lag_s: Final = store("routing_lag_seconds", "Age of the oldest event that waits for its router.")
        self.pulse_age_s: Final = store("pulse_age_seconds", "How long ago the store took a pulse of this process.")
        self.skew_s: Final = store("store_skew_seconds", "By how much store time is ahead of the server's clock.")
        self.queued: Final = receiver("delivery_queue", "Notifications in flight, those waiting for a retry included.")
        self.groups: Final = receiver("alert_groups", "Workers and groups with a notification sent or pending.")
        self.lag_s: Final = receiver("delivery_lag_seconds", "Age of the oldest overdue notification.")
        self.dead_letters: Final = receiver("dead_letters", "Notifications that were given up.")
        self.open_dead_letters: Final = receiver(
            "dead_letters_standing", "Dead letters that are neither delivered, over, replayed nor dropped."
        )
        self.disabled: Final = receiver("receiver_disabled", "Whether the receiver said that it is gone.")

    def clear_queues(self) -> None:
        """Note that the status of the receivers' queues is unknown."""
        gauges = (self.queued, self.groups, self.lag_s, self.dead_letters, self.open_dead_letters, self.disabled)
        for gauge in gauges:
            gauge.clear()
