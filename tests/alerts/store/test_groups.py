"""The alert groups of a receiver on real servers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from alerts.groups.classify import Role, Shape
from alerts.groups.fleet import StoredWorker
from alerts.groups.state import AlertGroup, Draft, InFlight, Member, Outcome, Timing
from alerts.store.group_store import Change, Claimed, GroupStore, Seen, Want
from alerts.store.port import StorePort
from alerts.store.receivers import ReceiverStore, Stats
from monitor.durability import Confirmation
from monitor.errors import StoreUnavailableError
from monitor.store.endpoint import Address
from tests.support import parts, servers
from tests.support.alerts_fakes import START_MS, event
from tests.support.stores import alert_store

LEASE_MS = 15_000
MONTH_MS = 30 * 86_400_000
BASE = "{ls.shared:0}:to:ops:"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StorePort]:
    opened = alert_store(store_url)
    yield opened
    await opened.close()


@pytest.fixture
def groups(store: StorePort) -> GroupStore:
    return GroupStore(store, "ops")


def a_group(key: str = "w4:acmew", **changes: Any) -> AlertGroup:
    return AlertGroup(key=key, shape=Shape.WORKER, timing=Timing(), notified=True, **{"tenant": "acme", **changes})


def a_note(nid: str = "ntf_1", **changes: Any) -> InFlight:
    return InFlight(nid=nid, type="worker.stale", role=Role.DOWN, created_ms=START_MS, due_ms=START_MS, **changes)


def change(group: AlertGroup, version: int = 0, *, now_ms: int = START_MS, **rest: Any) -> Change:
    return Change(draft=Draft(group, now_ms), version=version, **{"due_ms": now_ms, **rest})


async def _put(groups: GroupStore, *keys: str, due_ms: int | None = START_MS) -> None:
    assert all(await groups.save([change(a_group(key), due_ms=due_ms) for key in keys], now_ms=START_MS))


async def _see(groups: GroupStore, key: str = "w4:acmew", **want: Any) -> Seen:
    [seen] = await groups.read([Want(group=key, **want)])
    return seen


async def _claim(groups: GroupStore, now_ms: int = START_MS, limit: int = 10) -> list[Claimed]:
    return await parts.claim(groups, limit=limit, lease_ms=LEASE_MS, now_ms=now_ms)


async def test_what_is_saved_is_what_is_seen_and_claimed(groups: GroupStore) -> None:
    draft = Draft(a_group("g1é\n", incident_id="inc_é"), START_MS)
    down = event()
    draft.set_member("4:acmew", Member(event=down, first=1, number=1))
    draft.set_outcome(down, Outcome.PART_OF, "ntf_1")
    draft.record(a_note(event=down), Outcome.QUEUED, body='{"é":1}')
    assert await groups.save([Change(draft=draft, version=0, due_ms=START_MS)], now_ms=START_MS) == [True]
    seen = await _see(groups, "g1é\n", members=("4:acmew", "unknown"), events=(down.event_id, "none"), firing=5)
    assert seen.group == draft.group
    assert seen.members == (draft.members["4:acmew"], None)
    assert seen.outcomes == (draft.outcomes[down.event_id], None)
    assert seen.firing == draft.members
    [claimed] = await _claim(groups)
    assert (claimed.group, claimed.version) == (draft.group, seen.version)
    listed = await groups.notification("ntf_1")
    assert listed is not None
    assert (listed.body, listed.note.outcome) == ('{"é":1}', Outcome.QUEUED)
    assert await _see(groups, "none") == Seen(version=0, group=None, members=(), outcomes=(), firing={})


async def test_a_change_is_written_only_to_what_was_read(groups: GroupStore) -> None:
    await _put(groups, "w4:acmew")
    seen = await _see(groups)
    first, second = a_group(acked=True), a_group(reminders=7)
    both = [change(first, seen.version), change(second, seen.version)]
    assert await groups.save(both, now_ms=START_MS) == [True, False]
    assert (await _see(groups)).group == first
    assert await groups.save([change(second, 0)], now_ms=START_MS) == [False]
    assert (await _see(groups)).group == first


async def test_nothing_of_a_change_that_came_late_is_written(groups: GroupStore) -> None:
    await _put(groups, "w4:acmew")
    late = Draft(a_group(), START_MS)
    late.set_outcome(event(), Outcome.QUEUED)
    late.set_member("m", Member(event=event(), first=1, number=1))
    late.record(a_note(), Outcome.QUEUED, body="{}")
    assert await groups.save([Change(draft=late, version=0)], now_ms=START_MS) == [False]
    seen = await _see(groups, members=("m",), events=(event().event_id,), firing=9)
    assert (seen.members, seen.outcomes, seen.firing) == ((None,), (None,), {})
    assert await groups.notification("ntf_1") is None


async def test_a_lease_that_ran_out_is_fenced(groups: GroupStore) -> None:
    await _put(groups, "w4:acmew")
    [slow] = await _claim(groups)
    assert await _claim(groups, START_MS + LEASE_MS - 1) == []
    later_ms = START_MS + LEASE_MS
    [quick] = await _claim(groups, later_ms)
    assert quick.token != slow.token
    stale_change = change(a_group(reminders=1), slow.version, token=slow.token, release=True)
    assert await groups.save([stale_change], now_ms=later_ms) == [False]
    good = change(a_group(reminders=2), quick.version, token=quick.token, release=True, due_ms=later_ms + 5)
    assert await groups.save([good], now_ms=later_ms) == [True]
    assert await groups.save([stale_change], now_ms=later_ms) == [False]
    seen = (await _see(groups)).group
    assert seen is not None
    assert seen.reminders == 2
    assert await _claim(groups, later_ms + 4) == []
    assert len(await _claim(groups, later_ms + 5)) == 1


@pytest.mark.parametrize("due_ms", [START_MS, START_MS + 1_000_000, None])
async def test_a_save_while_a_group_is_leased_neither_shortens_nor_loses_the_lease(
    groups: GroupStore, due_ms: int | None
) -> None:
    await _put(groups, "w4:acmew")
    [claimed] = await _claim(groups)
    assert await groups.save([change(a_group(acked=True), claimed.version, due_ms=due_ms)], now_ms=START_MS) == [True]
    await parts.wake(groups, ["w4:acmew"], now_ms=START_MS)
    assert await _claim(groups, START_MS + LEASE_MS - 1) == []
    now = await _see(groups)
    assert now.version != claimed.version
    begun = change(a_group(), now.version, token=claimed.token, due_ms=START_MS)
    assert await groups.save([begun], now_ms=START_MS) == [True]
    assert await _claim(groups, START_MS + LEASE_MS - 1) == []
    assert len(await _claim(groups, START_MS + LEASE_MS)) == 1


async def test_a_group_without_a_due_time_waits_until_it_is_rescheduled(groups: GroupStore) -> None:
    await _put(groups, "a", "b", due_ms=None)
    assert await _claim(groups, START_MS + MONTH_MS) == []
    await parts.wake(groups, ["a", "gone"], now_ms=START_MS)
    assert [one.group.key for one in await _claim(groups)] == ["a"]
    assert await parts.due(groups, offset=0, limit=5) == ["a"]


def of(tenant: str, number: int, due_ms: int = START_MS) -> Change:
    """A group of a tenant that is due."""
    key = f"w{len(tenant)}:{tenant}{number}"
    return Change(draft=Draft(a_group(key, tenant=tenant), START_MS), version=0, due_ms=due_ms)


@pytest.mark.parametrize("limit", [1, 2, 8])
async def test_p29_the_page_of_a_quiet_tenant_is_claimed_in_the_next_turn_whatever_another_has_due(
    groups: GroupStore, limit: int
) -> None:
    noisy = [of("noisy", number, START_MS - 800 + number) for number in range(800)]
    assert all(await groups.save(noisy, now_ms=START_MS))
    claimed: list[str] = []
    for turn in range(6):
        claimed += [one.group.tenant for one in await _claim(groups, START_MS + turn, limit)]
    assert claimed == ["noisy"] * 6 * limit
    now_ms = START_MS + 10
    assert await groups.save([of("quiet", number, now_ms) for number in range(3)], now_ms=now_ms) == [True] * 3
    turns = [one.group.tenant for turn in range(6) for one in await _claim(groups, now_ms + 1 + turn, limit)]
    places = [place for place, tenant in enumerate(turns) if tenant == "quiet"]
    assert len(places) == 3
    assert places[0] <= 1  # the next slot, or the one after it
    assert places[-1] <= 5  # and then every other


async def test_p29_of_many_tenants_each_has_a_turn_before_any_has_two(groups: GroupStore) -> None:
    names = [f"t{number}" for number in range(250)]
    for name in names:
        assert all(await groups.save([of(name, number) for number in range(2)], now_ms=START_MS))
    claimed = [one.group.tenant for turn in range(50) for one in await _claim(groups, START_MS + turn, limit=10)]
    assert sorted(claimed[:250]) == sorted(names)
    assert sorted(claimed[250:]) == sorted(names)
    assert await _claim(groups, START_MS + 50) == []


async def test_p29_tenants_whose_pages_were_delivered_hold_up_no_page_of_another(groups: GroupStore) -> None:
    names = [f"t{number}" for number in range(100)]
    assert all(await groups.save([of(name, 0) for name in names], now_ms=START_MS))
    changes = [
        change(one.group, one.version, token=one.token, release=True, due_ms=START_MS + MONTH_MS)
        for one in await _claim(groups, limit=100)
    ]
    assert await groups.save(changes, now_ms=START_MS) == [True] * 100
    later_ms = START_MS + 2 * LEASE_MS
    assert await groups.save([of("quiet", 0, later_ms)], now_ms=later_ms) == [True]
    assert [one.group.tenant for one in await _claim(groups, later_ms, limit=8)] == ["quiet"]


async def test_p29_after_a_crash_every_lease_that_ends_is_claimed_again_in_turns(groups: GroupStore) -> None:
    assert all(await groups.save([of("noisy", number) for number in range(40)], now_ms=START_MS))
    assert all(await groups.save([of("quiet", number) for number in range(2)], now_ms=START_MS))
    before = [one.group.key for _ in range(5) for one in await _claim(groups, START_MS, limit=10)]
    assert len(set(before)) == 42
    later_ms = START_MS + LEASE_MS
    again = [one.group for turn in range(5) for one in await _claim(groups, later_ms + turn, limit=10)]
    assert {one.key for one in again} == set(before)
    assert [one.tenant for one in again[:4]].count("quiet") == 2
    ended = [
        Change(draft=Draft(one.group, later_ms), version=one.version, over=True) for one in await parts.some(groups)
    ]
    assert all(await groups.save(ended, now_ms=later_ms))
    assert await _claim(groups, later_ms + MONTH_MS) == []


async def test_the_longest_due_is_claimed_first_within_the_limit(groups: GroupStore) -> None:
    for number in range(5):
        await _put(groups, f"w{number}", due_ms=START_MS - number)
    assert await parts.due(groups, offset=1, limit=2) == ["w3", "w2"]
    assert [one.group.key for one in await _claim(groups, limit=2)] == ["w4", "w3"]
    assert await parts.stats(groups, now_ms=START_MS) == Stats(
        receiver="ops", queued=0, lag_ms=2, dead=0, open_dead_letters=0, open_in=(), groups=5, disabled=None
    )


async def test_what_is_tried_again_and_again_lags_from_its_first_attempt_on(groups: GroupStore) -> None:
    for attempts, at_ms in enumerate((START_MS, START_MS + 30_000, START_MS + 60_000)):
        version = (await _see(groups)).version
        draft = Draft(a_group(), at_ms)
        draft.record(a_note(attempts=attempts), Outcome.QUEUED, body="{}")
        again = Change(draft=draft, version=version, due_ms=at_ms + 600_000)
        assert await groups.save([again], now_ms=at_ms) == [True]
    assert (await parts.stats(groups, now_ms=START_MS + 61_000)).lag_ms == 61_000
    draft = Draft(a_group(), START_MS + 61_000)
    draft.record(a_note(), Outcome.DELIVERED)
    done = Change(draft=draft, version=(await _see(groups)).version)
    assert await groups.save([done], now_ms=START_MS + 61_000) == [True]
    assert (await parts.stats(groups, now_ms=START_MS + 62_000)).lag_ms == 0


async def test_a_disabled_receiver_claims_nothing_and_takes_what_comes(groups: GroupStore) -> None:
    assert await groups.disable("HTTP 410")
    assert not await groups.disable("HTTP 410 again")
    await _put(groups, "w4:acmew")
    assert await _claim(groups) == []
    assert (await parts.stats(groups, now_ms=START_MS)).disabled == "HTTP 410 again"
    assert await groups.enable()
    assert not await groups.enable()
    assert len(await _claim(groups)) == 1


async def test_a_group_that_is_over_leaves_nothing_but_outcomes(groups: GroupStore, store_url: str) -> None:
    draft = Draft(a_group("g1"), START_MS)
    draft.set_member("m", Member(event=event(), first=1, number=1))
    draft.set_outcome(event(), Outcome.PART_OF, "ntf_1")
    draft.record(a_note(), Outcome.QUEUED, body="{}")
    assert await groups.save([Change(draft=draft, version=0, due_ms=START_MS)], now_ms=START_MS) == [True]
    [claimed] = await _claim(groups)
    done = Draft(a_group("g1"), START_MS)
    done.record(a_note(), Outcome.DELIVERED)
    last = Change(draft=done, version=claimed.version, token=claimed.token, release=True, over=True)
    assert await groups.save([last], now_ms=START_MS) == [True]
    async with Redis.from_url(store_url, decode_responses=True) as redis:
        assert sorted(await redis.keys(BASE + "*")) == [
            BASE + name for name in ("finished", "notifications", "outcome_times", "outcomes", "state")
        ]


async def test_p6_a_change_that_is_sent_twice_brings_nothing_back(groups: GroupStore) -> None:
    """The answer to the first change was lost. Meanwhile its event was delivered, and the group has ended."""
    draft = Draft(a_group(), START_MS)
    draft.set_outcome(event(), Outcome.QUEUED)
    begin = Change(draft=draft, version=0, due_ms=START_MS)
    assert await groups.save([begin], now_ms=START_MS) == [True]
    [claimed] = await _claim(groups)
    done = Draft(a_group(), START_MS)
    done.record(a_note(), Outcome.DELIVERED)
    end = Change(draft=done, version=claimed.version, token=claimed.token, release=True, over=True)
    assert await groups.save([end], now_ms=START_MS) == [True]
    assert await groups.save([begin], now_ms=START_MS) == [False]
    put_back = Draft(a_group(), START_MS)
    put_back.record(a_note(), Outcome.QUEUED)
    assert await groups.save([Change(draft=put_back, version=0, due_ms=START_MS)], now_ms=START_MS) == [False]
    assert (await _see(groups)).group is None


async def test_a_group_that_begins_again_is_not_taken_for_the_one_before(groups: GroupStore) -> None:
    await _put(groups, "w4:acmew")
    before = await _see(groups)
    assert await groups.save([change(a_group(), before.version, over=True)], now_ms=START_MS) == [True]
    await _put(groups, "w4:acmew")
    assert await groups.save([change(a_group(acked=True), before.version)], now_ms=START_MS) == [False]


async def test_any_number_of_changes_is_saved(groups: GroupStore) -> None:
    assert await groups.save([], now_ms=START_MS) == []
    await _put(groups, *(f"w{number}" for number in range(250)))
    assert len(await _claim(groups, limit=1_000)) == 100
    assert len(await parts.some(groups)) == 100
    assert (await parts.stats(groups, now_ms=START_MS)).groups == 250


async def test_a_group_of_any_size_is_kept_and_its_longest_firing_are_seen_first(groups: GroupStore) -> None:
    draft = Draft(a_group("g1"), START_MS)
    for number in range(2_500):
        down = event(worker_id=f"w{number}", due_ms=START_MS - number)
        draft.set_member(f"m{number}", Member(event=down, first=1, number=1))
    assert await groups.save([Change(draft=draft, version=0)], now_ms=START_MS) == [True]
    seen = await _see(groups, "g1", firing=3)
    assert list(seen.firing) == ["m2499", "m2498", "m2497"]
    gone = Draft(a_group("g1"), START_MS)
    for number in range(2, 2_500):
        gone.drop_member(f"m{number}")
    assert await groups.save([Change(draft=gone, version=seen.version)], now_ms=START_MS) == [True]
    assert list((await _see(groups, "g1", firing=500)).firing) == ["m1", "m0"]


async def test_a_notification_stands_in_one_list_and_its_body_lasts_while_it_may_be_sent(groups: GroupStore) -> None:
    version = 0
    for outcome, body in (
        (Outcome.QUEUED, "{}"),
        (Outcome.DEAD_LETTERED, "{}"),
        (Outcome.QUEUED, "{}"),
        (Outcome.DELIVERED, None),
    ):
        draft = Draft(a_group(), START_MS)
        draft.record(a_note(), outcome, body="{}" if version == 0 else None)
        assert await groups.save([Change(draft=draft, version=version)], now_ms=START_MS) == [True]
        version = (await _see(groups)).version
        listed = await groups.notification("ntf_1")
        assert listed is not None
        assert (listed.note.outcome, listed.body) == (outcome, body)
        lists = {
            place: [
                note.nid for note in await parts.notifications(groups, place, before_ms=START_MS, offset=0, limit=9)
            ]
            for place in (Outcome.QUEUED, Outcome.DEAD_LETTERED, Outcome.DELIVERED)
        }
        assert lists == {place: ["ntf_1"] if place is outcome else [] for place in lists}


async def test_the_groups_of_two_receivers_are_apart(groups: GroupStore, store: StorePort) -> None:
    other = GroupStore(store, "ops2")
    await _put(groups, "w4:acmew")
    await _put(other, "w4:acmew")
    assert len(await _claim(groups)) == len(await _claim(other)) == 1


async def test_the_library_comes_back_after_a_failover_or_flush(groups: GroupStore, store_url: str) -> None:
    await _put(groups, "w4:acmew")
    async with Redis.from_url(store_url) as redis:
        await redis.function_flush()
        [claimed] = await _claim(groups)
        await redis.function_flush()
        begun = change(a_group(), claimed.version, token=claimed.token)
        done, _ = await parts.save_confirmed(groups, [begun], now_ms=START_MS)
        assert all(done)
        await redis.flushall()
        await redis.function_flush()
    await _put(groups, "w4:acmew")
    assert (await parts.stats(groups, now_ms=START_MS)).groups == 1


async def test_p4_a_key_of_another_kind_is_refused_before_anything_is_written(
    groups: GroupStore, store_url: str
) -> None:
    async with Redis.from_url(store_url) as redis:
        await redis.set(f"{BASE}members:g1", "not a hash")
        with pytest.raises(StoreUnavailableError, match="members of g1"):
            await _put(groups, "g2", "g1")
        assert await redis.keys(BASE + "*") == [f"{BASE}members:g1".encode()]
        await redis.set(f"{BASE}finished", "not a sorted set")
        for call in (_put(groups, "g2"), _claim(groups)):
            with pytest.raises(StoreUnavailableError, match="type of"):
                await call
        assert len(await redis.keys(BASE + "*")) == 2


async def test_p26_a_full_store_takes_what_is_pending_and_can_be_drained(groups: GroupStore, store_url: str) -> None:
    await _put(groups, "a", "b")
    async with Redis.from_url(store_url) as redis:
        await redis.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(OutOfMemoryError):
                await redis.set("c", "it is full")
            await _put(groups, "c")
            first, second, _ = await _claim(groups)
            draft = Draft(a_group("a"), START_MS)
            draft.record(a_note(), Outcome.QUEUED, body="{}")
            begun = Change(draft=draft, version=first.version, token=first.token)
            done, _ = await parts.save_confirmed(groups, [begun], now_ms=START_MS)
            over = change(a_group("b"), second.version, token=second.token, release=True, over=True)
            assert all([*done, *await groups.save([over], now_ms=START_MS)])
            await parts.wake(groups, ["a"], now_ms=START_MS)
            assert await groups.disable("HTTP 410")
        finally:
            await redis.config_set("maxmemory", "0")
    assert (await parts.stats(groups, now_ms=START_MS)).groups == 2


async def test_a_group_that_is_gone_does_not_block_the_others(groups: GroupStore, store_url: str) -> None:
    await _put(groups, "a", "b")
    async with Redis.from_url(store_url) as redis:
        await redis.hdel(f"{BASE}groups", "a")
    assert [one.group.key for one in await _claim(groups)] == ["b"]
    assert await parts.due(groups, offset=0, limit=9) == ["b"]


async def test_a_group_that_cannot_be_read_does_not_block_the_others(groups: GroupStore) -> None:
    bad = Draft(a_group("bad"), START_MS)
    bad.group.reminders = "not a number"  # type: ignore[assignment]
    assert await groups.save([Change(draft=bad, version=0, due_ms=START_MS - 1)], now_ms=START_MS) == [True]
    await _put(groups, "good")
    assert [one.group.key for one in await _claim(groups)] == ["good"]
    assert [one.group.key for one in await parts.some(groups)] == ["good"]
    assert await parts.due(groups, offset=0, limit=9) == ["bad", "good"]


@pytest.mark.parametrize("name", ["", "a}b", "{a", "a b", "x" * 65])
def test_a_name_that_would_leave_its_hash_tag_is_refused(name: str) -> None:
    store = alert_store(Address("unix:///nowhere", timeout_s=2.0))
    with pytest.raises(ValueError, match="receiver name"):
        GroupStore(store, name)


@pytest.mark.parametrize("namespace", ["", "prod"])
async def test_receivers_of_earlier_runs_are_known(store_url: str, namespace: str) -> None:
    stores = [alert_store(store_url, namespace=name) for name in (namespace, "other")]
    own, other = map(ReceiverStore, stores)
    try:
        assert await own.register(["ops", "log"]) == ([], Confirmation.CONFIRMED)
        assert await other.register(["ops"]) == ([], Confirmation.CONFIRMED)
        assert await own.register(["log"]) == (["ops"], Confirmation.CONFIRMED)
        await own.remove("ops")
        assert await own.register(["log"]) == ([], Confirmation.CONFIRMED)
        assert await other.register([]) == (["ops"], Confirmation.CONFIRMED)
    finally:
        for store in stores:
            await store.close()


async def test_a_test_of_a_receiver_holds_up_none_of_another_installation(store_url: str) -> None:
    stores = [alert_store(store_url, namespace=name) for name in ("one", "other")]
    one, other = (GroupStore(store, "ops") for store in stores)
    try:
        assert await one.begin_test(60_000) == 0
        assert 0 < await one.begin_test(60_000) <= 60_000
        assert await other.begin_test(60_000) == 0
    finally:
        for store in stores:
            await store.close()


async def test_a_store_that_is_away_is_reported_by_the_type_of_the_error(tmp_path: object) -> None:
    store = alert_store(Address(f"unix://{tmp_path}/none", timeout_s=2.0), durability="fsync")
    groups = GroupStore(store, "ops")
    for call in (
        _put(groups, "w"),
        _claim(groups),
        parts.save_confirmed(groups, [change(a_group())], now_ms=START_MS),
        ReceiverStore(store).register(["ops"]),
    ):
        with pytest.raises(StoreUnavailableError):
            await call
    await store.close()


async def _begin_at(url: str, durability: str) -> tuple[Confirmation, list[bool], Confirmation]:
    store = alert_store(url, durability=durability)
    groups = GroupStore(store, "ops")
    await _put(groups, "w4:acmew")
    [claimed] = await _claim(groups)
    begun = change(a_group(), claimed.version, token=claimed.token)
    done, confirmation = await parts.save_confirmed(groups, [begun], now_ms=START_MS)
    _, registered = await ReceiverStore(store).register(["ops"])
    await store.close()
    return confirmation, list(map(bool, done)), registered


async def test_p23_fsync_is_confirmed_where_the_server_has_an_append_only_file() -> None:
    with servers.running(servers.valkey_binary()) as server:
        assert await _begin_at(server.url, "fsync") == (Confirmation.CONFIRMED, [True], Confirmation.CONFIRMED)


async def test_p23_fsync_without_an_append_only_file_falls_back_to_memory() -> None:
    with servers.running(servers.valkey_binary(), "--appendonly", "no") as server:
        assert await _begin_at(server.url, "fsync") == (Confirmation.UNAVAILABLE, [True], Confirmation.UNAVAILABLE)


async def test_p23_fsync_on_a_redis_without_waitaof_falls_back_to_memory(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis:
        version = (await redis.info("server"))["redis_version"]
    has_waitaof = tuple(int(part) for part in version.split(".")[:2]) >= (7, 2)
    binary = servers.redis_binary()
    assert binary is not None
    with servers.running(binary) as server:
        found = await _begin_at(server.url, "fsync")
    expected = Confirmation.CONFIRMED if has_waitaof else Confirmation.UNAVAILABLE
    assert found == (expected, [True], expected)


async def test_p23_replicas_that_are_missing_confirm_nothing() -> None:
    with servers.running(servers.valkey_binary()) as server:
        assert await _begin_at(server.url, "replicas:1") == (Confirmation.UNCONFIRMED, [True], Confirmation.UNCONFIRMED)


async def test_the_claim_of_a_worker_s_group_brings_the_worker_as_it_is_stored(
    groups: GroupStore, store_url: str
) -> None:
    async with Redis.from_url(store_url) as redis:
        await redis.hset("{ls:0}:records", mapping={"4:acmew": "a record", "4:acmeother": "another"})
        await redis.hset("{ls:0}:transitions", "4:acmew", "its transitions")
    await _put(groups, "w4:acmew", "w4:acmegone", "g1")
    found = {one.group.key: one.worker for one in await _claim(groups)}
    assert found == {
        "w4:acmew": StoredWorker(b"a record", b"its transitions"),
        "w4:acmegone": StoredWorker(None, None),
        "g1": None,
    }
