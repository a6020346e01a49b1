"""A flapping worker's outage is notified once it lasts, and so is its end; no event is held without end (P20)."""

from typing import Any

import pytest
from redis.asyncio import Redis

from alerts.groups import worker_rules
from alerts.groups.classify import Shape
from alerts.groups.decisions import Decision
from alerts.groups.flapping import Flapping, RecentOutages, begun
from alerts.groups.state import AlertGroup, CreateNotification, Draft, Outcome, Timing, Wait
from alerts.rendering.worker_text import single_sentence
from monitor.daemon.alerts import StoredFleet
from monitor.events import Event
from monitor.liveness import EventKind, Liveness
from tests.daemon.test_stored_fleet import stored
from tests.support.alerts_fakes import START_MS, event
from tests.support.group_steps import worker_step
from tests.support.stores import GRACE_MS, INTERVAL_MS, ManualClock, beat, opened

HOLD_MS = 300_000
RULE = Flapping(outages=3, within_ms=3_600_000, hold_ms=HOLD_MS)
STALE, REJECTED, RECOVERED = EventKind.STALE, EventKind.REJECTED, EventKind.RECOVERED


def down(seq: int, **changes: Any) -> Event:
    return event(seq, kind=STALE, old=Liveness.ALIVE, new=Liveness.STALE, detected_ms=START_MS, **changes)


def end(seq: int) -> Event:
    return event(seq, kind=RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE)


@pytest.mark.parametrize(
    ("kinds", "dues"),
    [
        ([], []),
        ([RECOVERED], []),
        ([STALE, RECOVERED], [0]),
        ([STALE, RECOVERED, STALE, RECOVERED], [0, 2]),
        ([REJECTED, STALE, RECOVERED], [0]),  # one outage that got worse
        ([STALE, RECOVERED, REJECTED], [0]),  # the last outage is about to be notified as worse
        ([STALE, EventKind.STOPPED, EventKind.RESUMED], [0]),
    ],
)
def test_p20_outages_are_counted_by_their_beginnings(kinds: list[EventKind], dues: list[int]) -> None:
    assert begun([(kind, at_ms) for at_ms, kind in enumerate(kinds)]) == dues


class Play:
    """The alert group of a worker; each step is given the number of the worker's outage."""

    def __init__(self) -> None:
        self.group = AlertGroup(key="w4:acmew", shape=Shape.WORKER, tenant="acme", timing=Timing())
        self.now_ms = START_MS
        self.outcomes: dict[str, Outcome] = {}

    def offer(self, one: Event) -> None:
        draft = Draft(self.group, self.now_ms)
        worker_rules.offer(draft, one)
        self._keep(draft)

    def step(self, number: int) -> object:
        """The next step, for the outage with this number."""
        draft = Draft(self.group, self.now_ms)
        step = worker_step(draft, recent=RecentOutages(number=number, rule=RULE))
        if isinstance(step, CreateNotification):
            worker_rules.create(draft, step, receiver="ops")
        self._keep(draft)
        return step

    def _keep(self, draft: Draft) -> None:
        self.outcomes |= {event_id: one.outcome for event_id, one in draft.outcomes.items()}

    def of(self, one: Event) -> Outcome:
        return self.outcomes[one.event_id]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_p20_the_first_outages_are_notified_at_once(number: int) -> None:
    play = Play()
    play.offer(down(2))
    assert isinstance(play.step(number), CreateNotification)


def test_p20_a_further_outage_is_notified_when_it_has_lasted_and_not_before() -> None:
    play = Play()
    play.offer(down(8))
    assert play.step(4) == Wait(START_MS + HOLD_MS, Decision.DAMPED)
    assert play.of(down(8)) is Outcome.DAMPED
    assert worker_rules.due_ms(play.group, play.now_ms) == START_MS + HOLD_MS
    play.now_ms = START_MS + HOLD_MS - 1
    assert play.step(4) == Wait(START_MS + HOLD_MS, Decision.DAMPED)
    play.now_ms += 1
    assert isinstance(play.step(4), CreateNotification)
    assert play.of(down(8)) is Outcome.PART_OF
    assert play.group.damped_ms == 0


def test_p20_one_that_is_routed_late_has_to_last_from_when_it_was_detected() -> None:
    play = Play()
    play.now_ms += HOLD_MS - 1  # as when nothing was routed for that long
    play.offer(down(8))
    assert play.step(4) == Wait(START_MS + HOLD_MS, Decision.DAMPED)
    play.now_ms += 1
    assert isinstance(play.step(4), CreateNotification)


def test_p20_an_outage_that_is_over_before_that_is_not_notified_nor_is_its_end() -> None:
    play = Play()
    play.offer(down(8))
    play.step(4)
    play.offer(end(9))
    assert (play.of(down(8)), play.of(end(9))) == (Outcome.DAMPED, Outcome.DAMPED)
    assert worker_rules.is_over(play.group)


def test_p20_what_makes_an_outage_worse_does_not_prolong_the_wait() -> None:
    play = Play()
    play.offer(down(8))
    play.step(4)
    play.now_ms += HOLD_MS - 1
    worse = event(9, kind=EventKind.FAILED, old=Liveness.STALE, new=Liveness.FAILED, detected_ms=play.now_ms)
    play.offer(worse)
    assert play.step(4) == Wait(START_MS + HOLD_MS, Decision.DAMPED)
    play.now_ms += 1
    # The hold ends on time although the earlier outages no longer count as recent by then.
    assert isinstance(play.step(1), CreateNotification)
    assert (play.of(down(8)), play.of(worse)) == (Outcome.DAMPED, Outcome.PART_OF)


def test_p20_each_outage_waits_by_itself() -> None:
    play = Play()
    for seq in (8, 10):
        play.offer(down(seq))
        assert play.step(4) == Wait(START_MS + HOLD_MS, Decision.DAMPED)
        play.offer(end(seq + 1))
        assert play.group.damped_ms == 0


@pytest.mark.parametrize(
    ("number", "ending"),
    [
        (2, "."),
        (3, "; its 3rd outage within 1 h: the next ones of less than 5 min are not reported."),
        (4, "; its 4th outage within 1 h: ones of less than 5 min are not reported."),
    ],
)
def test_p20_the_summary_says_that_short_outages_are_not_reported(number: int, ending: str) -> None:
    recent = RecentOutages(number=number, rule=RULE)
    plain = single_sentence(down(2), reminder=0, health=None)
    assert single_sentence(down(2), reminder=0, health=None, recent=recent) == plain.removesuffix(".") + ending


async def test_p20_outages_are_counted_from_the_worker_store_in_each_life_by_itself(store_url: str) -> None:
    async with opened(store_url) as store:
        fleet, clock = StoredFleet(store), ManualClock(store_url)
        stale: list[Event] = []
        for _ in range(9):
            now_ms = (await store.beat(0, [beat()])).now_ms
            await clock.set(now_ms + INTERVAL_MS + GRACE_MS)
            await store.sweep(0, limit=10)
            events = (await store.history(0, "acme", after="", limit=1, newest_first=True)).events
            stale += events

        async def before(since_ms: int) -> int:
            read = (await fleet.outage(stale[-1], since_ms)).before
            async with Redis.from_url(store_url) as redis:
                assert (await fleet.outage(stale[-1], since_ms, stored=await stored(redis))).before == read
            return read

        assert await before(0) == 7  # as far as transitions are kept
        assert await before(stale[-3].due_ms) == 2
        assert await before(stale[-1].due_ms) == 0
        await store.delete(beat().key, allowed=None, reason="deleted")
        assert await before(0) == 0
