"""What Lastseen counts of itself, for Prometheus. Names are fixed in ``docs/http-api.md``; units are base units.

The processes of one daemon count in one table, so that whichever of them is asked tells the sums of all.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Gauge, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from monitor.clock import monotonic_s
from monitor.liveness import EventKind, Liveness
from monitor.metrics.gauges import ConditionGauges
from monitor.metrics.shared_memory import Table
from monitor.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from monitor.workers import Moved

DETECTION_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
EVIDENCE_OUTCOMES: Final = ("recorded", "dropped")
STALLED_AFTER_S: Final = 5.0
"""A process that has said nothing of itself for so long is stuck."""


class BeatOutcome(StrEnum):
    """What became of a heartbeat request."""

    STORED = "stored"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    """An error of ours, or a client that went away in the middle of its body."""


class PingOutcome(StrEnum):
    """What became of an outgoing heartbeat that was due."""

    SENT = "sent"
    FAILED = "failed"
    """No 2xx came back."""
    WITHHELD = "withheld"
    """A reason stood in its way; once for each interval."""


class Limit(StrEnum):
    """What a request was refused for; all limits of what tenants or clients share or may use."""

    WORKER_RATE = "worker_rate"
    TENANT_RATE = "tenant_rate"
    PENDING_BEATS = "pending_beats"
    BODY_BYTES = "body_bytes"
    BATCH_BYTES = "batch_bytes"
    BATCH_PLACES = "batch_places"
    READERS = "readers"
    ANSWER_BYTES = "answer_bytes"
    BAD_REQUEST = "bad_request"
    """No HTTP/1.1 that can be read in one way only."""
    HEAD = "head"
    """Too large, or not whole in time."""
    UNFINISHED = "unfinished"
    """Closed: there were too many requests that were not whole."""
    CONNECTIONS = "connections"
    """Closed for another, or not let in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """What a process says of itself, several times a second. Durations in seconds."""

    at_s: float
    """When, by ``monotonic_s``, which all processes of one machine share."""
    ready: bool
    probe_s: float
    """How long the store took for the last probe; NaN before the first."""
    loop_lag_s: float
    """The longest that the event loop was held up lately."""
    reasons: Iterable[str]
    """Why the monitor is degraded, as far as this process has found out itself."""


class Slots:
    """Where in a row each number stands; the same in every process, since all have the same configuration.

    ``deliveries`` are the receivers and the outcomes that attempts at them may have, ``failures`` the causes.
    """

    def __init__(self, deliveries: Iterable[tuple[str, str]] = (), failures: Iterable[tuple[str, str]] = ()) -> None:
        free = itertools.count()
        self.pid: Final = next(free)
        self.restarts: Final = next(free)
        self.beats: Final = {outcome: next(free) for outcome in BeatOutcome}
        self.moves: Final = {kind: next(free) for kind in EventKind}
        self.detections: Final = [next(free) for _ in (*DETECTION_BUCKETS_S, math.inf)]
        self.detection_sum_s: Final = next(free)
        self.evidence: Final = {outcome: next(free) for outcome in EVIDENCE_OUTCOMES}
        self.limits: Final = {limit: next(free) for limit in Limit}
        self.deliveries: Final = {delivery: next(free) for delivery in deliveries}
        self.failures: Final = {failure: next(free) for failure in failures}
        self.pings: Final = {outcome: next(free) for outcome in PingOutcome}
        self.at_s: Final = next(free)
        self.ready: Final = next(free)
        self.probe_s: Final = next(free)
        self.loop_lag_s: Final = next(free)
        self.reasons: Final = {reason: next(free) for reason in Reason}
        self.count: Final = next(free)


class ProcessTable:
    """Which processes there are, as their supervisor knows it. Processes are counted from 1."""

    def __init__(self, table: Table, slots: Slots) -> None:
        self._table, self._slots = table, slots

    def started(self, process: int, pid: int) -> None:
        """It runs, under this process id."""
        self._table.rows[process - 1][self._slots.pid] = pid

    def ended(self, process: int) -> None:
        """It has ended unasked; its id may be anybody's from now on."""
        row = self._table.rows[process - 1]
        row[self._slots.pid] = 0
        row[self._slots.restarts] += 1
        # What it said of itself went with it.
        slots = self._slots
        for slot in (slots.at_s, slots.ready, slots.probe_s, slots.loop_lag_s, *slots.reasons.values()):
            row[slot] = 0

    @property
    def pids(self) -> dict[int, int]:
        """The process id of each that runs."""
        pids = {process: int(row[self._slots.pid]) for process, row in enumerate(self._table.rows, 1)}
        return {process: pid for process, pid in pids.items() if pid}

    @property
    def restarts(self) -> int:
        """How often one was started again."""
        return int(self._table.total(self._slots.restarts))

    def reasons(self) -> list[str]:
        """Why the monitor is degraded."""
        return [Reason.PROCESS_DOWN] if len(self.pids) < len(self._table.rows) else []

    def reasons_of_others(self, own: int, *, now_s: float) -> list[str]:
        """What is wrong with the other processes than ``own``, at ``now_s`` by ``monotonic_s``.

        That one has been silent for ``STALLED_AFTER_S``, which it can't say itself; and else what it says.
        """
        found: dict[str, None] = {}
        for process in self.pids:
            row = self._table.rows[process - 1]
            if process == own or not row[self._slots.at_s]:
                continue
            if now_s - row[self._slots.at_s] > STALLED_AFTER_S:
                found[Reason.PROCESS_STALLED] = None
            found.update({reason: None for reason, slot in self._slots.reasons.items() if row[slot]})
        return list(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One process's part in what several count together: the descriptor of the table, and whose row is whose."""

    fd: int
    processes: int
    process: int
    supervisor_pid: int


class Metrics:
    """One registry of its own and small methods to feed it. Not for several threads at once while it is read.

    ``deliveries`` are the receivers and the outcomes that ``delivery`` may be told of, ``failures`` why.
    Without a ``share`` this process is the only one.
    """

    def __init__(
        self,
        *,
        version: str,
        deliveries: Iterable[tuple[str, str]] = (),
        failures: Iterable[tuple[str, str]] = (),
        share: Share | None = None,
    ) -> None:
        self._slots = slots = Slots(deliveries, failures)
        if share is None:
            self._table = Table(slots=slots.count)
        else:
            self._table = Table(slots=slots.count, rows=share.processes, fd=share.fd)
        self._process = 1 if share is None else share.process
        self._row = self._table.rows[self._process - 1]
        self._beats = slots.beats
        self.processes: Final = ProcessTable(self._table, slots)
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self._workers = Gauge("lastseen_workers", "Workers by liveness.", ["liveness"], registry=self.registry)
        self._sweep_lag = Gauge("lastseen_sweep_lag_seconds", "Age of the last full sweep.", registry=self.registry)
        self._sweep_lag.set(math.inf)
        self._degraded = Gauge(
            "lastseen_degraded", "Whether the monitor is degraded for this reason.", ["reason"], registry=self.registry
        )
        self.degraded(())
        self.condition: Final = ConditionGauges(self.registry)
        info = Gauge("lastseen_build_info", "Always 1; the running version.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self._blind = _Blind()
        self.registry.register(self._blind)
        self.registry.register(_Counted(self._table, slots, self.processes))
        if share is None:
            self.processes.started(1, os.getpid())
            ProcessCollector(registry=self.registry)
        else:
            self.registry.register(_Processes(self.processes, share.supervisor_pid))

    def beat(self, outcome: BeatOutcome) -> None:
        """One heartbeat request was answered."""
        self._row[self._beats[outcome]] += 1.0

    def beats(self, outcome: BeatOutcome, count: int) -> None:
        """So many beats had this outcome."""
        self._row[self._beats[outcome]] += count

    def moved(self, moved: Sequence[Moved]) -> None:
        """A call to the store committed these events; for each death, how late it was noticed is observed."""
        row, slots = self._row, self._slots
        for move in moved:
            row[slots.moves[move.kind]] += 1.0
            if move.kind is EventKind.STALE:
                late_s = max(move.detected_ms - move.due_ms, 0) / 1000
                row[slots.detections[bisect_left(DETECTION_BUCKETS_S, late_s)]] += 1.0
                row[slots.detection_sum_s] += late_s

    def blind(self, windows: int, blind_ms: int) -> None:
        """How many blind windows the store has seen in all, whoever ended them, and how long they were."""
        self._blind.windows, self._blind.ms = windows, blind_ms

    def evidence(self, *, recorded: int = 0, dropped: int = 0) -> None:
        """So many refused beats were recorded as evidence of life, and so many could not be."""
        for outcome, count in zip(EVIDENCE_OUTCOMES, (recorded, dropped), strict=True):
            self._row[self._slots.evidence[outcome]] += count

    def limit(self, limit: Limit) -> None:
        """A request was refused because of this limit."""
        self._row[self._slots.limits[limit]] += 1.0

    def delivery(self, receiver: str, outcome: str, cause: str) -> None:
        """One attempt at a receiver ended; ``cause`` is why it failed, if it did."""
        self._row[self._slots.deliveries[receiver, outcome]] += 1.0
        if cause:
            self._row[self._slots.failures[receiver, cause]] += 1.0

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
        for reason in Reason:
            self._degraded.labels(reason.value).set(0)
        for one in reasons:
            self._degraded.labels(str(one)).set(1)

    def ping(self, outcome: PingOutcome) -> None:
        """An outgoing heartbeat was due."""
        self._row[self._slots.pings[outcome]] += 1.0

    def signs(self, signs: Signs) -> None:
        """Have this process say of itself how it is."""
        row, slots, reasons = self._row, self._slots, frozenset(signs.reasons)
        row[slots.ready] = signs.ready
        row[slots.probe_s] = signs.probe_s
        row[slots.loop_lag_s] = signs.loop_lag_s
        for reason, slot in slots.reasons.items():
            row[slot] = reason in reasons
        row[slots.at_s] = signs.at_s

    def reasons_of_others(self) -> list[str]:
        """As ``ProcessTable.reasons_of_others``, now."""
        return self.processes.reasons_of_others(self._process, now_s=monotonic_s())

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text of all metrics in the format that ``accept`` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Counted:
    """The sums of the table, as the registry wants them."""

    def __init__(self, table: Table, slots: Slots, processes: ProcessTable) -> None:
        self._table, self._slots, self._processes = table, slots, processes

    def collect(self) -> Iterator[Metric]:
        total, slots = self._table.total, self._slots
        counter = self._counter
        yield counter("beats", "Heartbeat requests by outcome.", ["outcome"], slots.beats.items())
        yield counter("transitions", "Recorded events by type.", ["event"], slots.moves.items())
        bounds = [*map(str, DETECTION_BUCKETS_S), "+Inf"]
        counts = itertools.accumulate(total(slot) for slot in slots.detections)
        yield HistogramMetricFamily(
            "lastseen_sweep_detection_seconds",
            "From a worker's effective deadline to the committed transition to stale.",
            buckets=list(zip(bounds, counts, strict=True)),
            sum_value=total(slots.detection_sum_s),
        )
        yield counter("evidence", "Refused beats as evidence of life, by outcome.", ["outcome"], slots.evidence.items())
        yield counter("limits_met", "Refused requests by the limit they met.", ["limit"], slots.limits.items())
        text = "Delivery attempts by receiver and outcome."
        yield counter("deliveries", text, ["receiver", "outcome"], slots.deliveries.items())
        text = "Delivery attempts that failed, by cause."
        yield counter("delivery_failures", text, ["receiver", "cause"], slots.failures.items())
        yield counter(
            "watchdog_pings", "Outgoing heartbeats that were due, by outcome.", ["outcome"], slots.pings.items()
        )
        yield from self._signs()
        yield GaugeMetricFamily("lastseen_processes", "Processes that run.", value=len(self._processes.pids))
        yield CounterMetricFamily(
            "lastseen_process_restarts",
            "How often a process that ended unasked was started again.",
            value=self._processes.restarts,
        )

    def _counter(
        self, name: str, text: str, labels: Sequence[str], slots: Iterable[tuple[str | tuple[str, str], int]]
    ) -> Metric:
        found = CounterMetricFamily(f"lastseen_{name}", text, labels=labels)
        for label, slot in slots:
            found.add_metric([str(label)] if isinstance(label, str) else label, self._table.total(slot))
        return found

    def _signs(self) -> Iterator[Metric]:
        """What the processes say of themselves: of several, the worst."""
        rows, slots = self._table.rows, self._slots
        yield GaugeMetricFamily(
            "lastseen_ready",
            "Whether every process stores beats, as /readyz says.",
            value=min(row[slots.ready] for row in rows),
        )
        for name, documentation, slot in (
            ("store_probe", "How long the store took for the last probe's write, or to fail.", slots.probe_s),
            ("event_loop_lag", "The longest that an event loop was held up in the last 10 s.", slots.loop_lag_s),
        ):
            worst = max((row[slot] for row in rows if not math.isnan(row[slot])), default=math.nan)
            yield GaugeMetricFamily(f"lastseen_{name}_seconds", documentation, value=worst)


class _Blind:
    """What the store has counted, and each process is told: the same in all of them."""

    def __init__(self) -> None:
        self.windows = self.ms = 0

    def collect(self) -> Iterator[Metric]:
        text = "Spans in which no beat could be accepted, of all daemons on this store."
        yield CounterMetricFamily("lastseen_blind_windows", text, value=self.windows)
        yield CounterMetricFamily("lastseen_blind_seconds", "Total length of those spans.", value=self.ms / 1_000)


class _Processes:
    """What each process uses, under the usual names, with a label that says which one it is."""

    def __init__(self, processes: ProcessTable, supervisor_pid: int) -> None:
        self._processes, self._supervisor_pid = processes, supervisor_pid

    def collect(self) -> Iterator[Metric]:
        pids = {"supervisor": self._supervisor_pid}
        pids |= {str(process): pid for process, pid in self._processes.pids.items()}
        families: dict[str, Metric] = {}
        for process, pid in pids.items():
            collector = ProcessCollector(pid=functools.partial(int, pid), registry=None)
            for family in collector.collect():
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    merged.add_sample(sample.name, {"process": process}, sample.value)
        yield from families.values()
