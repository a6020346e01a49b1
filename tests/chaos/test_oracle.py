"""The oracle says nothing of a run that kept every promise, and names each one that a run broke."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos import oracle
from tests.chaos.record import Arrival, Entry, Fault, Loss, Outcome, Probe, Reading, Record, Said, Try, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

END_S: Final = 30.0
DIED_S: Final = 8.0
"""The last beat of ``dead``; its deadline is 3 s later."""
FAILED_S: Final = 10.0
LATENCY_S: Final = 0.01
EVERY: Final = frozenset({"worker.stale", "worker.failed", "worker.recovered", "worker.registered", "worker.stopped"})


def tries(worker: str, until_s: float, *, daemon: int = 0, interval_s: float = 1.0) -> list[Try]:
    """Beats that were stored, one each interval."""
    return [
        Try(
            worker=worker,
            said=Said.BEAT,
            count=number + 1,
            daemon=daemon,
            sent_s=number * interval_s,
            ended_s=number * interval_s + LATENCY_S,
            status=204,
        )
        for number in range(int(until_s / interval_s) + 1)
    ]


def entry(worker: str, seq: int, kind: str, at_s: float, *, old: str | None, new: str, count: int) -> Entry:
    return Entry(
        at_s=at_s + 0.2,
        event_id=f"{worker}-{seq}",
        kind=kind,
        worker=worker,
        generation=1,
        seq=seq,
        old=old,
        new=new,
        due_s=at_s,
        detected_s=at_s,
        count=count,
    )


def arrival(receiver: str, told: Entry, *, after_s: float = 0.1, answered: int | None = 204) -> Arrival:
    data = {
        "event_id": told.event_id,
        "worker_id": told.worker,
        "generation": told.generation,
        "seq": told.seq,
        "old": told.old,
    }
    return Arrival(
        receiver=receiver,
        at_s=told.detected_s + after_s,
        webhook_id=f"ntf-{receiver}-{told.event_id}",
        body=json.dumps({"type": told.kind, "data": data}).encode(),
        answered=answered,
        is_signed=True,
        age_s=0.1,
    )


def reading(worker: str, at_s: float, liveness: str, count: int) -> Reading:
    return Reading(worker=worker, daemon=0, asked_s=at_s, answered_s=at_s + LATENCY_S, liveness=liveness, count=count)


def probes(daemon: int, *, away: tuple[float, float] = (0.0, 0.0)) -> list[Probe]:
    """One each 100 ms; those of a span fail."""
    moments = [number / 10 for number in range(int(END_S * 10))]
    return [
        Probe(daemon=daemon, sent_s=at_s, ended_s=at_s + LATENCY_S, is_stored=not away[0] <= at_s < away[1])
        for at_s in moments
    ]


def good() -> Record:
    """A quiet run: ``well`` beats to the end, ``dead`` falls silent, ``fails`` says so and comes back."""
    record = Record(seed=0, daemons=2, sweep_s=0.5, durability="fsync", is_clock_stepped=False, is_settled=True)
    record.ended_s = END_S
    record.receivers = {"ops": EVERY - {"worker.registered", "worker.stopped"}, "audit": EVERY}
    for name in ("well", "dead", "fails"):
        record.workers[name] = Worker(name=name, interval_s=1.0, grace_s=2.0)
    failing = tries("fails", FAILED_S - 1)
    back = [
        replace(one, count=one.count + 1, sent_s=one.sent_s + 1, ended_s=one.ended_s + 1)
        for one in tries("fails", END_S - 1)
        if one.sent_s > FAILED_S
    ]
    goodbye = replace(failing[-1], said=Said.FAILURE, count=11, sent_s=FAILED_S, ended_s=FAILED_S + LATENCY_S)
    record.tries = [*tries("well", END_S), *tries("dead", DIED_S), *failing, goodbye, *back]
    record.probes = [*probes(0), *probes(1)]
    record.entries = [
        entry("well", 1, "worker.registered", 0.0, old=None, new="alive", count=1),
        entry("dead", 1, "worker.registered", 0.0, old=None, new="alive", count=1),
        entry("dead", 2, "worker.stale", 11.4, old="alive", new="stale", count=9),
        entry("fails", 1, "worker.registered", 0.0, old=None, new="alive", count=1),
        entry("fails", 2, "worker.failed", FAILED_S, old="alive", new="failed", count=10),
        entry("fails", 3, "worker.recovered", 12.0, old="failed", new="alive", count=13),
    ]
    record.final = [one.event_id for one in record.entries]
    for name, kinds in record.receivers.items():
        told = [one for one in record.entries if one.kind in kinds]
        record.arrivals += [arrival(name, one) for one in told]
        record.outcomes += [Outcome(event_id=one.event_id, receiver=name, outcome="delivered") for one in told]
    record.readings = [
        reading("well", 10.5, "alive", 11),
        reading("dead", 10.5, "late", 9),
        reading("dead", 12.0, "stale", 9),
        reading("fails", 11.0, "failed", 10),
    ]
    return record


def outage(record: Record, a_s: float, b_s: float) -> None:
    """Take all daemons away for that span: nothing was stored in it."""
    record.probes = [*probes(0, away=(a_s, b_s)), *probes(1, away=(a_s, b_s))]
    record.tries = [replace(one, status=None) if a_s <= one.sent_s < b_s else one for one in record.tries]
    record.faults.append(Fault(kind="daemons.kill", target=None, begun_s=a_s, ended_s=b_s))


def promises(record: Record) -> set[str]:
    return {violation.promise for violation in oracle.judge(record)}


def find(record: Record, event_id: str) -> int:
    return next(number for number, one in enumerate(record.entries) if one.event_id == event_id)


def add(record: Record, told: Entry, *, outcome: str = "delivered") -> None:
    """An event that everybody was told of."""
    record.entries.append(told)
    record.final.append(told.event_id)
    for name, kinds in record.receivers.items():
        if told.kind in kinds:
            record.arrivals.append(arrival(name, told))
            record.outcomes.append(Outcome(event_id=told.event_id, receiver=name, outcome=outcome))


def drop(record: Record, event_id: str) -> None:
    """Nobody knows of the event."""
    record.entries = [one for one in record.entries if one.event_id != event_id]
    record.final.remove(event_id)
    record.outcomes = [one for one in record.outcomes if one.event_id != event_id]
    record.arrivals = [one for one in record.arrivals if one.data["event_id"] != event_id]


def without_arrival(record: Record, receiver: str, event_id: str) -> None:
    record.arrivals = [one for one in record.arrivals if (one.receiver, one.data["event_id"]) != (receiver, event_id)]


def test_a_run_that_kept_every_promise_is_not_complained_of() -> None:
    assert [str(violation) for violation in oracle.judge(good())] == []


# What breaks a promise ----------------------------------------------------------------------------------------------


def false_page(record: Record) -> None:
    add(record, entry("well", 2, "worker.stale", 13.0, old="alive", new="stale", count=11))
    add(record, entry("well", 3, "worker.recovered", 13.1, old="stale", new="alive", count=12))


def page_for_our_own_outage(record: Record) -> None:
    outage(record, 12.5, 20.5)
    add(record, entry("well", 2, "worker.stale", 20.6, old="alive", new="stale", count=13))
    add(record, entry("well", 3, "worker.recovered", 21.0, old="stale", new="alive", count=22))


def page_after_a_goodbye(record: Record) -> None:
    last = record.tries[-1]
    record.tries.append(replace(last, said=Said.CLEAN, count=last.count + 1, sent_s=25.0, ended_s=25.1))
    record.tries = [one for one in record.tries if one.worker != "fails" or one.sent_s <= 25.0]
    add(record, entry("fails", 4, "worker.stale", 28.5, old="alive", new="stale", count=25))


def death_not_reported(record: Record) -> None:
    drop(record, "dead-2")
    record.readings = []


def death_reported_late(record: Record) -> None:
    record.entries[find(record, "dead-2")] = entry("dead", 2, "worker.stale", 17.0, old="alive", new="stale", count=9)


def death_in_our_outage_not_reported(record: Record) -> None:
    outage(record, 5.5, 9.5)
    death_not_reported(record)


def death_reported_twice(record: Record) -> None:
    add(record, entry("dead", 3, "worker.stale", 12.0, old="stale", new="stale", count=9))


def unknown_beat(record: Record) -> None:
    record.entries[find(record, "dead-2")] = replace(record.entries[2], count=77)


def gap_in_seq(record: Record) -> None:
    record.entries[find(record, "fails-3")] = replace(record.entries[5], seq=4)


def broken_chain(record: Record) -> None:
    record.entries[find(record, "fails-3")] = replace(record.entries[5], old="stale")


def event_twice_in_the_history(record: Record) -> None:
    record.final.append("dead-2")


def acknowledged_beat_not_shown(record: Record) -> None:
    record.readings.append(reading("well", 20.5, "alive", 19))


def acknowledged_goodbye_lost(record: Record) -> None:
    drop(record, "fails-3")
    drop(record, "fails-2")


def reads_stale_and_lives(record: Record) -> None:
    record.readings.append(reading("well", 20.5, "stale", 21))


def reads_alive_and_is_dead(record: Record) -> None:
    record.readings.append(reading("dead", 11.8, "late", 9))


def refused_for_nothing(record: Record) -> None:
    record.tries[5] = replace(record.tries[5], status=503)


def does_not_recover(record: Record) -> None:
    record.probes = [*probes(0, away=(5.0, 25.0)), *probes(1)]
    record.faults.append(Fault(kind="daemon.pause", target=0, begun_s=5.0, ended_s=6.0))


def bad_signature(record: Record) -> None:
    record.arrivals[0] = replace(record.arrivals[0], is_signed=False)


def signed_by_a_wrong_clock(record: Record) -> None:
    record.arrivals[0] = replace(record.arrivals[0], age_s=-600.0)


def outcome_missing(record: Record) -> None:
    record.outcomes = [one for one in record.outcomes if (one.receiver, one.event_id) != ("ops", "dead-2")]


def outcome_never_settled(record: Record) -> None:
    record.outcomes = [replace(one, outcome="queued") if one.event_id == "dead-2" else one for one in record.outcomes]


def said_to_be_delivered(record: Record) -> None:
    without_arrival(record, "audit", "well-1")


def said_to_be_superseded(record: Record) -> None:
    record.outcomes = [
        replace(one, outcome="superseded") if one.event_id == "dead-2" else one for one in record.outcomes
    ]


def never_told_of_a_dead_worker(record: Record) -> None:
    said_to_be_superseded(record)
    without_arrival(record, "ops", "dead-2")
    without_arrival(record, "audit", "dead-2")


def only_refused(record: Record) -> None:
    record.arrivals = [
        replace(one, answered=500) if one.data["event_id"] == "dead-2" else one for one in record.arrivals
    ]


def gone_from_the_history(record: Record) -> None:
    record.final.remove("well-1")
    without_arrival(record, "audit", "well-1")


def told_and_gone_from_the_history(record: Record) -> None:
    record.final.remove("well-1")


def told_and_never_recorded(record: Record) -> None:
    record.arrivals.append(arrival("audit", entry("well", 2, "worker.stopped", 9.0, old="alive", new="x", count=9)))


def another_body(record: Record) -> None:
    first = record.arrivals[0]
    record.arrivals.append(replace(first, at_s=first.at_s + 20, body=first.body + b" "))


def repeated_after_2xx(record: Record) -> None:
    record.arrivals.append(replace(record.arrivals[0], at_s=record.arrivals[0].at_s + 1))


def two_ids(record: Record) -> None:
    record.arrivals.append(replace(record.arrivals[0], at_s=record.arrivals[0].at_s + 1, webhook_id="other"))


def out_of_order(record: Record) -> None:
    record.arrivals.sort(key=lambda one: -one.data["seq"])


def end_without_down(record: Record) -> None:
    without_arrival(record, "ops", "fails-2")


def down_without_end(record: Record) -> None:
    without_arrival(record, "ops", "fails-3")


def two_downs(record: Record) -> None:
    without_arrival(record, "ops", "fails-3")
    add(record, entry("fails", 4, "worker.failed", 25.0, old="alive", new="failed", count=24))


def unsettled(record: Record) -> None:
    record.is_settled = False


def trouble(record: Record) -> None:
    record.trouble.append("a daemon wrote a traceback")


BROKEN: Final[dict[Callable[[Record], None], str]] = {
    false_page: "P1",
    page_for_our_own_outage: "P1",
    page_after_a_goodbye: "P1",
    death_not_reported: "P2",
    death_reported_late: "P2",
    death_in_our_outage_not_reported: "P2",
    death_reported_twice: "P3",
    event_twice_in_the_history: "P3",
    broken_chain: "P3",
    unknown_beat: "P9",
    gap_in_seq: "P9",
    acknowledged_beat_not_shown: "P10",
    acknowledged_goodbye_lost: "P10",
    refused_for_nothing: "P10",
    reads_stale_and_lives: "P22",
    reads_alive_and_is_dead: "P22",
    does_not_recover: "P27",
    bad_signature: "P12",
    signed_by_a_wrong_clock: "P12",
    outcome_missing: "P5",
    outcome_never_settled: "P5",
    said_to_be_delivered: "P5",
    said_to_be_superseded: "P5",
    never_told_of_a_dead_worker: "P5",
    only_refused: "P5",
    gone_from_the_history: "P5",
    told_and_gone_from_the_history: "P23",
    told_and_never_recorded: "P23",
    another_body: "P6",
    repeated_after_2xx: "P6",
    two_ids: "P6",
    out_of_order: "P7",
    end_without_down: "P18",
    down_without_end: "P18",
    two_downs: "P18",
    unsettled: "P5",
    trouble: "harness",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_broken_promise_is_named(change: Callable[[Record], None]) -> None:
    record = good()
    change(record)
    assert BROKEN[change] in promises(record)


# What does not ------------------------------------------------------------------------------------------------------


def outage_without_a_page(record: Record) -> None:
    outage(record, 12.5, 20.5)


def late_beat_of_a_worker_that_was_late(record: Record) -> None:
    record.tries = [one for one in record.tries if one.worker != "well" or not 12.5 < one.sent_s < 19.5]
    add(record, entry("well", 2, "worker.stale", 15.2, old="alive", new="stale", count=13))
    add(record, entry("well", 3, "worker.recovered", 20.0, old="stale", new="alive", count=21))


def death_in_our_outage_reported_after_its_credit(record: Record) -> None:
    record.entries[find(record, "dead-2")] = entry("dead", 2, "worker.stale", 16.1, old="alive", new="stale", count=9)
    record.readings = []
    outage(record, 8.2, 13.0)


def repeated_after_a_kill(record: Record) -> None:
    first = record.arrivals[0]
    record.faults.append(Fault(kind="daemon.kill", target=0, begun_s=first.at_s, ended_s=first.at_s + 1))
    record.arrivals.append(replace(first, at_s=first.at_s + 11))


def unconfirmed_event_lost(record: Record) -> None:
    record.final.remove("well-1")
    without_arrival(record, "audit", "well-1")
    record.losses.append(Loss(kept_s=0.0, gone_s=0.5, away_s=0.9, back_s=0.9, is_confirmed=False))


def confirmed_event_lost_with_an_old_copy(record: Record) -> None:
    record.final.remove("well-1")
    record.losses.append(Loss(kept_s=0.0, gone_s=0.5, away_s=0.9, back_s=0.9, is_confirmed=True))


def old_beat_read_by_a_daemon_after_a_newer_one(record: Record) -> None:
    """Daemon 1 was paused with beat 6 of ``well`` in its hands; the worker went on with daemon 0."""
    record.probes = [*probes(0), *probes(1, away=(4.5, 9.0))]
    record.faults.append(Fault(kind="daemon.pause", target=1, begun_s=4.5, ended_s=9.0))
    record.tries[5] = replace(record.tries[5], daemon=1, status=None, ended_s=6.0)
    record.readings.append(reading("well", 9.2, "alive", 6))


def failed_attempt_then_taken(record: Record) -> None:
    record.arrivals.insert(0, replace(record.arrivals[0], answered=500))


KEPT: Final = (
    outage_without_a_page,
    late_beat_of_a_worker_that_was_late,
    death_in_our_outage_reported_after_its_credit,
    repeated_after_a_kill,
    unconfirmed_event_lost,
    confirmed_event_lost_with_an_old_copy,
    failed_attempt_then_taken,
    old_beat_read_by_a_daemon_after_a_newer_one,
)


@pytest.mark.parametrize("change", KEPT, ids=lambda change: change.__name__)
def test_what_the_design_excuses_is_not_complained_of(change: Callable[[Record], None]) -> None:
    record = good()
    change(record)
    assert [str(violation) for violation in oracle.judge(record)] == []


def test_a_confirmed_event_must_survive_a_power_cut_and_only_memory_may_lose_it() -> None:
    record = good()
    record.final.remove("well-1")
    record.losses.append(Loss(kept_s=0.0, gone_s=0.5, away_s=0.9, back_s=0.9, is_confirmed=False))
    assert "P23" in promises(record)
    record.durability = "memory"
    assert promises(record) == set()
