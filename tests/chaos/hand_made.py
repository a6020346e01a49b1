"""Records made by hand: a quiet run that kept every promise, and ways to change it."""

import json
from dataclasses import replace
from typing import Final

from tests.chaos.record import (
    CROWD,
    ENVIRONMENT,
    NIGHT,
    TENANT,
    Ack,
    Arrival,
    Entry,
    Fault,
    Outcome,
    Probe,
    Reading,
    Record,
    Said,
    Silence,
    Try,
    Worker,
)

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


def expired(worker: str, from_s: float, until_s: float) -> list[Try]:
    """Beats with a token that had expired, one each second."""
    return [
        Try(
            worker=worker,
            said=Said.EXPIRED,
            count=100 + number,
            daemon=0,
            sent_s=from_s + number,
            ended_s=from_s + number + LATENCY_S,
            status=401,
        )
        for number in range(int(until_s - from_s) + 1)
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


def arrival(
    receiver: str, about: Entry, *, after_s: float = 0.1, answered: int | None = 204, reminder: int = 0
) -> Arrival:
    """A notification of one worker, as it arrived at a receiver."""
    data = {
        "event_id": about.event_id,
        "worker_id": about.worker,
        "generation": about.generation,
        "seq": about.seq,
        "old": about.old,
        "incident_id": f"inc-{about.worker}",
        "reminder": reminder,
    }
    return Arrival(
        receiver=receiver,
        at_s=about.detected_s + after_s,
        webhook_id=f"ntf-{receiver}-{about.event_id}{f'-{reminder}' if reminder else ''}",
        body=json.dumps({"type": about.kind, "data": data}).encode(),
        answered=answered,
        is_signed=True,
        age_s=0.1,
    )


def group(
    kind: str, at_s: float, *about: Entry, receiver: str = "team", environment: str = ENVIRONMENT, truncated: int = 0
) -> Arrival:
    """A notification of a group, as it arrived at a receiver."""
    data = {
        "group": {"tenant": TENANT, "environment": environment},
        "truncated": truncated,
        "events": [{"event_id": one.event_id, "type": one.kind} for one in about],
        "incident_id": f"inc-{environment}",
        "reminder": 0,
    }
    return Arrival(
        receiver=receiver,
        at_s=at_s,
        webhook_id=f"ntf-{receiver}-{environment}-{at_s}",
        body=json.dumps({"type": kind, "data": data}).encode(),
        answered=204,
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
        wanted = [one for one in record.entries if one.kind in kinds]
        record.arrivals += [arrival(name, one) for one in wanted]
        record.outcomes += [Outcome(event_id=one.event_id, receiver=name, outcome="delivered") for one in wanted]
    record.groups = frozenset({"team"})
    record.arrivals += [group("group.firing", 10.6, record.entries[4]), group("group.firing", 12.0, record.entries[2])]
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


def find(record: Record, event_id: str) -> int:
    return next(number for number, one in enumerate(record.entries) if one.event_id == event_id)


def add(record: Record, event: Entry, *, outcome: str = "delivered", after_s: float = 0.1) -> None:
    """Add an event that every receiver that wants it was notified of."""
    record.entries.append(event)
    record.final.append(event.event_id)
    for name in record.receivers:
        if record.wants(name, event):
            record.arrivals.append(arrival(name, event, after_s=after_s))
            record.outcomes.append(Outcome(event_id=event.event_id, receiver=name, outcome=outcome))


def drop(record: Record, event_id: str) -> None:
    """Remove the event, its outcomes and its arrivals."""
    record.entries = [one for one in record.entries if one.event_id != event_id]
    record.final.remove(event_id)
    record.outcomes = [one for one in record.outcomes if one.event_id != event_id]
    record.arrivals = [one for one in record.arrivals if event_id not in one.event_ids]


def without_arrival(record: Record, receiver: str, event_id: str) -> None:
    record.arrivals = [one for one in record.arrivals if one.receiver != receiver or event_id not in one.event_ids]


def night() -> Record:
    """``good``; besides, ``nightly`` falls silent while it is silenced. The desk is notified when the silence is over,
    and reminded twice before an acknowledgement."""
    record = good()
    record.receivers["desk"] = record.receivers["ops"]
    record.of_one, record.repeat_s = {"desk": NIGHT}, {"desk": 2.0}
    record.workers["nightly"] = Worker(name="nightly", interval_s=1.0, grace_s=2.0, environment=NIGHT)
    record.tries += tries("nightly", DIED_S)
    begun = entry("nightly", 1, "worker.registered", 0.0, old=None, new="alive", count=1)
    silent = entry("nightly", 2, "worker.stale", 11.4, old="alive", new="stale", count=9)
    record.silences = [Silence(worker="nightly", asked_s=5.0, begun_s=5.1, kept_s=15.0, over_s=17.1)]
    add(record, begun)
    add(record, silent, after_s=3.8)
    record.arrivals.append(group("group.firing", 15.8, silent, environment=NIGHT))
    remind(record, 1, 17.3)
    remind(record, 2, 19.4)
    record.acks = [Ack(worker="nightly", incident_id="inc-nightly", asked_s=20.0, done_s=20.1)]
    return record


def remind(record: Record, number: int, at_s: float) -> None:
    """Remind the desk of ``nightly``."""
    silent = record.entries[find(record, "nightly-2")]
    record.arrivals.append(arrival("desk", silent, after_s=at_s - silent.detected_s, reminder=number))


def crowd() -> Record:
    """``good``; besides, forty workers fall silent together. Each receiver gets one notification of all of them."""
    record = good()
    silent: list[Entry] = []
    for number in range(40):
        name = f"m{number}"
        record.workers[name] = Worker(name=name, interval_s=3.0, grace_s=3.0, environment=CROWD)
        record.tries += tries(name, 6.0, interval_s=3.0)
        begun = entry(name, 1, "worker.registered", 0.0, old=None, new="alive", count=1)
        silent.append(entry(name, 2, "worker.stale", 12.4, old="alive", new="stale", count=3))
        add(record, begun)
        record.entries.append(silent[-1])
        record.final.append(silent[-1].event_id)
        record.outcomes += [
            Outcome(event_id=silent[-1].event_id, receiver=name, outcome="delivered") for name in record.receivers
        ]
    record.arrivals += [
        group("group.firing", 14.5, *silent, receiver=name, environment=CROWD) for name in ("ops", "audit", "team")
    ]
    return record
