"""Incidents in a real store."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from alerts.groups.classify import environment_key
from alerts.groups.incidents import (
    Ack,
    Incident,
    IncidentClosedError,
    IncidentKind,
    IncidentState,
    Noted,
    UnknownIncidentError,
)
from alerts.store.incidents import IncidentStore
from alerts.store.port import StorePort
from alerts.store.retention import Retention
from monitor.events import Event
from monitor.liveness import EventKind, Liveness
from tests.support.alerts_fakes import START_MS, event
from tests.support.incidents import record
from tests.support.stores import Interrupted, alert_store

WHOLE = "inc_" + "e" * 32
KEPT_MS = Retention().age_ms


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StorePort]:
    opened = alert_store(store_url, partitions=4)
    yield opened
    await opened.close()


@pytest.fixture
def incidents(store: StorePort) -> IncidentStore:
    return IncidentStore(store)


def _end(seq: int, **changes: Any) -> Event:
    values = {"kind": EventKind.RECOVERED, "old": Liveness.STALE, "due_ms": START_MS + seq}
    return event(seq, **{**values, **changes})


def _ops(one: Event) -> dict[str, str]:
    return {"ops": f"w{one.worker_id}"}


def _no_targets(_: Event) -> dict[str, str]:
    return {}


async def _note(
    incidents: IncidentStore,
    events: Sequence[Event],
    *,
    partition: int = 0,
    whole: str | None = None,
    now_ms: int = START_MS,
) -> list[Noted]:
    return await record(incidents, partition, events, _ops, part_of=lambda _: whole, now_ms=now_ms)


async def _listed(incidents: IncidentStore, **asked: Any) -> list[str]:
    page = await incidents.page("acme", **{"limit": 100, **asked})
    assert page.after is None
    return [one.worker_id for one in page.incidents]


async def _keys(store_url: str, tag: str = "*") -> dict[str, int]:
    """Number of entries in each key."""
    sizes: dict[str, int] = {}
    async with Redis.from_url(store_url, decode_responses=True) as redis:
        counting = {"zset": redis.zcard, "hash": redis.hlen, "set": redis.scard}
        async for key in redis.scan_iter(f"{{ls{tag}}}:incident*"):
            sizes[key] = await counting[str(await redis.type(key))](key)
    return sizes


async def test_an_incident_is_open_until_its_end_and_kept_after_it(incidents: IncidentStore) -> None:
    down = event(1)
    (noted,) = await _note(incidents, [down])
    assert noted == Noted(incident_id=f"inc_{down.event_id}", targets={"ops": "ww"})
    opened = await incidents.get("acme", f"inc_{down.event_id}")
    assert (opened.is_open, opened.worker_id, opened.targets) == (True, "w", {"ops": "ww"})
    assert await _note(incidents, [_end(2)]) == [noted]
    closed = await incidents.get("acme", opened.id)
    assert (closed.closed_ms, closed.closed_by) == (START_MS + 2, EventKind.RECOVERED)


async def test_p18_events_noted_again_in_any_cut_answer_the_same_and_change_nothing(
    incidents: IncidentStore, store_url: str
) -> None:
    stream = [event(1), event(2, kind=EventKind.FAILED), _end(3), event(4), _end(5), event(1, worker_id="v"), event(6)]
    noted = await _note(incidents, stream)
    before = await incidents.page("acme", limit=100)
    sizes = await _keys(store_url)
    for start in range(len(stream)):
        again = await record(incidents, 0, stream[start:], _no_targets, now_ms=START_MS + 1)
        assert again == noted[start:]
    assert await incidents.page("acme", limit=100) == before
    assert await _keys(store_url) == sizes


async def test_p18_the_end_goes_to_the_receivers_of_the_down_whatever_the_routes_say_now(
    incidents: IncidentStore,
) -> None:
    await record(incidents, 0, [event(1)], lambda _: {"ops": "g1"}, now_ms=START_MS)
    (noted,) = await record(incidents, 0, [_end(2)], lambda _: {"ops": "w", "log": "w"}, now_ms=START_MS)
    assert noted.targets == {"ops": "g1", "log": "w"}
    (again,) = await record(incidents, 0, [_end(2)], _no_targets, now_ms=START_MS)
    assert again == noted


@pytest.mark.parametrize("by_age", [True, False])
async def test_p18_an_old_incident_that_is_forgotten_leaves_the_newer_one_of_its_worker(
    store: StorePort, *, by_age: bool
) -> None:
    incidents = IncidentStore(
        store, Retention(age_ms=KEPT_MS if by_age else 10 * KEPT_MS, most=100_000 if by_age else 1)
    )
    first, second = event(1), event(3)
    await _note(incidents, [first, _end(2)])
    (opened,) = await _note(incidents, [second], now_ms=START_MS + 10)
    # Others end, and the old one is forgotten, by its age or for their number.
    later_ms = START_MS + KEPT_MS + 20
    for number in range(6):
        await _note(incidents, [event(1, worker_id=f"v{number}"), _end(2, worker_id=f"v{number}")], now_ms=later_ms)
    with pytest.raises(UnknownIncidentError):
        await incidents.get("acme", f"inc_{first.event_id}")
    # The end finds the receivers that were notified of the DOWN, and closes the incident.
    (ended,) = await record(incidents, 0, [_end(4)], _no_targets, now_ms=later_ms + 10)
    assert ended == Noted(incident_id=opened.incident_id, targets={"ops": "ww"})
    assert (await incidents.get("acme", f"inc_{second.event_id}")).closed_by is EventKind.RECOVERED


async def test_two_that_note_at_once_make_what_one_makes(store: StorePort) -> None:
    stream = [
        one for n in range(1, 60, 2) for w in ("v", "w") for one in (event(n, worker_id=w), _end(n + 1, worker_id=w))
    ]
    both = await asyncio.gather(*(_note(IncidentStore(store), stream) for _ in range(3)))
    assert both[0] == both[1] == both[2]
    page = await IncidentStore(store).page("acme", limit=100)
    assert len(page.incidents) == 60
    assert not any(one.is_open for one in page.incidents)


async def test_a_store_that_lost_its_data_is_written_to_again(incidents: IncidentStore, store_url: str) -> None:
    await _note(incidents, [event(1)])
    async with Redis.from_url(store_url) as redis:
        await redis.flushall()
    await _note(incidents, [event(1, worker_id="v")])
    assert await _listed(incidents) == ["v"]


async def test_more_than_a_call_takes_is_noted_in_several(incidents: IncidentStore) -> None:
    stream = [event(1, worker_id=f"w{n}") for n in range(250)] + [_end(2, worker_id="w7")]
    noted = await _note(incidents, stream)
    assert len(noted) == 251
    assert noted[-1] == noted[7]
    assert len((await incidents.page("acme", state=IncidentState.OPEN, limit=500)).incidents) == 249


async def test_p24_an_incident_is_known_to_its_tenant_only(incidents: IncidentStore) -> None:
    (noted,) = await _note(incidents, [event(1)])
    assert noted.incident_id is not None
    for tenant, incident_id in (("other", noted.incident_id), ("acme", "inc_" + "0" * 32)):
        with pytest.raises(UnknownIncidentError, match=incident_id):
            await incidents.get(tenant, incident_id)
        with pytest.raises(UnknownIncidentError):
            await incidents.acknowledge(tenant, incident_id, by="eve", comment="", now_ms=START_MS)
    assert (await incidents.page("other", limit=10)).incidents == ()


async def test_the_first_ack_stays_and_what_is_over_takes_none(incidents: IncidentStore) -> None:
    first, second = await _note(incidents, [event(1), event(1, worker_id="v")])
    assert first.incident_id is not None
    assert second.incident_id is not None
    ack = Ack(by="ann", comment="mine", at_ms=START_MS)
    acked = await incidents.acknowledge("acme", first.incident_id, by="ann", comment="mine", now_ms=START_MS)
    again = await incidents.acknowledge("acme", first.incident_id, by="bob", comment="no, mine", now_ms=START_MS + 1)
    assert acked.ack == again.ack == ack
    await _note(incidents, [event(2, kind=EventKind.FAILED), _end(3), _end(2, worker_id="v")])
    closed = await incidents.acknowledge("acme", first.incident_id, by="ann", comment="mine", now_ms=START_MS + 2)
    assert (closed.ack, closed.updated, closed.is_open) == (ack, EventKind.FAILED, False)
    with pytest.raises(IncidentClosedError, match=second.incident_id):
        await incidents.acknowledge("acme", second.incident_id, by="ann", comment="", now_ms=START_MS)


async def test_an_ack_in_the_middle_of_noting_is_not_lost(incidents: IncidentStore, store_url: str) -> None:
    (noted,) = await _note(incidents, [event(1)])
    incident_id = str(noted.incident_id)

    async def acknowledge() -> None:
        await incidents.acknowledge("acme", incident_id, by="ann", comment="", now_ms=START_MS)

    store = Interrupted(store_url, "route_write", acknowledge, partitions=4)
    await _note(IncidentStore(store), [event(2, kind=EventKind.FAILED)])
    await store.close()
    incident = await incidents.get("acme", incident_id)
    assert (incident.updated, incident.ack is not None) == (EventKind.FAILED, True)


async def test_an_end_in_the_middle_of_an_ack_is_not_lost(incidents: IncidentStore, store_url: str) -> None:
    (noted,) = await _note(incidents, [event(1)])
    incident_id = str(noted.incident_id)
    store = Interrupted(store_url, "incidents_put", lambda: _note(incidents, [_end(2)]), partitions=4)
    with pytest.raises(IncidentClosedError):
        await IncidentStore(store).acknowledge("acme", incident_id, by="ann", comment="", now_ms=START_MS)
    await store.close()
    assert not (await incidents.get("acme", incident_id)).is_open


async def test_p18_a_router_that_is_late_changes_nothing(incidents: IncidentStore, store_url: str) -> None:
    stream = [event(1), _end(2), event(3)]
    store = Interrupted(store_url, "route_write", lambda: _note(incidents, stream), partitions=4)
    late = await _note(IncidentStore(store), stream[:1])
    await store.close()
    assert late == (await _note(incidents, stream))[:1]
    page = await incidents.page("acme", limit=9)
    assert sorted((one.is_open, one.id) for one in page.incidents) == [
        (False, f"inc_{event(1).event_id}"),
        (True, f"inc_{event(3).event_id}"),
    ]
    assert (await _note(incidents, [_end(4)]))[0].incident_id == f"inc_{event(3).event_id}"


async def test_lists_are_newest_first_over_all_partitions_and_filtered(incidents: IncidentStore) -> None:
    for n in range(12):
        environment = "prod" if n % 2 else "test"
        down = event(1, worker_id=f"w{n:02}", due_ms=START_MS + n, environment_name=environment)
        await _note(incidents, [down], partition=n % 3)
    await _note(incidents, [_end(2, worker_id="w03")], partition=0)
    await _note(incidents, [_end(2, worker_id="w04")], partition=1)
    names = [f"w{n:02}" for n in reversed(range(12))]
    assert await _listed(incidents) == names
    assert await _listed(incidents, state=IncidentState.CLOSED) == ["w04", "w03"]
    assert await _listed(incidents, state=IncidentState.OPEN) == [name for name in names if name not in {"w03", "w04"}]
    assert await _listed(incidents, environments=("prod", "none")) == names[::2]
    assert await _listed(incidents, environments=("test",), state=IncidentState.CLOSED) == ["w04"]
    assert await _listed(incidents, environments=()) == []


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
@pytest.mark.parametrize("partitions", [1, 4])
async def test_pages_hold_everything_once_in_order_also_with_equal_times(
    incidents: IncidentStore, limit: int, partitions: int
) -> None:
    for n in range(21):
        down = event(1, worker_id=f"w{n:02}", due_ms=START_MS + n // 6)
        await _note(incidents, [down], partition=n % partitions)
    found: list[Incident] = []
    after = None
    for _ in range(30):
        page = await incidents.page("acme", after=after, limit=limit)
        assert len(page.incidents) <= limit
        found += page.incidents
        after = page.after
        if after is None:
            break
    assert after is None
    assert found == list((await incidents.page("acme", limit=100)).incidents)
    assert len({one.id for one in found}) == 21


async def test_a_filter_that_leaves_little_of_many_finds_all_of_it(incidents: IncidentStore) -> None:
    stream = [event(1, worker_id=f"w{n}", due_ms=START_MS + n) for n in range(1_300)]
    stream[3] = event(1, worker_id="rare", due_ms=START_MS + 3, environment_name="rare")
    await _note(incidents, stream)
    older = event(1, worker_id="older", due_ms=START_MS + 2, environment_name="rare")
    await _note(incidents, [older], partition=1)
    assert await _listed(incidents, environments=("rare",)) == ["rare", "older"]


async def test_what_has_been_over_for_long_is_forgotten_whole_and_what_is_open_never(
    incidents: IncidentStore, store_url: str
) -> None:
    await _note(incidents, [event(1), event(2, kind=EventKind.FAILED), _end(3), event(1, worker_id="v")], whole=WHOLE)
    last_ms = START_MS + KEPT_MS - 1
    await _note(incidents, [event(1, worker_id="u")], now_ms=last_ms)
    assert await _listed(incidents, environments=("prod",), state=IncidentState.CLOSED) == ["w"]
    await _note(incidents, [event(2, worker_id="u", kind=EventKind.FAILED)], now_ms=last_ms + 1)
    assert sorted(await _listed(incidents)) == ["", "u", "v"]
    sizes = await _keys(store_url, ":0")
    assert sizes == {
        "{ls:0}:incidents": 2,
        "{ls:0}:incident_of_worker": 2,
        "{ls:0}:incident_of_event": 1,
        "{ls:0}:incidents:acme": 2,
        "{ls:0}:incidents_open:acme": 2,
    }
    with pytest.raises(UnknownIncidentError):
        await incidents.get("acme", f"inc_{event(1).event_id}")


async def test_only_the_newest_that_are_over_are_kept(incidents: IncidentStore, store: StorePort) -> None:
    await _note(incidents, [event(1, worker_id="open")])
    for n in range(6):
        await _note(incidents, [event(1, worker_id=f"w{n}"), _end(2, worker_id=f"w{n}")], now_ms=START_MS + n)
    pack = msgspec.msgpack.encode
    kept, nothing = pack([KEPT_MS, 3, []]), pack([])
    await store.call(
        "route_write", "{ls:0}:", 0, "", START_MS + 9, kept, pack([KEPT_MS, []]), nothing, nothing, nothing
    )
    assert sorted(await _listed(incidents)) == ["open", "w3", "w4", "w5"]


async def test_what_was_over_before_it_was_noted_is_kept_as_long(incidents: IncidentStore) -> None:
    now_ms = START_MS + 2 * KEPT_MS
    (noted,) = await _note(incidents, [event(1)], now_ms=now_ms)
    assert await _note(incidents, [_end(2)], now_ms=now_ms) == [noted]
    assert await record(incidents, 0, [_end(2)], _no_targets, now_ms=now_ms + 1) == [noted]


async def test_p16_an_environments_incident_counts_members_of_all_partitions_once(incidents: IncidentStore) -> None:
    key = environment_key("acme", "prod")

    async def note(partition: int, *events: Event) -> None:
        await record(incidents, partition, events, lambda _: {"ops": key}, part_of=lambda _: WHOLE, now_ms=START_MS)

    downs = [event(1, worker_id=f"w{n}", due_ms=START_MS + n) for n in range(4)]
    await note(0, *downs[:2])
    await note(1, *downs[2:])
    await note(1, *downs[2:])
    opened = await incidents.get("acme", WHOLE)
    assert (opened.kind, opened.environment_name, opened.worker_id) == (IncidentKind.ENVIRONMENT, "prod", "")
    assert (opened.members, opened.members_open, opened.is_open) == (4, 4, True)
    assert (opened.opened_ms, opened.targets) == (START_MS, {"ops": key})
    member = await incidents.get("acme", f"inc_{downs[3].event_id}")
    assert member.part_of == WHOLE
    await note(0, *(_end(2, worker_id=f"w{n}") for n in range(2)))
    await note(1, _end(2, worker_id="w3", due_ms=START_MS + 20))
    await note(0, *downs[:2])  # a late process records them as down
    assert (await incidents.get("acme", WHOLE)).members_open == 1
    acked = await incidents.acknowledge("acme", WHOLE, by="ann", comment="", now_ms=START_MS)
    assert (acked.members, acked.is_open) == (4, True)
    await note(1, _end(9, worker_id="w2"))
    closed = await incidents.get("acme", WHOLE)
    assert (closed.members, closed.members_open, closed.ack) == (4, 0, acked.ack)
    assert (closed.closed_ms, closed.closed_by, closed.closed_by_event) == (
        START_MS + 20,
        EventKind.RECOVERED,
        _end(2, worker_id="w3").event_id,
    )
    assert await _listed(incidents, state=IncidentState.OPEN) == []
    assert "" in await _listed(incidents, state=IncidentState.CLOSED)


async def test_p16_what_was_noted_of_workers_only_is_made_up_when_the_events_come_again(
    incidents: IncidentStore, store_url: str
) -> None:
    stream = [event(1), event(1, worker_id="v"), _end(2)]
    noted = await _note(incidents, stream, whole=WHOLE)
    whole = await incidents.get("acme", WHOLE)
    async with Redis.from_url(store_url) as redis:
        await redis.delete(*(await _keys(store_url, ".shared:*")))
    assert await _note(incidents, stream) == noted
    assert await incidents.get("acme", WHOLE) == whole
    assert (whole.members, whole.members_open) == (2, 1)


async def test_p16_one_that_comes_after_the_last_end_opens_the_environments_incident_again(
    incidents: IncidentStore, store_url: str
) -> None:
    await _note(incidents, [event(1), _end(2)], whole=WHOLE)
    closed = await incidents.get("acme", WHOLE)
    assert (closed.members, closed.closed_ms) == (1, START_MS + 2)
    await _note(incidents, [event(1, worker_id="v")], partition=1, whole=WHOLE, now_ms=START_MS + KEPT_MS - 1)
    again = await incidents.get("acme", WHOLE)
    assert (again.members, again.members_open, again.closed_ms, again.closed_by) == (2, 1, None, None)
    assert sorted(await _listed(incidents, state=IncidentState.OPEN)) == ["", "v"]
    await _note(incidents, [event(1, worker_id="x")], partition=1, whole=WHOLE, now_ms=START_MS + KEPT_MS)
    assert (await incidents.get("acme", WHOLE)).members == 3  # not forgotten for its first end
    await _note(incidents, [_end(2, worker_id="x")], partition=1, now_ms=START_MS + KEPT_MS)
    await _note(incidents, [_end(2, worker_id="v")], partition=1, now_ms=START_MS + KEPT_MS)
    later_ms = START_MS + 2 * KEPT_MS
    await _note(incidents, [event(1, worker_id="u")], whole="inc_" + "f" * 32, now_ms=later_ms)
    assert not [key for key in await _keys(store_url, ".shared:*") if WHOLE in key]
