"""Flags of the functions in the store."""

import hashlib

from redis.asyncio import Redis

from monitor.daemon import alerts
from monitor.store.library import LIBRARY, Library
from tests.support.stores import alert_store, opened

TAKES_BEATS = {"beat", "fail", "pulse", "share"}
"""A full store has no room for beats, nor for workers that are registered as failed, and is blind."""


async def flagless(url: str, library: Library) -> tuple[int, set[str]]:
    """How many functions a loaded library has, and those that a full store does not take."""
    async with Redis.from_url(url, decode_responses=True) as server:
        (loaded,) = await server.function_list(library=library.name)
    described = dict(zip(loaded[::2], loaded[1::2], strict=True))
    functions = [dict(zip(one[::2], one[1::2], strict=True)) for one in described["functions"]]
    found = [(one["name"].removeprefix(f"{library.name}_"), list(one["flags"])) for one in functions]
    return len(found), {name for name, flags in found if flags not in (["no-writes"], ["allow-oom"])}


async def test_p26_a_full_store_takes_all_but_beats(store_url: str) -> None:
    async with opened(store_url):
        count, refused = await flagless(store_url, LIBRARY)
    assert count > 15
    assert refused == TAKES_BEATS


async def test_p26_a_full_store_takes_what_alerts_write(store_url: str) -> None:
    port = alert_store(store_url)
    await port.call("wake", "{ls.shared:0}:to:ops:", 0)
    await port.close()
    count, refused = await flagless(store_url, alerts.LIBRARY)
    assert count > 20
    assert refused == set()


def test_two_releases_whose_library_differs_in_anything_have_functions_of_two_names() -> None:
    named, prefix, body = LIBRARY.source.split("\n", 2)
    assert (named, prefix) == (f"#!lua name={LIBRARY.name}", f"local PREFIX = '{LIBRARY.name}_'")
    assert hashlib.sha256(body.encode()).hexdigest()[:10] == LIBRARY.name.removeprefix("lastseen_")
    assert "MOVE['a']['deadline']" in body, "the table of transitions is part of it"
