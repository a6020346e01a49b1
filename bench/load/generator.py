"""One process of the generator: a loop over sockets, with as little work per request as Python allows."""

import errno
import gc
import selectors
import socket
import time
from array import array
from collections import deque
from typing import Final
from urllib.parse import urlsplit

from bench.load.answers import BadAnswerError, read_answer
from bench.load.outcome import Latencies, Outcome
from bench.load.plan import Plan, Requests, Schedule, Share
from monitor.clock import monotonic_s

LATE_S: Final = 0.005
TICK_S: Final = 0.001
"""Sends leave in groups once per tick, since the system's timers are no finer. It is part of the latency."""
CHECK_S: Final = 0.1
CONNECT_LIMIT_S: Final = 10.0
_RECEIVE_BYTES: Final = 65_536
_IN_PROGRESS: Final = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK})
_KINDS: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EADDRNOTAVAIL: "no free local port",
    errno.EMFILE: "too many open files",
}


class _Connection:
    """A place for one request at a time, on one socket after another."""

    __slots__ = ("busy", "intended_s", "received", "sent_s", "sock", "unsent", "writing")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.busy = False
        self.intended_s = 0.0
        self.sent_s = 0.0
        self.received = b""
        self.unsent: memoryview | None = None
        self.writing = False
        """Whether the selector watches for its being writable."""


class Generator:
    """Sends one process's share of a plan. Made, connected and run once."""

    def __init__(self, plan: Plan, share: Share) -> None:
        parts = urlsplit(plan.url)
        self._plan = plan
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        family, _, protocol, _, address = found[0]
        self._family: int = family
        self._protocol: int = protocol
        self._address: tuple[object, ...] = address
        self._requests = Requests(plan, share=share)
        rate = plan.requests_per_s
        self._schedule = (
            None if rate is None else Schedule(per_s=rate, duration_s=plan.duration_s, ramp_s=plan.ramp_s, share=share)
        )
        self._selector = selectors.DefaultSelector()
        self._connections = [_Connection() for _ in range(share.connections(plan))]
        self._free = deque(self._connections)
        self._span_s = plan.ramp_s + plan.duration_s
        self._start_s = self._wake_s = 0.0
        self._number = 0
        """The next request of the schedule."""
        self._slow_until = self._blocked_until = 0
        """Up to which request one that is late is so because of us, or because no connection was free."""
        self._outcome = Outcome()
        self._microseconds = array("Q")

    def connect(self) -> None:
        """Open the connections that are to be kept; to be done before the start.

        Raises:
            OSError: a connection can't be made.
        """
        if not self._plan.keep_alive:
            return
        for connection in self._connections:
            sock = socket.socket(self._family, socket.SOCK_STREAM, self._protocol)
            sock.settimeout(CONNECT_LIMIT_S)
            try:
                sock.connect(self._address)
            except OSError:
                sock.close()
                raise
            self._take(connection, sock)

    def run(self, start_s: float) -> Outcome:
        """Send everything, beginning at this time of the monotonic clock; ends by itself.

        The bound is the length of the plan and two times its timeout.
        """
        self._start_s = start_s
        # Nothing here makes cycles, and a collection would be a stall of ours that is charged to the server.
        gc.collect()
        gc.disable()
        time.sleep(max(start_s - monotonic_s(), 0))
        cpu_s = time.process_time()
        try:
            self._loop()
        finally:
            gc.enable()
            for connection in self._connections:
                self._drop(connection)
            self._selector.close()
        outcome = self._outcome
        outcome.cpu_s = time.process_time() - cpu_s
        outcome.cpu_share = outcome.cpu_s / max(self._now_s(), 1e-9)
        latencies = Latencies()
        latencies.record(self._microseconds)
        outcome.latencies = latencies.encoded()
        return outcome

    def _now_s(self) -> float:
        return monotonic_s() - self._start_s

    def _loop(self) -> None:
        check_s = 0.0
        while True:
            now_s = self._now_s()
            self._send_due(now_s)
            if self._is_over(now_s) and len(self._free) == len(self._connections):
                break
            if now_s > check_s:
                check_s = now_s + CHECK_S
                self._time_out(now_s)
            wait_s = self._wait_s(now_s)
            self._wake_s = now_s + wait_s
            for key, events in self._selector.select(wait_s):
                if events & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if events & selectors.EVENT_READ:
                    self._receive(key.data)
        self._outcome.sent = self._number
        self._outcome.planned = self._number if self._schedule is None else self._schedule.total
        self._give_up_unsent()

    def _send_due(self, now_s: float) -> None:
        """Send what is due on the connections that are free, and say of what is late whose fault it is."""
        schedule, free, outcome = self._schedule, self._free, self._outcome
        if schedule is None:
            while free and now_s < self._span_s:
                self._number += 1
                self._send(free.popleft(), now_s, now_s)
            return
        due = schedule.due(now_s) if now_s < self._span_s + self._plan.timeout_s else self._number
        if free and now_s > self._wake_s + LATE_S:
            self._slow_until = due
        while self._number < due and free:
            number = self._number
            self._number += 1
            intended_s = schedule.time_s(number)
            if now_s > intended_s + LATE_S:
                if self._slow_until <= number < self._blocked_until:
                    outcome.waited += 1
                else:
                    outcome.late += 1
            self._send(free.popleft(), intended_s, now_s)
        if self._number < due:
            self._blocked_until = due

    def _is_over(self, now_s: float) -> bool:
        """Whether nothing more will be sent."""
        if self._schedule is None:
            return now_s >= self._span_s
        return self._number == self._schedule.total or now_s >= self._span_s + self._plan.timeout_s

    def _wait_s(self, now_s: float) -> float:
        """How long there is nothing to do unless something is received."""
        schedule = self._schedule
        if schedule is None or self._number == schedule.total or not self._free:
            return CHECK_S
        return min(max(schedule.time_s(self._number) - now_s, TICK_S), CHECK_S)

    def _give_up_unsent(self) -> None:
        """Count what never got a connection, with the time that it had waited."""
        if self._schedule is None or self._number == self._schedule.total:
            return
        ended_s = self._now_s()
        self._outcome.errors["not sent"] += self._schedule.total - self._number
        for unsent in range(self._number, self._schedule.total):
            self._record(self._schedule.time_s(unsent), ended_s)

    def _record(self, intended_s: float, now_s: float) -> None:
        if intended_s >= self._plan.ramp_s:
            self._microseconds.append(int((now_s - intended_s) * 1e6))

    # One request -------------------------------------------------------------------------------------------------

    def _send(self, connection: _Connection, intended_s: float, now_s: float) -> None:
        connection.busy = True
        connection.intended_s = intended_s
        connection.sent_s = now_s
        connection.received = b""
        request = self._requests.next()
        try:
            sock = connection.sock or self._opened(connection)
            sent = sock.send(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail(connection, _KINDS.get(error.errno or 0, f"errno {error.errno}"))
            return
        if sent < len(request):
            connection.unsent = memoryview(request)[sent:]
            self._watch_writing(connection, wanted=True)

    def _flush(self, connection: _Connection) -> None:
        if connection.unsent is None or connection.sock is None:
            return
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(connection, _KINDS.get(error.errno or 0, f"errno {error.errno}"))
            return
        connection.unsent = connection.unsent[sent:] if sent < len(connection.unsent) else None
        if connection.unsent is None:
            self._watch_writing(connection, wanted=False)

    def _receive(self, connection: _Connection) -> None:
        if connection.sock is None:
            return
        try:
            data = connection.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            data, kind = b"", _KINDS.get(error.errno or 0, f"errno {error.errno}")
        else:
            kind = "closed without an answer"
        if not data:
            if connection.busy:
                self._fail(connection, kind)
            else:
                self._drop(connection)
            return
        # What nearly every answer is: no body, complete, and the connection stays.
        if (
            not connection.received
            and data.startswith(b"HTTP/1.1 204")
            and data.endswith(b"\r\n\r\n")
            and b"lose\r\n" not in data
            and self._plan.keep_alive
            and connection.unsent is None
        ):
            self._answered(connection, 204)
            return
        connection.received += data
        self._judge(connection)

    def _judge(self, connection: _Connection) -> None:
        try:
            answer = read_answer(connection.received)
        except BadAnswerError:
            self._fail(connection, "not an HTTP answer")
            return
        if answer is None:
            return
        if answer.last or not self._plan.keep_alive or connection.unsent is not None:
            self._drop(connection)
        if answer.status == 200 and self._plan.batch > 1 and answer.rejects:  # noqa: PLR2004 - the batch's status
            self._outcome.rejected += 1
        self._answered(connection, answer.status)

    def _answered(self, connection: _Connection, status: int) -> None:
        now_s = self._now_s()
        if not connection.busy:
            self._drop(connection)
            self._outcome.errors["answer without a request"] += 1
            return
        self._outcome.statuses[status] += 1
        self._outcome.elapsed_s = now_s
        self._record(connection.intended_s, now_s)
        connection.busy = False
        self._free.append(connection)

    def _fail(self, connection: _Connection, kind: str) -> None:
        self._outcome.errors[kind] += 1
        self._drop(connection)
        connection.busy = False
        self._free.append(connection)

    def _time_out(self, now_s: float) -> None:
        for connection in self._connections:
            if connection.busy and now_s > connection.sent_s + self._plan.timeout_s:
                self._record(connection.intended_s, now_s)
                self._fail(connection, "timeout")

    # Sockets -----------------------------------------------------------------------------------------------------

    def _opened(self, connection: _Connection) -> socket.socket:
        """A socket that is being connected; sending blocks until it is."""
        sock = socket.socket(self._family, socket.SOCK_STREAM, self._protocol)
        sock.setblocking(False)  # noqa: FBT003 - its only parameter
        code = sock.connect_ex(self._address)
        if code not in _IN_PROGRESS:
            sock.close()
            raise OSError(code, "connect")
        self._take(connection, sock)
        return sock

    def _take(self, connection: _Connection, sock: socket.socket) -> None:
        sock.setblocking(False)  # noqa: FBT003 - its only parameter
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = sock
        connection.writing = False
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self._outcome.connects += 1

    def _watch_writing(self, connection: _Connection, *, wanted: bool) -> None:
        if connection.sock is not None and connection.writing is not wanted:
            connection.writing = wanted
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
            self._selector.modify(connection.sock, events, connection)

    def _drop(self, connection: _Connection) -> None:
        """Close its socket, if it has one; the next request on it opens another."""
        if connection.sock is not None:
            self._selector.unregister(connection.sock)
            connection.sock.close()
        connection.sock = None
        connection.unsent = None
        connection.received = b""
