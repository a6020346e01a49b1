"""What a connection leaves when it has ended: nothing that only the collector would find (P29).

A look of the collector at everything takes longer than a hundred heartbeats, and strangers must not be able to ask for
one by coming and going.
"""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from monitor.http.protocol import BoundedProtocol
from tests.http.test_server import PATIENCE_S
from tests.intake.test_faults import LONG_S, site
from tests.support.fleets import BEAT, Connection

LIST: Final = "/api/v1/workers"
BATCH: Final = f"{LIST}/heartbeats"
WORKER: Final = {"worker_id": "w", "environment_name": "prod"}
OURS: Final = ("monitor", "uvicorn", "litestar", "httptools")
BRINGS: Final[dict[str, Callable[[Connection], bytes]]] = {
    "nothing": lambda _: b"",
    "part of a head": lambda _: b"POST /api/v1/wor",
    "a heartbeat": lambda to: to.request("POST", BEAT, WORKER),
    "heartbeats sent ahead": lambda to: 3 * to.request("POST", BEAT, WORKER),
    "a heartbeat that is refused": lambda to: to.request("POST", BEAT, {}),
    "a body that is too large": lambda to: to.request("POST", BEAT, " " * 2_000_000),
    "part of a heartbeat": lambda to: to.request("POST", BEAT, WORKER)[:-3],
    "part of a batch": lambda to: to.request("POST", BATCH, [WORKER])[:-3],
    "a batch": lambda to: to.request("POST", BATCH, [WORKER]),
    "lists": lambda to: 3 * to.request("GET", LIST),
    "a bad parameter": lambda to: to.request("GET", f"{LIST}?no=such"),
    "no route": lambda to: to.request("GET", "/no/such"),
    "no token": lambda _: b"GET /api/v1/workers HTTP/1.1\r\nhost: x\r\n\r\n",
    "an upgrade": lambda to: to.request("POST", BEAT, WORKER, "connection: upgrade", "upgrade: h2c"),
    "no HTTP": lambda _: b"\x16\x03\x01\r\n\r\n",
    "CONNECT": lambda _: b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    "two hosts": lambda _: b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "a head that is too large": lambda _: b"GET / HTTP/1.1\r\nhost: x\r\na: %b\r\n\r\n" % (b"a" * 70_000),
    "a bad request behind a good one": lambda to: to.request("GET", LIST) + b"no HTTP\r\n\r\n",
}


@contextlib.contextmanager
def uncollected() -> Iterator[Callable[[], Counter[str]]]:
    """Keep the collector from its work; what it would have found of ours can be asked for, by type."""
    gc.collect()
    gc.disable()

    def found() -> Counter[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        return Counter(name for name in names if name.startswith(OURS))

    try:
        yield found
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
@pytest.mark.parametrize("brought", BRINGS)
@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "gone"])
async def test_p29_a_connection_that_has_ended_leaves_nothing_to_the_collector(
    store_url: str, brought: str, *, is_answered: bool
) -> None:
    async with site(store_url, timeout_s=LONG_S) as lastseen:
        await lastseen.turned()  # what is made once is made now
        with uncollected() as found:
            connection = await Connection.to(lastseen.port, lastseen.token)
            connection.writer.write(BRINGS[brought](connection))
            if is_answered:
                connection.writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(connection.rest(), PATIENCE_S)
                connection.close()
            else:
                await lastseen.turned()
                connection.writer.transport.abort()
            async with asyncio.timeout(PATIENCE_S):
                while any(  # noqa: ASYNC110 - a connection has no event for its end
                    isinstance(one, BoundedProtocol) and one.parser for one in gc.get_objects()
                ):
                    await asyncio.sleep(0)
            await lastseen.turned()
            assert found() == {}
