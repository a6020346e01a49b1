"""Bounds on one client of the listener: pipelining, unread answers, slow bodies, and the end of a connection.

Each with beats that take the fast path and with requests that do not.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from tests.intake.test_faults import LONG_S, Site, site
from tests.support import api
from tests.support.fleets import BEAT, Connection, Reply

KERNEL_BYTES: Final = 8_192
"""What the kernel is asked to hold of a connection on either side."""
AHEAD: Final = 2_000
"""More requests than fit into the buffers on the way and one read of the server: no client gets further ahead."""
ENOUGH: Final = 500
PATHS: Final = (BEAT, f"{BEAT}?usual=way", "/livez")
TURNS: Final = 50
"""After this many turns of the server without a successful send, no further send will succeed."""


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Site]:
    async with site(store_url, timeout_s=LONG_S, workers_per_tenant=1_000_000) as running:
        yield running


@pytest.fixture
async def narrow(store_url: str) -> AsyncIterator[Site]:
    """With small buffers in the kernel, so that what is held is held by the server."""
    async with site(store_url, timeout_s=LONG_S, kernel_bytes=KERNEL_BYTES) as running:
        yield running


def body(worker_id: str) -> dict[str, str]:
    return {"worker_id": worker_id, "environment_name": "prod"}


async def known(lastseen: Site) -> Connection:
    """A connection whose token the server has seen, so that beats over it may take the fast path."""
    connection = await lastseen.connect()
    assert (await connection.beat("known")).status == 204
    return connection


async def replies(connection: Connection, count: int) -> list[Reply]:
    async with asyncio.timeout(30):
        return [await connection.reply() for _ in range(count)]


# Pipelining ---------------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_each_and_in_order(lastseen: Site) -> None:
    connection = await known(lastseen)
    names = [f"w-{number}" for number in range(200)]
    for name in names:
        connection.send("POST", BEAT, body(name))
        connection.send("GET", f"{api.WORKERS}/{name}")
        connection.send("POST", BEAT, {"worker_id": 7})
        connection.send("POST", f"{api.WORKERS}/{name}/heartbeat", {})
    answered = await replies(connection, 4 * len(names))
    assert [reply.status for reply in answered] == [204, 200, 422, 204] * len(names)
    assert [json.loads(reply.body)["worker_id"] for reply in answered[1::4]] == names
    assert set(await lastseen.stored()) == {"known", *names}


async def test_a_request_that_comes_in_pieces_behind_others_is_answered_in_its_turn(lastseen: Site) -> None:
    connection = await known(lastseen)
    whole = b"".join(connection.request("POST", BEAT, body(f"w-{number}")) for number in range(20))
    for start in range(0, len(whole), 97):
        connection.writer.write(whole[start : start + 97])
        await lastseen.turned()
    assert [reply.status for reply in await replies(connection, 20)] == [204] * 20
    assert set(await lastseen.stored()) == {"known", *(f"w-{number}" for number in range(20))}


class Pusher:
    """A client that sends the same request for as long as it is let."""

    def __init__(self, sock: socket.socket, request: bytes) -> None:
        self._sock = sock
        self._data = request * 100
        self._size = len(request)
        self._bytes = 0
        self.answered = 0

    @classmethod
    @contextlib.contextmanager
    def at(cls, port: int, request: bytes) -> "Iterator[Pusher]":
        with socket.socket() as sock:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BYTES)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)  # noqa: FBT003 - its only parameter
            yield cls(sock, request)

    @property
    def sent(self) -> int:
        return self._bytes // self._size

    @property
    def ahead(self) -> int:
        """Requests that were sent and not answered, as far as it has read."""
        return self.sent - self.answered

    def push(self, limit: int = 100) -> bool:
        """Send at most ``limit`` requests. Return whether anything could be sent."""
        start = self._bytes % self._size
        try:
            self._bytes += self._sock.send(self._data[start : limit * self._size])
        except BlockingIOError:
            return False
        return True

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.answered += self._sock.recv(65_536).count(b"HTTP/1.1 ")


def request_to(connection: Connection, path: str) -> bytes:
    return connection.request("GET" if path == "/livez" else "POST", path, body("w"))


@pytest.mark.parametrize("path", PATHS)
async def test_p28_a_client_that_reads_no_answers_is_not_read_any_further(narrow: Site, path: str) -> None:
    connection = await known(narrow)
    with Pusher.at(narrow.port, request_to(connection, path)) as client:
        waited = 0
        while waited < TURNS:
            waited = 0 if client.push() else waited + 1
            assert client.ahead <= AHEAD
            await narrow.turned()


@pytest.mark.parametrize("path", PATHS)
async def test_p28_a_client_that_sends_faster_than_it_is_answered_is_held_back(narrow: Site, path: str) -> None:
    connection = await known(narrow)
    with Pusher.at(narrow.port, request_to(connection, path)) as client:
        while client.answered < ENOUGH:
            client.push()
            client.read()
            assert client.ahead <= AHEAD
            await asyncio.sleep(0)


async def test_p28_a_client_that_reads_no_answers_of_beats_sent_one_by_one_is_not_read_any_further(
    narrow: Site,
) -> None:
    connection = await known(narrow)
    with Pusher.at(narrow.port, request_to(connection, BEAT)) as client:
        waited = 0
        while waited < TURNS:
            waited = 0 if client.push(limit=1) else waited + 1
            assert client.ahead <= AHEAD
            # Beats are stored in their order: once this one is answered, the one that was read before it is.
            await narrow.turned()
            assert (await connection.beat("known")).status == 204


# The end of a connection --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [BEAT, f"{BEAT}?usual=way"])
async def test_connection_close_is_answered_closed_and_nothing_behind_it_is_taken(lastseen: Site, path: str) -> None:
    connection = await known(lastseen)
    connection.send("POST", path, body("last"), "connection: close")
    reply = await connection.reply()
    assert (reply.status, reply.headers["connection"]) == (204, "close")
    assert await connection.rest() == b""


@pytest.mark.parametrize("path", [BEAT, f"{BEAT}?usual=way"])
async def test_a_beat_is_answered_also_when_something_follows_its_connection_close(lastseen: Site, path: str) -> None:
    connection = await known(lastseen)
    last = connection.request("POST", path, body("last"), "connection: close")
    connection.writer.write(last + connection.request("POST", path, body("behind")))
    assert (await connection.reply()).status == 204
    await connection.rest()
    assert set(await lastseen.stored()) == {"known", "last"}


@pytest.mark.parametrize("path", [BEAT, f"{BEAT}?usual=way"])
async def test_a_client_that_has_ended_its_side_gets_its_answer_or_is_not_stored_twice(
    lastseen: Site, path: str
) -> None:
    connection = await known(lastseen)
    connection.send("POST", path, body("half"))
    connection.writer.write_eof()
    said = await connection.rest()
    assert said == b"" or said.startswith(b"HTTP/1.1 204")


async def test_p28_above_the_cap_a_beat_is_stored_and_its_connection_is_closed(store_url: str) -> None:
    async with site(store_url, connections=4, timeout_s=LONG_S) as lastseen:
        kept = [await lastseen.connect() for _ in range(4)]
        for number, connection in enumerate(kept):
            reply = await connection.beat(f"kept-{number}")
            assert (reply.status, "connection" in reply.headers) == (204, False)
        fifth = await lastseen.connect()
        reply = await fifth.beat("fifth")
        assert (reply.status, reply.headers["connection"]) == (204, "close")
        assert await fifth.rest() == b""
        assert set(await lastseen.stored()) == {"fifth", *(f"kept-{number}" for number in range(4))}
