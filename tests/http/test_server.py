"""What the listener bears: silent, slow and too many connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from litestar.types import ASGIApp, Receive, Scope, Send

from monitor.api.errors import BodyTooSlowError
from monitor.api.raw_path import RawPath
from monitor.api.requests import Headers, read_body
from monitor.http.protocol import PIECE_BYTES, BoundedProtocol
from monitor.http.server import ACCEPTS, HttpServer, ListenError, listen
from monitor.shares import Holding, Shares, Tenants

PATIENCE_S = 10.0
LARGE_BYTES = 16 * 1_048_576
AHEAD = 5_000
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Gate:
    """The app, which answers when it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun = asyncio.Event()
        self.server: HttpServer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.set()
        await self.open.wait()
        await app(scope, receive, send)


async def large(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE_BYTES)]})
    for more in range(LARGE_BYTES // 65_536 - 1, -1, -1):
        await send({"type": "http.response.body", "body": bytes(65_536), "more_body": more > 0})


async def app(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def serving(served: ASGIApp = app, **changes: Any) -> AsyncIterator[int]:
    sock = listen("127.0.0.1", 0)
    server = HttpServer(served, **{"connections": 100, "shutdown_timeout_ms": 1_000, **changes})
    if isinstance(served, Gate):
        served.server = server
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await asyncio.wait_for(server.accepting.wait(), PATIENCE_S)
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self) -> bytes:
        self.writer.write(REQUEST)
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)

    async def ended(self) -> bytes:
        """Bytes received until the other side ends the connection, in any way."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.writer.close()


@pytest.mark.parametrize("begun", [b"", b"GET / HT", REQUEST[:-2]])
async def test_p28_a_connection_without_a_whole_head_is_ended(begun: bytes) -> None:
    async with serving(head_s=0.1) as port:
        silent = await Client.to(port)
        silent.writer.write(begun)
        assert await silent.ended() == b""
        silent.close()


async def test_a_head_in_time_may_be_followed_by_silence_and_another_request() -> None:
    async with serving(head_s=0.2) as port:
        client = await Client.to(port)
        assert b"204" in await client.ask()
        assert b"204" in await client.ask()
        slow = await Client.to(port)
        assert await slow.ended() == b""  # longer than a head may take has passed
        assert b"204" in await client.ask()
        client.close()
        slow.close()


async def test_p28_above_the_limit_answers_close_their_connection_and_no_client_is_refused() -> None:
    async with serving(connections=4) as port:
        kept = [await Client.to(port) for _ in range(4)]
        for client in kept:
            assert b"connection: close" not in await client.ask()
        fifth = await Client.to(port)
        answer = await fifth.ask()
        assert b"204" in answer
        assert b"connection: close" in answer
        assert await fifth.ended() == b""
        assert b"connection: close" not in await kept[0].ask()
        for client in (*kept, fifth):
            client.close()


async def test_p28_requests_sent_ahead_are_parsed_as_their_turn_comes_and_all_answered() -> None:
    gate = Gate()
    async with serving(gate) as port:
        client = await Client.to(port)
        client.writer.write(REQUEST * AHEAD)
        await asyncio.wait_for(gate.begun.wait(), PATIENCE_S)
        assert gate.server is not None
        (connection,) = gate.server.server_state.connections
        assert isinstance(connection, BoundedProtocol)
        assert len(connection.pipeline) <= PIECE_BYTES // len(REQUEST) + 1
        gate.open.set()
        for _ in range(AHEAD):
            assert b"204" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert not connection.is_behind()
        assert b"204" in await client.ask()
        client.close()


async def test_p28_a_client_that_takes_no_answer_is_cut_off() -> None:
    async with serving(large, head_s=0.2, idle_s=0.1) as port:
        client = await Client.to(port)
        client.writer.write(REQUEST)
        transport: Any = client.writer.transport
        transport.pause_reading()
        idle = await Client.to(port)
        assert await idle.ended() == b""  # at least as much time has passed
        transport.resume_reading()
        got = await client.ended()
        assert len(got) < LARGE_BYTES
        client.close()
        idle.close()


async def test_p28_a_client_that_took_an_answer_slowly_once_is_not_cut_off_for_that_later() -> None:
    may_answer = asyncio.Event()

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/large":
            await large(scope, receive, send)
        else:
            await may_answer.wait()
            await app(scope, receive, send)

    async with serving(served, head_s=0.7, idle_s=0.5) as port:
        client = await Client.to(port)
        client.writer.write(REQUEST.replace(b"GET /", b"GET /large"))
        assert b"200 OK" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert len(await asyncio.wait_for(client.reader.readexactly(LARGE_BYTES), PATIENCE_S)) == LARGE_BYTES
        client.writer.write(REQUEST)
        silent = await Client.to(port)
        assert await silent.ended() == b""  # more time than ``idle_s`` has passed
        may_answer.set()
        assert b"204" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        client.close()
        silent.close()


async def whole(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE_BYTES)]})
    await send({"type": "http.response.body", "body": bytes(LARGE_BYTES), "more_body": False})


async def test_p28_large_answers_that_no_client_reads_are_bounded_in_bytes() -> None:
    async with serving(RawPath(whole, answers=Shares(2 * LARGE_BYTES, Tenants(), what="bytes"))) as port:
        slow = [await Client.to(port) for _ in range(2)]
        for client in slow:
            client.writer.write(REQUEST)
            transport: Any = client.writer.transport
            assert b"200 OK" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            transport.pause_reading()
        third = await Client.to(port)
        answer = await third.ask()
        assert b"503 Service Unavailable" in answer
        assert b"retry-after: 1" in answer
        for client in slow:
            transport = client.writer.transport
            transport.resume_reading()
            assert len(await asyncio.wait_for(client.reader.readexactly(LARGE_BYTES), PATIENCE_S)) == LARGE_BYTES
            assert b"200 OK" in await client.ask(), "and there is room again"
        for client in (*slow, third):
            client.close()


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    headers = Headers(authorization=None, user_key=None, content_type=None, content_length=5)
    with pytest.raises(BodyTooSlowError, match=r"within 0\.05 s"):
        await read_body(never, headers, 100, held=Holding(Shares(0, Tenants(), what="bytes"), "acme"), limit_s=0.05)


def test_p28_a_daemon_with_long_turns_accepts_more_than_one_connection_in_a_turn() -> None:
    """On the loop that the daemon runs on, which takes one connection from a socket in a turn."""

    async def accepted_in_a_turn() -> int:
        async with serving(gate := Gate()) as port:
            assert gate.server is not None
            opened: set[Any] = gate.server.server_state.connections
            with contextlib.ExitStack() as stack:
                for _ in range(ACCEPTS):
                    client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                    client.sendall(REQUEST)
                await asyncio.wait_for(gate.begun.wait(), PATIENCE_S)
                gate.open.set()
                return len(opened)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(accepted_in_a_turn()) == ACCEPTS >= 4


def test_a_server_that_has_ended_leaves_no_socket_that_accepts() -> None:
    async def accepts_when_ended() -> None:
        async with serving() as port:
            (await Client.to(port)).close()
        await Client.to(port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(ConnectionRefusedError):
        runner.run(accepts_when_ended())


async def test_a_port_that_is_in_use_is_named() -> None:
    taken = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(ListenError, match=rf"port {port} on 127\.0\.0\.1 is in use"):
        listen("127.0.0.1", port)
    taken.close()


async def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1 port 1"):
        listen("192.0.2.1", 1)
