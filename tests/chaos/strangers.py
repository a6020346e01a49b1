"""Clients that do not obey: strangers without a token, and a hostile tenant (P29). Bounded in connections and in bytes.

Each attack is a coroutine that goes on until it is cancelled. All share a number of connections and a rate of bytes.
"""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

BEAT: Final = "/api/v1/workers/heartbeat"
BATCH: Final = "/api/v1/workers/heartbeats"
PAUSE_S: Final = 0.05
"""After an attempt that has ended, whatever ended it."""
HOLD_S: Final = 30.0
"""An unfinished request is left open for so long, if the daemon does not end it before."""
ANSWER_S: Final = 5.0
PIECE_BYTES: Final = 16_384
FLOOD_BYTES: Final = 20_000_000
"""Of one head: the size that the fault was found with."""
BODY_BYTES: Final = 262_144
CRASHING: Final = 100
"""The workers whose crashes are reported again and again: their pages go to the receiver that others share."""
PATIENT_S: Final = 86_400
ENDED: Final = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)
"""What a connection ends with that the daemon closes, refuses or leaves without an answer."""


class _Pace:
    """At most this many bytes a second, all attacks together."""

    def __init__(self, bytes_per_s: int) -> None:
        self._per_s = bytes_per_s
        self._free_s = 0.0

    async def take(self, size: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._free_s = max(self._free_s, now_s) + size / self._per_s
        await asyncio.sleep(self._free_s - now_s)


class _Line:
    """One connection of an attack."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pace: _Pace) -> None:
        self.reader = reader
        self.writer = writer
        self._pace = pace

    async def send(self, data: bytes) -> None:
        await self._pace.take(len(data))
        self.writer.write(data)
        async with asyncio.timeout(ANSWER_S):
            await self.writer.drain()

    async def status(self) -> int:
        """Of the next answer, whose body is read too if its length is given."""
        async with asyncio.timeout(ANSWER_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await self.reader.readexactly(int(line.partition(b":")[2]))
        return int(head.split()[1])

    async def hold(self) -> None:
        """Leave the request as it is until the daemon ends it, or for as long as an attack keeps one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_S):
                await self.reader.read()


class Strangers:
    """They know the port, and ``token`` of a tenant whose own it is: beats, reads, silences, disconnects.

    ``restricted`` is a token of the same tenant for one worker, which no beat of it names. ``answers`` counts what
    they were answered, by attack; None: no answer.
    """

    def __init__(
        self, port: int, *, token: str, restricted: str, connections: int = 500, bytes_per_s: int = 10_000_000
    ) -> None:
        self._port = port
        self._token = token
        self._restricted = restricted
        self._places = asyncio.Semaphore(connections)
        self._pace = _Pace(bytes_per_s)
        self.answers: Counter[tuple[str, int | None]] = Counter()

    def attacks(self) -> dict[str, tuple[Callable[[int], Awaitable[None]], int]]:
        """By name: one turn of the attack, which takes its number, and how many go on side by side. 482 in all."""
        return {
            "unfinished heads": (self._unfinished_head, 100),
            "field floods": (self._field_flood, 4),
            "long fields": (self._long_field, 2),
            "endless trailers": (self._endless_trailers, 2),
            "upgrades": (self._upgrade, 4),
            "unfinished batches": (self._unfinished_batch, 60),
            "unfinished bodies": (self._unfinished_body, 230),
            "reads": (self._read, 32),
            "silences": (self._silence, 12),
            "crashes": (self._crash, 8),
            "beats": (self._beat, 8),
            "nonsense": (self._nonsense, 10),
            "disconnects": (self._hang_up, 10),
        }

    async def prepare(self, workers: int = 2_000) -> None:
        """Register the hostile tenant's own workers, so that its reads cost something."""
        beats = [
            {"worker_id": f"m-{number}", "environment_name": "evil", "interval_seconds": PATIENT_S}
            for number in range(workers)
        ]
        async with self._line() as line:
            await line.send(_request("POST", BATCH, self._token, json.dumps(beats).encode()))
            assert await line.status() == 200

    async def run(self, *names: str, share: float = 1.0) -> None:
        """Do these attacks, or all of them, until cancelled. ``share`` of the connections that each has."""
        async with asyncio.TaskGroup() as group:
            for name, (turn, count) in self.attacks().items():
                if not names or name in names:
                    for number in range(max(1, int(count * share))):
                        group.create_task(self._again(name, turn, number))

    async def _again(self, name: str, turn: Callable[[int], Awaitable[None]], number: int) -> None:
        for count in itertools.count():
            try:
                await turn(number * 1_000_000 + count)
            except ENDED:
                self.answers[name, None] += 1
            await asyncio.sleep(PAUSE_S)

    @contextlib.asynccontextmanager
    async def _line(self) -> AsyncIterator[_Line]:
        async with self._places:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                yield _Line(reader, writer, self._pace)
            finally:
                writer.transport.abort()

    async def _ask(self, name: str, request: bytes) -> int:
        async with self._line() as line:
            await line.send(request)
            status = await line.status()
            self.answers[name, status] += 1
            return status

    # Without a token ------------------------------------------------------------------------------------------------

    async def _unfinished_head(self, _: int) -> None:
        async with self._line() as line:
            await line.send(b"GET /livez HTTP/1.1\r\nhost: a\r\nx-slow: ")
            await line.hold()

    async def _field_flood(self, _: int) -> None:
        async with self._line() as line:
            await line.send(b"GET /livez HTTP/1.1\r\nhost: a\r\n")
            for _sent in range(0, FLOOD_BYTES, PIECE_BYTES):
                await line.send(b"a:b\r\n" * (PIECE_BYTES // 5))

    async def _long_field(self, _: int) -> None:
        async with self._line() as line:
            await line.send(b"GET /livez HTTP/1.1\r\nhost: a\r\nx-long: ")
            for _sent in range(0, FLOOD_BYTES, PIECE_BYTES):
                await line.send(b"x" * PIECE_BYTES)

    async def _endless_trailers(self, turn: int) -> None:
        head = _head("POST", BEAT, self._token, "transfer-encoding: chunked")
        async with self._line() as line:
            await line.send(head + (b"2\r\n{}\r\n0\r\n" if turn % 2 else b"2;x="))
            for _sent in range(0, FLOOD_BYTES, PIECE_BYTES):
                await line.send(b"t:u\r\n" * (PIECE_BYTES // 5) if turn % 2 else b"x" * PIECE_BYTES)

    async def _nonsense(self, turn: int) -> None:
        await self._ask("nonsense", NONSENSE[turn % len(NONSENSE)])

    async def _hang_up(self, turn: int) -> None:
        async with self._line() as line:
            if turn % 2:
                await line.send(_request("POST", BEAT, self._token, _beat(turn))[: turn % 300])

    # With a token ---------------------------------------------------------------------------------------------------

    async def _upgrade(self, turn: int) -> None:
        smuggled = f"DELETE /api/v1/workers/m-{turn % 100} HTTP/1.1\r\nhost: a\r\n".encode()
        body = smuggled + f"authorization: Bearer {self._token}\r\n\r\n".encode()
        head = _head(
            "POST",
            BEAT,
            self._token,
            "connection: Upgrade, HTTP2-Settings",
            "upgrade: h2c",
            "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
            f"content-length: {len(body)}",
        )
        async with self._line() as line:
            await line.send(head)
            await asyncio.sleep(PAUSE_S)
            await line.send(body)
            self.answers["upgrades", await line.status()] += 1

    async def _unfinished_batch(self, _: int) -> None:
        async with self._line() as line:
            await line.send(_head("POST", BATCH, self._restricted, "content-length: 1000") + b"[")
            await line.hold()

    async def _unfinished_body(self, turn: int) -> None:
        path = BEAT if turn % 4 else BATCH
        async with self._line() as line:
            await line.send(_head("POST", path, self._token, f"content-length: {BODY_BYTES}") + b'{"worker_id": "m-1"')
            for _sent in range(0, BODY_BYTES - 2 * PIECE_BYTES, PIECE_BYTES):
                await line.send(b" " * PIECE_BYTES)
            await line.hold()

    async def _read(self, turn: int) -> None:
        paths = ("/api/v1/workers?limit=1000&text=nothing", "/api/v1/events?limit=1000", "/api/v1/incidents?limit=1000")
        await self._ask("reads", _request("GET", paths[turn % len(paths)], self._token))

    async def _silence(self, turn: int) -> None:
        body = {"matchers": {"worker_id": f"none-{turn}"}, "for_seconds": 60, "comment": "noise"}
        await self._ask("silences", _request("POST", "/api/v1/silences", self._token, json.dumps(body).encode()))

    async def _crash(self, turn: int) -> None:
        name = f"m-{turn % CRASHING}"
        if turn % 2:
            await self._ask("crashes", _request("POST", BEAT, self._token, _beat(turn % CRASHING)))
        path = f"/api/v1/workers/{name}/disconnect"
        await self._ask("crashes", _request("POST", path, self._token, b'{"reason": "crash", "exit_code": 1}'))

    async def _beat(self, turn: int) -> None:
        """New workers, as fast as they are answered; some bodies are too much, some are no JSON, some need gunzip."""
        bodies = (_beat(turn), b"[" * 5_000, b'{"worker_id": "m-2", "logs": "' + b"x" * 300_000, b"\x1f\x8b")
        await self._ask("beats", _request("POST", BEAT, self._token, bodies[turn % len(bodies)]))


def _beat(number: int) -> bytes:
    beat = {"worker_id": f"m-{number}", "environment_name": "evil", "interval_seconds": PATIENT_S}
    return json.dumps(beat).encode()


def _head(method: str, path: str, token: str, *fields: str) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {token}",
        "content-type: application/json",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    return _head(method, path, token, f"content-length: {len(body)}") + body


NONSENSE: Final = (
    b"GET /livez HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET //livez HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /api/v1/workers/heartbeat HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"GET /api/v1/workers HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + b"x" * 20_000 + b"\r\n\r\n",
    b"POST /api/v1/workers/heartbeat HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
)
"""Bad requests, one each."""
