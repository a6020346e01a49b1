"""Who is closed when there are too many connections: never a whole request for heads that do not end (P28, P29)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from monitor.http.connections import BEHIND_S, FULL_S, HEADS_BYTES, Connection, Connections, network
from monitor.metrics.registry import Limit
from monitor.reasons import Reason
from tests.http.test_server import PATIENCE_S, REQUEST, Client, Gate, serving

LIMIT: Final = 40
STRANGERS: Final = 70
ASKED: Final = 200
MOST: Final = 16
BEGUN: Final = (b"", REQUEST[:-2], REQUEST[:-2] + b"content-length: 9\r\n\r\nx")


def connected(port: int, address: str, data: bytes = b"") -> socket.socket:
    """A connection from an address of this machine, with what was sent at once: it is in the server's kernel."""
    sock = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
    sock.sendall(data)
    sock.setblocking(False)  # noqa: FBT003 - its only parameter
    return sock


async def client_of(sock: socket.socket) -> Client:
    return Client(*await asyncio.open_connection(sock=sock))


@dataclass(kw_only=True, slots=True)
class Crowd:
    """Clients that hold unfinished requests, and come again when they are closed."""

    port: int
    addresses: int
    begun: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _wanted: int = 0
    _reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def _hold(self, number: int) -> None:
        while True:
            self.begun += 1
            if self.begun >= self._wanted:
                self._reached.set()
            sock = connected(self.port, f"127.0.1.{number % self.addresses + 1}", BEGUN[number % len(BEGUN)])
            client = await client_of(sock)
            try:
                await client.reader.read()
            except ConnectionError:
                pass
            finally:
                client.close()
            await asyncio.sleep(0)

    async def more(self, count: int) -> None:
        """Wait until this many more connections have been made."""
        self._wanted = self.begun + count
        self._reached.clear()
        await self._reached.wait()

    @contextlib.asynccontextmanager
    async def there(self) -> "AsyncIterator[Crowd]":
        self.tasks = [asyncio.create_task(self._hold(number)) for number in range(STRANGERS)]
        await self.more(STRANGERS)
        try:
            yield self
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)


async def answered(client: Client) -> bytes:
    return await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)


@pytest.mark.parametrize("addresses", [1, STRANGERS])
async def test_p29_whole_requests_are_answered_beside_more_unfinished_heads_than_there_are_places(
    addresses: int,
) -> None:
    async with serving(connections=LIMIT) as port:
        kept = [await client_of(connected(port, "127.0.0.1")) for _ in range(10)]
        for client in kept:
            assert b"204" in await client.ask()
        async with Crowd(port=port, addresses=addresses).there() as crowd:
            for number in range(ASKED):
                once = await client_of(connected(port, "127.0.1.1", REQUEST))
                assert b"204" in await answered(once)
                once.close()
                answer = await kept[number % 10].ask()
                assert b"204" in answer
                assert b"connection: close" not in answer
            assert crowd.begun > STRANGERS
        for client in kept:
            client.close()


async def test_p29_a_head_in_pieces_gets_through_beside_unfinished_heads_of_other_addresses() -> None:
    async with serving(connections=LIMIT) as port, Crowd(port=port, addresses=3).there() as crowd:
        for _ in range(20):
            slow = await client_of(connected(port, "127.0.0.1", REQUEST[:5]))
            await crowd.more(2 * STRANGERS)
            slow.writer.write(REQUEST[5:])
            assert b"204" in await answered(slow)
            slow.close()


async def test_p28_the_one_that_has_been_idle_for_longest_makes_room() -> None:
    async with serving(connections=LIMIT) as port:
        idle = [await client_of(connected(port, "127.0.0.1", REQUEST)) for _ in range(LIMIT)]
        for client in idle:
            assert b"connection: close" not in await answered(client)
        heads = [await client_of(connected(port, "127.0.0.1", REQUEST[:-2])) for _ in range(LIMIT // 4)]
        more = await client_of(connected(port, "127.0.0.1", REQUEST))
        assert b"204" in await answered(more)
        assert await idle[0].ended() == b""
        for client in idle[1:]:
            assert b"204" in await client.ask()
        for client in heads:
            client.writer.write(REQUEST[-2:])
            assert b"204" in await answered(client)
        for client in (*idle, *heads, more):
            client.close()


async def test_p28_only_whole_requests_make_the_daemon_refuse_and_that_is_a_reason() -> None:
    gate = Gate()
    async with serving(gate, connections=LIMIT) as port:
        assert gate.server is not None
        places = gate.server.connections
        held = [await client_of(connected(port, "127.0.0.1", REQUEST)) for _ in range(LIMIT + LIMIT // 4)]
        await asyncio.wait_for(gate.begun.wait(), PATIENCE_S)
        assert (places.reasons(), places.is_refusing()) == ([], False)
        refused = await client_of(connected(port, "127.0.0.1", REQUEST))
        assert await refused.ended() == b""
        assert (places.reasons(), places.is_refusing()) == ([Reason.CONNECTIONS_FULL], True)
        gate.open.set()
        for client in held:
            assert b"204" in await answered(client)
        again = await client_of(connected(port, "127.0.0.1", REQUEST))
        assert b"204" in await answered(again)
        for client in (*held, refused, again):
            client.close()


# By itself ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True, eq=False)
class Fake:
    """A connection."""

    address: str = "192.0.2.1"
    places: Connections | None = None
    unread: bool = False
    idle_s: float | None = None
    closed: bool = False

    def may_hold_request(self) -> bool:
        return self.unread

    def idle_since_s(self) -> float | None:
        return self.idle_s

    def drop(self) -> None:
        self.closed = True
        if self.places is not None:
            self.places.end(self)


def crowd_of(count: int, *, most: int, **facts: object) -> tuple[Connections, list[Fake], list[Limit], set[Connection]]:
    opened: set[Connection] = set()
    limits: list[Limit] = []
    places = Connections(opened, most=most, hit=lambda limit, _: limits.append(limit))
    made = []
    for number in range(count):
        one = Fake(address=f"192.0.2.{number}", places=places, **facts)  # type: ignore[arg-type]
        opened.add(one)
        assert places.admit(one)
        made.append(one)
    return places, made, limits, opened


def test_p28_unfinished_heads_hold_a_bounded_number_of_bytes_and_the_oldest_go_first() -> None:
    places, made, limits, _ = crowd_of(100, most=1_000)
    for one in made:
        places.begin(one, HEADS_BYTES // 50)
    assert [one.closed for one in made] == [True] * 50 + [False] * 50
    assert set(limits) == {Limit.UNFINISHED}
    for one in made[50:]:
        places.head_ended(one)
        places.begin(one, 0)
    places.begin(made[99], HEADS_BYTES)
    assert not any(one.closed for one in made[50:]), "what is finished holds nothing"


def test_p28_a_head_that_grows_makes_as_many_others_end_as_it_needs_room() -> None:
    places, made, _, opened = crowd_of(100, most=1_000)
    for one in made:
        places.begin(one, HEADS_BYTES // 100)
    assert not any(one.closed for one in made)
    large = Fake(address="198.51.100.1", places=places)
    opened.add(large)
    assert places.admit(large)
    places.begin(large, HEADS_BYTES // 4)
    assert [one.closed for one in made] == [True] * 25 + [False] * 75
    assert not large.closed


def test_p29_the_address_with_most_unfinished_requests_makes_room() -> None:
    places, made, limits, opened = crowd_of(50, most=100)
    many = [Fake(address="198.51.100.1", places=places) for _ in range(300)]
    for one in many:
        opened.add(one)
        assert places.admit(one)
    for number in range(100, 120):
        one = Fake(address=f"192.0.2.{number}", places=places)
        opened.add(one)
        assert places.admit(one)
    assert [one.closed for one in many] == [True] * 270 + [False] * 30
    assert not any(one.closed for one in made)
    assert limits == [Limit.UNFINISHED] * 270


def test_p29_one_whose_request_may_have_come_is_passed_over() -> None:
    places, made, _, opened = crowd_of(MOST, most=MOST, unread=True)
    made[3].unread = False
    newest = Fake(address="198.51.100.1", places=places)
    opened.add(newest)
    assert places.admit(newest)
    assert [one.closed for one in made] == [number == 3 for number in range(MOST)]


def test_an_address_is_one_of_ipv4_or_a_64_of_ipv6() -> None:
    assert network("192.0.2.7") == "192.0.2.7"
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::1") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.7") != network("::ffff:192.0.2.8")
    assert network("fe80::1%lo") == network("fe80::2")
    assert BEHIND_S < FULL_S
