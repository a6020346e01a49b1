"""What is counted: by one process, by several that share a table, and what a scrape makes of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitor.clock import monotonic_s
from monitor.events import Moved
from monitor.liveness import EventKind
from monitor.metrics.registry import (
    DETECTION_BUCKETS_S,
    BeatOutcome,
    DeliveryLabels,
    Metrics,
    PingOutcome,
    ProcessTable,
    Share,
    Slots,
)
from monitor.metrics.shared_memory import Table, shared_memory
from monitor.reasons import Reason

LABELS = DeliveryLabels(
    receivers=("ops", "log"), outcomes=("delivered", "failed"), causes=("timeout",), decisions=("first", "silenced")
)
PROCESSES = 3


def moved(kind: EventKind, *, late_ms: int = 0) -> Moved:
    return Moved(
        tenant="acme",
        worker_id="w",
        environment_name="prod",
        generation=1,
        seq=1,
        kind=kind,
        reason="",
        due_ms=1_000_000,
        detected_ms=1_000_000 + late_ms,
        last_seen_ms=900_000,
    )


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample of a scrape, as a line of the exposition names it."""
    text = metrics.exposition("")[0].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for sample in samples
    }


@pytest.fixture
def counters() -> Iterator[int]:
    """The memory that the processes of a test share."""
    fd = shared_memory(slots=Slots(LABELS).count, rows=PROCESSES)
    yield fd
    os.close(fd)


def of_process(counters: int, process: int) -> Metrics:
    share = Share(fd=counters, processes=PROCESSES, process=process, supervisor_pid=os.getpid())
    return Metrics(version="test", labels=LABELS, share=share)


COUNT_AND_DIE = f"""
import os, signal, sys
from monitor.metrics.registry import DeliveryLabels, BeatOutcome, Metrics, Share
share = Share(fd=int(sys.argv[1]), processes={PROCESSES}, process=2, supervisor_pid=os.getppid())
metrics = Metrics(version="test", labels={LABELS!r}, share=share)
for _ in range(1_000):
    metrics.beat(BeatOutcome.STORED)
os.kill(os.getpid(), signal.SIGKILL)
"""


# One process --------------------------------------------------------------------------------------------------------


def test_every_series_that_can_be_known_is_there_from_the_start_at_0() -> None:
    shown = values(Metrics(version="test", labels=LABELS))
    for outcome in BeatOutcome:
        assert shown[f"lastseen_beats_total,outcome={outcome.value}"] == 0
    for receiver, decision in product(LABELS.receivers, LABELS.decisions):
        assert shown[f"lastseen_delivery_decisions_total,decision={decision},receiver={receiver}"] == 0
    for kind in EventKind:
        assert shown[f"lastseen_transitions_total,event={kind.value}"] == 0
    for receiver, ended in product(LABELS.receivers, LABELS.outcomes):
        assert shown[f"lastseen_deliveries_total,outcome={ended},receiver={receiver}"] == 0
    assert shown["lastseen_sweep_detection_seconds_count"] == 0


def test_beats_count_by_outcome_one_by_one_and_many_at_once() -> None:
    metrics = Metrics(version="test")
    metrics.beat(BeatOutcome.STORED)
    metrics.beat(BeatOutcome.STORED, 10_000)
    metrics.beat(BeatOutcome.INVALID)
    shown = values(metrics)
    assert shown["lastseen_beats_total,outcome=stored"] == 10_001
    assert shown["lastseen_beats_total,outcome=invalid"] == 1
    assert shown["lastseen_beats_total,outcome=quota"] == 0


def test_detection_is_a_histogram_of_seconds_whose_bounds_are_inclusive() -> None:
    metrics = Metrics(version="test")
    lates_ms = [-5, 50, 51, 999, 1_000, 300_000, 300_001]
    metrics.moved([moved(EventKind.STALE, late_ms=late_ms) for late_ms in lates_ms])
    metrics.moved([moved(EventKind.RECOVERED, late_ms=1)])
    shown = values(metrics)
    for bound_s in DETECTION_BUCKETS_S:
        expected = sum(late_ms <= bound_s * 1_000 for late_ms in lates_ms)
        assert shown[f"lastseen_sweep_detection_seconds_bucket,le={bound_s}"] == expected
    assert shown["lastseen_sweep_detection_seconds_bucket,le=+Inf"] == len(lates_ms)
    assert shown["lastseen_sweep_detection_seconds_count"] == len(lates_ms)
    assert shown["lastseen_sweep_detection_seconds_sum"] == pytest.approx(sum(max(ms, 0) for ms in lates_ms) / 1_000)
    assert shown["lastseen_transitions_total,event=worker.stale"] == len(lates_ms)
    assert shown["lastseen_transitions_total,event=worker.recovered"] == 1


def test_an_outcome_that_was_not_named_is_refused_and_not_counted_as_another() -> None:
    metrics = Metrics(version="test", labels=LABELS)
    with pytest.raises(KeyError):
        metrics.delivery("ops", "misdelivered", "")


def test_decisions_whether_to_notify_are_counted_by_receiver_and_reason() -> None:
    metrics = Metrics(version="test", labels=LABELS)
    for decision in ("silenced", "first", "silenced"):
        metrics.decision("ops", decision)
    shown = values(metrics)
    assert shown["lastseen_delivery_decisions_total,decision=silenced,receiver=ops"] == 2
    assert shown["lastseen_delivery_decisions_total,decision=first,receiver=ops"] == 1
    assert shown["lastseen_delivery_decisions_total,decision=silenced,receiver=log"] == 0


def test_one_process_has_the_usual_process_metrics_without_a_label() -> None:
    shown = values(Metrics(version="test"))
    assert shown["process_cpu_seconds_total"] > 0
    assert shown["lastseen_processes"] == 1


# Several processes --------------------------------------------------------------------------------------------------


def test_whichever_process_is_asked_shows_the_sums_of_all(counters: int) -> None:
    all_of_them = [of_process(counters, process) for process in range(1, PROCESSES + 1)]
    for number, metrics in enumerate(all_of_them, 1):
        metrics.beat(BeatOutcome.STORED, 10**number)
        metrics.delivery("log", "delivered", "")
        metrics.moved([moved(EventKind.STALE, late_ms=100 * number)])
    for metrics in all_of_them:
        shown = values(metrics)
        assert shown["lastseen_beats_total,outcome=stored"] == 1_110
        assert shown["lastseen_deliveries_total,outcome=delivered,receiver=log"] == 3
        assert shown["lastseen_deliveries_total,outcome=delivered,receiver=ops"] == 0
        assert shown["lastseen_transitions_total,event=worker.stale"] == 3
        assert shown["lastseen_sweep_detection_seconds_count"] == 3
        assert shown["lastseen_sweep_detection_seconds_sum"] == pytest.approx(0.6)


def test_what_a_killed_process_has_counted_stays_and_its_successor_adds_to_it(counters: int) -> None:
    other = of_process(counters, 1)
    killed = subprocess.run([sys.executable, "-c", COUNT_AND_DIE, str(counters)], pass_fds=[counters], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert values(other)["lastseen_beats_total,outcome=stored"] == 1_000
    successor = of_process(counters, 2)
    successor.beat(BeatOutcome.STORED)
    assert values(other)["lastseen_beats_total,outcome=stored"] == 1_001


def test_a_process_that_is_down_is_a_reason_until_it_is_up_again_and_counts_as_a_restart(counters: int) -> None:
    slots = Slots(LABELS)
    supervisor = ProcessTable(Table(slots=slots.count, rows=PROCESSES, fd=counters), slots)
    seen = of_process(counters, 1)
    for process in range(1, PROCESSES + 1):
        assert seen.processes.reasons() == ["process_down"]
        supervisor.started(process, os.getpid())
    assert seen.processes.reasons() == []
    supervisor.ended(2)
    assert seen.processes.reasons() == ["process_down"]
    shown = values(seen)
    assert (shown["lastseen_processes"], shown["lastseen_process_restarts_total"]) == (2, 1)
    supervisor.started(2, os.getppid())
    assert seen.processes.reasons() == []
    assert values(seen)["lastseen_processes"] == 3


def test_process_metrics_are_shown_for_each_process_that_runs_and_for_the_supervisor(counters: int) -> None:
    slots = Slots(LABELS)
    supervisor = ProcessTable(Table(slots=slots.count, rows=PROCESSES, fd=counters), slots)
    supervisor.started(1, os.getpid())
    supervisor.started(3, os.getppid())
    shown = values(of_process(counters, 1))
    labels = [name.partition(",process=")[2] for name in shown if name.startswith("process_resident_memory_bytes")]
    assert labels == ["supervisor", "1", "3"]
    assert shown["process_resident_memory_bytes,process=1"] > 0


def signs(at_s: float, *reasons: str, **changes: float) -> dict[str, Any]:
    return {"at_s": at_s, "ready": True, "probe_s": 0.1, "loop_lag_s": 0.2, "reasons": reasons, **changes}


def test_p27_a_process_names_what_the_others_say_of_themselves_and_not_its_own_words_again(counters: int) -> None:
    first, second, third = (of_process(counters, process) for process in range(1, PROCESSES + 1))
    for process in range(1, PROCESSES + 1):
        first.processes.started(process, os.getpid())
    first.signs(**signs(monotonic_s()))
    second.signs(**signs(monotonic_s(), Reason.ROUTING_LAG, Reason.EVENT_LOOP_LAG, loop_lag_s=3))
    third.signs(**signs(monotonic_s(), "a reason that no other process knows of", ready=False, probe_s=2))
    assert first.reasons_of_others() == ["routing_lag", "event_loop_lag"]
    assert second.reasons_of_others() == []
    for metrics in (first, second, third):
        shown = values(metrics)
        assert shown["lastseen_ready"] == 0
        assert (shown["lastseen_event_loop_lag_seconds"], shown["lastseen_store_probe_seconds"]) == (3, 2)
    second.signs(**signs(monotonic_s()))
    third.signs(**signs(monotonic_s()))
    assert first.reasons_of_others() == []
    assert values(first)["lastseen_ready"] == 1


def test_p27_a_process_that_is_there_and_says_nothing_is_stalled_until_it_goes_on_or_is_replaced(counters: int) -> None:
    first, second = of_process(counters, 1), of_process(counters, 2)
    for process in range(1, PROCESSES + 1):
        first.processes.started(process, os.getpid())
        of_process(counters, process).signs(**signs(monotonic_s()))
    assert first.reasons_of_others() == []
    assert first.processes.reasons_of_others(1, now_s=monotonic_s() + 4) == []
    second.signs(**signs(monotonic_s() - 5.1))
    assert first.reasons_of_others() == ["process_stalled"]
    assert second.reasons_of_others() == []  # it turns, or it could not ask
    second.signs(**signs(monotonic_s()))
    assert first.reasons_of_others() == []
    second.signs(**signs(monotonic_s() - 6, Reason.ROUTING_LAG))
    first.processes.ended(2)
    assert first.processes.reasons() == ["process_down"]
    first.processes.started(2, os.getpid())
    assert first.reasons_of_others() == []  # it has not spoken yet


def test_pings_count_by_outcome() -> None:
    metrics = Metrics(version="test")
    metrics.ping(PingOutcome.SENT)
    shown = values(metrics)
    assert [shown[f"lastseen_watchdog_pings_total,outcome={outcome}"] for outcome in PingOutcome] == [1, 0, 0]
