"""What Lastseen counts of itself, for Prometheus. Names are fixed in ``docs/http-api.md``; units are base units."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from monitor.liveness import EventKind, Liveness

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from monitor.workers import Moved

DETECTION_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class BeatOutcome(StrEnum):
    """What became of a heartbeat request."""

    STORED = "stored"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    """An error of ours, or a client that went away in the middle of its body."""


class Metrics:
    """One registry of its own and small methods to feed it. Not for several threads at once while it is read."""

    def __init__(self, *, version: str) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=True)
        beats = Counter("lastseen_beats", "Heartbeat requests by outcome.", ["outcome"], registry=self.registry)
        self._beats = {outcome: beats.labels(outcome.value) for outcome in BeatOutcome}
        moves = Counter("lastseen_transitions", "Recorded events by type.", ["event"], registry=self.registry)
        self._moves = {kind: moves.labels(kind.value) for kind in EventKind}
        self._detection = Histogram(
            "lastseen_sweep_detection_seconds",
            "From a worker's effective deadline to the committed transition to stale.",
            buckets=DETECTION_BUCKETS_S,
            registry=self.registry,
        )
        self._workers = Gauge("lastseen_workers", "Workers by liveness.", ["liveness"], registry=self.registry)
        self._sweep_lag = Gauge("lastseen_sweep_lag_seconds", "Age of the last full sweep.", registry=self.registry)
        self._sweep_lag.set(math.inf)
        self._degraded = Gauge(
            "lastseen_degraded", "1 for each reason why the monitor is degraded.", ["reason"], registry=self.registry
        )
        self._deliveries = Counter(
            "lastseen_deliveries",
            "Delivery attempts by receiver and outcome.",
            ["receiver", "outcome"],
            registry=self.registry,
        )
        info = Gauge("lastseen_build_info", "Always 1; the running version.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        ProcessCollector(registry=self.registry)

    def beat(self, outcome: BeatOutcome) -> None:
        """One heartbeat request was answered."""
        self._beats[outcome].inc()

    def moved(self, moved: Sequence[Moved]) -> None:
        """A call to the store committed these events; for each death, how late it was noticed is observed."""
        for move in moved:
            self._moves[move.kind].inc()
            if move.kind is EventKind.STALE:
                self._detection.observe(max(move.detected_ms - move.due_ms, 0) / 1000)

    def delivery(self, receiver: str, outcome: str) -> None:
        """One attempt at a receiver ended."""
        self._deliveries.labels(receiver, outcome).inc()

    def fleet(self, counts: Mapping[Liveness, int] | None, *, sweep_lag_s: float) -> None:
        """Set the workers by liveness (None: not known now) and the age of the last full sweep (inf: none yet)."""
        if counts is None:
            self._workers.clear()
        else:
            for liveness in Liveness:
                self._workers.labels(liveness.value).set(counts.get(liveness, 0))
        self._sweep_lag.set(sweep_lag_s)

    def degraded(self, reasons: Iterable[str]) -> None:
        """Set the reasons that stand now; others are gone."""
        self._degraded.clear()
        for reason in reasons:
            self._degraded.labels(reason).set(1)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text of all metrics in the format that ``accept`` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
