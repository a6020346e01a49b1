"""Workers in this process that beat over kept-alive connections as fast as they are answered, and count answers."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from monitor.events import Event
from monitor.liveness import EventKind
from monitor.store import Store
from tests.support.proxies import Watched

BEAT: Final = "/api/v1/workers/heartbeat"
SLACK_S: Final = 5.0
"""How much longer than the store's time limit an answer may take: a loaded machine, and not another attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What the server answered; the names of ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_refusal(self) -> bool:
        """Refused, with a Retry-After."""
        return self.status == 503 and int(self.headers["retry-after"]) >= 1


class Connection:
    """One kept-alive HTTP connection. Requests may be sent before earlier ones are answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self.writer = writer
        self._token = token

    @classmethod
    async def to(cls, port: int, token: str) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port), token)

    def send(self, method: str, path: str, body: object = None, *head: str) -> None:
        self.writer.write(self.request(method, path, body, *head))

    def request(self, method: str, path: str, body: object = None, *head: str) -> bytes:
        """Bytes of a request."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "host: lastseen",
            f"authorization: Bearer {self._token}",
            "content-type: application/json",
            f"content-length: {len(data)}",
            *head,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    async def reply(self) -> Reply:
        """The next answer."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(status=int(lines[0].split()[1]), headers=headers, body=body)

    async def ask(self, method: str, path: str, body: object = None, *, limit_s: float = 30.0) -> Reply:
        async with asyncio.timeout(limit_s):
            self.send(method, path, body)
            return await self.reply()

    async def beat(self, worker_id: str, *, limit_s: float = 30.0, **fields: object) -> Reply:
        body = {"worker_id": worker_id, "environment_name": "prod", **fields}
        return await self.ask("POST", BEAT, body, limit_s=limit_s)

    async def rest(self) -> bytes:
        """What comes until the server ends the connection."""
        async with asyncio.timeout(30):
            return await self._reader.read()

    def close(self) -> None:
        self.writer.close()


class Fleet(Watched):
    """Connections that beat all the time. Each beat is of a worker that never beat before, so that the store can be
    asked for each; every other one is followed by a beat of the connection's own worker, with a rising counter.

    A beat that got 503 is sent again, or given up, as the seed has it.
    """

    def __init__(self, port: int, token: str, *, size: int, timeout_s: float, seed: int) -> None:
        super().__init__()
        self._port = port
        self._token = token
        self._limit_s = timeout_s + SLACK_S
        self._random = random.Random(seed)  # noqa: S311 - a plan, not a secret
        self._size = size
        self._ending = False
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.counters: dict[str, int] = {}
        """The highest count of each connection's own worker that was acknowledged."""
        self.answers: Counter[int] = Counter()
        self.acknowledged_by: Counter[int] = Counter()
        """How many of each connection's beats were acknowledged."""
        self.wrong: list[object] = []
        """Answers that no beat may get, and connections that failed."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._size):
                group.create_task(self._beat_on(number), name=f"fleet-{number}")

    def end(self) -> None:
        self._ending = True

    async def more(self, count: int, status: int | None = None) -> None:
        """Wait for ``count`` more answers for each connection together, of this status only."""
        begun = self._count(status)
        wanted = begun + count * self._size
        await self.until(
            lambda: self.wrong or self._count(status) >= wanted, f"{count} x {self._size} answers {status}"
        )
        assert not self.wrong, self.wrong[:3]

    async def all_acknowledged(self) -> None:
        """Wait until every connection has got another 204."""
        begun = self.acknowledged_by.copy()
        await self.until(
            lambda: self.wrong or all(self.acknowledged_by[n] > begun[n] for n in range(self._size)),
            "a 204 for every connection",
        )
        assert not self.wrong, self.wrong[:3]

    def _count(self, status: int | None) -> int:
        return self.answers.total() if status is None else self.answers[status]

    async def _beat_on(self, number: int) -> None:
        own, count = f"own-{number}", 0
        try:
            connection = await Connection.to(self._port, self._token)
            while not self._ending:
                count += 1
                worker_id = f"{number}-{count}"
                self.sent.add(worker_id)
                if await self._until_settled(connection, number, worker_id):
                    self.acknowledged.add(worker_id)
                if count % 2 and await self._until_settled(connection, number, own, tasks_processed=count):
                    self.counters[own] = count
            connection.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.wrong.append((number, count, repr(error)))
            self.changed()

    async def _until_settled(self, connection: Connection, number: int, worker_id: str, **fields: object) -> bool:
        while True:
            reply = await connection.beat(worker_id, limit_s=self._limit_s, **fields)
            self.answers[reply.status] += 1
            if reply.status != 204 and not reply.is_refusal:
                self.wrong.append((worker_id, reply))
            self.acknowledged_by[number] += reply.status == 204
            self.changed()
            if reply.status == 204:
                return True
            if self._ending or self._random.random() < 0.5:
                return False


@asynccontextmanager
async def beating(port: int, token: str, *, size: int, timeout_s: float, seed: int = 1) -> AsyncIterator[Fleet]:
    """A fleet at work, every connection of which was served; in the end it has been served again and has stopped."""
    fleet = Fleet(port, token, size=size, timeout_s=timeout_s, seed=seed)
    running = asyncio.create_task(fleet.run())
    try:
        await fleet.all_acknowledged()
        yield fleet
        await fleet.all_acknowledged()
    finally:
        fleet.end()
        await running
    assert not fleet.wrong, fleet.wrong[:3]


async def check_kept(fleet: Fleet, store: Store) -> None:
    """Every beat that was acknowledged is in this store, nothing else is, and each worker was registered once.

    ``store`` is not the one under test: it goes to the server past every fault.
    """
    stored = await tasks_of(store)
    own = {name for name in stored if name.startswith("own-")}
    assert fleet.acknowledged <= set(stored)
    assert set(stored) - own <= fleet.sent
    assert {name: count for name, count in fleet.counters.items() if stored.get(name, 0) < count} == {}
    registered = Counter(event.worker_id for event in await events_of(store) if event.kind is EventKind.REGISTERED)
    assert registered == dict.fromkeys(stored, 1)


async def tasks_of(store: Store, tenant: str = "acme") -> dict[str, int]:
    """Every worker that the store knows, and its counter."""
    found: dict[str, int] = {}
    for partition in range(store.partitions):
        after = ""
        while True:
            page = await store.list_workers(partition, tenant, after=after, limit=1_000, environments=None, want=None)
            found |= {worker.key.worker_id: worker.tasks_processed for worker in page.workers}
            after = page.last
            if not after:
                break
    return found


async def events_of(store: Store) -> list[Event]:
    """The whole history, partition by partition."""
    found: list[Event] = []
    for partition in range(store.partitions):
        after = ""
        while True:
            some = (await store.history(partition, "acme", after=after, limit=1_000, newest_first=False)).events
            if not some:
                break
            found += some
            after = some[-1].position
    return found
