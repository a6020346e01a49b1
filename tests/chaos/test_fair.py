"""The oracle names P29 where hostile clients are all that is wrong, also where the monitor says that it was blind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from tests.chaos import oracle, plan
from tests.chaos.faults import ATTACKS
from tests.chaos.hand_made import END_S, add, drop, entry, find, good, probes
from tests.chaos.plan import Kind
from tests.chaos.record import Fault, Record
from tests.chaos.strangers import Strangers
from tests.chaos.test_oracle import BROKEN, BROKEN_AT_NIGHT, BROKEN_IN_A_CROWD


def hostile(record: Record, *, begun_s: float = 5.0, ended_s: float = 25.0) -> None:
    record.faults.append(Fault(kind=Kind.HOSTILE_BODIES, target=0, begun_s=begun_s, ended_s=ended_s))


def stale_while_its_beats_were_refused(record: Record) -> None:
    """The probes were refused too, so that P1 excuses it: to the monitor it is an outage of its own."""
    hostile(record)
    record.tries = [
        replace(one, status=503, retry_after_s=1.0) if one.worker == "well" and 12.5 < one.sent_s < 20.5 else one
        for one in record.tries
    ]
    record.probes = [*probes(0, away=(12.5, 20.5)), *probes(1, away=(12.5, 20.5))]
    add(record, entry("well", 2, "worker.stale", 16.2, old="alive", new="stale", count=13))
    add(record, entry("well", 3, "worker.recovered", 21.0, old="stale", new="alive", count=22))


def death_hidden(record: Record) -> None:
    """The daemon called itself blind from the worker's last beat to the end, so that P2 excuses it."""
    hostile(record, ended_s=END_S)
    drop(record, "dead-2")
    record.probes = [*probes(0, away=(8.2, END_S)), *probes(1, away=(8.2, END_S))]
    record.readings = []


def death_late(record: Record) -> None:
    hostile(record)
    late = entry("dead", 2, "worker.stale", 16.5, old="alive", new="stale", count=9)
    record.entries[find(record, "dead-2")] = late
    record.probes = [*probes(0, away=(8.2, 13.2)), *probes(1, away=(8.2, 13.2))]
    record.readings = []


def page_late(record: Record) -> None:
    hostile(record)
    for number, one in enumerate(record.arrivals):
        if one.receiver == "ops" and "dead-2" in one.event_ids:
            record.arrivals[number] = replace(one, at_s=one.at_s + 5)


def refused(record: Record) -> None:
    hostile(record)
    record.tries[12] = replace(record.tries[12], status=503, retry_after_s=1.0)


BROKEN_BY_HOSTILE: Final = (stale_while_its_beats_were_refused, death_hidden, death_late, page_late, refused)


@pytest.mark.parametrize("change", BROKEN_BY_HOSTILE, ids=lambda change: change.__name__)
def test_p29_is_named_where_others_pay_for_hostile_clients(change: Callable[[Record], None]) -> None:
    record = good()
    change(record)
    assert "P29" in {violation.promise for violation in oracle.judge(record)}


def test_p29_nothing_is_said_where_others_notice_nothing() -> None:
    record = good()
    hostile(record)
    assert [str(violation) for violation in oracle.judge(record)] == []


def test_every_promise_of_the_design_that_shows_from_outside_is_broken_by_some_record() -> None:
    """P25 has ``test_restarts``, and there is no P15."""
    named = {*BROKEN.values(), *BROKEN_AT_NIGHT.values(), *BROKEN_IN_A_CROWD.values(), "P29"}
    assert {f"P{number}" for number in range(1, 30)} - named == {"P15", "P25"}


def test_hostile_clients_are_in_many_plans_and_change_nothing_else_in_them() -> None:
    plans = [plan.make(seed) for seed in range(300)]
    assert sum(made.is_hostile for made in plans) > len(plans) // 10
    without = frozenset(Kind) - plan.OF_HOSTILE
    for made in plans:
        kept = tuple(step for step in made.steps if step.kind not in plan.OF_HOSTILE)
        if kept:
            assert replace(made, steps=kept) == plan.make(made.seed, kinds=without)


def test_every_attack_has_a_kind_and_all_of_them_fit_into_500_connections() -> None:
    attacks = Strangers(0, token="", restricted="").attacks()
    assert sum(count for _, count in attacks.values()) <= 500
    assert sorted(name for names in ATTACKS.values() for name in names) == sorted(attacks)
    assert set(ATTACKS) == plan.OF_HOSTILE
