"""A proxy between a daemon and its store, whose faults are switched while it runs.

It forwards whole commands, one at a time, and answers as they come. Faults, for each way or for both:

- ``delay_s[way]``: everything takes that much longer;
- ``stall(way)``/``flow(way)``: nothing is forwarded, of new connections neither. What was held goes on with
  ``flow``, also what a client sent that has gone meanwhile: a network that heals delivers late;
- ``cut()``: reset every connection now; ``half_close(way)``: end one way of each, the other stays open;
- ``refuse()``/``accept()``: new connections are refused;
- ``plan(CutRequest(...))``/``plan(CutAnswer(...))``: reset the connection of certain commands, before the store
  has got them whole or after it has answered; ``unplan()`` ends that.

Counters and ``until`` let a test wait for what has happened. A proxy belongs to one event loop, which has to turn
while a daemon starts: start that one with ``asyncio.to_thread``.
"""

import asyncio
import contextlib
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Final

WAIT_S: Final = 30.0
KEPT: Final = 100_000
"""Number of commands that are kept."""
PIECE_BYTES: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)


class Way(Enum):
    """The two ways through a connection."""

    REQUESTS = "to the store"
    ANSWERS = "to the daemon"


BOTH: Final = tuple(Way)


@dataclass(frozen=True, kw_only=True, slots=True)
class CutRequest:
    """Commands that hold ``match`` do not reach the store: their first ``passed_bytes`` do, then comes a reset."""

    match: bytes = b""
    skip: int = 0
    """The number of matching commands that pass first."""
    times: int | None = None
    """None: until ``unplan``."""
    passed_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CutAnswer:
    """Commands that hold ``match`` are carried out by the store; ``passed_bytes`` of the answer come back."""

    match: bytes = b""
    skip: int = 0
    times: int | None = None
    passed_bytes: int = 0


class Watched:
    """A state that changes; tests wait for a condition on it."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Make the waiting tests check their conditions again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], object], what: str, *, timeout_s: float = WAIT_S) -> None:
        """Wait until the condition holds; fails, naming ``what``, when it does not within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s:g} s: {what}") from None


class Proxy(Watched):
    """See the module. ``url`` is what ``store.url`` takes; it stays the same while connections are refused."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gates = {way: asyncio.Event() for way in BOTH}
        self._plans: list[tuple[CutRequest | CutAnswer, Counter[str]]] = []
        self.delay_s = dict.fromkeys(BOTH, 0.0)
        self.accepted = 0
        self.most_open = 0
        self.commands: deque[bytes] = deque(maxlen=KEPT)
        """Every command that came, as it was sent, also those that were held or cut."""
        self.cut_commands: list[bytes] = []
        """Those that a plan has cut."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """Connections that go both ways now."""
        return sum(not link.ended for link in self._links)

    def seen(self, match: bytes) -> int:
        """How many commands that hold ``match`` have come."""
        return sum(match in command for command in self.commands)

    def target(self, url: str) -> None:
        """Where new connections go from now on."""
        self._target = url

    def stall(self, *ways: Way) -> None:
        for way in ways or BOTH:
            self._gates[way].clear()

    def flow(self, *ways: Way) -> None:
        for way in ways or BOTH:
            self._gates[way].set()

    def cut(self) -> None:
        for link in list(self._links):
            link.reset()

    def half_close(self, way: Way) -> None:
        for link in list(self._links):
            link.end(way)

    def plan(self, cut: CutRequest | CutAnswer) -> None:
        self._plans.append((cut, Counter()))

    def unplan(self) -> None:
        self._plans.clear()

    async def refuse(self) -> None:
        """Existing connections stay."""
        if self._server is not None:
            # A connection that was accepted in this very turn must get its transport before the server closes: made
            # later, it would fail an assertion of asyncio's and never be closed (cpython issue 109564).
            server, self._server = self._server, None
            loop = asyncio.get_running_loop()
            for listening in server.sockets:
                loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            server.close()

    async def accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._begin, "127.0.0.1", self._port, limit=PIECE_BYTES)
            self._port = self._server.sockets[0].getsockname()[1]

    async def heal(self) -> None:
        """End every fault; connections that were cut stay cut."""
        self.unplan()
        self.flow()
        self.delay_s = dict.fromkeys(BOTH, 0.0)
        await self.accept()

    async def close(self) -> None:
        await self.refuse()
        self.flow()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # For the links of this module ---------------------------------------------------------------------------------

    async def passage(self, way: Way) -> None:
        """Return when data may go this way."""
        if self.delay_s[way]:
            await asyncio.sleep(self.delay_s[way])
        await self._gates[way].wait()

    def planned(self, command: bytes) -> CutRequest | CutAnswer | None:
        """The fault that is planned for this command, if any. Called once for each command."""
        for cut, count in self._plans:
            if cut.match in command:
                count["met"] += 1
                if count["met"] > cut.skip and (cut.times is None or count["done"] < cut.times):
                    count["done"] += 1
                    self.cut_commands.append(command)
                    return cut
        return None

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(self, reader, writer)
        self._links.add(link)
        self.most_open = max(self.most_open, self.open)
        self.changed()
        try:
            await link.run(self._target)
        finally:
            link.reset()
            self._links.discard(link)
            self.changed()


class _Link:
    """One connection of a client and the one to the store that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._client = writer
        self._store: asyncio.StreamWriter | None = None
        self._cut_answer: CutAnswer | None = None
        self.ended: set[Way] = set()

    async def run(self, target: str) -> None:
        with contextlib.suppress(OSError):
            await self._proxy.passage(Way.REQUESTS)
            if target.startswith("unix://"):
                answers, self._store = await asyncio.open_unix_connection(target.removeprefix("unix://"))
            else:
                host, _, port = target.rpartition("/")[2].partition(":")
                answers, self._store = await asyncio.open_connection(host, int(port))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._guarded(self._requests(self._store)))
                group.create_task(self._guarded(self._answers(answers)))

    async def _guarded(self, pump: Coroutine[None, None, None]) -> None:
        """A way whose connection is lost takes the other way with it; one that ends in order does not."""
        try:
            await pump
        except (OSError, asyncio.IncompleteReadError):
            self.reset()

    async def _requests(self, store: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the client has ended
            while True:
                command = await _command(self._reader)
                self._proxy.commands.append(command)
                self._proxy.changed()
                await self._proxy.passage(Way.REQUESTS)
                cut = self._proxy.planned(command)
                if isinstance(cut, CutRequest):
                    await self._forward(Way.REQUESTS, store, command[: cut.passed_bytes])
                    self._proxy.changed()
                    self.reset()
                    return
                self._cut_answer = cut
                await self._forward(Way.REQUESTS, store, command)
        self.end(Way.REQUESTS)

    async def _answers(self, answers: asyncio.StreamReader) -> None:
        while piece := await answers.read(PIECE_BYTES):
            await self._proxy.passage(Way.ANSWERS)
            if self._cut_answer is not None:
                # Clients of the store wait for each answer, so this is the one to the command that was last sent.
                await self._forward(Way.ANSWERS, self._client, piece[: self._cut_answer.passed_bytes])
                self._proxy.changed()
                self.reset()
                return
            await self._forward(Way.ANSWERS, self._client, piece)
        self.end(Way.ANSWERS)

    async def _forward(self, way: Way, writer: asyncio.StreamWriter, data: bytes) -> None:
        if way not in self.ended and not writer.is_closing():
            writer.write(data)
            await writer.drain()

    def end(self, way: Way) -> None:
        """Signal the end of data this way. Data that still comes is dropped."""
        self.ended.add(way)
        self._proxy.changed()
        writer = self._store if way is Way.REQUESTS else self._client
        with contextlib.suppress(OSError):
            if writer is not None and not writer.is_closing() and writer.can_write_eof():
                writer.write_eof()

    def reset(self) -> None:
        """Close both sides at once. Data on the way is lost."""
        for writer in (self._client, self._store):
            if writer is not None and not writer.is_closing():
                sock: socket.socket = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


async def _command(reader: asyncio.StreamReader) -> bytes:
    """One whole command in the protocol's form for requests: an array of strings."""
    head = await reader.readuntil(b"\r\n")
    assert head.startswith(b"*"), head
    parts = [head]
    for _ in range(int(head[1:])):
        length = await reader.readuntil(b"\r\n")
        parts += [length, await reader.readexactly(int(length[1:]) + 2)]
    return b"".join(parts)


@contextlib.asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the store at ``target``, without faults."""
    proxy = Proxy(target)
    await proxy.heal()
    try:
        yield proxy
    finally:
        await proxy.close()
