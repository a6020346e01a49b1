"""P26 for what alerts keep: every bound by age and number, on real servers, and what no bound may touch."""

import functools
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from alerts.groups.attempts import dead_letter, deliver
from alerts.groups.classify import Role, Shape
from alerts.groups.incidents import IncidentState
from alerts.groups.mass_failure import Rule
from alerts.groups.state import AlertGroup, Draft, InFlight, Outcome, Timing
from alerts.groups.worker_rules import FACTS_KEPT
from alerts.routing.enqueue import Offer, offer_all
from alerts.routing.routes import ReceiverTraits, Route, targets_of
from alerts.store.group_store import Change, GroupStore, Handed, Want
from alerts.store.incidents import IncidentStore
from alerts.store.mass_failures import KEPT_MS, MassFailures
from alerts.store.port import StorePort
from alerts.store.retention import DEAD_LETTERS, NOTES_KEPT, OUTCOMES_KEPT, Retention
from monitor.errors import StoreUnavailableError
from monitor.events import Event
from monitor.liveness import EnvironmentHealth, EventKind, Liveness
from tests.support import parts
from tests.support.alerts_daemons import Daemon
from tests.support.alerts_fakes import START_MS, Clock, FakeFleet, Inbox, ListSource, event, events, until
from tests.support.incidents import judged, record
from tests.support.stores import alert_store

BASE = "{ls:0}:to:ops:"
MONTH_MS = 30 * 86_400_000
SMALL = Retention(most=NOTES_KEPT)
LARGER = Retention(most=3 * NOTES_KEPT)
"""Maximum numbers kept, above the numbers that are kept regardless of age."""
PER_CALL = 100
"""Changes, and events of a batch, in one call."""


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StorePort]:
    opened = alert_store(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def redis(store_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(store_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def groups(store: StorePort) -> GroupStore:
    return GroupStore(store, "ops", SMALL)


def a_group(key: str = "w4:acmew") -> AlertGroup:
    return AlertGroup(key=key, shape=Shape.WORKER, tenant="acme", timing=Timing(), notified=True)


def a_note(nid: str, **changes: Any) -> InFlight:
    return InFlight(nid=nid, type="worker.stale", role=Role.DOWN, created_ms=START_MS, due_ms=START_MS, **changes)


async def before(redis: Redis, ordered: str, *hashes: str, count: int, at_ms: int, name: str = "old") -> list[str]:
    """Entries from ``at_ms`` on, a millisecond apart, as earlier calls have left them."""
    names = [f"{name}{number:06}" for number in range(count)]
    await redis.zadd(BASE + ordered, {one: at_ms + number for number, one in enumerate(names)})
    for one in hashes:
        await redis.hset(BASE + one, mapping=dict.fromkeys(names, "{}"))
    return names


async def sizes(redis: Redis, ordered: str, hash_name: str) -> tuple[int, int]:
    return await redis.zcard(BASE + ordered), await redis.hlen(BASE + hash_name)


async def write(groups: GroupStore, draft: Draft | None = None, *, now_ms: int = START_MS) -> None:
    """Save one change of a group in one call; without ``draft`` the group is only written."""
    changed = draft or Draft(a_group(), now_ms)
    [seen] = await groups.read([Want(group=changed.group.key)])
    assert await groups.save([Change(draft=changed, version=seen.version)], now_ms=now_ms) == [True]


def test_p26_what_is_kept_is_what_the_documents_say() -> None:
    """As in `docs/operations.md`, "What grows and what bounds it", and of `docs/configuration.md`."""
    assert (NOTES_KEPT, OUTCOMES_KEPT, DEAD_LETTERS, FACTS_KEPT) == (1_000, 10_000, 10_000, 100)
    assert Retention() == Retention(age_ms=7 * 86_400_000, most=20_000)
    assert (Retention().outcomes, Retention().incidents) == (100_000, 100_000)


async def test_p26_no_call_goes_through_more_than_a_hundred_groups(store: StorePort) -> None:
    wants = [[f"w4:acme{number}", [], [], 0] for number in range(PER_CALL + 1)]
    assert len(await store.call("look", BASE, msgspec.msgpack.encode(wants[1:]))) == PER_CALL
    with pytest.raises(StoreUnavailableError, match="a list is too long"):
        await store.call("look", BASE, msgspec.msgpack.encode(wants))


KEPT = pytest.mark.parametrize(
    ("where", "keep", "history"),
    [
        (where, keep, history)
        for where, keep in ((("outcome_times", "outcomes"), OUTCOMES_KEPT), (("finished", "notifications"), NOTES_KEPT))
        for history in (SMALL, LARGER)
    ],
)


def most_of(where: tuple[str, str], history: Retention) -> int:
    return history.outcomes if where[0] == "outcome_times" else history.most


@KEPT
async def test_p26_what_is_over_is_forgotten_by_age_but_the_newest_never(
    store: StorePort, redis: Redis, where: tuple[str, str], keep: int, history: Retention
) -> None:
    groups, most = GroupStore(store, "ops", history), most_of(where, history)
    assert (most > keep) is (history is LARGER)
    names = await before(redis, *where, count=keep + 50, at_ms=START_MS - MONTH_MS)
    await write(groups)
    assert await sizes(redis, *where) == (keep, keep)
    kept = await redis.hmget(BASE + where[1], names[49:51])
    assert [one is not None for one in kept] == [False, True]


@KEPT
async def test_p26_what_is_over_and_young_is_bounded_by_number(
    store: StorePort, redis: Redis, where: tuple[str, str], keep: int, history: Retention
) -> None:
    groups, most = GroupStore(store, "ops", history), most_of(where, history)
    assert (most > keep) is (history is LARGER)
    names = await before(redis, *where, count=most + 50, at_ms=START_MS - 60_000)
    await write(groups)
    assert await sizes(redis, *where) == (most, most)
    assert not await redis.hexists(BASE + where[1], names[49])
    assert await redis.hexists(BASE + where[1], names[50])


async def test_p26_what_there_is_too_much_of_becomes_less_with_every_call_however_much_comes(
    groups: GroupStore, redis: Redis
) -> None:
    """Each call is as large as a call can be: a hundred groups, each with a notification and five outcomes."""
    await before(redis, "outcome_times", "outcomes", count=SMALL.outcomes + 6_000, at_ms=START_MS - 60_000)
    await before(redis, "finished", "notifications", count=SMALL.most + 3_000, at_ms=START_MS - 60_000, name="ntf_old")
    seen = [(await redis.zcard(BASE + "outcome_times"), await redis.zcard(BASE + "finished"))]
    versions = [0] * PER_CALL
    for call in range(60):
        changes = []
        for number in range(PER_CALL):
            draft = Draft(a_group(f"w4:acmew{number}"), START_MS)
            for n in range(5):
                draft.set_outcome(event(1 + 5 * call + n, worker_id=f"w{number}"), Outcome.SUPERSEDED)
            draft.record(a_note(f"ntf_{call}_{number}"), Outcome.DELIVERED)
            changes.append(Change(draft=draft, version=versions[number]))
        assert all(await groups.save(changes, now_ms=START_MS + call))
        looked = await groups.read([Want(group=change.draft.group.key) for change in changes])
        versions = [one.version for one in looked]
        seen.append((await redis.zcard(BASE + "outcome_times"), await redis.zcard(BASE + "finished")))
    for (outcomes, notes), (outcomes_then, notes_then) in itertools.pairwise(seen):
        assert outcomes_then <= max(SMALL.outcomes, outcomes - PER_CALL)
        assert notes_then <= max(SMALL.most, notes - PER_CALL)
    assert seen[-1] == (SMALL.outcomes, SMALL.most)
    assert await redis.hlen(BASE + "outcomes") == SMALL.outcomes
    assert await redis.hlen(BASE + "notifications") == SMALL.most


async def test_p26_no_outcome_is_forgotten_that_an_unacked_event_needs(groups: GroupStore, redis: Redis) -> None:
    """A router hands its batch over and hangs before it acks; others flood the receiver; then the batch comes again."""
    route = Route(receivers=("ops",), events=frozenset(EventKind))
    traits = {"ops": ReceiverTraits()}

    def offers(stream: list[Event]) -> list[Offer]:
        found = []
        for one in stream:
            aim = targets_of(one, routes=[route], traits=traits)["ops"]
            found.append(Offer(event=one, key=aim.key, target=aim))
        return found

    in_hand = events(workers=50, each=2)
    await offer_all(groups, offers(in_hand), now_ms=START_MS)
    claimed = await parts.claim(groups, limit=100, lease_ms=1_000, now_ms=START_MS)
    for one in claimed:  # every event has its outcome, and the groups are over
        draft = Draft(one.group, START_MS)
        for pending in one.group.pending:
            draft.set_outcome(pending, Outcome.PART_OF, f"ntf_{pending.event_id}")
        assert await groups.save(
            [Change(draft=draft, version=one.version, token=one.token, over=True)], now_ms=START_MS
        ) == [True]
    await before(redis, "outcome_times", "outcomes", count=SMALL.outcomes + 5_000, at_ms=START_MS + 1)
    late_ms = START_MS + MONTH_MS
    for number in range(60):
        other = event(1, worker_id=f"other{number}", partition=1)
        await offer_all(groups, offers([other]), now_ms=late_ms + number)
    assert await redis.hlen(BASE + "outcomes") <= SMALL.outcomes
    assert all([await groups.outcome(one.event_id) is not None for one in in_hand])
    await offer_all(groups, offers(in_hand), now_ms=late_ms)
    known = await groups.read([Want(group=f"w4:acmew{number}") for number in range(50)])
    assert [one.group for one in known] == [None] * 50, "nothing is notified again"

    # Once the next batch of that partition is handed over, the one before may go.
    await offer_all(groups, offers([event(1, worker_id="next")]), now_ms=late_ms)
    last = [event(1, worker_id=worker).event_id for worker in ("other59", "next")]
    assert sorted(await redis.hkeys(BASE + "in_hand")) == sorted(last)
    assert sorted(await redis.hkeys(BASE + "batches")) == ["0", "1"]


async def test_p26_nothing_pending_or_in_flight_is_touched_by_any_bound(groups: GroupStore, redis: Redis) -> None:
    draft = Draft(a_group("w4:acmeq"), START_MS)
    draft.group.in_flight = a_note("ntf_open", event=event(1, worker_id="q"))
    draft.group.pending = [event(2, worker_id="q")]
    draft.set_outcome(draft.group.pending[0], Outcome.QUEUED)
    draft.record(draft.group.in_flight, Outcome.QUEUED, body="{}")
    assert await groups.save([Change(draft=draft, version=0, due_ms=START_MS)], now_ms=START_MS) == [True]
    for number in range(20):
        other = await before(
            redis, "finished", "notifications", count=2_000, at_ms=START_MS + number, name=f"ntf_{number}_"
        )
        assert other
        await write(groups, now_ms=START_MS + 2 * MONTH_MS)
    listed = await groups.notification("ntf_open")
    assert listed is not None
    assert (listed.body, listed.note.outcome, listed.note.event) == ("{}", Outcome.QUEUED, event(1, worker_id="q"))
    [due] = await parts.claim(groups, limit=9, lease_ms=1, now_ms=START_MS + 2 * MONTH_MS)
    assert due.group.pending == [event(2, worker_id="q")]


async def test_p26_the_oldest_dead_letters_go_with_their_bodies_when_there_are_too_many(
    groups: GroupStore, redis: Redis
) -> None:
    dead = await before(redis, "dead", "notifications", "bodies", count=DEAD_LETTERS + 250, at_ms=START_MS - MONTH_MS)
    await before(redis, "dead_open", count=DEAD_LETTERS + 250, at_ms=START_MS - MONTH_MS)
    for _ in range(3):
        await write(groups)
    stats = await parts.stats(groups, now_ms=START_MS)
    assert (stats.dead, stats.open_dead_letters) == (DEAD_LETTERS, DEAD_LETTERS), "what is gone is no reason of health"
    assert await sizes(redis, "dead", "notifications") == (DEAD_LETTERS, DEAD_LETTERS)
    assert await redis.hlen(BASE + "bodies") == DEAD_LETTERS
    kept = await redis.hmget(BASE + "bodies", dead[249:251])
    assert [one is not None for one in kept] == [False, True], "by number alone, however old they are"


@pytest.mark.parametrize("end", [deliver, dead_letter])
async def test_p26_a_finished_notification_keeps_of_its_event_what_names_it_and_a_dead_letter_all(
    groups: GroupStore, end: Any
) -> None:
    of = replace(event(1), error_message="x" * 2_000, worker_metadata_json='{"k":"' + "m" * 2_000 + '"}')
    draft = Draft(a_group(), START_MS)
    draft.group.in_flight = a_note("ntf_1", event=of)
    end(draft, reason="permanent: HTTP 400")
    await write(groups, draft)
    listed = await groups.notification("ntf_1")
    assert listed is not None
    kept = listed.note.event
    assert kept is not None
    assert kept.event_id == of.event_id
    if end is dead_letter:
        assert kept == of
    else:
        assert (kept.worker_metadata_json, kept.worker_metadata_cut, kept.error_message) == ("{}", True, None)


async def test_p26_what_is_kept_of_a_removed_receiver_expires_and_is_kept_again_when_it_is_back(
    groups: GroupStore, redis: Redis
) -> None:
    draft = Draft(a_group(), START_MS)
    draft.set_outcome(event(1), Outcome.SUPERSEDED)
    draft.record(a_note("ntf_1"), Outcome.DELIVERED)
    handed = Handed(partition=0, event_ids=(event(1).event_id,))
    assert await parts.save(groups, [Change(draft=draft, version=0)], now_ms=START_MS, handed=handed) == [True]
    await write(groups, Draft(a_group("w4:acmeother"), START_MS))

    async def expiring() -> set[bool]:
        return {await redis.pttl(key) >= 0 for key in await redis.keys(BASE + "*")}

    assert await expiring() == {False}
    await parts.retire(groups)
    assert await expiring() == {True}
    assert await redis.pttl(BASE + "notifications") <= SMALL.age_ms
    await write(groups)  # by a daemon that has it in its configuration still
    assert await expiring() == {False}
    await parts.retire(groups)
    await parts.unretire(groups)
    assert await expiring() == {False}


async def test_p26_a_start_lets_a_removed_receiver_expire_and_keeps_the_configured_ones(
    store_url: str, redis: Redis
) -> None:
    async def settled(*, gone: bool) -> bool:
        expiring = [await redis.pttl(key) >= 0 for key in await redis.keys("{ls*}:to:old:*")]
        return bool(expiring) and set(expiring) == {gone}

    for names in (("ops", "old"), ("ops",), ("ops", "old")):
        source = ListSource([event(1, worker_id="-".join(names))])
        clock = Clock()
        daemon = Daemon(store_url, [Inbox(name) for name in names], source, clock, [Route(receivers=names)])
        await daemon.service.start()
        await until(daemon.is_idle_now)
        gone = "old" not in names
        await until(functools.partial(settled, gone=gone))
        await daemon.service.stop(0)


async def test_p26_counts_of_environments_in_which_nothing_happens_any_more_are_forgotten(
    store: StorePort, redis: Redis
) -> None:
    mass_failures = MassFailures(store, rule=Rule(), fleet=FakeFleet(lambda: EnvironmentHealth(expected=100, silent=0)))
    for number in range(30):
        died = event(1, worker_id=f"w{number}", environment_name=f"pr-{number}")
        await judged(store, mass_failures, 0, [died], now_ms=START_MS + number)
    assert await redis.hlen("{ls:0}:failures") == await redis.zcard("{ls:0}:failures_written") == 30
    died = event(1, worker_id="x", environment_name="prod")
    await judged(store, mass_failures, 0, [died], now_ms=START_MS + KEPT_MS + 29)
    assert (
        await redis.hkeys("{ls:0}:failures") == await redis.zrange("{ls:0}:failures_written", 0, -1) == ["4:acmeprod"]
    )


async def test_p26_incidents_that_are_over_are_forgotten_faster_than_they_come(store: StorePort, redis: Redis) -> None:
    history = Retention(most=1_000)
    incidents = IncidentStore(store, history)

    async def outages(first: int, count: int, now_ms: int) -> None:
        stream = []
        for number in range(first, first + count):
            stream += [
                event(1, worker_id=f"w{number}", due_ms=START_MS + number),
                event(2, worker_id=f"w{number}", kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE),
            ]
        await record(incidents, 0, stream, lambda _: {"ops": "w"}, now_ms=now_ms)

    await outages(0, history.incidents + 2_000, START_MS)
    assert await redis.zcard("{ls:0}:incidents_closed") <= history.incidents
    sizes_then = [
        await redis.hlen("{ls:0}:" + name) for name in ("incidents", "incident_of_worker", "incident_of_event")
    ]
    assert set(sizes_then) == {history.incidents}
    assert await redis.zcard("{ls:0}:incidents:acme") == history.incidents
    await outages(10_000, 3_000, START_MS + history.age_ms + 1)
    assert await redis.zcard("{ls:0}:incidents_closed") == 3_000, (
        "all that was older is gone, at two for each that came"
    )
    page = await incidents.page("acme", state=IncidentState.CLOSED, limit=1)
    assert page.incidents[0].worker_id == "w12999"


async def test_p26_the_incident_of_an_environment_counts_all_its_members_and_remembers_few_that_are_over(
    store: StorePort, redis: Redis
) -> None:
    whole, base = "inc_" + "e" * 32, "{ls.shared:0}:"
    incidents = IncidentStore(store)
    first = event(1, worker_id="still-down")
    await record(incidents, 0, [first], lambda _: {"ops": "e4:acmeprod"}, part_of=lambda _: whole, now_ms=START_MS)
    await redis.hset(f"{base}incident_members:{whole}", mapping={f"inc_{number}": "0" for number in range(100_000)})
    for number in range(3):
        down = event(1, worker_id=f"w{number}")
        over = event(2, worker_id=f"w{number}", kind=EventKind.RECOVERED, old=Liveness.STALE, new=Liveness.ALIVE)
        await record(
            incidents, 0, [down, over], lambda _: {"ops": "e4:acmeprod"}, part_of=lambda _: whole, now_ms=START_MS
        )
    known = await redis.hlen(f"{base}incident_members:{whole}")
    assert 100_000 - 1_200 <= known <= 100_001
    assert await redis.hget(f"{base}incident_members:{whole}", f"inc_{first.event_id}") == "1"
    incident = await incidents.get("acme", whole)
    assert (incident.members, incident.members_open) == (4, 1)


async def test_p26_a_service_under_a_flood_stays_within_its_bounds_and_sends_everything_once(
    store_url: str, redis: Redis
) -> None:
    stream = events(workers=200, each=12)
    ops = Inbox()
    route = Route(receivers=("ops",), events=frozenset(EventKind))
    daemon = Daemon(store_url, [ops], ListSource(stream), Clock(), [route], history=SMALL)
    await daemon.service.start()
    await until(daemon.is_idle, timeout_s=60)
    assert len(ops.ids()) == len(set(ops.ids())) == len(stream)
    bases = ["{ls:0}:to:ops:"]
    for name, kept in (("finished", SMALL.most), ("open", 0)):
        assert sum([await redis.zcard(base + name) for base in bases]) == kept
    for name, kept in (("notifications", SMALL.most), ("bodies", 0), ("groups", 0)):
        assert sum([await redis.hlen(base + name) for base in bases]) == kept
    await daemon.service.stop(0)
