"""The rules of a group of one worker, by themselves: no store, no clock."""

from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.groups import worker_rules
from alerts.groups.attempts import begin_attempt, dead_letter, deliver, fail, schedule_retry, undo_attempt
from alerts.groups.classify import Role, Shape, role_of
from alerts.groups.decisions import Decision
from alerts.groups.flapping import Flapping, RecentOutages
from alerts.groups.state import (
    AlertGroup,
    CreateNotification,
    Draft,
    EventOutcome,
    InFlight,
    NotificationRecord,
    Outcome,
    Over,
    Send,
    Timing,
    Wait,
)
from monitor.events import Event
from monitor.liveness import EventKind, Liveness
from tests.support.alerts_fakes import START_MS, event
from tests.support.group_steps import Ends, under_way, worker_step

REPEAT_MS = 60_000
CHANGEABLE = {Outcome.QUEUED, Outcome.PART_OF, Outcome.SILENCED, Outcome.DAMPED}
DOWNS = (EventKind.STALE, EventKind.REJECTED, EventKind.FAILED)
FLAPPING = Flapping(outages=3, within_ms=3_600_000, hold_ms=30_000)


def down(seq: int, kind: EventKind = EventKind.STALE, old: Liveness = Liveness.ALIVE) -> Event:
    return event(seq, kind=kind, old=old, new=Liveness.FAILED if kind is EventKind.FAILED else Liveness.STALE)


def end(seq: int, kind: EventKind = EventKind.RECOVERED) -> Event:
    return event(seq, kind=kind, old=Liveness.STALE, new=Liveness.ALIVE)


def fact(seq: int) -> Event:
    return event(seq, kind=EventKind.RESUMED, old=Liveness.STOPPED, new=Liveness.ALIVE)


class Change(Enum):
    """What changes beside the worker and the attempts."""

    SILENCE = "its events are silenced for 30 s"
    END_OF_SILENCE = "they are not"
    FLAPPING = "its next outage is one of many"
    CALM = "its next outage is the first"
    ACK = "its incident is acknowledged"


class Play:
    """An alert group, what the receiver got, and the records that were made."""

    def __init__(self, *, repeat_ms: int = 0, wait_ms: int = 0, resend: bool = False) -> None:
        timing = Timing(wait_ms=wait_ms, repeat_ms=repeat_ms, resend=resend)
        self.group = AlertGroup(key="w4:acmew", shape=Shape.WORKER, tenant="acme", timing=timing)
        self.now_ms = START_MS
        self.silenced_until_ms: int | None = None
        self.outage = 1
        """Which of its worker's recent outages a DOWN is."""
        self.outcomes: dict[str, EventOutcome] = {}
        self.notes: dict[str, NotificationRecord] = {}
        self.got: list[InFlight] = []
        """What arrived, once for each id."""
        self.unsure: set[str] = set()
        """Ids of notifications of which an attempt may have arrived."""

    def draft(self) -> Draft:
        return Draft(self.group, self.now_ms)

    def save(self, draft: Draft) -> None:
        for event_id, outcome in draft.outcomes.items():
            before = self.outcomes.get(event_id)
            assert before is None or before.outcome in CHANGEABLE
            self.outcomes[event_id] = outcome
        for note, _ in draft.records:
            before_note = self.notes.get(note.nid)
            assert before_note is None or before_note.outcome is Outcome.QUEUED
            self.notes[note.nid] = note

    def offer(self, *events: Event) -> None:
        for one in events:
            draft = self.draft()
            worker_rules.offer(draft, one)
            self.save(draft)

    def silenced(self, _: Event) -> int | None:
        if self.silenced_until_ms is not None and self.silenced_until_ms > self.now_ms:
            return self.silenced_until_ms
        return None

    def step(self) -> object:
        """Ask the group for its next step. An attempt begins if a notification is due."""
        draft = self.draft()
        step = worker_step(draft, self.silenced, recent=RecentOutages(number=self.outage, rule=FLAPPING))
        if isinstance(step, CreateNotification):
            in_flight = worker_rules.create(draft, step, receiver="ops")
            draft.record(in_flight, Outcome.QUEUED, body="{}")
        if isinstance(step, CreateNotification | Send):
            begin_attempt(draft)
        self.save(draft)
        return step

    def arrive(self) -> None:
        in_flight = self.group.in_flight
        assert in_flight is not None
        if in_flight.nid not in [one.nid for one in self.got]:
            self.got.append(in_flight)

    def accept(self) -> None:
        self.arrive()
        draft = self.draft()
        deliver(draft)
        self.save(draft)

    def fail(self, *, unknown: bool = False, wait_ms: int = 1_000) -> None:
        draft = self.draft()
        if unknown and draft.group.in_flight is not None:
            self.unsure.add(draft.group.in_flight.nid)
        fail(draft, error="HTTP 500", cause="server_error")
        schedule_retry(draft, due_ms=self.now_ms + wait_ms, unknown=unknown)
        self.save(draft)

    def take_back(self) -> None:
        draft = self.draft()
        undo_attempt(draft)
        self.save(draft)

    def give_up(self) -> None:
        draft = self.draft()
        dead_letter(draft, reason="permanent: HTTP 400")
        self.save(draft)

    def notified(self) -> list[tuple[str, int]]:
        return [(one.role.value, one.event.seq) for one in self.got if one.event is not None]

    def outcome(self, one: Event) -> Outcome:
        found = self.outcomes[one.event_id]
        return self.notes[found.nid].outcome if found.outcome is Outcome.PART_OF and found.nid else found.outcome


@pytest.mark.parametrize(
    ("kind", "old", "role"),
    [
        (EventKind.STALE, Liveness.ALIVE, Role.DOWN),
        (EventKind.STALE, Liveness.STOPPED, Role.DOWN),
        (EventKind.STALE, Liveness.STALE, Role.DOWN),
        (EventKind.REJECTED, Liveness.ALIVE, Role.DOWN),
        (EventKind.FAILED, Liveness.STALE, Role.DOWN),
        (EventKind.RECOVERED, Liveness.FAILED, Role.END),
        (EventKind.STOPPED, Liveness.STALE, Role.END),
        (EventKind.STOPPED, Liveness.ALIVE, Role.FACT),
        (EventKind.FORGOTTEN, Liveness.FAILED, Role.END),
        (EventKind.FORGOTTEN, Liveness.STOPPED, Role.FACT),
        (EventKind.REGISTERED, None, Role.FACT),
        (EventKind.RESUMED, Liveness.STOPPED, Role.FACT),
        (EventKind.STATUS_CHANGED, Liveness.ALIVE, Role.FACT),
    ],
)
def test_what_an_event_means(kind: EventKind, old: Liveness | None, role: Role) -> None:
    assert role_of(event(1, kind=kind, old=old)) is role


def test_p18_a_delivered_down_gets_one_resolved() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.accept()
    play.offer(end(2))
    assert play.step() == CreateNotification(role=Role.END, event=end(2))
    play.accept()
    assert play.notified() == [("down", 1), ("end", 2)]
    assert worker_rules.is_over(play.group)


def test_p18_p5_a_down_that_is_over_before_it_was_sent_is_superseded_with_its_end() -> None:
    play = Play()
    play.offer(down(1), end(2))
    assert play.step() == Over()
    assert (play.outcome(down(1)), play.outcome(end(2))) == (Outcome.SUPERSEDED, Outcome.SUPERSEDED)


def test_p7_a_down_that_is_over_is_cancelled_when_no_attempt_can_have_arrived() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.fail()
    play.offer(end(2))
    assert play.step() == Over()
    assert play.got == []
    assert (play.outcome(down(1)), play.outcome(end(2))) == (Outcome.SUPERSEDED, Outcome.SUPERSEDED)


@pytest.mark.parametrize("crashed", [True, False])
def test_p7_a_down_that_may_have_arrived_is_followed_by_its_resolved(*, crashed: bool) -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    if not crashed:
        play.fail(unknown=True)
    play.offer(end(2))
    assert play.step() == CreateNotification(role=Role.END, event=end(2))
    assert play.outcome(down(1)) is Outcome.DELIVERED


@pytest.mark.parametrize("failed_before", [0, 1])
def test_p7_an_attempt_that_is_given_back_unsent_was_none(failed_before: int) -> None:
    play = Play()
    play.offer(down(1))
    first_ms = play.now_ms if failed_before else play.now_ms + 60_000
    for _ in range(failed_before):
        play.step()
        play.fail()
        play.now_ms += 1_000
    play.step()
    play.take_back()
    play.now_ms = START_MS + 60_000
    assert play.step() == Send(), "due at once"
    in_flight = play.group.in_flight
    assert in_flight is not None
    assert (in_flight.attempts, in_flight.first_attempt_ms) == (1 + failed_before, first_ms)
    play.take_back()
    play.offer(end(2))
    assert play.step() == Over()
    assert (play.outcome(down(1)), play.outcome(end(2))) == (Outcome.SUPERSEDED, Outcome.SUPERSEDED)


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.parametrize("unknown", [(True,), (True, False), (False, True), (False, True, False)])
def test_p18_a_down_of_which_any_attempt_may_have_arrived_gets_its_resolved(
    unknown: tuple[bool, ...], *, given_up: bool
) -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    for one in unknown:
        play.fail(unknown=one)
        play.now_ms += 1_000
        assert play.step() == Send()
    if given_up:
        play.give_up()
    else:
        play.fail()
    play.offer(end(2))
    assert play.step() == CreateNotification(role=Role.END, event=end(2))
    assert play.outcome(down(1)) is (Outcome.DEAD_LETTERED if given_up else Outcome.DELIVERED)


def test_a_notification_is_as_old_as_its_first_attempt() -> None:
    play = Play()
    play.offer(down(1))
    for _ in range(3):
        play.step()
        play.fail()
        play.now_ms += 1_000
    assert play.group.in_flight is not None
    assert (play.group.in_flight.attempts, play.group.in_flight.first_attempt_ms) == (3, START_MS)


def test_p7_only_the_newest_of_several_downs_is_sent() -> None:
    play = Play()
    play.offer(down(1), down(2, EventKind.FAILED, Liveness.STALE))
    assert play.step() == CreateNotification(role=Role.DOWN, event=down(2, EventKind.FAILED, Liveness.STALE))
    play.accept()
    play.offer(end(3), down(4), end(5), down(6))
    play.step()
    play.accept()
    play.step()
    play.accept()
    assert play.notified() == [("down", 2), ("end", 3), ("down", 6)]
    assert play.outcome(down(1)) is Outcome.SUPERSEDED


def test_p11_a_warning_that_was_sent_is_followed_by_what_it_became_and_by_one_resolved() -> None:
    play = Play()
    play.offer(down(1, EventKind.REJECTED))
    play.step()
    play.accept()
    play.group.acked = True
    play.offer(down(2, EventKind.STALE, Liveness.STALE))
    assert play.step() == CreateNotification(role=Role.DOWN, event=down(2, EventKind.STALE, Liveness.STALE))
    play.accept()
    play.offer(end(3))
    play.step()
    play.accept()
    assert play.notified() == [("down", 1), ("down", 2), ("end", 3)]


def test_a_failed_attempt_is_made_again_when_it_is_due_and_not_before() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.fail(wait_ms=1_000)
    assert play.step() == Wait(START_MS + 1_000, Decision.RETRY)
    play.now_ms += 1_000
    assert play.step() == Send()
    assert play.group.in_flight is not None
    assert play.group.in_flight.attempts == 2


def test_p17_a_silenced_down_waits_and_is_sent_once_if_it_lasts() -> None:
    play = Play()
    play.silenced_until_ms = START_MS + 30_000
    play.offer(down(1))
    assert play.step() == Wait(START_MS + 30_000, Decision.SILENCED)
    assert play.outcome(down(1)) is Outcome.SILENCED
    play.now_ms += 30_000
    play.step()
    play.accept()
    assert play.notified() == [("down", 1)]
    assert play.outcome(down(1)) is Outcome.DELIVERED


def test_p17_a_silenced_down_that_is_over_stays_quiet() -> None:
    play = Play()
    play.silenced_until_ms = START_MS + 30_000
    play.offer(down(1))
    play.step()
    play.offer(end(2))
    assert play.step() == Over()
    assert (play.outcome(down(1)), play.outcome(end(2))) == (Outcome.SILENCED, Outcome.SILENCED)


def test_p17_a_silence_never_keeps_back_the_resolved_of_a_delivered_down() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.accept()
    play.silenced_until_ms = START_MS + 30_000
    play.offer(end(2))
    play.step()
    play.accept()
    assert play.notified() == [("down", 1), ("end", 2)]


def test_a_long_silence_is_checked_again_because_it_may_end_early() -> None:
    play = Play()
    play.silenced_until_ms = START_MS + 86_400_000
    play.offer(down(1))
    assert play.step() == Wait(START_MS + 60_000, Decision.SILENCED)


def test_p17_a_reminder_waits_for_the_end_of_a_silence_and_is_checked_each_minute() -> None:
    play = Play(repeat_ms=REPEAT_MS)
    play.offer(down(1))
    play.step()
    play.accept()
    play.now_ms += REPEAT_MS
    play.silenced_until_ms = play.now_ms + 61_000
    assert play.step() == Wait(play.now_ms + 60_000, Decision.SILENCED)
    play.now_ms += 60_000
    assert play.step() == Wait(play.now_ms + 1_000, Decision.SILENCED)
    play.now_ms += 1_000
    assert play.step() == CreateNotification(role=Role.DOWN, event=down(1), reminder=1)


def test_p18_an_outage_that_is_over_while_the_last_resolved_is_in_flight_is_not_resolved_too() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.accept()
    play.offer(end(2))
    play.step()
    play.fail()
    play.offer(down(3), end(4))
    assert (play.outcome(down(3)), play.outcome(end(4))) == (Outcome.SUPERSEDED, Outcome.SUPERSEDED)
    play.now_ms += 1_000
    assert play.step() == Send()
    play.accept()
    assert play.step() == Over()
    assert play.notified() == [("down", 1), ("end", 2)]


def test_p19_one_reminder_for_each_interval_and_none_after_an_ack_or_the_end() -> None:
    play = Play(repeat_ms=REPEAT_MS)
    play.offer(down(1))
    play.step()
    play.accept()
    assert play.step() == Wait(START_MS + REPEAT_MS, Decision.NOTIFIED)
    play.now_ms += REPEAT_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=down(1), reminder=1)
    play.accept()
    assert play.step() == Wait(START_MS + 2 * REPEAT_MS, Decision.NOTIFIED)
    play.group.acked = True
    play.now_ms += REPEAT_MS
    assert play.step() == Wait(None, Decision.ACKNOWLEDGED)
    play.offer(end(2))
    play.step()
    play.accept()
    assert [(one.role.value, one.reminder) for one in play.got] == [("down", 0), ("down", 1), ("end", 0)]
    assert len({one.nid for one in play.got}) == 3


def test_p19_an_ack_before_the_down_arrived_counts_and_the_next_incident_is_not_acked_by_it() -> None:
    play = Play(repeat_ms=REPEAT_MS)
    play.group.incident_id = "inc_1"
    play.offer(down(1))
    play.step()
    play.group.acked = True
    play.accept()
    play.now_ms += REPEAT_MS
    assert play.step() == Wait(None, Decision.ACKNOWLEDGED)
    play.offer(end(2))
    play.step()
    assert play.group.in_flight is not None
    assert play.group.in_flight.incident_id == "inc_1"
    play.accept()
    assert not play.group.acked


def test_p19_a_reminder_in_flight_is_cancelled_by_the_end() -> None:
    play = Play(repeat_ms=REPEAT_MS)
    play.offer(down(1))
    play.step()
    play.accept()
    play.now_ms += REPEAT_MS
    play.step()
    play.fail()
    play.offer(end(2))
    assert play.step() == CreateNotification(role=Role.END, event=end(2))
    assert [note.outcome for note in play.notes.values()] == [Outcome.DELIVERED, Outcome.SUPERSEDED, Outcome.QUEUED]


def test_a_receiver_that_needs_repetition_gets_it_though_it_is_acked_and_silenced() -> None:
    play = Play(repeat_ms=REPEAT_MS, resend=True)
    play.offer(down(1))
    play.step()
    play.accept()
    play.group.acked = True
    play.now_ms += REPEAT_MS
    play.silenced_until_ms = play.now_ms + 1
    assert play.step() == CreateNotification(role=Role.DOWN, event=down(1), reminder=1)


def test_p18_no_resolved_follows_a_down_that_was_given_up() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.give_up()
    play.offer(end(2))
    assert play.step() == Over()
    assert (play.outcome(down(1)), play.outcome(end(2))) == (Outcome.DEAD_LETTERED, Outcome.SUPERSEDED)


def test_p18_no_resolved_follows_a_down_that_is_given_up_while_its_end_waits() -> None:
    play = Play()
    play.offer(down(1))
    play.step()
    play.offer(end(2))
    play.give_up()
    assert play.step() == Over()
    assert (play.outcome(down(1)), play.outcome(end(2))) == (Outcome.DEAD_LETTERED, Outcome.SUPERSEDED)


def test_facts_are_sent_in_order_and_a_flood_of_them_is_bounded() -> None:
    play = Play()
    play.offer(*(fact(seq) for seq in range(1, worker_rules.FACTS_KEPT + 11)))
    assert play.outcome(fact(10)) is Outcome.SUPERSEDED
    assert play.step() == CreateNotification(role=Role.FACT, event=fact(11))


def test_a_wait_gathers_what_comes_but_never_delays_an_end() -> None:
    play = Play(wait_ms=5_000)
    play.offer(down(1))
    assert play.step() == Wait(START_MS + 5_000, Decision.GROUP_WAIT)
    assert worker_rules.due_ms(play.group, START_MS) == START_MS + 5_000
    play.now_ms += 5_000
    play.step()
    play.accept()
    play.offer(end(2))
    assert play.step() == CreateNotification(role=Role.END, event=end(2))


class AnySequence:
    """A worker, its group and its receiver, taken from action to action."""

    def __init__(self) -> None:
        self.play = Play(repeat_ms=REPEAT_MS)
        self.offered: list[Event] = []
        self.is_down = False

    def do(self, action: EventKind | Ends | Change | int) -> None:
        """An event of the worker, an attempt, another change, or time that passes (ms)."""
        match action:
            case EventKind():
                self._event(action)
            case Ends():
                self._attempt_ends(action)
            case Change.SILENCE:
                self.play.silenced_until_ms = self.play.now_ms + 30_000
            case Change.END_OF_SILENCE:
                self.play.silenced_until_ms = None
            case Change.FLAPPING | Change.CALM:
                self.play.outage = 4 if action is Change.FLAPPING else 1
            case Change.ACK:
                self.play.group.acked = self.play.group.notified
            case int():
                self.play.now_ms += action
        self._check()

    def _event(self, kind: EventKind) -> None:
        seq = len(self.offered) + 1
        if kind is EventKind.RESUMED:
            one = fact(seq)
        elif kind in DOWNS:
            one = down(seq, kind, Liveness.STALE if self.is_down else Liveness.ALIVE)
            self.is_down = True
        elif self.is_down:
            one = end(seq, kind)
            self.is_down = False
        else:
            return
        self.offered.append(one)
        self.play.offer(one)

    def _attempt_ends(self, ends: Ends) -> None:
        in_flight = under_way(self.play)
        if in_flight is None or ends is Ends.LATER:
            return
        if ends in {Ends.ARRIVED, Ends.CRASHED_ARRIVED}:
            self.play.arrive()
        if ends in {Ends.LOST, Ends.ARRIVED}:
            self.play.fail(unknown=True)
        elif ends in {Ends.CRASHED, Ends.CRASHED_ARRIVED}:
            self.play.unsure.add(in_flight.nid)
            self.play.step()  # another process finds the attempt begun
        elif ends is Ends.ACCEPTED:
            self.play.accept()
        elif ends is Ends.GIVEN_UP and in_flight.role is not Role.END:
            self.play.give_up()
        else:
            self.play.fail()

    def _check(self) -> None:
        """What was delivered pairs, and is in order."""
        delivered = [one for one in self.play.got if one.role is not Role.FACT]
        seqs = [one.event.seq for one in delivered if one.event is not None and not one.reminder]
        assert seqs == sorted(seqs)
        is_open = False
        for one in delivered:
            if one.role is Role.END:
                assert is_open or _may_have_arrived(self.play, one)
            is_open = one.role is not Role.END

    def finish(self) -> None:
        """Accept everything: then all that was open is closed, and no event is without an outcome."""
        self.play.silenced_until_ms = None
        for _ in range(1_000):  # longer than anything is held for flapping
            self.play.now_ms += 1_000
            if under_way(self.play) is not None:
                self.play.accept()
            elif not self.play.group.pending and self.play.group.in_flight is None:
                break
        self._check()
        roles = [one.role for one in self.play.got if one.role is not Role.FACT]
        if roles and not self.is_down:
            assert roles[-1] is Role.END
        final = {Outcome.DELIVERED, Outcome.SUPERSEDED, Outcome.SILENCED, Outcome.DAMPED, Outcome.DEAD_LETTERED}
        assert {self.play.outcome(one) for one in self.offered} <= final


def _may_have_arrived(play: Play, ended: Any) -> bool:
    """Whether a DOWN before this end counts as delivered though it is not known to have arrived."""
    return any(
        note.role is Role.DOWN and note.nid in play.unsure and note.event.seq < ended.event.seq
        for note in play.notes.values()
        if note.event is not None
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([*DOWNS, EventKind.RECOVERED, EventKind.STOPPED, EventKind.FORGOTTEN, EventKind.RESUMED]),
            st.sampled_from(Ends),
            st.sampled_from(Change),
            st.sampled_from([1, 1_000, REPEAT_MS]),
        ),
        min_size=5,
        max_size=60,
    )
)
def test_p5_p7_p17_p18_p19_p20_any_sequence(actions: list[EventKind | Ends | Change | int]) -> None:
    sequence = AnySequence()
    for action in actions:
        sequence.do(action)
    sequence.finish()
