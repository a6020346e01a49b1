"""Clients without a token that hold every connection they can get, beside workers that obey (P29)."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPException
from typing import Final

import pytest

from monitor.clock import monotonic_s
from tests.support.daemons import Daemon, Home, until

LIMIT: Final = 40
STRANGERS: Final = 70
WORKERS: Final = 6
INTERVAL_S: Final = 1.0
CONFIG: Final = f"""
[server]
port = 0
[liveness]
interval = "1s"
grace = "3500ms"
[limits]
connections = {LIMIT}
"""


class Strangers:
    """Heads and bodies that do not end; who is closed comes again at once."""

    def __init__(self, port: int, addresses: int) -> None:
        self._port, self._addresses = port, addresses
        self._sockets = selectors.DefaultSelector()
        self._ending = threading.Event()
        self.made = 0

    def _connect(self, number: int) -> None:
        sock = socket.create_connection(
            ("127.0.0.1", self._port), source_address=(f"127.0.1.{number % self._addresses + 1}", 0)
        )
        if number % 3:
            sock.sendall(b"POST /api/v1/workers/heartbeat HTTP/1.1\r\nHost: x\r\n")
        if number % 3 == 1:
            sock.sendall(b"Content-Length: 1000\r\n\r\n{")
        sock.setblocking(False)  # noqa: FBT003 - its only parameter
        self._sockets.register(sock, selectors.EVENT_READ, number)
        self.made += 1

    def _run(self) -> None:
        for number in range(STRANGERS):
            self._connect(number)
        while not self._ending.is_set():
            for key, _ in self._sockets.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                with contextlib.suppress(ConnectionError):
                    if sock.recv(4_096):
                        continue  # a 401, for one
                self._sockets.unregister(sock)
                sock.close()
                self._connect(key.data)
        for key in list(self._sockets.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._sockets.close()

    @contextlib.contextmanager
    def there(self) -> "Iterator[Strangers]":
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            until(lambda: self.made > STRANGERS, "some were closed and have come again")
            yield self
        finally:
            self._ending.set()
            thread.join()


class Obeying:
    """A worker that beats once in each interval, and tries again a little later when that fails."""

    def __init__(self, daemon: Daemon, worker_id: str) -> None:
        self._daemon, self._worker_id = daemon, worker_id
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            done = False
            with contextlib.suppress(OSError, HTTPException):
                done = self._daemon.beat(self._worker_id).status == 204
            self._ending.wait(INTERVAL_S if done else 0.1)

    def die(self) -> None:
        self._ending.set()
        self._thread.join()


@pytest.mark.parametrize("addresses", [1, STRANGERS])
def test_p29_requests_that_do_not_end_make_no_worker_stale_and_hide_no_death(home: Home, addresses: int) -> None:
    home.write(CONFIG)
    daemon = home.start()
    workers = [Obeying(daemon, f"w-{number}") for number in range(WORKERS)]
    try:
        until(lambda: len(daemon.worker_ids()) == WORKERS, "all beat")
        with Strangers(daemon.port, addresses).there() as strangers:
            daemon.wait_for("limit.met", limit="unfinished")
            workers[0].die()
            died_s = monotonic_s()
            daemon.wait_for("worker.stale", worker_id="w-0")
            assert monotonic_s() - died_s < INTERVAL_S + 3.5 + 1.0 + 2.0
            made = strangers.made
            until(lambda: strangers.made > made + 10 * STRANGERS, "they go on")
            assert daemon.call("GET", "/healthz").status == 200
    finally:
        for worker in workers:
            worker.die()
    assert [line["worker_id"] for line in daemon.lines("worker.stale")] == ["w-0"]
    daemon.stop()
