"""Workers that obey the daemon, each on a connection of its own: they beat at their interval, come again when a refusal
says so, and otherwise at their next interval. They are alive all the time, so each event that calls one stale is wrong.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from bench.harness import BenchError
from bench.load.answers import BadAnswerError, read_answer
from bench.load.outcome import Latencies
from bench.load.plan import BEAT_PATH
from monitor.clock import monotonic_s

ENVIRONMENT: Final = "overload"
NO_CONTENT: Final = 204
PATIENCE_S: Final = 10.0
"""How long a worker waits for an answer, as HTTP clients do."""
REGISTER_LIMIT_S: Final = 60.0
_LONG_S: Final = 3_600.0
_RETRY_AFTER: Final = b"\r\nretry-after: "


class Fleet:
    """``size`` workers, and the answers that they got. Made and used inside one event loop.

    Each registers with a long interval; ``begin`` has them beat at ``interval_s``, which they declare.
    """

    def __init__(self, url: str, tokens: Sequence[str], *, size: int, interval_s: float, grace_s: float) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.interval_s = interval_s
        self.grace_s = grace_s
        self.loop = asyncio.get_running_loop()
        self.workers = [Worker(self, number, tokens[number % len(tokens)]) for number in range(size)]
        self.registering = True
        self.closed = False
        self.forget()

    def forget(self) -> None:
        """Count from here on."""
        self.sent = 0
        self.answers: Counter[str] = Counter()
        self.latencies = Latencies()

    async def register(self, *, per_s: float) -> None:
        """Have each worker send one beat, ``per_s`` workers a second, until all are stored.

        Raises:
            BenchError: not all are stored in time.
        """
        for number, worker in enumerate(self.workers):
            worker.start(self.loop.time() + number / per_s)
        limit_s = self.loop.time() + len(self.workers) / per_s + REGISTER_LIMIT_S
        while not all(worker.is_known for worker in self.workers):
            if self.loop.time() > limit_s:
                raise BenchError(f"{len(self.workers)} workers could not register: {dict(self.answers)}")
            await asyncio.sleep(0.1)
            self.give_up()

    def begin(self) -> None:
        """Have all beat from now on, their first beats spread over one interval."""
        self.forget()
        self.registering = False
        now_s = self.loop.time()
        for number, worker in enumerate(self.workers):
            worker.begin(now_s + self.interval_s * number / len(self.workers))

    def give_up(self) -> None:
        """Have those stop waiting who have waited for too long; to be called now and then."""
        now_s = monotonic_s()
        for worker in self.workers:
            if worker.busy and now_s > worker.sent_s + PATIENCE_S and worker.drop():
                self.answers["no answer in time"] += 1

    def close(self) -> None:
        """End every connection."""
        self.closed = True
        for worker in self.workers:
            worker.drop()


class Worker(asyncio.Protocol):
    """One worker."""

    def __init__(self, fleet: Fleet, number: int, token: str) -> None:
        self._fleet = fleet
        self.worker_id = f"obedient-{number}"
        self.busy = self.is_known = False
        self.sent_s = 0.0
        self._token = token
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._data = b""
        self._due_s = 0.0
        self._interval_s = _LONG_S
        self._grace_s = _LONG_S
        self._request = self._made()

    def start(self, at_s: float) -> None:
        """Send the next beat then."""
        self._due_s = at_s
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._fleet.loop.call_at(at_s, self._send)

    def begin(self, at_s: float) -> None:
        """Declare the fleet's interval and grace from the next beat on, which is sent then."""
        self._interval_s, self._grace_s = self._fleet.interval_s, self._fleet.grace_s
        self._request = self._made()
        self.start(at_s)

    def die(self) -> None:
        """Fall silent."""
        if self._timer is not None:
            self._timer.cancel()
        self.drop()

    def drop(self) -> bool:
        """End the connection, if there is one; the next beat has another."""
        if self._transport is None:
            return False
        self._transport.abort()
        return True

    def _made(self) -> bytes:
        body = json.dumps(
            {
                "worker_id": self.worker_id,
                "environment_name": ENVIRONMENT,
                "interval_seconds": self._interval_s,
                "grace_seconds": self._grace_s,
            }
        ).encode()
        lines = [
            f"POST {BEAT_PATH} HTTP/1.1",
            f"Host: {self._fleet.address[0]}:{self._fleet.address[1]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Authorization: Bearer {self._token}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _send(self) -> None:
        if self._fleet.closed:
            return
        self.busy, self._data = True, b""
        self.sent_s = monotonic_s()  # the loop's own clock counts whole milliseconds
        if self._transport is not None:
            self._write(self._transport)
        else:
            self._fleet.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._fleet.loop.create_connection(lambda: self, *self._fleet.address)
        except OSError as error:
            self._fleet.answers[f"connect: {error.strerror}"] += 1
            self._settle(None)

    def _write(self, transport: asyncio.Transport) -> None:
        self._fleet.sent += 1
        transport.write(self._request)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is there, and the beat that asked for it goes out."""
        self._transport = transport
        self._write(transport)

    def data_received(self, data: bytes) -> None:
        """Some of an answer, nearly always all of it."""
        self._data += data
        try:
            answer = read_answer(self._data)
        except BadAnswerError:
            self._fleet.answers["not an HTTP answer"] += 1
            self.drop()
            return
        if answer is None:
            return
        fleet = self._fleet
        fleet.answers[str(answer.status)] += 1
        fleet.latencies.record([int((monotonic_s() - self.sent_s) * 1e6)])
        _, found, rest = self._data.partition(_RETRY_AFTER)
        self.is_known |= answer.status == NO_CONTENT
        self._settle(float(rest.partition(b"\r\n")[0]) if found else None)
        if answer.last:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface's
        """The connection is gone; a beat that was under way has no answer."""
        self._transport = None
        if self.busy:
            self._fleet.answers["no answer"] += 1
            self._settle(None)

    def _settle(self, retry_after_s: float | None) -> None:
        """Schedule the next beat: as the answer says, or at the next interval. Beats due meanwhile are skipped."""
        self.busy = False
        now_s = self._fleet.loop.time()
        if self._fleet.registering:
            if not self.is_known:
                self.start(now_s + (retry_after_s or 1.0))
            return
        if retry_after_s is not None:
            self.start(now_s + retry_after_s)
            return
        missed = max(int((now_s - self._due_s) // self._interval_s), 0)
        self.start(self._due_s + (missed + 1) * self._interval_s)
