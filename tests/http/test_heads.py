"""Heads, trailers and chunk extensions without an end are refused early, and take little memory (P28)."""

import asyncio
import contextlib
import tracemalloc
from typing import Final

import pytest
from litestar.types import Receive, Scope, Send

from tests.http.test_server import PATIENCE_S, Client, serving

MIB: Final = 1_048_576
HOST: Final = b"Host: x\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n\r\n"


async def flooded(port: int, begin: bytes, more: bytes, *, most: int = 20 * MIB) -> tuple[bytes, int]:
    """What is answered to ``begin`` and then ``more`` again and again, and how much of it could be sent."""
    client = await Client.to(port)
    client.writer.write(begin)
    sent, block = 0, more * max(65_536 // len(more), 1)
    try:
        while sent < most and not client.reader.at_eof():
            client.writer.write(block)
            sent += len(block)
            await client.writer.drain()
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await client.ended()
    client.close()
    return answer, sent


BEGUN: Final = b"POST /api/v1/workers/heartbeat HTTP/1.1\r\n" + HOST
ENDLESS: Final = {
    "fields": (BEGUN, b"a:b\r\n"),
    "fields with long values": (BEGUN, b"a:" + b"b" * 4_000 + b"\r\n"),
    "a value": (BEGUN + b"a: ", b"b"),
    "a name": (BEGUN, b"b"),
    "a target": (b"GET /", b"b"),
    "spaces": (BEGUN + b"a:", b" "),
    "trailers": (BEGUN + CHUNKED + b"2\r\n{}\r\n0\r\n", b"a:b\r\n"),
    "a trailer": (BEGUN + CHUNKED + b"2\r\n{}\r\n0\r\na: ", b"b"),
    "a chunk extension": (BEGUN + CHUNKED + b"2;a=", b"b"),
    "chunk extensions": (BEGUN + CHUNKED, b"1;" + b"a" * 4_000 + b"\r\n \r\n"),
}


async def patient(_: Scope, receive: Receive, send: Send) -> None:
    """Answers when the body has come."""
    more = True
    while more:
        message = await receive()
        more = bool(message.get("more_body"))
    if message["type"] == "http.request":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.mark.parametrize("case", ENDLESS)
async def test_p28_a_head_without_an_end_is_431_and_takes_little_memory(case: str) -> None:
    async with serving(patient) as port:
        tracemalloc.start()
        try:
            answer, sent = await flooded(port, *ENDLESS[case])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.startswith(b"HTTP/1.1 431 ") or not answer, answer
        assert sent < 20 * MIB
        assert peak < 5 * MIB
        client = await Client.to(port)
        assert b"204" in await client.ask()
        client.close()


@pytest.mark.parametrize("case", ENDLESS)
async def test_p28_a_client_that_stops_a_little_over_the_limit_reads_why(case: str) -> None:
    begin, more = ENDLESS[case]
    async with serving(patient, head_bytes=8_192) as port:
        client = await Client.to(port)
        client.writer.write(begin + more * (20_000 // len(more)))
        answer = await client.ended()
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert answer.endswith(b'of a request may have 8192 bytes and 100 fields"}')
        client.close()


@pytest.mark.parametrize(("fields", "status"), [(100, b"204"), (101, b"431")])
@pytest.mark.parametrize("step", [1, 1_000_000])
async def test_p28_a_head_may_have_a_hundred_fields(fields: int, status: bytes, step: int) -> None:
    async with serving() as port:
        client = await Client.to(port)
        raw = b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"a:%d\r\n" % n for n in range(fields - 1)) + b"\r\n"
        for start in range(0, len(raw), step):
            client.writer.write(raw[start : start + step])
            await asyncio.sleep(0)
        assert status in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        client.close()


@pytest.mark.parametrize(("size", "status"), [(65_536, b"204"), (65_537, b"431")])
@pytest.mark.parametrize("step", [997, 1_000_000])
async def test_p28_a_head_may_have_64_kib(size: int, status: bytes, step: int) -> None:
    async with serving() as port:
        client = await Client.to(port)
        begin = b"GET / HTTP/1.1\r\n" + HOST + b"a: "
        raw = begin + b"b" * (size - len(begin) - 4) + b"\r\n\r\n"
        for start in range(0, len(raw), step):
            client.writer.write(raw[start : start + step])
            await asyncio.sleep(0)
        assert status in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        client.close()


async def test_a_chunked_body_of_single_bytes_is_no_flood() -> None:
    async with serving(patient) as port:
        client = await Client.to(port)
        client.writer.write(BEGUN + CHUNKED + b"1\r\nx\r\n" * 200_000 + b"0\r\nDigest: x\r\n\r\n")
        assert b"204" in await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert b"204" in await client.ask()
        client.close()
