"""Lastseen's own metrics, for Prometheus. Names are fixed in ``docs/http-api.md``; units are base units.

The processes of one daemon count in one table, so that any of them can answer with the totals of all.
"""

import functools
import itertools
import math
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from monitor.clock import monotonic_s
from monitor.events import Moved
from monitor.liveness import EventKind, Liveness
from monitor.metrics.gauges import ConditionGauges
from monitor.metrics.shared_memory import Table
from monitor.reasons import Reason

DETECTION_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)
EVIDENCE_OUTCOMES: Final = ("recorded", "dropped")
STALLED_AFTER_S: Final = 5.0
"""A process without a status update for this long is stalled."""


class BeatOutcome(StrEnum):
    """The outcome of a heartbeat request."""

    STORED = "stored"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    QUOTA = "quota"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    """An internal error, or a client that went away while it sent its body."""


class PingOutcome(StrEnum):
    """The outcome of an outgoing heartbeat that was due."""

    SENT = "sent"
    FAILED = "failed"
    """No 2xx answer."""
    WITHHELD = "withheld"
    """Withheld for a reason; counted once per interval."""


class Limit(StrEnum):
    """The limit that refused a request; all limits on resources that tenants or clients share or use."""

    WORKER_RATE = "worker_rate"
    TENANT_RATE = "tenant_rate"
    PENDING_BEATS = "pending_beats"
    BODY_BYTES = "body_bytes"
    BATCH_BYTES = "batch_bytes"
    BATCH_PLACES = "batch_places"
    READERS = "readers"
    ANSWER_BYTES = "answer_bytes"
    BAD_REQUEST = "bad_request"
    """Not HTTP/1.1, or ambiguous."""
    HEAD = "head"
    """The request head was too large, or incomplete at the timeout."""
    UNFINISHED = "unfinished"
    """Closed: too many incomplete requests."""
    CONNECTIONS = "connections"
    """Closed to make room for another connection, or not accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryLabels:
    """The receivers, and for each the outcomes of attempts, causes of failures and decisions that may be counted."""

    receivers: Collection[str] = ()
    outcomes: Collection[str] = ()
    causes: Collection[str] = ()
    decisions: Collection[str] = ()


_NO_LABELS: Final = DeliveryLabels()


class Slots:
    """The position of each number in a row; the same in every process, since all have the same configuration."""

    def __init__(self, labels: DeliveryLabels = _NO_LABELS) -> None:
        free = itertools.count()
        self.pid: Final = next(free)
        self.restarts: Final = next(free)
        self.beats: Final = {outcome: next(free) for outcome in BeatOutcome}
        self.moves: Final = {kind: next(free) for kind in EventKind}
        self.detections: Final = [next(free) for _ in (*DETECTION_BUCKETS_S, math.inf)]
        self.detection_sum_s: Final = next(free)
        self.evidence: Final = {outcome: next(free) for outcome in EVIDENCE_OUTCOMES}
        self.limits: Final = {limit: next(free) for limit in Limit}
        self.deliveries: Final = {one: next(free) for one in itertools.product(labels.receivers, labels.outcomes)}
        self.failures: Final = {one: next(free) for one in itertools.product(labels.receivers, labels.causes)}
        self.decisions: Final = {one: next(free) for one in itertools.product(labels.receivers, labels.decisions)}
        self.pings: Final = {outcome: next(free) for outcome in PingOutcome}
        self.at_s: Final = next(free)
        self.ready: Final = next(free)
        self.probe_s: Final = next(free)
        self.loop_lag_s: Final = next(free)
        self.reasons: Final = {reason: next(free) for reason in Reason}
        self.count: Final = next(free)


class ProcessTable:
    """The running processes, as their supervisor knows them. Processes are counted from 1."""

    def __init__(self, table: Table, slots: Slots) -> None:
        self._table, self._slots = table, slots

    def started(self, process: int, pid: int) -> None:
        """Note that a process runs under this process ID."""
        self._table.rows[process - 1][self._slots.pid] = pid

    def ended(self, process: int) -> None:
        """Note that a process has ended unasked; the system may reuse its ID from now on."""
        row = self._table.rows[process - 1]
        row[self._slots.pid] = 0
        row[self._slots.restarts] += 1
        # Its report of its own state is void too.
        slots = self._slots
        for slot in (slots.at_s, slots.ready, slots.probe_s, slots.loop_lag_s, *slots.reasons.values()):
            row[slot] = 0

    @property
    def pids(self) -> dict[int, int]:
        """Return the process ID of each running process."""
        pids = {process: int(row[self._slots.pid]) for process, row in enumerate(self._table.rows, 1)}
        return {process: pid for process, pid in pids.items() if pid}

    def reasons(self) -> list[str]:
        """Return why the monitor is degraded."""
        return [Reason.PROCESS_DOWN] if len(self.pids) < len(self._table.rows) else []

    def reasons_of_others(self, own: int, *, now_s: float) -> list[str]:
        """Return the reasons of the processes other than ``own``, at ``now_s`` by ``monotonic_s``.

        A process that was silent for ``STALLED_AFTER_S`` is stalled; the other reasons are from its own report.
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
    """One process's part in the shared table: its descriptor, and the row of each process."""

    fd: int
    processes: int
    process: int
    supervisor_pid: int


class Metrics:
    """One registry and small methods to feed it. Not thread-safe while it is read.

    ``labels``: what ``delivery`` and ``decision`` may be given. Without a ``share`` this process is the only one.
    """

    def __init__(self, *, version: str, labels: DeliveryLabels = _NO_LABELS, share: Share | None = None) -> None:
        self._slots = slots = Slots(labels)
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
        self._counted = _Counted(self._table, slots, self.processes)
        self.registry.register(self._counted)
        if share is None:
            self.processes.started(1, os.getpid())
            ProcessCollector(registry=self.registry)
        else:
            self.registry.register(_Processes(self.processes, share.supervisor_pid))

    def beat(self, outcome: BeatOutcome, count: float = 1.0) -> None:
        """Count answered heartbeat requests, or the beats of a batch."""
        self._row[self._beats[outcome]] += count

    def moved(self, moved: Sequence[Moved]) -> None:
        """Count committed events; for each death, observe how late it was detected."""
        row, slots = self._row, self._slots
        for move in moved:
            row[slots.moves[move.kind]] += 1.0
            if move.kind is EventKind.STALE:
                late_s = max(move.detected_ms - move.due_ms, 0) / 1000
                row[slots.detections[bisect_left(DETECTION_BUCKETS_S, late_s)]] += 1.0
                row[slots.detection_sum_s] += late_s

    def blind(self, windows: int, blind_ms: int) -> None:
        """Set the number and total length of blind windows on this store, of all daemons."""
        self._counted.blind_windows, self._counted.blind_ms = windows, blind_ms

    def evidence(self, *, recorded: int = 0, dropped: int = 0) -> None:
        """Count refused beats that were recorded as evidence of life, and those that were dropped."""
        for outcome, count in zip(EVIDENCE_OUTCOMES, (recorded, dropped), strict=True):
            self._row[self._slots.evidence[outcome]] += count

    def limit(self, limit: Limit) -> None:
        """Count a request that this limit refused."""
        self._row[self._slots.limits[limit]] += 1.0

    def delivery(self, receiver: str, outcome: str, cause: str) -> None:
        """Count a finished delivery attempt; ``cause`` is why it failed, or empty."""
        self._row[self._slots.deliveries[receiver, outcome]] += 1.0
        if cause:
            self._row[self._slots.failures[receiver, cause]] += 1.0

    def decision(self, receiver: str, decision: str) -> None:
        """Count a decision about a group of alerts: why it notifies now, or why it does not."""
        self._row[self._slots.decisions[receiver, decision]] += 1.0

    def fleet(self, counts: Mapping[Liveness, int] | None, *, sweep_lag_s: float) -> None:
        """Set the workers by liveness (None: not known now) and the age of the last full sweep (inf: none yet)."""
        if counts is None:
            self._workers.clear()
        else:
            for liveness in Liveness:
                self._workers.labels(liveness.value).set(counts.get(liveness, 0))
        self._sweep_lag.set(sweep_lag_s)

    def degraded(self, reasons: Iterable[str]) -> None:
        """Set the present reasons; all others are cleared."""
        self._degraded.clear()
        for reason in Reason:
            self._degraded.labels(reason.value).set(0)
        for one in reasons:
            self._degraded.labels(str(one)).set(1)

    def ping(self, outcome: PingOutcome) -> None:
        """Count an outgoing heartbeat that was due."""
        self._row[self._slots.pings[outcome]] += 1.0

    def signs(self, *, at_s: float, ready: bool, probe_s: float, loop_lag_s: float, reasons: Iterable[str]) -> None:
        """Write this process's report of its own state, several times a second. Durations in seconds.

        ``at_s``: time of the report by ``monotonic_s``, which all processes of one machine share. ``probe_s``: duration
        of the last probe; NaN before the first. ``loop_lag_s``: the longest recent block of the event loop.
        ``reasons``: the reasons for being degraded that this process has found itself.
        """
        row, slots, found = self._row, self._slots, frozenset(reasons)
        row[slots.ready] = ready
        row[slots.probe_s] = probe_s
        row[slots.loop_lag_s] = loop_lag_s
        for reason, slot in slots.reasons.items():
            row[slot] = reason in found
        row[slots.at_s] = at_s

    def reasons_of_others(self) -> list[str]:
        """Return ``ProcessTable.reasons_of_others`` for now."""
        return self.processes.reasons_of_others(self._process, now_s=monotonic_s())

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the text of all metrics in the format that ``accept`` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Counted:
    """The totals of the table and the blind windows, as a Prometheus collector."""

    def __init__(self, table: Table, slots: Slots, processes: ProcessTable) -> None:
        self._table, self._slots, self._processes = table, slots, processes
        self.blind_windows = self.blind_ms = 0
        """From the store: the same in every process."""

    def collect(self) -> Iterator[Metric]:
        total, slots = self._table.total, self._slots
        text = "Spans in which no beat could be accepted, of all daemons on this store."
        yield CounterMetricFamily("lastseen_blind_windows", text, value=self.blind_windows)
        text = "Total length of those spans."
        yield CounterMetricFamily("lastseen_blind_seconds", text, value=self.blind_ms / 1_000)
        bounds = [*map(str, DETECTION_BUCKETS_S), "+Inf"]
        counts = itertools.accumulate(total(slot) for slot in slots.detections)
        yield HistogramMetricFamily(
            "lastseen_sweep_detection_seconds",
            "From a worker's effective deadline to the committed transition to stale.",
            buckets=list(zip(bounds, counts, strict=True)),
            sum_value=total(slots.detection_sum_s),
        )
        # Name, documentation, labels, and the slot of each combination of labels.
        families: tuple[tuple[str, str, list[str], Mapping[Any, int]], ...] = (
            ("beats", "Heartbeat requests by outcome.", ["outcome"], slots.beats),
            ("transitions", "Recorded events by type.", ["event"], slots.moves),
            ("evidence", "Refused beats as evidence of life, by outcome.", ["outcome"], slots.evidence),
            ("limits_met", "Refused requests by the limit they met.", ["limit"], slots.limits),
            ("deliveries", "Delivery attempts by receiver and outcome.", ["receiver", "outcome"], slots.deliveries),
            ("delivery_failures", "Delivery attempts that failed, by cause.", ["receiver", "cause"], slots.failures),
            (
                "delivery_decisions",
                "Decisions whether to notify, by receiver and reason.",
                ["receiver", "decision"],
                slots.decisions,
            ),
            ("watchdog_pings", "Outgoing heartbeats that were due, by outcome.", ["outcome"], slots.pings),
        )
        for name, text, labels, slot_of in families:
            family = CounterMetricFamily(f"lastseen_{name}", text, labels=labels)
            for label, slot in slot_of.items():
                family.add_metric([str(label)] if isinstance(label, str) else label, total(slot))
            yield family
        yield from self._signs()
        yield GaugeMetricFamily("lastseen_processes", "Processes that run.", value=len(self._processes.pids))
        text = "How often a process that ended unasked was started again."
        yield CounterMetricFamily("lastseen_process_restarts", text, value=total(slots.restarts))

    def _signs(self) -> Iterator[Metric]:
        """Yield the reports of the processes: of several, the worst value."""
        rows, slots = self._table.rows, self._slots
        yield GaugeMetricFamily(
            "lastseen_ready",
            "Whether every process stores beats, as /readyz says.",
            value=min(row[slots.ready] for row in rows),
        )
        for name, documentation, slot in (
            ("store_probe", "How long the store took for the last probe's write, or to fail.", slots.probe_s),
            ("event_loop_lag", "The longest block of an event loop in the last 10 s.", slots.loop_lag_s),
        ):
            worst = max((row[slot] for row in rows if not math.isnan(row[slot])), default=math.nan)
            yield GaugeMetricFamily(f"lastseen_{name}_seconds", documentation, value=worst)


class _Processes:
    """Resource usage of each process, under the usual names, with a label for the process."""

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
