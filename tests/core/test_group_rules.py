"""The rules of a group of many workers, by themselves: no store, no clock."""

import copy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.delivery.planner import FIRST_MEMBERS
from alerts.groups import group_rules
from alerts.groups.attempts import begin_attempt, dead_letter, deliver, fail, schedule_retry
from alerts.groups.classify import Role, Shape
from alerts.groups.decisions import Decision
from alerts.groups.state import (
    RECHECK_MS,
    AlertGroup,
    CreateNotification,
    Draft,
    EventOutcome,
    InFlight,
    Member,
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
from tests.support.group_steps import Ends, group_step, under_way

WAIT_MS = 2_000
INTERVAL_MS = 60_000
REPEAT_MS = 14_400_000


def down(worker: str, seq: int = 1, kind: EventKind = EventKind.STALE) -> Event:
    return event(seq, worker_id=worker, kind=kind, old=Liveness.ALIVE, new=Liveness.STALE)


def end(worker: str, seq: int = 2) -> Event:
    return event(seq, worker_id=worker, kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE)


class Play:
    """An alert group and its members, what the receiver got, and the records that were made."""

    def __init__(self, shape: Shape = Shape.GROUP, *, repeat_ms: int = REPEAT_MS, hold_ms: int = 0) -> None:
        timing = Timing(wait_ms=WAIT_MS, interval_ms=INTERVAL_MS, repeat_ms=repeat_ms, hold_ms=hold_ms)
        self.group = AlertGroup(key="g1", shape=shape, tenant="acme", timing=timing)
        self.members: dict[str, Member] = {}
        self.now_ms = START_MS
        self.silenced: set[str] = set()
        self.looked_at: int | None = None
        """Number of members that are checked, the longest firing first. None: all."""
        self.suspected = False
        self.outcomes: dict[str, EventOutcome] = {}
        self.notes: dict[str, NotificationRecord] = {}
        self.got: list[InFlight] = []

    def save(self, draft: Draft) -> None:
        self.members |= draft.members
        for mid in draft.gone:
            self.members.pop(mid, None)
        self.outcomes |= draft.outcomes
        self.notes |= {note.nid: note for note, _ in draft.records}

    def offer(self, *events: Event) -> None:
        for one in events:
            draft = Draft(self.group, self.now_ms)
            mid = one.worker_id
            group_rules.offer(draft, one, receiver="ops", mid=mid, member=self.members.get(mid))
            self.save(draft)

    def step(self) -> object:
        draft = Draft(self.group, self.now_ms)
        step = group_step(
            draft,
            lambda one: self.now_ms + 5_000 if one.worker_id in self.silenced else None,
            first=tuple(self.members.values())[: self.looked_at],
            suspected=self.suspected,
        )
        if isinstance(step, CreateNotification):
            draft.record(group_rules.create(draft, step, receiver="ops"), Outcome.QUEUED)
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
        draft = Draft(self.group, self.now_ms)
        deliver(draft)
        self.save(draft)

    def fail(self, *, unknown: bool = False) -> None:
        draft = Draft(self.group, self.now_ms)
        fail(draft, error="HTTP 500", cause="server_error")
        schedule_retry(draft, due_ms=self.now_ms + 1_000, unknown=unknown)
        self.save(draft)

    def give_up(self) -> None:
        draft = Draft(self.group, self.now_ms)
        dead_letter(draft, reason="permanent: HTTP 400")
        self.save(draft)

    def notify(self) -> None:
        """Let the group wait pass, then deliver the notification that is due."""
        self.now_ms += WAIT_MS
        assert isinstance(self.step(), CreateNotification)
        self.accept()

    def types(self) -> list[str]:
        return [one.type for one in self.got]

    def outcome(self, one: Event) -> Outcome:
        found = self.outcomes[one.event_id]
        if found.outcome is not Outcome.PART_OF or found.nid is None:
            return found.outcome
        nid = self.outcomes[found.nid].nid if found.nid in self.outcomes else None
        return self.notes[nid].outcome if nid in self.notes else Outcome.SUPERSEDED


def test_p23_after_a_store_lost_its_last_writes_what_is_new_is_sent_under_another_id() -> None:
    """A receiver that remembers ids would take it for the one that it had before the loss."""
    play = Play()
    play.offer(down("a"))
    play.notify()
    kept, members = copy.deepcopy(play.group), dict(play.members)
    play.now_ms += INTERVAL_MS
    play.offer(down("b"))
    play.notify()
    play.group, play.members = copy.deepcopy(kept), dict(members)
    play.offer(down("c"))
    play.notify()
    play.group, play.members = copy.deepcopy(kept), dict(members)
    play.offer(replace(down("b"), detected_ms=START_MS + 2 * INTERVAL_MS))  # found out again
    play.notify()
    assert len({one.nid for one in play.got}) == 4


def test_p7_one_notification_reports_all_that_came_within_the_wait() -> None:
    play = Play()
    play.offer(down("a"), down("b"))
    assert play.step() == Wait(START_MS + WAIT_MS, Decision.GROUP_WAIT)
    play.offer(down("c"))
    play.notify()
    assert play.types() == ["group.firing"]
    assert {play.outcome(down(worker)) for worker in "abc"} == {Outcome.DELIVERED}
    [part] = {play.outcomes[down(worker).event_id].nid for worker in "abc"}
    assert part is not None
    assert play.outcomes[part].nid == play.got[0].nid


def test_p7_news_waits_for_the_interval_and_merges() -> None:
    play = Play()
    play.offer(down("a"))
    play.notify()
    sent_ms = play.now_ms
    play.offer(down("b"), down("c"), end("a"))
    assert play.step() == Wait(sent_ms + INTERVAL_MS, Decision.GROUP_INTERVAL)
    play.now_ms = sent_ms + INTERVAL_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)
    play.accept()
    assert play.types() == ["group.firing"] * 2
    assert play.outcome(end("a")) is Outcome.DELIVERED


def test_p7_members_that_are_back_are_news_of_their_group_after_the_interval() -> None:
    play = Play()
    play.offer(down("a"), down("b"))
    play.notify()
    sent_ms = play.now_ms
    play.offer(end("a"))
    assert group_rules.due_ms(play.group, play.now_ms) == sent_ms + INTERVAL_MS
    assert play.step() == Wait(sent_ms + INTERVAL_MS, Decision.GROUP_INTERVAL)
    play.now_ms = sent_ms + INTERVAL_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)
    play.accept()
    assert play.outcome(end("a")) is Outcome.DELIVERED


def test_p7_a_group_is_due_when_its_news_or_its_reminder_is_whichever_is_first() -> None:
    for repeat_ms, first_ms in ((REPEAT_MS, INTERVAL_MS), (INTERVAL_MS // 2, INTERVAL_MS // 2)):
        play = Play(repeat_ms=repeat_ms)
        play.offer(down("a"))
        assert group_rules.due_ms(play.group, play.now_ms) == START_MS + WAIT_MS
        play.notify()
        sent_ms = play.now_ms
        assert group_rules.due_ms(play.group, sent_ms) == sent_ms + repeat_ms
        play.offer(down("b"))
        assert group_rules.due_ms(play.group, sent_ms) == sent_ms + first_ms
        assert play.step() == Wait(sent_ms + first_ms, Decision.GROUP_INTERVAL)


def test_p18_a_group_gets_one_resolved_when_its_last_member_is_over() -> None:
    play = Play()
    play.offer(down("a"), down("b"))
    play.notify()
    play.offer(end("a"))
    assert isinstance(play.step(), Wait)
    play.offer(end("b"))
    assert play.step() == CreateNotification(role=Role.END, event=None)
    play.accept()
    assert play.step() == Over()
    assert play.types() == ["group.firing", "group.resolved"]


def test_p18_a_group_that_is_over_before_it_was_sent_is_never_sent() -> None:
    play = Play()
    play.offer(down("a"), down("b"), end("a"), end("b"))
    assert play.step() == Over()
    assert {play.outcome(one) for one in (down("a"), end("b"))} == {Outcome.SUPERSEDED}


def test_p7_a_group_that_is_over_before_it_arrived_is_cancelled_or_resolved() -> None:
    for unknown, expected in ((False, Over()), (True, CreateNotification(role=Role.END, event=None))):
        play = Play()
        play.offer(down("a"))
        play.now_ms += WAIT_MS
        play.step()
        play.fail(unknown=unknown)
        play.offer(end("a"))
        assert play.step() == expected


def test_an_update_of_a_member_is_news_and_counts_it_once() -> None:
    play = Play()
    play.offer(down("a"))
    play.notify()
    play.offer(down("a", 2, EventKind.FAILED))
    assert (play.group.firing, play.group.unnotified) == (1, 1)
    play.now_ms += INTERVAL_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [(Decision.SILENCED, Outcome.SILENCED), (Decision.GROUP_WAIT, Outcome.SUPERSEDED), ("", Outcome.SUPERSEDED)],
)
def test_p5_an_outage_that_is_over_while_its_group_is_silenced_was_silenced(decision: str, outcome: Outcome) -> None:
    play = Play()
    play.offer(down("a"))
    play.group.waits_for = decision
    play.offer(end("a"))
    assert {known.outcome for known in play.outcomes.values()} == {outcome}
    assert len(play.outcomes) == 2


def test_p17_a_group_is_silenced_only_while_every_member_is() -> None:
    play = Play()
    play.silenced = {"a"}
    play.offer(down("a"))
    play.now_ms += WAIT_MS
    assert play.step() == Wait(play.now_ms + 5_000, Decision.SILENCED)
    play.offer(down("b"))
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)


def test_p17_a_group_of_more_members_than_are_checked_is_notified_though_all_checked_are_silenced() -> None:
    for members, is_silenced in ((FIRST_MEMBERS, True), (FIRST_MEMBERS + 1, False)):
        play = Play()
        workers = [f"w{number}" for number in range(members)]
        play.looked_at = FIRST_MEMBERS
        play.silenced = set(workers[:FIRST_MEMBERS])
        play.offer(*map(down, workers))
        play.now_ms += WAIT_MS
        silent = Wait(play.now_ms + 5_000, Decision.SILENCED)
        assert play.step() == (silent if is_silenced else CreateNotification(role=Role.DOWN, event=None))


def test_p17_a_group_has_no_reminder_while_every_member_is_silenced_and_one_once_a_member_is_not() -> None:
    for members, is_silenced in ((FIRST_MEMBERS, True), (FIRST_MEMBERS + 1, False)):
        play = Play()
        workers = [f"w{number}" for number in range(members)]
        play.looked_at = FIRST_MEMBERS
        play.offer(*map(down, workers))
        play.notify()
        play.silenced = set(workers[:FIRST_MEMBERS])
        play.now_ms += REPEAT_MS
        silent = Wait(play.now_ms + 5_000, Decision.SILENCED)
        assert play.step() == (silent if is_silenced else CreateNotification(role=Role.DOWN, event=None, reminder=1))


def test_p17_a_group_is_looked_at_again_when_the_first_of_its_silences_ends() -> None:
    play = Play()
    play.offer(down("a"), down("b"))
    play.now_ms += WAIT_MS
    _waits_for_the_first_end(play)


def test_p17_a_reminder_of_a_group_is_looked_at_again_when_the_first_of_its_silences_ends() -> None:
    play = Play()
    play.offer(down("a"), down("b"))
    play.notify()
    play.now_ms += REPEAT_MS
    _waits_for_the_first_end(play)


def _waits_for_the_first_end(play: Play) -> None:
    """A silence that lasts for longer than a minute is looked at before: it may be ended."""
    members = tuple(play.members.values())
    for first_ms, waits_ms in ((4_000, 4_000), (80_000, RECHECK_MS)):
        ends = {"a": play.now_ms + 90_000, "b": play.now_ms + first_ms}
        draft = Draft(play.group, play.now_ms)
        step = group_step(draft, lambda one: ends[one.worker_id], first=members)  # noqa: B023
        assert step == Wait(play.now_ms + waits_ms, Decision.SILENCED)


def test_p16_a_suspected_failure_is_held_until_it_is_declared() -> None:
    play = Play(Shape.ENVIRONMENT, hold_ms=120_000)
    play.suspected = True
    play.offer(down("a"))
    play.now_ms += WAIT_MS
    assert isinstance(play.step(), Wait)
    play.group.declared = True
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)


def test_p16_a_suspected_failure_is_held_for_the_hold_at_most() -> None:
    play = Play(Shape.ENVIRONMENT, hold_ms=120_000)
    play.suspected = True
    play.offer(down("a"))
    play.now_ms = START_MS + 119_999
    assert play.step() == Wait(START_MS + 120_000, Decision.HELD)
    play.now_ms += 1
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)


def test_b16_how_the_members_of_a_group_ended_is_counted_each_once() -> None:
    play = Play()
    for worker in ("a", "b", "c", "d"):
        play.offer(down(worker))
    play.notify()
    play.offer(end("a"))
    stopped = event(2, worker_id="b", kind=EventKind.STOPPED, old=Liveness.STALE, new=Liveness.STOPPED)
    play.offer(stopped)
    # One that is back falls silent again: it is down still, and then back once.
    play.offer(replace(down("a", seq=3), since_ms=START_MS + 1))
    assert play.group.ended == {"worker.recovered": 0, "worker.stopped": 1}
    for worker in ("a", "c", "d"):
        play.offer(end(worker, seq=4))
    assert play.group.ended == {"worker.recovered": 3, "worker.stopped": 1}


def test_p16_a_failure_that_is_no_longer_suspected_is_notified_at_once() -> None:
    play = Play(Shape.ENVIRONMENT, hold_ms=120_000)
    play.offer(down("a"))
    play.now_ms += WAIT_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=None)


def test_p19_a_reminder_for_each_interval_unless_all_members_are_acked() -> None:
    play = Play()
    play.offer(down("a"), down("b"))
    play.notify()
    play.now_ms += REPEAT_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=None, reminder=1)
    play.accept()
    play.group.acks = 1
    play.now_ms += REPEAT_MS
    assert play.step() == CreateNotification(role=Role.DOWN, event=None, reminder=2)
    play.accept()
    play.group.acks = 2
    play.now_ms += REPEAT_MS
    assert isinstance(play.step(), Wait)


class AnySequence:
    """Three workers, their group and its receiver, taken from action to action."""

    def __init__(self) -> None:
        self.play = Play(repeat_ms=0)
        self.offered: list[Event] = []
        self.unsure = 0
        """Number of notifications of which an attempt may have arrived that is not known to have."""

    def do(self, action: tuple[str, EventKind] | Ends | int) -> None:
        """An event of a worker, an attempt, or time that passes (ms)."""
        match action:
            case (worker, kind):
                self._event(worker, kind)
            case Ends():
                self._attempt_ends(action)
            case int():
                self.play.now_ms += action
        self._check()

    def _event(self, worker: str, kind: EventKind) -> None:
        seq = len(self.offered) + 1
        one = end(worker, seq) if kind is EventKind.RECOVERED else down(worker, seq, kind)
        self.offered.append(one)
        self.play.offer(one)

    def _attempt_ends(self, ends: Ends) -> None:
        in_flight = under_way(self.play)
        if in_flight is None or ends is Ends.LATER:
            return
        if ends in {Ends.ARRIVED, Ends.CRASHED_ARRIVED}:
            self.play.arrive()
        if ends in {Ends.LOST, Ends.CRASHED}:
            self.unsure += 1
        if ends in {Ends.LOST, Ends.ARRIVED}:
            self.play.fail(unknown=True)
        elif ends in {Ends.CRASHED, Ends.CRASHED_ARRIVED}:
            self.play.step()  # another process finds the attempt begun
        elif ends is Ends.ACCEPTED:
            self.play.accept()
        elif ends is Ends.GIVEN_UP and in_flight.role is Role.DOWN:
            self.play.give_up()
        else:
            self.play.fail()

    def _check(self) -> None:
        """The counts are right, and each RESOLVED has a firing notification before it."""
        group = self.play.group
        assert group.firing == len(self.play.members)
        kinds = [member.event.kind for member in self.play.members.values()]
        assert group.rejected == kinds.count(EventKind.REJECTED)
        assert group.unnotified == sum(member.number > group.number for member in self.play.members.values())
        types = self.play.types()
        alone = [after for before, after in zip(["group.resolved", *types], types, strict=False) if before == after]
        assert alone.count("group.resolved") <= self.unsure

    def finish(self) -> None:
        """End every outage and accept everything: the group is over, and no event is without an outcome."""
        for worker in "abc":
            self._event(worker, EventKind.RECOVERED)
        for _ in range(100):
            self.play.now_ms += INTERVAL_MS
            if under_way(self.play) is not None:
                self.play.accept()
            elif self.play.group.in_flight is None:
                break
        self._check()
        assert group_rules.is_over(self.play.group)
        assert not self.play.types() or self.play.types()[-1] == "group.resolved"
        final = {Outcome.DELIVERED, Outcome.SUPERSEDED, Outcome.DEAD_LETTERED}
        assert {self.play.outcome(one) for one in self.offered} <= final


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from("abc"),
                st.sampled_from([EventKind.STALE, EventKind.FAILED, EventKind.REJECTED, EventKind.RECOVERED]),
            ),
            st.sampled_from(Ends),
            st.sampled_from([1, WAIT_MS, INTERVAL_MS]),
        ),
        min_size=5,
        max_size=60,
    )
)
def test_p5_p7_p18_any_sequence(actions: list[tuple[str, EventKind] | Ends | int]) -> None:
    sequence = AnySequence()
    for action in actions:
        sequence.do(action)
    sequence.finish()
