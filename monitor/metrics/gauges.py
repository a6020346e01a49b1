"""Gauges of the values behind the reasons for being degraded: queues and the store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import Gauge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """Queue status of one receiver. ``lag_s``: age of the oldest overdue item."""

    receiver: str
    queued: int
    dead_letters: int
    open_dead_letters: int
    """Dead letters that are neither delivered, over, replayed nor dropped."""
    groups: int
    lag_s: float
    disabled: bool


class ConditionGauges:
    """Gauges of queues and store. An unknown value is NaN; for a receiver it is absent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def store(name: str, documentation: str) -> Gauge:
            gauge = Gauge(f"lastseen_{name}", documentation, registry=registry)
            gauge.set(math.nan)
            return gauge

        def receiver(name: str, documentation: str) -> Gauge:
            return Gauge(f"lastseen_{name}", documentation, ["receiver"], registry=registry)

        self._up: Final = store("store_up", "Whether the store took the last probe's write.")
        self._used_bytes: Final = store("store_memory_used_bytes", "Memory that the store uses.")
        self._limit_bytes: Final = store("store_memory_limit_bytes", "The store's maxmemory; 0: none.")
        self._durable: Final = store("store_durable", "Whether the store confirms writes as store.durability asks.")
        self._confirm_s: Final = store("store_confirm_seconds", "How long the last confirmation took.")
        self._routing_lag_s: Final = store("routing_lag_seconds", "Age of the oldest event that waits for its router.")
        self._pulse_age_s: Final = store("pulse_age_seconds", "How long ago the store took a pulse of this process.")
        self._skew_s: Final = store("store_skew_seconds", "By how much store time is ahead of the server's clock.")
        self._queued: Final = receiver("delivery_queue", "Notifications in flight, those waiting for a retry included.")
        self._groups: Final = receiver("alert_groups", "Workers and groups with a notification sent or pending.")
        self._lag_s: Final = receiver("delivery_lag_seconds", "Age of the oldest overdue notification.")
        self._dead_letters: Final = receiver("dead_letters", "Notifications that were given up.")
        self._standing: Final = receiver(
            "dead_letters_standing", "Dead letters that are neither delivered, over, replayed nor dropped."
        )
        self._disabled: Final = receiver("receiver_disabled", "Whether the receiver said that it is gone.")

    def store(self, *, up: bool) -> None:
        """Set the result of the last probe."""
        self._up.set(up)

    def memory(self, used_bytes: float, limit_bytes: float) -> None:
        """Set the store's memory, as the server reports it."""
        self._used_bytes.set(used_bytes)
        self._limit_bytes.set(limit_bytes)

    def durable(self, value: float, *, confirm_s: float) -> None:
        """Set whether the store confirms writes (1, 0 or NaN), and how long that took."""
        self._durable.set(value)
        self._confirm_s.set(confirm_s)

    def routing(self, lag_s: float) -> None:
        """Set the age of the oldest waiting event."""
        self._routing_lag_s.set(lag_s)

    def pulse(self, *, age_s: float, skew_s: float) -> None:
        """Set the age of the newest pulse that the store took, and by how much store time is ahead of its clock."""
        self._pulse_age_s.set(age_s)
        self._skew_s.set(skew_s)

    def queues(self, queues: Iterable[Queue]) -> None:
        """Set the status of the receivers' queues; empty: unknown."""
        gauges = (self._queued, self._groups, self._lag_s, self._dead_letters, self._standing, self._disabled)
        for gauge in gauges:
            gauge.clear()
        for queue in queues:
            self._queued.labels(queue.receiver).set(queue.queued)
            self._groups.labels(queue.receiver).set(queue.groups)
            self._lag_s.labels(queue.receiver).set(queue.lag_s)
            self._dead_letters.labels(queue.receiver).set(queue.dead_letters)
            self._standing.labels(queue.receiver).set(queue.open_dead_letters)
            self._disabled.labels(queue.receiver).set(queue.disabled)
