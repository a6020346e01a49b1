"""The oracle says nothing of a run that kept every promise, and names each one that a run broke."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from tests.chaos import oracle
from tests.chaos.hand_made import (
    FAILED_S,
    add,
    arrival,
    crowd,
    drop,
    entry,
    expired,
    find,
    good,
    group,
    night,
    outage,
    probes,
    reading,
    remind,
    without_arrival,
)
from tests.chaos.record import CROWD, TENANT, Arrival, Fault, Loss, Record, Said, Stall

GROUP: Final = {"tenant": TENANT, "environment": CROWD}


def promises(record: Record) -> set[str]:
    return {violation.promise for violation in oracle.judge(record)}


@pytest.mark.parametrize("made", [good, night, crowd], ids=lambda made: made.__name__)
def test_a_run_that_kept_every_promise_is_not_complained_of(made: Callable[[], Record]) -> None:
    assert [str(violation) for violation in oracle.judge(made())] == []


# What breaks a promise ----------------------------------------------------------------------------------------------


def false_page(record: Record) -> None:
    add(record, entry("well", 2, "worker.stale", 13.0, old="alive", new="stale", count=11))
    add(record, entry("well", 3, "worker.recovered", 13.1, old="stale", new="alive", count=12))


def false_page_after_a_step_of_the_clock(record: Record) -> None:
    record.is_clock_stepped = True
    record.faults.append(Fault(kind="store.clock", target=None, begun_s=12.0, ended_s=13.0))
    record.faults.append(Fault(kind="store.clock", target=None, begun_s=13.0, ended_s=13.0))
    false_page(record)


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


def death_that_does_not_say_what_was_missed(record: Record) -> None:
    record.entries[find(record, "dead-2")] = entry("dead", 2, "worker.stale", 18.1, old="alive", new="stale", count=9)
    record.readings = []
    outage(record, 9.2, 15.0)


def outage_that_was_none(record: Record) -> None:
    place = find(record, "dead-2")
    record.entries[place] = replace(record.entries[place], outage_s=3.0)


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


def reads_failed_and_no_event_says_so(record: Record) -> None:
    record.readings.append(reading("well", 20.5, "failed", 21))


def event_that_changed_nothing(record: Record) -> None:
    record.readings.append(reading("fails", 11.5, "alive", 10))


def _daemon_of_the_dead_is_killed_in_a_pause_of_the_store(record: Record, reads_late_at_s: float) -> None:
    """Daemon 0 took the last beat of ``dead``, and is back under another name; daemon 1 was there before and after."""
    record.probes = [*probes(0, away=(8.2, 13.0)), *probes(1, away=(8.2, 13.0))]
    record.tries = [replace(one, status=None) if 8.2 <= one.sent_s < 13.0 else one for one in record.tries]
    record.faults.append(Fault(kind="store.pause", target=None, begun_s=8.2, ended_s=13.0))
    record.faults.append(Fault(kind="daemon.kill", target=0, begun_s=9.0, ended_s=12.0))
    changed = entry("dead", 2, "worker.stale", 18.9, old="alive", new="stale", count=9)
    record.entries[find(record, "dead-2")] = replace(changed, outage_s=4.9)
    record.readings = [reading("dead", reads_late_at_s, "late", 9)]


def reads_late_for_more_than_twice_its_patience_after_an_outage(record: Record) -> None:
    _daemon_of_the_dead_is_killed_in_a_pause_of_the_store(record, 23.0)


def reads_late_for_twice_its_patience_after_an_outage_in_which_all_were_restarted(record: Record) -> None:
    _daemon_of_the_dead_is_killed_in_a_pause_of_the_store(record, 19.5)
    record.faults.append(Fault(kind="daemon.kill", target=1, begun_s=9.0, ended_s=12.0))


def _rejected(record: Record) -> None:
    """The token of ``dead`` has expired. The worker is reported as rejected, and no other is disturbed."""
    record.expired = expired("dead", 9.0, 15.0)
    changed = entry("dead", 2, "worker.rejected", 11.4, old="alive", new="stale", count=9)
    drop(record, "dead-2")
    add(record, replace(changed, event_id="dead-rejected"))
    record.arrivals.append(group("group.firing", 12.0, changed))
    record.arrivals[-1] = replace(
        record.arrivals[-1], body=record.arrivals[-1].body.replace(b"dead-2", b"dead-rejected")
    )


def token_expired_and_opens(record: Record) -> None:
    record.expired = [replace(expired("dead", 9.0, 9.0)[0], status=204)]


def reported_stale_though_its_beats_are_refused(record: Record) -> None:
    record.expired = expired("dead", 9.0, 29.0)


def reported_rejected_though_it_is_silent(record: Record) -> None:
    _rejected(record)
    record.expired = []


def silent_after_refused_beats_and_not_reported(record: Record) -> None:
    _rejected(record)


def refused_for_nothing(record: Record) -> None:
    record.tries[5] = replace(record.tries[5], status=503)


def refused_long_after_the_machine_stalled(record: Record) -> None:
    refused_for_nothing(record)
    record.stalls = [Stall(begun_s=0.2, ended_s=0.9)]


def does_not_recover(record: Record) -> None:
    record.probes = [*probes(0, away=(5.0, 25.0)), *probes(1)]
    record.faults.append(Fault(kind="daemon.pause", target=0, begun_s=5.0, ended_s=6.0))


def does_not_recover_from_being_full(record: Record) -> None:
    record.probes = [*probes(0, away=(5.0, 25.0)), *probes(1)]
    record.faults.append(Fault(kind="store.disk_full", target=None, begun_s=5.0, ended_s=6.0))


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


def never_notified_of_a_dead_worker(record: Record) -> None:
    said_to_be_superseded(record)
    without_arrival(record, "ops", "dead-2")
    without_arrival(record, "audit", "dead-2")


def only_refused(record: Record) -> None:
    record.arrivals = [replace(one, answered=500) if "dead-2" in one.event_ids else one for one in record.arrivals]


def gone_from_the_history(record: Record) -> None:
    record.final.remove("well-1")
    without_arrival(record, "audit", "well-1")


def notified_and_gone_from_the_history(record: Record) -> None:
    record.final.remove("well-1")


def notified_and_never_recorded(record: Record) -> None:
    record.arrivals.append(arrival("audit", entry("well", 2, "worker.stopped", 9.0, old="alive", new="x", count=9)))


def another_body(record: Record) -> None:
    first = record.arrivals[0]
    record.arrivals.append(replace(first, at_s=first.at_s + 20, body=first.body + b" "))


def repeated_long_after_the_start(record: Record) -> None:
    first = record.arrivals[0]
    record.arrivals[:0] = [replace(first, at_s=-2.0), replace(first, at_s=5.0)]


def repeated_after_2xx(record: Record) -> None:
    record.arrivals.append(replace(record.arrivals[0], at_s=record.arrivals[0].at_s + 1))


def two_ids(record: Record) -> None:
    record.arrivals.append(replace(record.arrivals[0], at_s=record.arrivals[0].at_s + 1, webhook_id="other"))


def out_of_order(record: Record) -> None:
    record.arrivals.sort(key=lambda one: -one.data.get("seq", 0))


def end_without_down(record: Record) -> None:
    without_arrival(record, "ops", "fails-2")


def down_without_end(record: Record) -> None:
    without_arrival(record, "ops", "fails-3")


def two_downs(record: Record) -> None:
    without_arrival(record, "ops", "fails-3")
    add(record, entry("fails", 4, "worker.failed", 25.0, old="alive", new="failed", count=24))


def group_does_not_name_who_is_down(record: Record) -> None:
    record.arrivals = [one for one in record.arrivals if (one.receiver, one.at_s) != ("team", 12.0)]


def group_hears_the_end_while_a_worker_is_down(record: Record) -> None:
    record.arrivals.append(group("group.resolved", 14.0))


def group_hears_no_end(record: Record) -> None:
    add(record, entry("dead", 3, "worker.recovered", 20.0, old="stale", new="alive", count=9))


def group_hears_the_end_twice(record: Record) -> None:
    record.arrivals += [group("group.resolved", 20.5), group("group.resolved", 22.0)]


# Many at once ---------------------------------------------------------------------------------------------------------


def notified_of_one_by_itself_in_a_mass_failure(record: Record) -> None:
    silent = record.entries[find(record, "m7-2")]
    record.arrivals.append(arrival("ops", silent))


def notified_twice_of_a_mass_failure(record: Record) -> None:
    record.arrivals.append(replace(of_many(record, "ops"), at_s=20.0, webhook_id="again"))


def notified_of_a_mass_failure_as_two_incidents(record: Record) -> None:
    first = of_many(record, "ops")
    other = first.body.replace(b"inc-crowd", b"inc-other")
    record.arrivals.append(replace(first, at_s=first.at_s + 70.0, webhook_id="again", body=other))


def one_of_a_crowd_is_never_named(record: Record) -> None:
    place = record.arrivals.index(of_many(record, "ops"))
    record.arrivals[place] = replace(record.arrivals[place], body=record.arrivals[place].body.replace(b"m7-2", b"m8-2"))


def of_many(record: Record, receiver: str) -> Arrival:
    return next(one for one in record.arrivals if one.receiver == receiver and one.data.get("group", {}) == GROUP)


# At night -------------------------------------------------------------------------------------------------------------


def notified_while_silenced(record: Record) -> None:
    record.arrivals.append(replace(of_nightly(record, "ops"), at_s=13.0))


def notified_of_an_outage_that_was_over_within_its_silence(record: Record) -> None:
    add(record, entry("nightly", 3, "worker.recovered", 13.0, old="stale", new="alive", count=10))


def silenced_without_a_silence(record: Record) -> None:
    record.outcomes = [replace(one, outcome="silenced") if one.event_id == "well-1" else one for one in record.outcomes]


def silenced_by_a_silence_that_came_long_after(record: Record) -> None:
    record.silences.append(replace(record.silences[0], worker="fails", asked_s=29.0, begun_s=29.1, over_s=40.0))
    record.outcomes = [
        replace(one, outcome="silenced") if one.event_id == "fails-2" else one for one in record.outcomes
    ]


def silenced_and_notified(record: Record) -> None:
    record.outcomes = [
        replace(one, outcome="silenced") if one.event_id == "nightly-2" else one for one in record.outcomes
    ]


def silenced_and_never_notified(record: Record) -> None:
    silenced_and_notified(record)
    for receiver in ("ops", "audit", "desk"):
        without_arrival(record, receiver, "nightly-2")


def reminded_too_soon(record: Record) -> None:
    remind(record, 3, 20.4)


def reminded_after_an_acknowledgement(record: Record) -> None:
    remind(record, 3, 25.0)


def reminded_of_what_is_over(record: Record) -> None:
    record.acks = []
    add(record, entry("nightly", 3, "worker.recovered", 20.0, old="stale", new="alive", count=10))
    remind(record, 3, 22.0)


def not_reminded(record: Record) -> None:
    record.acks = []


def of_nightly(record: Record, receiver: str) -> Arrival:
    return next(one for one in record.arrivals if one.receiver == receiver and "nightly-2" in one.event_ids)


# In time --------------------------------------------------------------------------------------------------------------


def detected_late(record: Record) -> None:
    place = find(record, "dead-2")
    record.entries[place] = replace(record.entries[place], detected_s=record.entries[place].due_s + 1.2)


def detected_late_while_a_receiver_fails(record: Record) -> None:
    record.faults.append(Fault(kind="receiver.hangs", target=1, begun_s=9.0, ended_s=14.0))
    detected_late(record)


def refused_while_a_receiver_fails(record: Record) -> None:
    record.faults.append(Fault(kind="receiver.hangs", target=1, begun_s=4.0, ended_s=9.0))
    refused_for_nothing(record)


def notified_late_while_another_receiver_fails(record: Record) -> None:
    record.faults.append(Fault(kind="receiver.hangs", target=1, begun_s=9.0, ended_s=14.0))
    notified_late(record)


def notified_late(record: Record) -> None:
    place = next(
        number for number, one in enumerate(record.arrivals) if one.receiver == "ops" and one.event_ids == ["dead-2"]
    )
    record.arrivals[place] = replace(record.arrivals[place], at_s=14.0)


def last_notification_is_not_the_current_state(record: Record) -> None:
    without_arrival(record, "audit", "fails-3")


def _flaps(record: Record) -> None:
    record.flaps_after, record.hold_s = 1, 2.0


def damped_and_does_not_flap(record: Record) -> None:
    _flaps(record)
    record.outcomes = [replace(one, outcome="damped") if one.event_id == "dead-2" else one for one in record.outcomes]
    without_arrival(record, "ops", "dead-2")
    without_arrival(record, "audit", "dead-2")


def damped_although_it_lasts(record: Record) -> None:
    _flaps(record)
    add(record, entry("fails", 4, "worker.stale", 20.0, old="alive", new="stale", count=20), outcome="damped")
    add(record, entry("fails", 5, "worker.recovered", 26.0, old="stale", new="alive", count=26), outcome="damped")
    for receiver in ("ops", "audit"):
        without_arrival(record, receiver, "fails-4")
        without_arrival(record, receiver, "fails-5")


def put_off_without_a_time(record: Record) -> None:
    record.tries[5] = replace(record.tries[5], status=503)


def reported_though_it_was_put_off(record: Record) -> None:
    record.faults.append(Fault(kind="daemon.overload", target=0, begun_s=7.0, ended_s=12.0))
    last = record.of("dead")[-1]
    record.tries.append(
        replace(
            last, count=last.count + 1, sent_s=last.sent_s + 1, ended_s=last.ended_s + 1, status=503, retry_after_s=1
        )
    )


def unsettled(record: Record) -> None:
    record.is_settled = False


def trouble(record: Record) -> None:
    record.trouble.append("a daemon wrote a traceback")


BROKEN: Final[dict[Callable[[Record], None], str]] = {
    false_page: "P8",
    false_page_after_a_step_of_the_clock: "P13",
    page_for_our_own_outage: "P1",
    page_after_a_goodbye: "P1",
    death_not_reported: "P2",
    death_reported_late: "P2",
    death_in_our_outage_not_reported: "P2",
    death_that_does_not_say_what_was_missed: "P2",
    outage_that_was_none: "P2",
    death_reported_twice: "P3",
    event_twice_in_the_history: "P3",
    broken_chain: "P3",
    unknown_beat: "P9",
    gap_in_seq: "P9",
    acknowledged_beat_not_shown: "P10",
    acknowledged_goodbye_lost: "P10",
    refused_for_nothing: "P10",
    refused_long_after_the_machine_stalled: "P10",
    token_expired_and_opens: "P24",
    reported_stale_though_its_beats_are_refused: "P11",
    reported_rejected_though_it_is_silent: "P11",
    silent_after_refused_beats_and_not_reported: "P2",
    reads_stale_and_lives: "P22",
    reads_alive_and_is_dead: "P22",
    reads_late_for_more_than_twice_its_patience_after_an_outage: "P22",
    reads_late_for_twice_its_patience_after_an_outage_in_which_all_were_restarted: "P22",
    reads_failed_and_no_event_says_so: "P4",
    event_that_changed_nothing: "P4",
    does_not_recover: "P27",
    does_not_recover_from_being_full: "P26",
    bad_signature: "P12",
    signed_by_a_wrong_clock: "P12",
    outcome_missing: "P5",
    outcome_never_settled: "P5",
    said_to_be_delivered: "P5",
    said_to_be_superseded: "P5",
    never_notified_of_a_dead_worker: "P5",
    only_refused: "P5",
    gone_from_the_history: "P5",
    notified_and_gone_from_the_history: "P23",
    notified_and_never_recorded: "P23",
    another_body: "P6",
    repeated_after_2xx: "P6",
    repeated_long_after_the_start: "P6",
    two_ids: "P6",
    out_of_order: "P7",
    end_without_down: "P18",
    down_without_end: "P18",
    two_downs: "P18",
    group_does_not_name_who_is_down: "P5",
    group_hears_the_end_while_a_worker_is_down: "P5",
    group_hears_no_end: "P18",
    group_hears_the_end_twice: "P18",
    detected_late: "P14",
    detected_late_while_a_receiver_fails: "P21",
    refused_while_a_receiver_fails: "P21",
    notified_late_while_another_receiver_fails: "P21",
    notified_late: "P20",
    last_notification_is_not_the_current_state: "P20",
    damped_and_does_not_flap: "P20",
    damped_although_it_lasts: "P20",
    put_off_without_a_time: "P28",
    reported_though_it_was_put_off: "P28",
    unsettled: "P5",
    trouble: "harness",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_broken_promise_is_named(change: Callable[[Record], None]) -> None:
    record = good()
    change(record)
    assert BROKEN[change] in promises(record)


BROKEN_AT_NIGHT: Final[dict[Callable[[Record], None], str]] = {
    notified_while_silenced: "P17",
    notified_of_an_outage_that_was_over_within_its_silence: "P17",
    silenced_without_a_silence: "P17",
    silenced_by_a_silence_that_came_long_after: "P17",
    silenced_and_notified: "P5",
    silenced_and_never_notified: "P5",
    reminded_too_soon: "P19",
    reminded_after_an_acknowledgement: "P19",
    reminded_of_what_is_over: "P19",
    not_reminded: "P19",
}
BROKEN_IN_A_CROWD: Final[dict[Callable[[Record], None], str]] = {
    notified_of_one_by_itself_in_a_mass_failure: "P16",
    notified_twice_of_a_mass_failure: "P16",
    notified_of_a_mass_failure_as_two_incidents: "P16",
    one_of_a_crowd_is_never_named: "P5",
}


@pytest.mark.parametrize("change", BROKEN_AT_NIGHT, ids=lambda change: change.__name__)
def test_a_broken_promise_of_silences_and_reminders_is_named(change: Callable[[Record], None]) -> None:
    record = night()
    change(record)
    assert BROKEN_AT_NIGHT[change] in promises(record)


@pytest.mark.parametrize("change", BROKEN_IN_A_CROWD, ids=lambda change: change.__name__)
def test_a_broken_promise_of_mass_failures_is_named(change: Callable[[Record], None]) -> None:
    record = crowd()
    change(record)
    assert BROKEN_IN_A_CROWD[change] in promises(record)


# What does not ------------------------------------------------------------------------------------------------------


def outage_without_a_page(record: Record) -> None:
    outage(record, 12.5, 20.5)


def late_beat_of_a_worker_that_was_late(record: Record) -> None:
    record.tries = [one for one in record.tries if one.worker != "well" or not 12.5 < one.sent_s < 19.5]
    add(record, entry("well", 2, "worker.stale", 15.2, old="alive", new="stale", count=13))
    add(record, entry("well", 3, "worker.recovered", 20.0, old="stale", new="alive", count=21))


def death_in_our_outage_reported_after_its_credit(record: Record) -> None:
    changed = entry("dead", 2, "worker.stale", 16.1, old="alive", new="stale", count=9)
    record.entries[find(record, "dead-2")] = replace(changed, outage_s=4.9)
    record.readings = []
    outage(record, 8.2, 13.0)


def waited_for_twice_its_patience_after_an_outage_in_which_its_daemon_was_killed(record: Record) -> None:
    _daemon_of_the_dead_is_killed_in_a_pause_of_the_store(record, 18.5)


def rejected_to_the_end(record: Record) -> None:
    _rejected(record)
    record.expired = expired("dead", 9.0, 29.0)


def rejected_and_then_silent(record: Record) -> None:
    _rejected(record)
    silent = entry("dead", 3, "worker.stale", 18.1, old="stale", new="stale", count=9)
    add(record, silent)
    record.arrivals.append(group("group.firing", 18.3, silent))


def refused_while_the_machine_stalled(record: Record) -> None:
    refused_for_nothing(record)
    record.tries[5] = replace(record.tries[5], retry_after_s=1.0)
    record.stalls = [Stall(begun_s=4.2, ended_s=4.9)]


def repeated_while_all_processes_start(record: Record) -> None:
    first = record.arrivals[0]
    record.arrivals[:1] = [replace(first, at_s=-0.9), replace(first, at_s=0.2)]


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


def down_that_was_over_before_its_arrival_was_known(record: Record) -> None:
    without_arrival(record, "ops", "fails-2")
    record.faults.append(Fault(kind="store.kill", target=None, begun_s=FAILED_S, ended_s=FAILED_S + 1))


def failed_attempt_then_taken(record: Record) -> None:
    record.arrivals.insert(0, replace(record.arrivals[0], answered=500))


KEPT: Final = (
    refused_while_the_machine_stalled,
    repeated_while_all_processes_start,
    outage_without_a_page,
    rejected_to_the_end,
    rejected_and_then_silent,
    late_beat_of_a_worker_that_was_late,
    death_in_our_outage_reported_after_its_credit,
    waited_for_twice_its_patience_after_an_outage_in_which_its_daemon_was_killed,
    repeated_after_a_kill,
    unconfirmed_event_lost,
    confirmed_event_lost_with_an_old_copy,
    failed_attempt_then_taken,
    down_that_was_over_before_its_arrival_was_known,
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
