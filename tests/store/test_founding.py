"""Founding: every hash tag has an anchor, an unfounded one takes no call, and a refused start leaves nothing."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from monitor.clock import StoreClock
from monitor.errors import StoreUnavailableError
from monitor.store import SchemaError, Store
from monitor.store.connection import Connection, Founded
from monitor.store.library import LIBRARY
from monitor.store.results import STORED
from monitor.store.schema import SCHEMA_VERSION, found_again, open_partitions
from tests.support.stores import alert_store, beat, opened, settings


async def all_keys(url: str) -> set[str]:
    async with Redis.from_url(url, decode_responses=True) as redis:
        return {str(key) async for key in redis.scan_iter()}


def anchors(partitions: int, namespace: str = "") -> set[str]:
    return {f"{{{namespace}ls{kind}:{number}}}:meta" for kind in ("", ".shared") for number in range(partitions)}


@pytest.mark.parametrize("namespace", ["", "blue."])
async def test_a_new_store_has_the_anchor_of_each_tag_and_nothing_else(store_url: str, namespace: str) -> None:
    async with opened(store_url, partitions=4, namespace=namespace.removesuffix(".")):
        assert await all_keys(store_url) == anchors(4, namespace)


async def test_a_start_that_is_refused_leaves_nothing(store_url: str) -> None:
    async with opened(store_url, partitions=2):
        before = await all_keys(store_url)
    for partitions in (1, 4, 256):
        with pytest.raises(SchemaError, match="partitions = 2"):
            await Store.open(settings(store_url, partitions=partitions))
        assert await all_keys(store_url) == before


async def test_a_start_founds_what_a_killed_one_did_not(store_url: str) -> None:
    async with opened(store_url, partitions=4):
        pass
    async with Redis.from_url(store_url) as redis:
        for anchor in anchors(4):  # as it was then
            await redis.hset(anchor, "founding", 1)
        await redis.delete("{ls:3}:meta", "{ls.shared:0}:meta")
        async with opened(store_url, partitions=4):
            assert await all_keys(store_url) == anchors(4)
            for anchor in anchors(4):
                assert not await redis.hexists(anchor, "founding")


async def test_a_founding_again_that_was_cut_off_is_ended_by_any_daemon_though_pulses_came_meanwhile(
    store_url: str,
) -> None:
    async with opened(store_url, partitions=4) as store, Redis.from_url(store_url) as redis:
        await store.pulse(0)
        for way in ("running", "starting"):
            await redis.flushall()
            await store.connection.found("{ls:0}:", SCHEMA_VERSION, 4, "", store.clock.now_ms(), 0)
            await store.pulse(0)
            if way == "starting":
                async with opened(store_url, partitions=4):
                    assert anchors(4) <= await all_keys(store_url)
            await store.pulse(1)
            assert anchors(4) <= await all_keys(store_url)
            await redis.delete("{ls:2}:meta")  # from now on, a part that is missing is lost
            with pytest.raises(SchemaError, match="lost data"):
                await Store.open(settings(store_url, partitions=4))


class FoundedMeanwhile(Connection):
    """Another daemon founds the whole store between the first read of an anchor and the others."""

    def __init__(self, url: str) -> None:
        super().__init__(url, namespace="", timeout_s=2, clock=StoreClock(), found=_unexpected)
        self._other, self._done = url, asyncio.Event()

    async def founded(self, base: str) -> Founded | None:
        if base == "{ls:0}:" and not self._done.is_set():
            known = await super().founded(base)
            async with opened(self._other, partitions=2):
                self._done.set()
            return known
        await self._done.wait()
        return await super().founded(base)


async def _unexpected() -> None:
    raise AssertionError("no function is called before the store is founded")


@pytest.mark.parametrize("way", [open_partitions, partial(found_again, since_ms=0)])
async def test_daemons_that_found_the_same_store_at_once_all_start(store_url: str, way: Callable[..., Any]) -> None:
    connection = FoundedMeanwhile(store_url)
    await way(connection, settings(store_url, partitions=2))
    await connection.close()
    assert await all_keys(store_url) == anchors(2)


@pytest.mark.parametrize("lost", ["{ls:2}:meta", "{ls.shared:0}:meta"])
async def test_p26_a_store_in_use_of_which_a_part_is_missing_is_refused_and_not_founded_again(
    store_url: str, lost: str
) -> None:
    async with opened(store_url, partitions=4) as store, Redis.from_url(store_url) as redis:
        alerts = alert_store(store_url, partitions=4)
        await redis.delete(lost)
        base = lost.removesuffix("meta")
        with pytest.raises(SchemaError, match=f"lost data: {base} is missing"):
            await Store.open(settings(store_url, partitions=4))
        with pytest.raises((StoreUnavailableError, SchemaError), match=f"lost data: {base} is missing"):
            await (store.beat(2, [beat()]) if "shared" not in lost else alerts.call("silences_list", base, "acme"))
        await alerts.close()
        assert not await redis.exists(lost)


async def test_a_running_daemon_founds_an_emptied_store_again_with_one_blind_window(store_url: str) -> None:
    async with opened(store_url, partitions=4) as store, Redis.from_url(store_url) as redis:
        for partition in range(4):
            await store.pulse(partition)
        with capture_logs() as logs:
            await redis.flushall()
            assert (await store.beat(2, [beat()])).outcomes[0][0] == STORED
            results = [await store.pulse(partition) for partition in range(4)]
        assert [entry["event"] for entry in logs] == ["store.founded_again"]
        assert {result.windows for result in results} == {1}
        assert all(result.cause is not None and result.cause.value == "store_restarted" for result in results)
        assert anchors(4) <= await all_keys(store_url)


async def test_no_function_but_the_founding_one_does_anything_in_an_unfounded_tag(store_url: str) -> None:
    async with opened(store_url), Redis.from_url(store_url, decode_responses=True) as redis:
        for name, arguments in functions(await redis.function_list(library=LIBRARY.name)):
            with pytest.raises(ResponseError, match="NOTFOUNDED"):
                await redis.fcall(name, 2, "{ls:7}:", "{ls:7}:meta", *arguments)
        assert not await redis.keys("{ls:7}*")


def functions(libraries: list[Any]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Each function of a library but ``found``. None of them looks at its arguments before it knows the tag."""
    described = dict(zip(libraries[0][::2], libraries[0][1::2], strict=True))
    for one in described["functions"]:
        name = dict(zip(one[::2], one[1::2], strict=True))["name"]
        if not name.endswith("_found"):
            yield name, ()


async def test_every_call_declares_a_key_that_never_exists_and_the_anchor_of_its_tag(store_url: str) -> None:
    """A server that moves a slot key by key then refuses the call, and no call finds a part of a partition."""
    async with opened(store_url, partitions=2) as store:
        alerts = alert_store(store_url, partitions=2)
        async with Redis.from_url(store_url, decode_responses=True) as redis, redis.monitor() as monitor:
            await store.beat(1, [beat()])
            await store.sweep(0, limit=1)
            await alerts.call("silences_list", "{ls.shared:1}:", "acme")
            await alerts.call("stats", "{ls.shared:0}:to:ops:", 0)
            await alerts.close()
            keys: dict[tuple[str, ...], None] = {}
            while len(keys) < 4:
                words = (await monitor.next_command())["command"].split(" ")
                if words[0] == "FCALL":
                    keys[tuple(words[2:5])] = None  # twice where the library was not loaded
        assert list(keys) == [
            ("2", "{ls:1}:", "{ls:1}:meta"),
            ("2", "{ls:0}:", "{ls:0}:meta"),
            ("2", "{ls.shared:1}:", "{ls.shared:1}:meta"),
            ("2", "{ls.shared:0}:to:ops:", "{ls.shared:0}:meta"),
        ]
