"""Dead letters an operator replays or drops; acks and ends of silences at alert groups. On real stores."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from alerts.groups import group_rules, worker_rules
from alerts.groups.attempts import apply, begin_attempt, dead_letter, deliver, fail, schedule_retry
from alerts.groups.classify import Role, role_of, worker_key
from alerts.groups.incidents import environment_incident
from alerts.groups.state import (
    AlertGroup,
    CreateNotification,
    Draft,
    InFlight,
    Member,
    NotificationRecord,
    Outcome,
    Send,
    Timing,
)
from alerts.oncall.dead_letters import (
    SCAN_CALLS,
    SCAN_ROWS,
    DeadLetters,
    OvertakenError,
    RefusedError,
    UnknownNotificationError,
    UnknownReceiverError,
    of_tenant,
    outcomes_of,
)
from alerts.routing.acknowledge import acknowledge_at
from alerts.routing.enqueue import Offer, offer_all
from alerts.routing.routes import Target
from alerts.store.group_store import PAGE, Change, Found, GroupStore, Want
from alerts.store.port import StorePort
from monitor.events import Event
from monitor.liveness import EventKind, Liveness
from tests.support import parts
from tests.support.alerts_fakes import START_MS, event
from tests.support.group_steps import group_step, worker_step
from tests.support.stores import Interrupted, alert_store

LEASE_MS = 15_000
INCIDENT = "inc_" + "1" * 32


class Incidents:
    """An incident store whose open incidents the test sets."""

    def __init__(self) -> None:
        self.open = {INCIDENT}

    async def is_open(self, tenant: str, incident_id: str) -> bool:
        assert tenant == "acme"
        return incident_id in self.open


def _of_acme(note: NotificationRecord) -> bool:
    return note.tenant == "acme"


def _all(_: NotificationRecord) -> bool:
    return True


def letters_of(
    *groups: GroupStore, incidents: Incidents, sees: Callable[[NotificationRecord], bool] = _all
) -> DeadLetters:
    return DeadLetters(groups={one.receiver: one for one in groups}, is_open=incidents.is_open, sees=sees)


class Bench:
    """The alert groups of one receiver, advanced step by step by hand."""

    def __init__(self, groups: GroupStore, store: StorePort) -> None:
        self.groups = groups
        self.store = store
        self.incidents = Incidents()
        self.letters = letters_of(groups, incidents=self.incidents)
        self.now_ms = START_MS

    async def offer(self, *events: Event, key: str | None = None, timing: Timing | None = None) -> None:
        offers = [
            Offer(
                event=one,
                key=key or worker_key(one),
                target=Target(key=key or worker_key(one), timing=timing or Timing()),
                incident_id=INCIDENT,
            )
            for one in events
        ]
        await offer_all(self.groups, offers, now_ms=self.now_ms)

    async def group(self, key: str) -> tuple[int, AlertGroup]:
        [seen] = await self.groups.read([Want(group=key)])
        assert seen.group is not None
        return seen.version, seen.group

    async def change(self, key: str, what: Callable[[Draft], None]) -> None:
        """Change a group as the delivery would."""
        version, group = await self.group(key)
        draft = Draft(group, self.now_ms)
        what(draft)
        rules = group_rules if key[0] == "g" else worker_rules
        change = Change(
            draft=draft, version=version, due_ms=rules.due_ms(group, self.now_ms), over=rules.is_over(group)
        )
        assert await self.groups.save([change], now_ms=self.now_ms) == [True]

    async def send(self, key: str, end: Callable[[Draft], None]) -> str:
        """Create the next notification, begin an attempt, and record its outcome."""
        nid = ""

        def step(draft: Draft) -> None:
            nonlocal nid
            if key[0] == "g":
                role = Role.DOWN if draft.group.firing else Role.END
                in_flight = group_rules.create(
                    draft, CreateNotification(role=role, event=None), receiver=self.groups.receiver
                )
            else:
                pending = draft.group.pending[0]
                in_flight = worker_rules.create(
                    draft, CreateNotification(role=role_of(pending), event=pending), receiver=self.groups.receiver
                )
            nid = in_flight.nid
            draft.record(in_flight, Outcome.QUEUED, body=BODY)
            begin_attempt(draft)
            end(draft)

        await self.change(key, step)
        return nid

    async def dead(self, *events: Event, key: str | None = None) -> str:
        """A dead letter about the events."""
        await self.offer(*events, key=key)
        return await self.send(key or worker_key(events[0]), lambda draft: dead_letter(draft, reason="500"))

    async def replay(self, nid: str, *, force: bool = False) -> NotificationRecord:
        found = await self.letters.replay(nid, receiver=None, force=force, now_ms=self.now_ms)
        return found.note


GROUP = 'g{"environment": "prod", "tenant": "acme"}'
BODY = f'{{"type":"worker.stale","timestamp":"x","data":{{"incident_id":"{INCIDENT}"}}}}'


def attempted(end: Callable[[Draft], None]) -> Callable[[Draft], None]:
    """One more attempt and its outcome."""

    def made(draft: Draft) -> None:
        begin_attempt(draft)
        end(draft)

    return made


def recovered(seq: int = 2, **changes: Any) -> Event:
    return event(seq, kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE, **changes)


@pytest.fixture
async def bench(store_url: str) -> AsyncIterator[Bench]:
    store = alert_store(store_url)
    yield Bench(GroupStore(store, "ops"), store)
    await store.close()


async def test_a_replayed_dead_letter_is_what_it_was_and_begins_its_attempts_anew(bench: Bench) -> None:
    down = event()
    nid = await bench.dead(down)
    before = await bench.groups.notification(nid)
    assert before is not None
    assert (before.note.outcome, before.body) == (Outcome.DEAD_LETTERED, BODY)
    bench.now_ms += 1_000
    note = await bench.replay(nid)
    assert note.outcome is Outcome.QUEUED
    [claimed] = await parts.claim(bench.groups, limit=10, lease_ms=LEASE_MS, now_ms=bench.now_ms)
    in_flight = claimed.group.in_flight
    assert in_flight is not None
    assert (in_flight.nid, in_flight.attempts, in_flight.first_attempt_ms, in_flight.unknown) == (nid, 0, 0, False)
    assert (in_flight.event, in_flight.role, in_flight.created_ms) == (down, Role.DOWN, before.note.created_ms)
    assert worker_step(Draft(claimed.group, bench.now_ms)) == Send()
    listed = await bench.groups.notification(nid)
    assert listed is not None
    assert listed.body == BODY
    assert (await parts.stats(bench.groups, now_ms=bench.now_ms)).dead == 0


async def test_p18_a_replayed_down_calls_for_its_resolved_when_it_is_delivered(bench: Bench) -> None:
    nid = await bench.dead(event())
    await bench.replay(nid)
    key = worker_key(event())
    await bench.change(key, attempted(deliver))
    await bench.offer(recovered())
    _, group = await bench.group(key)
    assert group.notified
    assert [one.kind for one in group.pending] == [EventKind.RECOVERED]
    assert (group.incident_id, group.notified_incident_id) == (INCIDENT, INCIDENT)


async def test_replaying_twice_is_replaying_once(bench: Bench) -> None:
    nid = await bench.dead(event())
    await bench.replay(nid)
    await bench.change(worker_key(event()), attempted(lambda draft: schedule_retry(draft, due_ms=0, unknown=True)))
    assert (await bench.replay(nid)).outcome is Outcome.QUEUED
    _, group = await bench.group(worker_key(event()))
    assert group.in_flight is not None
    assert (group.in_flight.attempts, group.in_flight.unknown) == (1, True)


@pytest.mark.parametrize("how", ["its incident is over", "a newer one was delivered"])
async def test_an_overtaken_down_is_replayed_only_by_force_and_then_calls_for_nothing(bench: Bench, how: str) -> None:
    key, nid = worker_key(event()), await bench.dead(event())
    if how == "its incident is over":
        bench.incidents.open.clear()
    else:
        await bench.offer(event(2, kind=EventKind.FAILED, new=Liveness.FAILED, old=Liveness.STALE))
        await bench.send(key, deliver)
    with pytest.raises(OvertakenError, match="it is overtaken: "):
        await bench.replay(nid)
    assert (await parts.stats(bench.groups, now_ms=bench.now_ms)).dead == 1
    note = await bench.replay(nid, force=True)
    assert (note.outcome, note.role) == (Outcome.QUEUED, Role.FACT)
    was_notified = how != "its incident is over"
    await bench.change(key, attempted(deliver))
    [seen] = await bench.groups.read([Want(group=key)])
    assert (seen.group is not None and seen.group.notified) is was_notified
    listed = await bench.groups.notification(nid)
    assert listed is not None
    assert listed.note.outcome is Outcome.DELIVERED


async def test_a_forced_one_that_dies_again_still_needs_force(bench: Bench) -> None:
    nid = await bench.dead(event())
    bench.incidents.open.clear()
    await bench.replay(nid, force=True)
    await bench.change(worker_key(event()), attempted(lambda draft: dead_letter(draft, reason="again")))
    with pytest.raises(RefusedError, match="overtaken"):
        await bench.replay(nid)


async def test_a_group_that_has_a_notification_in_flight_takes_no_dead_letter(bench: Bench) -> None:
    nid = await bench.dead(event())
    await bench.offer(event(2, kind=EventKind.FAILED))
    other = await bench.send(
        worker_key(event()), lambda draft: schedule_retry(draft, due_ms=START_MS + 60_000, unknown=False)
    )
    for force in (False, True):
        with pytest.raises(RefusedError, match=f"{other} of the same group is in flight"):
            await bench.replay(nid, force=force)


async def test_a_resolved_is_replayed_by_itself_and_never_ends_a_newer_down(bench: Bench) -> None:
    key = worker_key(event())
    await bench.offer(event())
    await bench.send(key, deliver)
    nid = await bench.dead(recovered())
    assert (await bench.replay(nid)).role is Role.FACT
    await bench.change(key, attempted(lambda draft: dead_letter(draft, reason="again")))
    await bench.offer(event(3))
    await bench.send(key, deliver)
    with pytest.raises(RefusedError, match="a newer DOWN"):
        await bench.replay(nid)
    await bench.replay(nid, force=True)
    await bench.change(key, attempted(deliver))
    assert (await bench.group(key))[1].notified


async def test_a_groups_down_is_overtaken_when_no_member_is_down_any_more(bench: Bench) -> None:
    nid = await bench.dead(event(), event(worker_id="v"), key=GROUP)
    assert (await bench.replay(nid)).role is Role.DOWN
    await bench.change(GROUP, attempted(lambda draft: dead_letter(draft, reason="again")))
    await bench.offer(recovered(), recovered(worker_id="v"), key=GROUP)
    with pytest.raises(RefusedError, match="is over"):
        await bench.replay(nid)
    assert (await bench.replay(nid, force=True)).role is Role.FACT
    _, group = await bench.group(GROUP)
    assert group_step(Draft(group, bench.now_ms)) == Send()


async def test_a_groups_down_is_overtaken_by_the_next_outage_of_its_group(bench: Bench) -> None:
    nid = await bench.dead(event(), key=GROUP)
    await bench.offer(recovered(), key=GROUP)
    bench.now_ms += 1_000
    await bench.offer(event(3), key=GROUP)
    assert (await bench.group(GROUP))[1].firing == 1
    with pytest.raises(RefusedError, match="is over"):
        await bench.replay(nid)
    assert (await bench.replay(nid, force=True)).role is Role.FACT


async def test_p31_a_dead_letter_that_was_replayed_or_dropped_is_not_retried_as_well(bench: Bench) -> None:
    key, nid = worker_key(event()), await bench.dead(event())
    assert (await bench.group(key))[1].given_up is not None
    assert (await parts.stats(bench.groups, now_ms=bench.now_ms)).open_dead_letters == 1
    await bench.replay(nid)
    group = (await bench.group(key))[1]
    assert (
        group.given_up,
        group.again_ms,
        (await parts.stats(bench.groups, now_ms=bench.now_ms)).open_dead_letters,
    ) == (None, 0, 0)
    await bench.change(key, attempted(lambda draft: dead_letter(draft, reason="again")))
    await bench.change(key, attempted_again)
    assert (await bench.replay(nid)).nid == nid  # it is in flight
    await bench.change(key, lambda draft: dead_letter(draft, reason="again"))
    await bench.letters.drop(nid, receiver=None, now_ms=bench.now_ms)
    [seen] = await bench.groups.read([Want(group=key)])
    assert (seen.group, (await parts.stats(bench.groups, now_ms=bench.now_ms)).open_dead_letters) == (None, 0)


def attempted_again(draft: Draft) -> None:
    apply(draft, Send(again=True))
    begin_attempt(draft)


async def test_a_dropped_dead_letter_loses_its_body_and_leaves_its_group_as_it_was(bench: Bench) -> None:
    nid = await bench.dead(event())
    await bench.offer(event(2, kind=EventKind.FAILED))
    for _ in range(2):
        found = await bench.letters.drop(nid, receiver="ops", now_ms=bench.now_ms + 5)
        assert found.note.outcome is Outcome.DROPPED
    listed = await bench.groups.notification(nid)
    assert listed is not None
    assert (listed.note.outcome, listed.note.reason, listed.body) == (Outcome.DROPPED, "500", None)
    _, group = await bench.group(worker_key(event()))
    assert [one.kind for one in group.pending] == [EventKind.FAILED]
    with pytest.raises(RefusedError, match="it is dropped"):
        await bench.replay(nid)
    assert (await parts.stats(bench.groups, now_ms=bench.now_ms)).dead == 0


async def test_a_dead_letter_that_is_replayed_and_delivered_in_the_middle_of_a_drop_stays_delivered(
    bench: Bench, store_url: str
) -> None:
    nid = await bench.dead(event())

    async def delivered() -> None:
        await bench.replay(nid)
        await bench.change(worker_key(event()), attempted(deliver))

    store = Interrupted(store_url, "look", delivered)
    letters = letters_of(GroupStore(store, "ops"), incidents=bench.incidents)
    with pytest.raises(RefusedError, match="it is delivered"):
        await letters.drop(nid, receiver="ops", now_ms=bench.now_ms)
    await store.close()
    listed = await bench.groups.notification(nid)
    assert listed is not None
    assert listed.note.outcome is Outcome.DELIVERED


async def test_a_dead_letter_that_is_dropped_in_the_middle_of_a_replay_stays_dropped(
    bench: Bench, store_url: str
) -> None:
    # It may have arrived, so its group remains for the RESOLVED.
    await bench.offer(event())
    nid = await bench.send(worker_key(event()), lambda draft: dead_letter(draft, reason="500", unknown=True))
    drop = partial(bench.letters.drop, nid, receiver="ops", now_ms=bench.now_ms)
    store = Interrupted(store_url, "look", drop)
    letters = letters_of(GroupStore(store, "ops"), incidents=bench.incidents)
    with pytest.raises(RefusedError, match="it is dropped"):
        await letters.replay(nid, receiver="ops", force=False, now_ms=bench.now_ms)
    await store.close()


async def test_a_dead_letter_whose_group_is_gone_can_be_dropped_and_leaves_no_group(bench: Bench) -> None:
    nid = await bench.dead(event())
    await bench.letters.drop(nid, receiver=None, now_ms=bench.now_ms)
    assert (await parts.stats(bench.groups, now_ms=bench.now_ms)).groups == 0


async def test_what_is_not_there_or_not_seen_is_unknown(bench: Bench) -> None:
    nid = await bench.dead(event())
    with pytest.raises(UnknownNotificationError):
        await bench.letters.find("ntf_x", receiver=None)
    with pytest.raises(UnknownNotificationError):
        await letters_of(
            bench.groups, incidents=bench.incidents, sees=lambda note: of_tenant(note, "other", None, None)
        ).find(nid, receiver=None)
    with pytest.raises(UnknownReceiverError):
        await bench.letters.find(nid, receiver="none")


async def test_p5_the_outcomes_of_an_event_name_the_notification_that_reported_it(bench: Bench) -> None:
    down = event()
    nid = await bench.dead(down)
    [(receiver, found, note)] = await outcomes_of({"ops": bench.groups}, down.event_id)
    assert (receiver, found.outcome, found.nid) == ("ops", Outcome.PART_OF, nid)
    assert note is not None
    assert note.outcome is Outcome.DEAD_LETTERED
    assert await outcomes_of({"ops": bench.groups}, "0" * 32) == []


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_list_holds_each_once_newest_first_whatever_is_taken_out_meanwhile(bench: Bench, limit: int) -> None:
    made = []
    for number in range(12):
        bench.now_ms += number % 3  # some at the same moment
        made.append(await bench.dead(event(worker_id=f"w{number}", tenant="acme" if number % 4 else "other")))
    theirs = [nid for number, nid in enumerate(made) if number % 4]
    found: list[Found] = []
    after = None
    letters = letters_of(bench.groups, incidents=bench.incidents, sees=_of_acme)
    while True:
        page = await letters.page(Outcome.DEAD_LETTERED, receiver=None, after=after, limit=limit, now_ms=bench.now_ms)
        assert len(page.found) <= limit
        found += page.found
        for one in page.found[:1]:
            await bench.letters.drop(one.note.nid, receiver=None, now_ms=bench.now_ms)
        if page.last is None:
            break
        after = page.last
    assert sorted(one.note.nid for one in found) == sorted(theirs)
    places = [(one.note.at_ms, one.note.nid) for one in found]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_list_over_all_receivers_holds_each_once_newest_first(bench: Bench, limit: int) -> None:
    chat = Bench(GroupStore(bench.store, "chat"), bench.store)
    made = []
    for number in range(12):
        one = bench if number < 3 or number % 4 == 0 else chat  # much of one, then most of the other
        one.now_ms = START_MS + number // 2
        made.append(await one.dead(event(worker_id=f"w{number}")))
    letters = letters_of(bench.groups, chat.groups, incidents=bench.incidents, sees=_of_acme)
    found = await _listed(letters, limit=limit, now_ms=START_MS + 12)
    assert sorted(one.note.nid for one in found) == sorted(made)
    places = [(one.note.at_ms, one.note.nid) for one in found]
    assert places == sorted(places, reverse=True)
    assert {one.receiver for one in found} == {"ops", "chat"}


async def test_a_list_goes_on_where_the_first_receiver_was_not_looked_through_further(bench: Bench) -> None:
    """One receiver has more of another tenant's than a call looks at, and one of ours behind them."""
    chat = Bench(GroupStore(bench.store, "chat"), bench.store)
    made = []
    for number, one in enumerate((chat, bench, chat)):
        one.now_ms = START_MS + number
        made.append(await one.dead(event(worker_id=f"w{number}")))
    await bench.offer(event(tenant="other"))
    version, group = await bench.group("w5:otherw")
    theirs = Draft(group, START_MS + 1_000)
    for number in range(SCAN_CALLS * SCAN_ROWS):
        in_flight = InFlight(
            nid=f"ntf_{number}", type="worker.stale", role=Role.DOWN, created_ms=START_MS, due_ms=START_MS
        )
        theirs.record(in_flight, Outcome.DEAD_LETTERED)
    assert await bench.groups.save([Change(draft=theirs, version=version)], now_ms=theirs.now_ms) == [True]
    letters = letters_of(bench.groups, chat.groups, incidents=bench.incidents, sees=_of_acme)
    found = await _listed(letters, limit=2, now_ms=theirs.now_ms)
    assert [one.note.nid for one in found] == made[::-1]


async def _listed(letters: DeadLetters, *, limit: int, now_ms: int) -> list[Found]:
    """All dead letters of a tenant, page by page."""
    found: list[Found] = []
    after = None
    while True:
        page = await letters.page(Outcome.DEAD_LETTERED, receiver=None, after=after, limit=limit, now_ms=now_ms)
        found += page.found
        if page.last is None:
            return found
        after = page.last


async def test_a_list_goes_on_past_more_at_one_time_than_a_page_looks_at(bench: Bench) -> None:
    """As when a receiver was removed while many groups waited for it, and is configured again."""
    await bench.offer(event())
    version, group = await bench.group(worker_key(event()))
    draft = Draft(group, bench.now_ms)
    made = [f"ntf_{number:05}" for number in range(SCAN_CALLS * SCAN_ROWS + 1)]
    for nid in made:
        in_flight = InFlight(nid=nid, type="worker.stale", role=Role.DOWN, created_ms=START_MS, due_ms=START_MS)
        draft.record(in_flight, Outcome.DEAD_LETTERED)
    assert await bench.groups.save([Change(draft=draft, version=version)], now_ms=bench.now_ms) == [True]
    after = (bench.now_ms, made[1])
    page = await bench.letters.page(Outcome.DEAD_LETTERED, receiver="ops", after=after, limit=9, now_ms=bench.now_ms)
    assert ([one.note.nid for one in page.found], page.last) == ([made[0]], None)


async def test_a_notification_in_flight_is_listed_with_its_attempts_and_why_the_last_one_failed(bench: Bench) -> None:
    await bench.offer(event())

    def fails(draft: Draft) -> None:
        fail(draft, error="503 from ops", cause="server_error", answer="down for maintenance")
        schedule_retry(draft, due_ms=START_MS, unknown=False)

    nid = await bench.send(worker_key(event()), fails)
    page = await bench.letters.page(Outcome.QUEUED, receiver="ops", after=None, limit=5, now_ms=bench.now_ms)
    assert [(one.note.nid, one.note.attempts, one.note.reason) for one in page.found] == [(nid, 1, "503 from ops")]
    assert [(one.note.cause, one.note.answer) for one in page.found] == [("server_error", "down for maintenance")]


# Acks and silences


async def acknowledge(bench: Bench, key: str, incident_id: str = INCIDENT, worker_id: str = "w") -> None:
    incident = environment_incident(incident_id, event(), {})
    incident = msgspec.structs.replace(incident, worker_id=worker_id)
    await acknowledge_at(bench.groups, key, incident, now_ms=bench.now_ms)


async def test_p19_an_acknowledged_worker_has_no_further_reminders(bench: Bench) -> None:
    key = worker_key(event())
    await bench.offer(event(), timing=Timing(repeat_ms=1_000))
    await bench.send(key, deliver)
    bench.now_ms += 1_000
    _, group = await bench.group(key)
    assert isinstance(worker_step(Draft(group, bench.now_ms)), CreateNotification)
    await acknowledge(bench, key, "inc_" + "2" * 32)
    assert not (await bench.group(key))[1].acked
    for _ in range(2):
        await acknowledge(bench, key)
    _, group = await bench.group(key)
    assert group.acked
    assert not isinstance(worker_step(Draft(group, bench.now_ms)), CreateNotification)


async def test_p19_an_acknowledged_member_counts_once(bench: Bench) -> None:
    await bench.offer(event(), event(worker_id="v"), key=GROUP)
    await bench.send(GROUP, deliver)
    for _ in range(2):
        await acknowledge(bench, GROUP)
    assert (await bench.group(GROUP))[1].acks == 1
    await acknowledge(bench, GROUP, worker_id="v")
    assert (await bench.group(GROUP))[1].acks == 2
    await acknowledge(bench, GROUP, worker_id="unknown")
    await bench.offer(recovered(), key=GROUP)
    assert (await bench.group(GROUP))[1].acks == 1
    await acknowledge(bench, "w4:acmeunknown")


async def test_p19_a_group_has_reminders_while_one_of_its_members_is_not_acknowledged(bench: Bench) -> None:
    await bench.offer(event(), event(worker_id="v"), key=GROUP, timing=Timing(repeat_ms=1_000))
    await bench.send(GROUP, deliver)
    bench.now_ms += 1_000

    async def is_reminded() -> bool:
        _, group = await bench.group(GROUP)
        members = [Member(event=one, first=1, number=1) for one in (event(), event(worker_id="v"))]
        draft = Draft(group, bench.now_ms)
        step = group_step(draft, first=members[: group.firing])
        return isinstance(step, CreateNotification) and step.reminder == 1

    assert await is_reminded()
    await acknowledge(bench, GROUP)
    assert await is_reminded()
    await acknowledge(bench, GROUP, worker_id="v")
    assert not await is_reminded()


async def test_p19_the_ack_of_a_member_that_is_back_is_none_of_the_others(bench: Bench) -> None:
    await bench.offer(event(), event(worker_id="v"), key=GROUP, timing=Timing(repeat_ms=1_000))
    await bench.send(GROUP, deliver)
    await acknowledge(bench, GROUP)
    await bench.offer(recovered(), key=GROUP)
    _, group = await bench.group(GROUP)
    assert (group.firing, group.acks) == (1, 0)


@pytest.mark.parametrize(
    ("restriction", "of_worker", "of_group"),
    [
        ({}, True, True),
        ({"environments": ["prod"]}, True, True),
        ({"environments": ["stage"]}, False, False),
        ({"worker_id": "w"}, True, False),
        ({"worker_id": "v"}, False, False),
        ({"tenant": "other"}, False, False),
    ],
)
async def test_p24_a_restricted_token_sees_a_group_only_where_it_may_see_all_of_it(
    bench: Bench, restriction: dict[str, Any], *, of_worker: bool, of_group: bool
) -> None:
    nids = {await bench.dead(event()): of_worker, await bench.dead(event(2), key=GROUP): of_group}
    viewer = {"tenant": "acme", "environments": None, "worker_id": None, **restriction}
    letters = letters_of(bench.groups, incidents=bench.incidents, sees=lambda note: of_tenant(note, **viewer))
    page = await letters.page(Outcome.DEAD_LETTERED, receiver=None, after=None, limit=9, now_ms=bench.now_ms)
    assert {one.note.nid for one in page.found} == {nid for nid, is_seen in nids.items() if is_seen}


async def test_only_the_waiting_groups_of_this_tenant_are_checked_again(bench: Bench) -> None:
    waiting = Timing(wait_ms=3_600_000)
    await bench.offer(event(), event(worker_id="v"), event(tenant="other"), timing=waiting)
    await bench.offer(event(worker_id="u"), key=GROUP, timing=waiting)
    assert await parts.claim(bench.groups, limit=10, lease_ms=LEASE_MS, now_ms=bench.now_ms) == []
    assert await bench.groups.wake_tenant("acme", now_ms=bench.now_ms) == 3
    claimed = await parts.claim(bench.groups, limit=10, lease_ms=LEASE_MS, now_ms=bench.now_ms)
    assert {one.group.key for one in claimed} == {"w4:acmew", "w4:acmev", GROUP}


@pytest.mark.parametrize("waiting", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 1])
async def test_p17_every_group_that_waits_for_the_end_of_a_silence_is_checked_again(bench: Bench, waiting: int) -> None:
    downs = [event(tenant="other"), *(event(worker_id=f"w{number}") for number in range(waiting - 1))]
    await bench.offer(*downs, timing=Timing(wait_ms=3_600_000))
    assert await bench.groups.wake_tenant("acme", now_ms=bench.now_ms) == waiting - 1
    assert (await parts.due(bench.groups, offset=waiting - 2, limit=9))[1:] == [worker_key(downs[0])], (
        "the last to be due"
    )


async def test_p31_a_list_read_page_by_page_holds_a_dead_letter_whose_retry_has_failed(bench: Bench) -> None:
    made = []
    for worker_id in ("a", "b", "c"):
        bench.now_ms += 1
        made.append(await bench.dead(event(worker_id=worker_id)))
    key = worker_key(event(worker_id="a"))
    bench.now_ms += 3_600_000
    await bench.change(key, attempted_again)
    await bench.change(key, attempted(lambda draft: dead_letter(draft, reason="again")))
    found = await _listed(bench.letters, limit=1, now_ms=bench.now_ms)
    assert [one.note.nid for one in found] == [made[0], made[2], made[1]]


async def test_a_dead_letter_is_dropped_before_or_after_its_retry_and_not_during_it(bench: Bench) -> None:
    nid, key = await bench.dead(event()), worker_key(event())
    await bench.change(key, attempted_again)
    with pytest.raises(RefusedError, match="retried right now"):
        await bench.letters.drop(nid, receiver=None, now_ms=bench.now_ms)
    await bench.change(key, lambda draft: schedule_retry(draft, due_ms=bench.now_ms, unknown=False))
    found = await bench.letters.drop(nid, receiver=None, now_ms=bench.now_ms)
    assert found.note.outcome is Outcome.DROPPED
    [seen] = await bench.groups.read([Want(group=key)])
    assert seen.group is None  # nothing would bring it back


@pytest.mark.parametrize(
    ("key", "second"),
    [(worker_key(event()), event(2, kind=EventKind.FAILED)), (GROUP, event(worker_id="v"))],
    ids=["worker", "group"],
)
async def test_p31_a_replay_of_an_older_page_does_not_end_the_retries_of_a_newer_one(
    bench: Bench, key: str, second: Event
) -> None:
    older = await bench.dead(event(), key=key)
    bench.now_ms += 3_600_000
    newer = await bench.dead(second, key=key)
    with pytest.raises(OvertakenError, match="replay that one"):
        await bench.replay(older)
    await bench.replay(older, force=True)
    await bench.change(key, attempted(deliver))
    _, group = await bench.group(key)
    assert group.given_up is not None
    assert group.given_up.nid == newer
    assert (await parts.stats(bench.groups, now_ms=bench.now_ms)).open_dead_letters == 1
    await bench.replay(newer)
