"""What the functions in the store say of themselves."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from redis.asyncio import Redis

import alerts
from monitor.store.library import LIBRARY_NAME, LIBRARY_SOURCE
from tests.support.stores import opened

if TYPE_CHECKING:
    from collections.abc import Iterable

TAKES_BEATS = {"beat", "fail", "pulse"}
"""A full store has no room for beats, nor for workers that are registered as failed, and is blind."""


def _flagless(flags_of: Iterable[tuple[str, list[str]]]) -> set[str]:
    return {name for name, flags in flags_of if flags not in (["no-writes"], ["allow-oom"])}


async def test_p26_a_full_store_takes_all_but_beats(store_url: str) -> None:
    async with opened(store_url), Redis.from_url(store_url, decode_responses=True) as server:
        (library,) = await server.function_list(library=LIBRARY_NAME)
    described = dict(zip(library[::2], library[1::2], strict=True))
    functions = [dict(zip(one[::2], one[1::2], strict=True)) for one in described["functions"]]
    found = [(one["name"].removeprefix(f"{LIBRARY_NAME}_"), list(one["flags"])) for one in functions]
    assert len(found) > 15
    assert _flagless(found) == TAKES_BEATS


def test_p26_a_full_store_takes_what_alerts_write() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(alerts.__file__).parent.rglob("*.lua"))
    lines = [line for line in sources.splitlines() if line.startswith("redis.register_function")]
    pattern = r"^redis\.register_function\{function_name = '(\w+)', .*, flags = \{'([\w-]+)'\}\}$"
    found = re.findall(pattern, sources, re.MULTILINE)
    assert len(found) == len(lines) > 20
    assert _flagless((name, [flag]) for name, flag in found) == set()


def test_two_releases_whose_library_differs_in_anything_have_functions_of_two_names() -> None:
    named, prefix, body = LIBRARY_SOURCE.split("\n", 2)
    assert (named, prefix) == (f"#!lua name={LIBRARY_NAME}", f"local PREFIX = '{LIBRARY_NAME}_'")
    assert hashlib.sha256(body.encode()).hexdigest()[:10] == LIBRARY_NAME.removeprefix("lastseen_")
    assert "MOVE['a']['deadline']" in body, "the table of transitions is part of it"
