"""A call that was answered 503 is not applied later: the worker may have sent newer data since."""

import asyncio
import signal
from collections.abc import Awaitable
from pathlib import Path

import pytest

from monitor.errors import StoreUnavailableError
from monitor.liveness import Liveness, Trigger
from monitor.store import Store
from monitor.workers import Disconnect, Worker, WorkerKey
from tests.support import servers
from tests.support.stores import ManualClock, beat, opened

KEY = WorkerKey("acme", "w")
GOODBYE = Disconnect(
    key=KEY, allowed=None, trigger=Trigger.DISCONNECT_FAILURE, reason="crash", exit_code=1, error_message=None
)


def late(store: Store, what: str) -> Awaitable[object]:
    match what:
        case "beat":
            return store.beat(0, [beat("w", status="old")])
        case "goodbye":
            return store.disconnect(GOODBYE)
        case _:
            return store.delete(KEY, allowed=None, reason="deleted")


async def looked_at(store: Store) -> Worker:
    """The worker, after the store has read everything that lay at its sockets before."""
    for _ in range(2):
        _, _, worker = await store.get(KEY)
    assert worker is not None
    return worker


@pytest.mark.parametrize("what", ["beat", "goodbye", "erasure"])
@pytest.mark.parametrize("binary", [servers.valkey_binary(), servers.redis_binary()], ids=["valkey", "redis"])
async def test_p8_a_call_that_was_given_up_on_changes_nothing_when_the_store_comes_to_it(
    binary: Path | None, what: str
) -> None:
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    with servers.running(binary) as server:
        async with opened(server.url, timeout_s=0.3) as store:
            await store.beat(0, [beat("w", status="new")])
            await store.sweep(0, limit=1)  # another connection, for what follows
            before = await looked_at(store)
            server.process.send_signal(signal.SIGSTOP)
            with pytest.raises(StoreUnavailableError):
                await late(store, what)
            server.process.send_signal(signal.SIGCONT)
            after = await looked_at(store)
            assert after == before
            assert after.liveness(before.last_seen_ms) is Liveness.ALIVE
            await late(store, what)
            _, _, changed = await store.get(KEY)
            assert changed != before


async def test_a_step_of_the_stores_clock_is_no_lateness(store_url: str) -> None:
    async with opened(store_url, timeout_s=0.3) as store:
        await store.beat(0, [beat("w")])
        for hours in range(1, 4):
            await ManualClock(store_url).set(store.clock.now_ms() + hours * 3_600_000)
            result = await asyncio.wait_for(store.beat(0, [beat("w")]), 10)
            assert len(result.outcomes) == 1
            assert (await store.disconnect(GOODBYE)).now_ms >= result.now_ms
