"""Gauges of what the reasons for a degraded monitor are judged by: queues and the store."""

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
    """How what is to be told to one receiver stands."""

    receiver: str
    queued: int
    dead_letters: int
    open_dead_letters: int
    """Dead letters that are neither delivered, over, replayed nor dropped."""
    groups: int
    lag_s: float
    disabled: bool


class ConditionGauges:
    """What is not known (any more) is NaN, and of a receiver absent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def store(name: str, documentation: str) -> Gauge:
            gauge = Gauge(f"lastseen_{name}", documentation, registry=registry)
            gauge.set(math.nan)
            return gauge

        def receiver(name: str, documentation: str) -> Gauge:
            return Gauge(f"lastseen_{name}", documentation, ["receiver"], registry=registry)

        self._up: Final = store("store_up", "Whether the store took the last probe's write.")
        self._used_bytes: Final = store("store_memory_used_bytes", "What the store uses of its memory.")
        self._limit_bytes: Final = store("store_memory_limit_bytes", "The store's maxmemory; 0: none.")
        self._durable: Final = store("store_durable", "Whether the store confirms writes as store.durability asks.")
        self._confirm_s: Final = store("store_confirm_seconds", "How long the last confirmation took.")
        self._routing_lag_s: Final = store("routing_lag_seconds", "How long the oldest event waits for its router.")
        self._pulse_age_s: Final = store("pulse_age_seconds", "How long ago the store took a pulse of this process.")
        self._skew_s: Final = store("store_skew_seconds", "By how much store time is ahead of the server's clock.")
        self._queued: Final = receiver("delivery_queue", "Notifications in attempts.")
        self._groups: Final = receiver("alert_groups", "Workers and groups with a notification sent or pending.")
        self._lag_s: Final = receiver(
            "delivery_lag_seconds", "For how long the oldest that should have been told waits."
        )
        self._dead_letters: Final = receiver("dead_letters", "Notifications that were given up.")
        self._standing: Final = receiver(
            "dead_letters_standing", "Dead letters that are neither delivered, over, replayed nor dropped."
        )
        self._disabled: Final = receiver("receiver_disabled", "Whether the receiver said that it is gone.")

    def store(self, *, up: bool) -> None:
        """The last probe's answer."""
        self._up.set(up)

    def memory(self, used_bytes: float, limit_bytes: float) -> None:
        """The store's memory, by its own word."""
        self._used_bytes.set(used_bytes)
        self._limit_bytes.set(limit_bytes)

    def durable(self, value: float, *, confirm_s: float) -> None:
        """Whether the store confirms (1 or 0, or NaN), and how long it took."""
        self._durable.set(value)
        self._confirm_s.set(confirm_s)

    def routing(self, lag_s: float) -> None:
        """How long events wait."""
        self._routing_lag_s.set(lag_s)

    def pulse(self, *, age_s: float, skew_s: float) -> None:
        """The age of the newest pulse that the store took, and by how much its time is ahead of its clock."""
        self._pulse_age_s.set(age_s)
        self._skew_s.set(skew_s)

    def queues(self, queues: Iterable[Queue]) -> None:
        """How the receivers' queues stand; none: it is not known."""
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
