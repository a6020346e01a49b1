"""Work that takes long has one piece in every fourth turn of the loop for all requests together (P29)."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
import uvloop
from litestar.types import Receive, Scope, Send

from monitor.clock import monotonic_s
from monitor.pace import PIECE_ITEMS, PIECE_S, Pace, in_pieces
from tests.http.test_server import PATIENCE_S, REQUEST, Client, app, serving

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.number = 0
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._loop.call_soon(self._next)


def _run(loop: Callable[[], asyncio.AbstractEventLoop], work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


def test_p29_of_all_that_wait_one_begins_in_every_fourth_turn_in_their_order(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        turns, pace, begun = Turns(), Pace(), list[tuple[int, int]]()

        def begins(number: int) -> bool:
            begun.append((number, turns.number))
            return number != 2  # this one has nothing to do: it takes no turn

        for number in range(6):
            pace.submit(partial(begins, number))
        await pace.turn()
        first = begun[0][1]
        assert [(number, turn - first) for number, turn in begun] == [(0, 0), (1, 4), (2, 8), (3, 8), (4, 12), (5, 16)]

    _run(loop, work())


def test_p29_what_is_urgent_has_every_other_piece(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def work() -> None:
        turns, pace, begun = Turns(), Pace(), list[tuple[str, int]]()

        def begins(name: str) -> bool:
            begun.append((name, turns.number))
            return True

        for name in ("a", "b", "c", "d"):
            pace.submit(partial(begins, name))
        for name in ("P", "Q", "R"):
            pace.submit(partial(begins, name), urgent=True)
        for _ in range(2):
            await pace.turn()
        assert [name for name, _ in begun] == ["a", "P", "b", "Q", "c", "R", "d"]
        assert [turn - begun[0][1] for _, turn in begun] == [0, 4, 8, 12, 16, 20, 24]

    _run(loop, work())


def test_p29_lists_side_by_side_are_worked_on_one_piece_in_a_turn(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        turns, pieces = Turns(), list[int]()

        def slow(items: Sequence[int]) -> list[int]:
            pieces.append(turns.number)
            until_s = monotonic_s() + PIECE_S
            while monotonic_s() < until_s:
                pass
            return [-item for item in items]

        items = list(range(5 * PIECE_ITEMS + 3))
        lists = [asyncio.create_task(in_pieces(slow, items)) for _ in range(5)]
        await asyncio.create_task(asyncio.wait(lists, timeout=0))  # it runs once they wait
        lists.pop().cancel()
        assert await asyncio.gather(*lists) == [[-item for item in items]] * 4
        assert len(pieces) == 4 * 6
        assert len(set(pieces)) == len(pieces)

    _run(loop, work())


def test_p29_requests_that_come_at_once_are_given_to_the_app_in_turns(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        turns, begun = Turns(), list[int]()

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(turns.number)
            await app(scope, receive, send)

        async with serving(noting) as port:
            clients = [await Client.to(port) for _ in range(30)]
            for client in clients:
                client.writer.write(REQUEST)
            for client in clients:
                assert b"204" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                client.close()
        assert len(begun) == 30
        assert len(set(begun)) == len(begun)

    _run(loop, work())


def test_p29_a_probe_does_not_wait_behind_the_requests_that_came_before_it(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        begun: list[str] = []

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(scope["path"])
            await app(scope, receive, send)

        async with serving(noting) as port:
            clients = [await Client.to(port) for _ in range(63)]
            for client in clients[:60]:
                client.writer.write(REQUEST)
            for client, path in zip(clients[60:], (b"/livez", b"/readyz", b"/healthz?x=y"), strict=True):
                client.writer.write(REQUEST.replace(b" / ", b" %b " % path))
            for client in clients:
                assert b"204" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                client.close()
        assert len(begun) == 63
        assert max(begun.index(path) for path in ("/livez", "/readyz", "/healthz")) < 12

    _run(loop, work())
