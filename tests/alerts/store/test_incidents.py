"""Incidents and silences in a real store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from redis.asyncio import Redis

from alerts.groups.incidents import (
    Ack,
    Incident,
    IncidentClosedError,
    IncidentKind,
    IncidentState,
    Noted,
    UnknownIncidentError,
)
from alerts.groups.keys import environment_key
from alerts.groups.silences import Matchers, Silence, SilenceState, TooManySilencesError, UnknownSilenceError
from alerts.store.connection import Reply, StoreConnection
from alerts.store.incidents import SILENCES_MOST, Ledger
from alerts.store.retention import Retention
from monitor.liveness import EventKind, Liveness
from tests.support.alerts_fakes import START_MS, event
from tests.support.stores import pools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from monitor.events import Event

WHOLE = "inc_" + "e" * 32
KEPT_MS = Retention().age_ms


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StoreConnection]:
    opened = StoreConnection(pools=pools(store_url), receivers=1)
    yield opened
    await opened.close()


@pytest.fixture
def ledger(store: StoreConnection) -> Ledger:
    return Ledger(store)


def _end(seq: int, **changes: Any) -> Event:
    values = {"kind": EventKind.RECOVERED, "old": Liveness.STALE, "due_ms": START_MS + seq}
    return event(seq, **{**values, **changes})


def _ops(one: Event) -> dict[str, str]:
    return {"ops": f"w{one.worker_id}"}


def _nobody(_: Event) -> dict[str, str]:
    return {}


async def _note(
    ledger: Ledger, events: Sequence[Event], *, partition: int = 0, whole: str | None = None, now_ms: int = START_MS
) -> list[Noted]:
    return await ledger.record(partition, events, _ops, part_of=lambda _: whole, now_ms=now_ms)


async def _listed(ledger: Ledger, **asked: Any) -> list[str]:
    page = await ledger.incidents("acme", **{"limit": 100, **asked})
    assert page.after is None
    return [one.worker_id for one in page.incidents]


async def _keys(store_url: str, pattern: str = "") -> dict[str, int]:
    """How much is in each key."""
    sizes: dict[str, int] = {}
    async with Redis.from_url(store_url, decode_responses=True) as redis:
        counting = {"zset": redis.zcard, "hash": redis.hlen, "set": redis.scard}
        async for key in redis.scan_iter(f"{{la.{pattern}*"):
            sizes[key] = await counting[str(await redis.type(key))](key)
    return sizes


async def test_an_incident_is_open_until_its_end_and_kept_after_it(ledger: Ledger) -> None:
    down = event(1)
    (noted,) = await _note(ledger, [down])
    assert noted == Noted(incident_id=f"inc_{down.event_id}", targets={"ops": "ww"})
    opened = await ledger.incident("acme", f"inc_{down.event_id}")
    assert (opened.is_open, opened.worker_id, opened.targets) == (True, "w", {"ops": "ww"})
    assert await _note(ledger, [_end(2)]) == [noted]
    closed = await ledger.incident("acme", opened.id)
    assert (closed.closed_ms, closed.closed_by) == (START_MS + 2, EventKind.RECOVERED)


async def test_p18_events_noted_again_in_any_cut_answer_the_same_and_change_nothing(
    ledger: Ledger, store_url: str
) -> None:
    stream = [event(1), event(2, kind=EventKind.FAILED), _end(3), event(4), _end(5), event(1, worker_id="v"), event(6)]
    noted = await _note(ledger, stream)
    before = await ledger.incidents("acme", limit=100)
    sizes = await _keys(store_url)
    for start in range(len(stream)):
        again = await ledger.record(0, stream[start:], _nobody, now_ms=START_MS + 1)
        assert again == noted[start:]
    assert await ledger.incidents("acme", limit=100) == before
    assert await _keys(store_url) == sizes


async def test_p18_the_end_finds_whom_the_down_was_for_whatever_the_routes_say_now(ledger: Ledger) -> None:
    await ledger.record(0, [event(1)], lambda _: {"ops": "g1"}, now_ms=START_MS)
    (noted,) = await ledger.record(0, [_end(2)], lambda _: {"ops": "w", "log": "w"}, now_ms=START_MS)
    assert noted.targets == {"ops": "g1", "log": "w"}
    (again,) = await ledger.record(0, [_end(2)], _nobody, now_ms=START_MS)
    assert again == noted


@pytest.mark.parametrize("by_age", [True, False])
async def test_p18_an_old_incident_that_is_forgotten_leaves_the_newer_one_of_its_worker(
    store: StoreConnection, *, by_age: bool
) -> None:
    ledger = Ledger(store, Retention(age_ms=KEPT_MS if by_age else 10 * KEPT_MS, most=100_000 if by_age else 1))
    first, second = event(1), event(3)
    await _note(ledger, [first, _end(2)])
    (opened,) = await _note(ledger, [second], now_ms=START_MS + 10)
    # Others end, and the old one is forgotten, by its age or for their number.
    later_ms = START_MS + KEPT_MS + 20
    for number in range(6):
        await _note(ledger, [event(1, worker_id=f"v{number}"), _end(2, worker_id=f"v{number}")], now_ms=later_ms)
    with pytest.raises(UnknownIncidentError):
        await ledger.incident("acme", f"inc_{first.event_id}")
    # Its end finds the receivers that were told of the DOWN, and closes it.
    (ended,) = await ledger.record(0, [_end(4)], _nobody, now_ms=later_ms + 10)
    assert ended == Noted(incident_id=opened.incident_id, targets={"ops": "ww"})
    assert (await ledger.incident("acme", f"inc_{second.event_id}")).closed_by is EventKind.RECOVERED


async def test_two_that_note_at_once_make_what_one_makes(store: StoreConnection) -> None:
    stream = [
        one for n in range(1, 60, 2) for w in ("v", "w") for one in (event(n, worker_id=w), _end(n + 1, worker_id=w))
    ]
    both = await asyncio.gather(*(_note(Ledger(store), stream) for _ in range(3)))
    assert both[0] == both[1] == both[2]
    page = await Ledger(store).incidents("acme", limit=100)
    assert len(page.incidents) == 60
    assert not any(one.is_open for one in page.incidents)


async def test_a_store_that_lost_its_data_is_written_to_again(ledger: Ledger, store_url: str) -> None:
    await _note(ledger, [event(1)])
    async with Redis.from_url(store_url) as redis:
        await redis.flushall()
    await _note(ledger, [event(1, worker_id="v")])
    assert await _listed(ledger) == ["v"]


async def test_more_than_a_call_takes_is_noted_in_several(ledger: Ledger) -> None:
    stream = [event(1, worker_id=f"w{n}") for n in range(250)] + [_end(2, worker_id="w7")]
    noted = await _note(ledger, stream)
    assert len(noted) == 251
    assert noted[-1] == noted[7]
    assert len((await ledger.incidents("acme", state=IncidentState.OPEN, limit=500)).incidents) == 249


async def test_p24_an_incident_is_known_to_its_tenant_only(ledger: Ledger) -> None:
    (noted,) = await _note(ledger, [event(1)])
    assert noted.incident_id is not None
    for tenant, incident_id in (("other", noted.incident_id), ("acme", "inc_" + "0" * 32)):
        with pytest.raises(UnknownIncidentError, match=incident_id):
            await ledger.incident(tenant, incident_id)
        with pytest.raises(UnknownIncidentError):
            await ledger.acknowledge(tenant, incident_id, by="eve", comment="", now_ms=START_MS)
    assert (await ledger.incidents("other", limit=10)).incidents == ()


async def test_the_first_ack_stays_and_what_is_over_takes_none(ledger: Ledger) -> None:
    first, second = await _note(ledger, [event(1), event(1, worker_id="v")])
    assert first.incident_id is not None
    assert second.incident_id is not None
    ack = Ack(by="ann", comment="mine", at_ms=START_MS)
    acked = await ledger.acknowledge("acme", first.incident_id, by="ann", comment="mine", now_ms=START_MS)
    again = await ledger.acknowledge("acme", first.incident_id, by="bob", comment="no, mine", now_ms=START_MS + 1)
    assert acked.ack == again.ack == ack
    await _note(ledger, [event(2, kind=EventKind.FAILED), _end(3), _end(2, worker_id="v")])
    closed = await ledger.acknowledge("acme", first.incident_id, by="ann", comment="mine", now_ms=START_MS + 2)
    assert (closed.ack, closed.updated, closed.is_open) == (ack, EventKind.FAILED, False)
    with pytest.raises(IncidentClosedError, match=second.incident_id):
        await ledger.acknowledge("acme", second.incident_id, by="ann", comment="", now_ms=START_MS)


class Interrupted(StoreConnection):
    """A store at which somebody else is faster: once, right before a call of ``function``."""

    def __init__(self, redis_url: str, function: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__(pools=pools(redis_url), receivers=1)
        self._function = function
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    async def call(self, function: str, base: str, *args: str | bytes | int) -> Reply:
        if function == self._function and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        return await super().call(function, base, *args)


async def test_an_ack_in_the_middle_of_noting_is_not_lost(ledger: Ledger, store_url: str) -> None:
    (noted,) = await _note(ledger, [event(1)])
    incident_id = str(noted.incident_id)

    async def acknowledge() -> None:
        await ledger.acknowledge("acme", incident_id, by="ann", comment="", now_ms=START_MS)

    store = Interrupted(store_url, "incidents_write", acknowledge)
    await _note(Ledger(store), [event(2, kind=EventKind.FAILED)])
    await store.close()
    incident = await ledger.incident("acme", incident_id)
    assert (incident.updated, incident.ack is not None) == (EventKind.FAILED, True)


async def test_an_end_in_the_middle_of_an_ack_is_not_lost(ledger: Ledger, store_url: str) -> None:
    (noted,) = await _note(ledger, [event(1)])
    incident_id = str(noted.incident_id)
    store = Interrupted(store_url, "incidents_put", lambda: _note(ledger, [_end(2)]))
    with pytest.raises(IncidentClosedError):
        await Ledger(store).acknowledge("acme", incident_id, by="ann", comment="", now_ms=START_MS)
    await store.close()
    assert not (await ledger.incident("acme", incident_id)).is_open


async def test_p18_a_router_that_is_late_changes_nothing(ledger: Ledger, store_url: str) -> None:
    stream = [event(1), _end(2), event(3)]
    store = Interrupted(store_url, "incidents_write", lambda: _note(ledger, stream))
    late = await _note(Ledger(store), stream[:1])
    await store.close()
    assert late == (await _note(ledger, stream))[:1]
    page = await ledger.incidents("acme", limit=9)
    assert sorted((one.is_open, one.id) for one in page.incidents) == [
        (False, f"inc_{event(1).event_id}"),
        (True, f"inc_{event(3).event_id}"),
    ]
    assert (await _note(ledger, [_end(4)]))[0].incident_id == f"inc_{event(3).event_id}"


async def test_lists_are_newest_first_over_all_partitions_and_filtered(ledger: Ledger) -> None:
    for n in range(12):
        environment = "prod" if n % 2 else "test"
        down = event(1, worker_id=f"w{n:02}", due_ms=START_MS + n, environment_name=environment)
        await _note(ledger, [down], partition=n % 3)
    await _note(
        ledger,
        [
            _end(2, worker_id="w03"),
        ],
        partition=0,
    )
    await _note(ledger, [_end(2, worker_id="w04")], partition=1)
    names = [f"w{n:02}" for n in reversed(range(12))]
    assert await _listed(ledger) == names
    assert await _listed(ledger, state=IncidentState.CLOSED) == ["w04", "w03"]
    assert await _listed(ledger, state=IncidentState.OPEN) == [name for name in names if name not in {"w03", "w04"}]
    assert await _listed(ledger, environments=("prod", "none")) == names[::2]
    assert await _listed(ledger, environments=("test",), state=IncidentState.CLOSED) == ["w04"]
    assert await _listed(ledger, environments=()) == []


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
@pytest.mark.parametrize("partitions", [1, 4])
async def test_pages_hold_everything_once_in_order_also_with_equal_times(
    ledger: Ledger, limit: int, partitions: int
) -> None:
    for n in range(21):
        down = event(1, worker_id=f"w{n:02}", due_ms=START_MS + n // 6)
        await _note(ledger, [down], partition=n % partitions)
    found: list[Incident] = []
    after = None
    for _ in range(30):
        page = await ledger.incidents("acme", after=after, limit=limit)
        assert len(page.incidents) <= limit
        found += page.incidents
        after = page.after
        if after is None:
            break
    assert after is None
    assert found == list((await ledger.incidents("acme", limit=100)).incidents)
    assert len({one.id for one in found}) == 21


async def test_a_filter_that_leaves_little_of_many_finds_all_of_it(ledger: Ledger) -> None:
    stream = [event(1, worker_id=f"w{n}", due_ms=START_MS + n) for n in range(1_300)]
    stream[3] = event(1, worker_id="rare", due_ms=START_MS + 3, environment_name="rare")
    await _note(ledger, stream)
    older = event(1, worker_id="older", due_ms=START_MS + 2, environment_name="rare")
    await _note(ledger, [older], partition=1)
    assert await _listed(ledger, environments=("rare",)) == ["rare", "older"]


async def test_what_has_been_over_for_long_is_forgotten_whole_and_what_is_open_never(
    ledger: Ledger, store_url: str
) -> None:
    await _note(ledger, [event(1), event(2, kind=EventKind.FAILED), _end(3), event(1, worker_id="v")], whole=WHOLE)
    last_ms = START_MS + KEPT_MS - 1
    await _note(ledger, [event(1, worker_id="u")], now_ms=last_ms)
    assert await _listed(ledger, environments=("prod",), state=IncidentState.CLOSED) == ["w"]
    await _note(ledger, [event(2, worker_id="u", kind=EventKind.FAILED)], now_ms=last_ms + 1)
    assert sorted(await _listed(ledger)) == ["", "u", "v"]
    sizes = await _keys(store_url, "incidents:0")
    assert sizes == {
        "{la.incidents:0}:i": 2,
        "{la.incidents:0}:w": 2,
        "{la.incidents:0}:e": 1,
        "{la.incidents:0}:t:acme": 2,
        "{la.incidents:0}:o:acme": 2,
    }
    with pytest.raises(UnknownIncidentError):
        await ledger.incident("acme", f"inc_{event(1).event_id}")


async def test_only_the_newest_that_are_over_are_kept(ledger: Ledger, store: StoreConnection) -> None:
    await _note(ledger, [event(1, worker_id="open")])
    for n in range(6):
        await _note(ledger, [event(1, worker_id=f"w{n}"), _end(2, worker_id=f"w{n}")], now_ms=START_MS + n)
    nothing = msgspec.msgpack.encode([[], []])
    await store.call("incidents_write", "{la.incidents:0}", START_MS + 9, KEPT_MS, 3, nothing)
    assert sorted(await _listed(ledger)) == ["open", "w3", "w4", "w5"]


async def test_what_was_over_before_it_was_noted_is_kept_as_long(ledger: Ledger) -> None:
    now_ms = START_MS + 2 * KEPT_MS
    (noted,) = await _note(ledger, [event(1)], now_ms=now_ms)
    assert await _note(ledger, [_end(2)], now_ms=now_ms) == [noted]
    assert await ledger.record(0, [_end(2)], _nobody, now_ms=now_ms + 1) == [noted]


async def test_p16_an_environments_incident_counts_members_of_all_partitions_once(ledger: Ledger) -> None:
    key = environment_key("acme", "prod")

    async def note(partition: int, *events: Event) -> None:
        await ledger.record(partition, events, lambda _: {"ops": key}, part_of=lambda _: WHOLE, now_ms=START_MS)

    downs = [event(1, worker_id=f"w{n}", due_ms=START_MS + n) for n in range(4)]
    await note(0, *downs[:2])
    await note(1, *downs[2:])
    await note(1, *downs[2:])
    opened = await ledger.incident("acme", WHOLE)
    assert (opened.kind, opened.environment_name, opened.worker_id) == (IncidentKind.ENVIRONMENT, "prod", "")
    assert (opened.members, opened.members_open, opened.is_open) == (4, 4, True)
    assert (opened.opened_ms, opened.targets) == (START_MS, {"ops": key})
    member = await ledger.incident("acme", f"inc_{downs[3].event_id}")
    assert member.part_of == WHOLE
    await note(0, *(_end(2, worker_id=f"w{n}") for n in range(2)))
    await note(1, _end(2, worker_id="w3", due_ms=START_MS + 20))
    await note(0, *downs[:2])  # somebody who is late says that they are down
    assert (await ledger.incident("acme", WHOLE)).members_open == 1
    acked = await ledger.acknowledge("acme", WHOLE, by="ann", comment="", now_ms=START_MS)
    assert (acked.members, acked.is_open) == (4, True)
    await note(1, _end(9, worker_id="w2"))
    closed = await ledger.incident("acme", WHOLE)
    assert (closed.members, closed.members_open, closed.ack) == (4, 0, acked.ack)
    assert (closed.closed_ms, closed.closed_by, closed.closed_by_event) == (
        START_MS + 20,
        EventKind.RECOVERED,
        _end(2, worker_id="w3").event_id,
    )
    assert await _listed(ledger, state=IncidentState.OPEN) == []
    assert "" in await _listed(ledger, state=IncidentState.CLOSED)


async def test_p16_what_was_noted_of_workers_only_is_made_up_when_the_events_come_again(
    ledger: Ledger, store_url: str
) -> None:
    stream = [event(1), event(1, worker_id="v"), _end(2)]
    noted = await _note(ledger, stream, whole=WHOLE)
    whole = await ledger.incident("acme", WHOLE)
    async with Redis.from_url(store_url) as redis:
        await redis.delete(*(await _keys(store_url, "environments")))
    assert await _note(ledger, stream) == noted
    assert await ledger.incident("acme", WHOLE) == whole
    assert (whole.members, whole.members_open) == (2, 1)


async def test_p16_one_that_comes_after_the_last_end_opens_the_environments_incident_again(
    ledger: Ledger, store_url: str
) -> None:
    await _note(ledger, [event(1), _end(2)], whole=WHOLE)
    closed = await ledger.incident("acme", WHOLE)
    assert (closed.members, closed.closed_ms) == (1, START_MS + 2)
    await _note(ledger, [event(1, worker_id="v")], partition=1, whole=WHOLE, now_ms=START_MS + KEPT_MS - 1)
    again = await ledger.incident("acme", WHOLE)
    assert (again.members, again.members_open, again.closed_ms, again.closed_by) == (2, 1, None, None)
    assert sorted(await _listed(ledger, state=IncidentState.OPEN)) == ["", "v"]
    await _note(ledger, [event(1, worker_id="x")], partition=1, whole=WHOLE, now_ms=START_MS + KEPT_MS)
    assert (await ledger.incident("acme", WHOLE)).members == 3  # not forgotten for its first end
    await _note(ledger, [_end(2, worker_id="x")], partition=1, now_ms=START_MS + KEPT_MS)
    await _note(ledger, [_end(2, worker_id="v")], partition=1, now_ms=START_MS + KEPT_MS)
    later_ms = START_MS + 2 * KEPT_MS
    await _note(ledger, [event(1, worker_id="u")], whole="inc_" + "f" * 32, now_ms=later_ms)
    assert not [key for key in await _keys(store_url, "environments") if WHOLE in key]


def _silence(number: int = 0, **changes: Any) -> Silence:
    values: dict[str, Any] = {
        "id": f"sil_{number:032x}",
        "tenant": "acme",
        "matchers": Matchers(worker_id="w*", metadata={"rack": "é"}),
        "starts_ms": START_MS,
        "ends_ms": START_MS + 1_000,
        "comment": "deploy",
        "author": "ann",
        "created_ms": START_MS + number,
    }
    return Silence(**{**values, **changes})


async def test_a_silence_is_kept_as_it_is_given_and_once(ledger: Ledger) -> None:
    for _ in range(2):
        await ledger.add_silence(_silence(), now_ms=START_MS)
    assert await ledger.silence("acme", _silence().id) == _silence()
    assert await ledger.silences("acme", now_ms=START_MS) == [_silence()]
    assert await ledger.silences_of(["acme", "other"]) == {"acme": [_silence()], "other": []}


async def test_p24_a_silence_is_known_to_its_tenant_only(ledger: Ledger) -> None:
    await ledger.add_silence(_silence(), now_ms=START_MS)
    with pytest.raises(UnknownSilenceError, match=_silence().id):
        await ledger.silence("other", _silence().id)
    with pytest.raises(UnknownSilenceError):
        await ledger.end_silence("other", _silence().id, by="eve", now_ms=START_MS)
    assert await ledger.silences("other", now_ms=START_MS) == []


async def test_ending_twice_is_ending_once(ledger: Ledger) -> None:
    await ledger.add_silence(_silence(), now_ms=START_MS)
    ended = await ledger.end_silence("acme", _silence().id, by="bob", now_ms=START_MS + 5)
    assert (ended.ended_ms, ended.ended_by, ended.over_ms) == (START_MS + 5, "bob", START_MS + 5)
    assert await ledger.end_silence("acme", _silence().id, by="eve", now_ms=START_MS + 9) == ended
    await ledger.add_silence(_silence(), now_ms=START_MS + 9)
    assert await ledger.silence("acme", _silence().id) == ended
    assert await ledger.silences_of(["acme"]) == {"acme": []}
    await ledger.add_silence(_silence(1), now_ms=START_MS)
    past = await ledger.end_silence("acme", _silence(1).id, by="bob", now_ms=START_MS + 1_000)
    assert past == _silence(1)


async def test_p17_every_daemon_sees_a_change_at_once(store: StoreConnection, store_url: str) -> None:
    writer, reader = Ledger(store), Ledger(store)
    assert await reader.silences_of(["acme"]) == {"acme": []}
    await writer.add_silence(_silence(), now_ms=START_MS)
    for _ in range(2):
        assert await reader.silences_of(["acme"]) == {"acme": [_silence()]}
    await writer.add_silence(_silence(1), now_ms=START_MS)
    assert len((await reader.silences_of(["acme"]))["acme"]) == 2
    await writer.end_silence("acme", _silence(1).id, by="bob", now_ms=START_MS)
    assert await reader.silences_of(["acme"]) == {"acme": [_silence()]}
    async with Redis.from_url(store_url) as redis:
        await redis.flushall()
    assert await reader.silences_of(["acme"]) == {"acme": []}


async def test_more_tenants_than_a_call_takes_are_asked_in_several(ledger: Ledger) -> None:
    tenants = [f"t{n}" for n in range(230)]
    await ledger.add_silence(_silence(tenant="t229"), now_ms=START_MS)
    found = await ledger.silences_of(tenants)
    assert list(found) == tenants
    assert [tenant for tenant, some in found.items() if some] == ["t229"]


async def test_a_tenant_has_room_again_when_silences_are_over(ledger: Ledger) -> None:
    for n in range(SILENCES_MOST):
        await ledger.add_silence(_silence(n, ends_ms=START_MS + 1_000 + n), now_ms=START_MS)
    with pytest.raises(TooManySilencesError, match="acme"):
        await ledger.add_silence(_silence(5_000), now_ms=START_MS + 999)
    await ledger.add_silence(_silence(5_000, tenant="other"), now_ms=START_MS)
    await ledger.add_silence(_silence(5_000, ends_ms=START_MS + 9_000), now_ms=START_MS + 1_000)
    found = await ledger.silences("acme", now_ms=START_MS + 1_000)
    assert len(found) == SILENCES_MOST + 1
    assert found[0].id == _silence(5_000).id
    assert len((await ledger.silences_of(["acme"]))["acme"]) == SILENCES_MOST


async def test_silences_are_listed_newest_first_and_forgotten_after_a_week(ledger: Ledger, store_url: str) -> None:
    pending = _silence(1, starts_ms=START_MS + 10)
    for one in (_silence(0), pending, _silence(2, ends_ms=START_MS + 1)):
        await ledger.add_silence(one, now_ms=START_MS)
    found = await ledger.silences("acme", now_ms=START_MS + 5)
    assert found == [_silence(2, ends_ms=START_MS + 1), pending, _silence(0)]
    assert [one.state(START_MS + 5) for one in found] == [
        SilenceState.ENDED,
        SilenceState.PENDING,
        SilenceState.ACTIVE,
    ]
    later_ms = START_MS + 1_001 + KEPT_MS
    assert await ledger.silences("acme", now_ms=later_ms) == []
    await ledger.add_silence(_silence(3, ends_ms=later_ms + 1), now_ms=later_ms)
    sizes = await _keys(store_url, "silences")
    assert sizes == {"{la.silences}:s:acme": 1, "{la.silences}:a:acme": 1, "{la.silences}:v": 1}


async def test_only_the_newest_silences_that_are_over_are_kept(ledger: Ledger, store: StoreConnection) -> None:
    for n in range(4):
        await ledger.add_silence(_silence(n), now_ms=START_MS)
        await ledger.end_silence("acme", _silence(n).id, by="ann", now_ms=START_MS + n)
    new = _silence(4)
    text = msgspec.json.encode(new).decode()
    most = (KEPT_MS, 2, SILENCES_MOST)
    await store.call("silences_add", "{la.silences}", "acme", START_MS + 9, *most, new.id, new.ends_ms, text)
    found = await ledger.silences("acme", now_ms=START_MS + 9)
    assert [one.id for one in found] == [_silence(n).id for n in (4, 3, 2)]
