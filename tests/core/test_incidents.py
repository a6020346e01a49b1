"""The rules of incidents, as tables."""

from typing import Any

import msgspec
import pytest

from alerts.groups.classify import environment_key, mid_of
from alerts.groups.incidents import Ack, Batch, Incident, IncidentKind, Noted, fold
from monitor.events import Event
from monitor.liveness import EventKind, Liveness
from tests.support.alerts_fakes import START_MS, event

OPS = {"ops": "w4:acmew"}
PAGER = {"pager": "w4:acmew"}


def _down(seq: int = 1, kind: EventKind = EventKind.STALE, **changes: Any) -> Event:
    return event(seq, kind=kind, **changes)


def _end(seq: int, kind: EventKind = EventKind.RECOVERED, **changes: Any) -> Event:
    return event(seq, kind=kind, old=Liveness.STALE, new=Liveness.ALIVE, due_ms=START_MS + seq, **changes)


def _folded(*events: Event, last: Incident | None = None) -> Incident | None:
    for one in events:
        last = fold(last, one, targets=OPS)
    return last


def test_a_down_opens_an_incident_with_all_that_it_says() -> None:
    down = _down(kind=EventKind.FAILED, reason="crash", error_message="out of memory")
    incident = fold(None, down, targets=OPS, part_of="inc_" + "0" * 32)
    assert incident == Incident(
        id="inc_" + down.event_id,
        tenant="acme",
        worker_id="w",
        environment_name="prod",
        generation=down.generation,
        kind=IncidentKind.WORKER,
        opened_by=EventKind.FAILED,
        opened_ms=down.due_ms,
        detected_ms=down.detected_ms,
        updated=EventKind.FAILED,
        reason="crash: out of memory",
        targets=OPS,
        part_of="inc_" + "0" * 32,
        newest=(down.generation, 1),
        notified={down.event_id: ("ops",)},
    )


@pytest.mark.parametrize("kind", [EventKind.STALE, EventKind.FAILED])
def test_a_second_down_is_news_of_the_same_incident(kind: EventKind) -> None:
    opened = _folded(_down())
    changed = _folded(_down(2, kind, reason="again"), last=opened)
    assert opened is not None
    assert changed is not None
    assert (changed.id, changed.updated, changed.reason) == (opened.id, kind, "again")
    assert (changed.opened_by, changed.opened_ms, changed.is_open) == (EventKind.STALE, opened.opened_ms, True)


ACK = Ack(by="ann", comment="renewing it", at_ms=START_MS)


@pytest.mark.parametrize(
    ("first", "second", "lapses"),
    [
        (EventKind.REJECTED, EventKind.STALE, True),
        (EventKind.REJECTED, EventKind.FAILED, True),
        (EventKind.REJECTED, EventKind.REJECTED, False),
        (EventKind.STALE, EventKind.FAILED, False),
        (EventKind.STALE, EventKind.REJECTED, False),
    ],
)
def test_p11_an_ack_lapses_when_a_warning_becomes_critical(
    first: EventKind, second: EventKind, *, lapses: bool
) -> None:
    opened = _folded(_down(kind=first))
    assert opened is not None
    changed = _folded(_down(2, second), last=msgspec.structs.replace(opened, ack=ACK))
    assert changed is not None
    assert (changed.ack, changed.lapsed_by) == ((None, _down(2, second).event_id) if lapses else (ACK, None))
    never = _folded(_down(2, second), last=opened)
    assert never is not None
    assert never.lapsed_by is None


def test_p11_only_the_event_with_which_an_ack_lapsed_says_so_and_not_after_the_next_ack() -> None:
    stream = [_down(kind=EventKind.REJECTED), _down(2), _down(3, EventKind.FAILED)]
    opened = _folded(stream[0])
    assert opened is not None
    batch = Batch(last={mid_of(stream[0]): msgspec.structs.replace(opened, ack=ACK)}, known={})
    batch.fold_all(stream[1:], lambda _: OPS, lambda _: None)
    assert [one.lapsed for one in batch.noted] == [True, False]
    known = {
        event_id: msgspec.structs.replace(one, ack=ACK) for one in batch.changed.values() for event_id in one.notified
    }
    again = Batch(last={}, known=known)
    again.fold_all(stream, lambda _: OPS, lambda _: None)
    assert [(one.lapsed, one.acked) for one in again.noted] == [(False, True)] * 3


def test_p11_an_incident_says_why_heartbeats_are_rejected() -> None:
    incident = _folded(_down(kind=EventKind.REJECTED, rejected_reason="token expired"))
    assert incident is not None
    assert incident.reason == "heartbeats rejected: token expired"


@pytest.mark.parametrize("kind", [EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN])
@pytest.mark.parametrize("old", list(Liveness))
def test_an_ending_event_closes_what_is_open_whatever_the_worker_was(kind: EventKind, old: Liveness) -> None:
    ending = event(2, kind=kind, old=old, due_ms=START_MS + 7)
    closed = _folded(_down(), ending)
    assert closed is not None
    assert (closed.closed_ms, closed.closed_by, closed.closed_by_event) == (START_MS + 7, kind, ending.event_id)


@pytest.mark.parametrize("kind", [EventKind.REGISTERED, EventKind.RESUMED, EventKind.STATUS_CHANGED])
def test_other_events_are_part_of_no_incident(kind: EventKind) -> None:
    opened = _folded(_down())
    for last in (None, opened, _folded(_end(2), last=opened)):
        assert fold(last, event(3, kind=kind), targets=OPS) is None


@pytest.mark.parametrize("kind", [EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN])
def test_an_end_without_an_open_incident_is_part_of_none(kind: EventKind) -> None:
    for last in (None, _folded(_down(), _end(2))):
        assert fold(last, _end(3, kind), targets=OPS) is None


def test_a_down_after_the_end_opens_another_incident() -> None:
    first, again = _folded(_down(), _end(2)), _folded(_down(), _end(2), _down(3))
    assert first is not None
    assert again is not None
    assert again.id != first.id
    assert (again.is_open, again.ack) == (True, None)


@pytest.mark.parametrize("again", [_down(), _down(2, EventKind.FAILED), _end(3)])
def test_an_event_that_comes_again_changes_nothing(again: Event) -> None:
    incident = _folded(_down(), _down(2, EventKind.FAILED), _end(3))
    assert fold(incident, again, targets=PAGER) is incident


@pytest.mark.parametrize("late", [_down(4), _end(4), _end(9, generation=START_MS - 700_000)])
def test_an_older_event_that_is_not_remembered_any_more_touches_no_newer_incident(late: Event) -> None:
    assert fold(_folded(_down(5)), late, targets=OPS) is None


def test_an_event_of_a_newer_generation_is_newer_whatever_its_number() -> None:
    closed = _folded(_down(5), _end(1, generation=START_MS))
    assert closed is not None
    assert not closed.is_open


def test_p18_recorded_receivers_stay_and_receivers_of_changed_routes_are_added() -> None:
    opened = fold(None, _down(), targets={"ops": "g1"})
    changed = fold(opened, _down(2, EventKind.FAILED), targets={"ops": "w", "pager": "w"})
    closed = fold(changed, _end(3), targets={"log": "w"})
    assert closed is not None
    assert closed.targets == {"ops": "g1", "pager": "w", "log": "w"}


def _batch(events: list[Event], targets: dict[str, dict[str, str]], whole: str | None = None) -> Batch:
    batch = Batch(last={}, known={})
    batch.fold_all(events, lambda one: targets[one.kind.value], lambda _: whole)
    return batch


def test_p18_events_that_come_again_are_for_the_same_receivers_again() -> None:
    stream = [_down(), _down(2, EventKind.FAILED), _end(3), _down(4), event(5, kind=EventKind.STATUS_CHANGED)]
    routes = {"worker.stale": {"ops": "s"}, "worker.failed": {"ops": "f", "pager": "f"}, "worker.recovered": {}}
    batch = _batch(stream, {**routes, "worker.status_changed": {"log": "l"}})
    first, second = (f"inc_{one.event_id}" for one in (stream[0], stream[3]))
    assert batch.noted == [
        Noted(incident_id=first, targets={"ops": "s"}),
        Noted(incident_id=first, targets={"ops": "s", "pager": "f"}),
        Noted(incident_id=first, targets={"ops": "s", "pager": "f"}),
        Noted(incident_id=second, targets={"ops": "s"}),
        Noted(incident_id=None, targets={"log": "l"}),
    ]
    known = {event_id: one for one in batch.changed.values() for event_id in one.notified}
    again = Batch(last=dict(batch.last), known=known)
    again.fold_all(stream, lambda _: {"log": "l"}, lambda _: None)
    assert again.noted == batch.noted
    assert again.changed == {}


def test_p16_an_environment_is_given_the_state_of_its_members_at_the_end_of_the_batch() -> None:
    whole = "inc_" + "e" * 32
    key = environment_key("acme", "prod")
    stream = [_down(), _down(1, worker_id="v"), _end(2)]
    routes = {"worker.stale": {"ops": key, "log": "w4:acmew"}, "worker.recovered": OPS}
    batch = _batch(stream, routes, whole)
    membership = batch.environments[whole]
    assert {one.worker_id: one.is_open for one in membership.members.values()} == {"w": False, "v": True}
    opening = membership.opening
    assert (opening.id, opening.kind, opening.tenant) == (whole, IncidentKind.ENVIRONMENT, "acme")
    assert (opening.environment_name, opening.worker_id) == ("prod", "")
    assert (opening.opened_ms, opening.opened_by) == (stream[0].due_ms, EventKind.STALE)
    assert opening.targets == {"ops": key}
