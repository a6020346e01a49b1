"""Silences in a real store."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from alerts.groups.silences import Matchers, Silence, SilenceState, TooManySilencesError, UnknownSilenceError
from alerts.store.port import StorePort
from alerts.store.retention import Retention
from alerts.store.silences import SILENCES_MOST, SilenceStore
from tests.support.alerts_fakes import START_MS
from tests.support.stores import alert_store

KEPT_MS = Retention().age_ms


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StorePort]:
    opened = alert_store(store_url)
    yield opened
    await opened.close()


@pytest.fixture
def silences(store: StorePort) -> SilenceStore:
    return SilenceStore(store)


async def _keys(store_url: str) -> dict[str, int]:
    """Number of entries in each key."""
    sizes: dict[str, int] = {}
    async with Redis.from_url(store_url, decode_responses=True) as redis:
        counting = {"zset": redis.zcard, "hash": redis.hlen, "set": redis.scard}
        async for key in redis.scan_iter("{ls*}:silences*"):
            sizes[key] = await counting[str(await redis.type(key))](key)
    return sizes


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


async def test_a_silence_is_kept_as_it_is_given_and_once(silences: SilenceStore) -> None:
    for _ in range(2):
        await silences.add(_silence(), now_ms=START_MS)
    assert await silences.get("acme", _silence().id) == _silence()
    assert await silences.list_for("acme", now_ms=START_MS) == [_silence()]
    assert await silences.active(["acme", "other"]) == {"acme": [_silence()], "other": []}


async def test_p24_a_silence_is_known_to_its_tenant_only(silences: SilenceStore) -> None:
    await silences.add(_silence(), now_ms=START_MS)
    with pytest.raises(UnknownSilenceError, match=_silence().id):
        await silences.get("other", _silence().id)
    with pytest.raises(UnknownSilenceError):
        await silences.end("other", _silence().id, by="eve", now_ms=START_MS)
    assert await silences.list_for("other", now_ms=START_MS) == []


async def test_ending_twice_is_ending_once(silences: SilenceStore) -> None:
    await silences.add(_silence(), now_ms=START_MS)
    ended = await silences.end("acme", _silence().id, by="bob", now_ms=START_MS + 5)
    assert (ended.ended_ms, ended.ended_by, ended.over_ms) == (START_MS + 5, "bob", START_MS + 5)
    assert await silences.end("acme", _silence().id, by="eve", now_ms=START_MS + 9) == ended
    await silences.add(_silence(), now_ms=START_MS + 9)
    assert await silences.get("acme", _silence().id) == ended
    assert await silences.active(["acme"]) == {"acme": []}
    await silences.add(_silence(1), now_ms=START_MS)
    past = await silences.end("acme", _silence(1).id, by="bob", now_ms=START_MS + 1_000)
    assert past == _silence(1)


async def test_p17_every_daemon_sees_a_change_at_once(store: StorePort, store_url: str) -> None:
    writer, reader = SilenceStore(store), SilenceStore(store)
    assert await reader.active(["acme"]) == {"acme": []}
    await writer.add(_silence(), now_ms=START_MS)
    for _ in range(2):
        assert await reader.active(["acme"]) == {"acme": [_silence()]}
    await writer.add(_silence(1), now_ms=START_MS)
    assert len((await reader.active(["acme"]))["acme"]) == 2
    await writer.end("acme", _silence(1).id, by="bob", now_ms=START_MS)
    assert await reader.active(["acme"]) == {"acme": [_silence()]}
    async with Redis.from_url(store_url) as redis:
        await redis.flushall()
    assert await reader.active(["acme"]) == {"acme": []}


async def test_more_tenants_than_a_call_takes_are_asked_in_several(silences: SilenceStore) -> None:
    tenants = [f"t{n}" for n in range(230)]
    await silences.add(_silence(tenant="t229"), now_ms=START_MS)
    found = await silences.active(tenants)
    assert list(found) == tenants
    assert [tenant for tenant, some in found.items() if some] == ["t229"]


async def test_a_tenant_has_room_again_when_silences_are_over(silences: SilenceStore) -> None:
    for n in range(SILENCES_MOST):
        await silences.add(_silence(n, ends_ms=START_MS + 1_000 + n), now_ms=START_MS)
    with pytest.raises(TooManySilencesError, match="acme"):
        await silences.add(_silence(5_000), now_ms=START_MS + 999)
    await silences.add(_silence(5_000, tenant="other"), now_ms=START_MS)
    await silences.add(_silence(5_000, ends_ms=START_MS + 9_000), now_ms=START_MS + 1_000)
    found = await silences.list_for("acme", now_ms=START_MS + 1_000)
    assert len(found) == SILENCES_MOST + 1
    assert found[0].id == _silence(5_000).id
    assert len((await silences.active(["acme"]))["acme"]) == SILENCES_MOST


async def test_silences_are_listed_newest_first_and_forgotten_after_a_week(
    silences: SilenceStore, store_url: str
) -> None:
    pending = _silence(1, starts_ms=START_MS + 10)
    for one in (_silence(0), pending, _silence(2, ends_ms=START_MS + 1)):
        await silences.add(one, now_ms=START_MS)
    found = await silences.list_for("acme", now_ms=START_MS + 5)
    assert found == [_silence(2, ends_ms=START_MS + 1), pending, _silence(0)]
    assert [one.state(START_MS + 5) for one in found] == [SilenceState.ENDED, SilenceState.PENDING, SilenceState.ACTIVE]
    later_ms = START_MS + 1_001 + KEPT_MS
    assert await silences.list_for("acme", now_ms=later_ms) == []
    await silences.add(_silence(3, ends_ms=later_ms + 1), now_ms=later_ms)
    sizes = await _keys(store_url)
    assert sizes == {
        "{ls.shared:0}:silences:acme": 1,
        "{ls.shared:0}:silences_active:acme": 1,
        "{ls.shared:0}:silences_versions": 1,
    }


async def test_only_the_newest_silences_that_are_over_are_kept(silences: SilenceStore, store: StorePort) -> None:
    for n in range(4):
        await silences.add(_silence(n), now_ms=START_MS)
        await silences.end("acme", _silence(n).id, by="ann", now_ms=START_MS + n)
    new = _silence(4)
    text = msgspec.json.encode(new).decode()
    most = (KEPT_MS, 2, SILENCES_MOST)
    await store.call("silences_add", "{ls.shared:0}:", "acme", START_MS + 9, *most, new.id, new.ends_ms, text)
    found = await silences.list_for("acme", now_ms=START_MS + 9)
    assert [one.id for one in found] == [_silence(n).id for n in (4, 3, 2)]
