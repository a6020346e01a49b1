"""P27 on a real daemon: it pings the watchdog while it is healthy, and the pings stop while it is not."""

import asyncio
import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest
import redis

from monitor.clock import monotonic_s
from monitor.reasons import Reason
from tests.support.daemons import ANY_PORT, PAUSE_S, Daemon, Home, Receiver, call, until
from tests.support.proxies import CutRequest, proxied

INTERVALS: Final = 2
"""The number of intervals without a ping that count as a silence."""
SWEEPS: Final = '[liveness]\ninterval = "1h"\ngrace = "1h"\nsweep_interval = "200ms"\n'
STALLED_INTERVALS: Final = 8
"""The most intervals that may pass, on a busy machine, before a stuck process is called stalled."""
LIVEZ_S: Final = 1.0
"""Silence after which a prober on an idle machine reports the daemon as dead."""


class Pings:
    """A watchdog service that records each GET."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        noted = self.paths

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                noted.append(self.path)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class names it
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(PAUSE_S,), daemon=True)
        self._thread.start()

    @property
    def section(self) -> str:
        return (
            f'[watchdog]\nurl = "http://127.0.0.1:{self._server.server_port}/ping/5f1c"\n'
            f'interval = "1s"\nallow_private = true\n'
        )

    def wait(self, more: int = 2) -> None:
        """Wait until ``more`` further pings have come."""
        had = len(self.paths)
        until(lambda: len(self.paths) >= had + more, f"{more} more pings; there are {had}")

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def pings() -> Iterator[Pings]:
    made = Pings()
    yield made
    made.close()


def withheld(daemon: Daemon) -> float:
    """Number of pings, from the metrics."""
    text = daemon.call("GET", "/metrics").body.decode()
    (value,) = [
        line.split()[1]
        for line in text.splitlines()
        if line.startswith('lastseen_watchdog_pings_total{outcome="withheld"}')
    ]
    return float(value)


def reasons(daemon: Daemon) -> list[str]:
    """The reasons that ``/healthz`` shows without a token."""
    found: list[str] = call(daemon.url, "GET", "/healthz").json()["reasons"]
    return found


def check_silence(daemon: Daemon, pings: Pings, of: Reason) -> None:
    """It names the reason, withholds its pings and says so; for some intervals none comes."""
    until(lambda: of in reasons(daemon), of)
    before = withheld(daemon)
    until(lambda: withheld(daemon) > before, "a ping that is withheld")
    had, before = len(pings.paths), withheld(daemon)
    until(lambda: withheld(daemon) >= before + INTERVALS, f"{INTERVALS} intervals without a ping")
    assert len(pings.paths) == had
    assert len(daemon.lines("watchdog.withheld")) == len(daemon.lines("watchdog.resumed")) + 1


def test_p27_pings_stop_with_the_store_and_go_on_with_it_while_livez_answers_all_along(
    home: Home, pings: Pings
) -> None:
    home.write(ANY_PORT + SWEEPS + pings.section)
    daemon = home.start()
    pings.wait()
    assert set(pings.paths) == {"/ping/5f1c"}

    os.kill(home.store_pid, signal.SIGSTOP)
    try:
        waiting = [threading.Thread(target=daemon.beat, args=(f"w-{number}",)) for number in range(8)]
        for one in waiting:
            one.start()
        began_s = monotonic_s()
        assert call(daemon.url, "GET", "/livez").status == 200
        assert monotonic_s() - began_s < LIVEZ_S
        check_silence(daemon, pings, Reason.STORE_UNAVAILABLE)
        answer = call(daemon.url, "GET", "/readyz")
        assert (answer.status, answer.json()["reasons"]) == (503, ["store_unavailable"])
        assert 'lastseen_degraded{reason="store_unavailable"} 1.0' in daemon.call("GET", "/metrics").body.decode()
        for one in waiting:
            one.join()
    finally:
        os.kill(home.store_pid, signal.SIGCONT)

    pings.wait()
    until(lambda: not reasons(daemon), "healthy again")
    daemon.stop()  # sends no ping: the watchdog notices that they stop
    assert set(pings.paths) == {"/ping/5f1c"}


async def test_p27_pings_stop_while_the_sweep_is_stuck_and_lists_say_so_while_beats_are_stored(
    empty_home: Home, pings: Pings, store_url: str
) -> None:
    home = empty_home
    async with proxied(store_url) as proxy:
        home.write("k" * 40, "token-secret")
        key = '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
        home.write(f'{ANY_PORT}[store]\nurl = "{proxy.url}"\n{SWEEPS}{key}{pings.section}')
        daemon = await asyncio.to_thread(home.start)
        await asyncio.to_thread(pings.wait)
        proxy.plan(CutRequest(match=b"_sweep\r\n"))
        await asyncio.to_thread(check_silence, daemon, pings, Reason.SWEEP_LAG)
        assert (await asyncio.to_thread(daemon.beat, "w")).status == 204
        monitor = (await asyncio.to_thread(daemon.get, "/api/v1/workers"))["monitor"]
        assert "sweep_lag" in monitor["reasons"]
        assert monitor["last_sweep_age_seconds"] > 5
        assert (await asyncio.to_thread(call, daemon.url, "GET", "/readyz")).status == 200
        proxy.unplan()
        await asyncio.to_thread(pings.wait)
        await asyncio.to_thread(daemon.stop)


def test_p27_pings_stop_while_a_receiver_does_not_get_what_it_should_have_got_a_minute_ago(
    home: Home, pings: Pings, receiver: Receiver
) -> None:
    receiver.answer = 503
    receiver.open()
    home.write(ANY_PORT + '[liveness]\nsweep_interval = "200ms"\n' + receiver.section() + pings.section)
    daemon = home.start()
    assert daemon.beat("w", interval_seconds=1, grace_seconds=1).status == 204
    receiver.wait_for("worker.stale", "w", count=2)
    pings.wait()  # what fails for some seconds is no trouble
    with redis.Redis(unix_socket_path=str(home.directory / "data" / "store" / "valkey.sock")) as store:
        in_flight = {"name": "{ls:0}:to:ops:open", "mapping": {receiver.attempts[0].webhook_id: 1}, "xx": True}
        store.zadd(**in_flight)  # since long ago
    check_silence(daemon, pings, Reason.DELIVERY_LAG)
    assert daemon.get("/api/v1/receivers")["receivers"][0]["lag_seconds"] > 60
    receiver.answer = 204
    pings.wait()
    daemon.stop()


def of_first(daemon: Daemon, reason: Reason) -> bool:
    """Whether the first process has said that it withholds its pings for this."""
    lines = daemon.lines("watchdog.withheld", process=1)
    return any(reason in line["reasons"] for line in lines)


def test_p27_one_process_that_is_stuck_silences_the_daemon_whichever_it_is(home: Home, pings: Pings) -> None:
    home.write(ANY_PORT + "processes = 2\n" + SWEEPS + pings.section)
    daemon = home.start()
    pings.wait()
    pids = {line["process"]: line["pid"] for line in daemon.lines("process.started")}
    had = len(pings.paths)
    os.kill(pids[2], signal.SIGSTOP)
    until(lambda: of_first(daemon, Reason.PROCESS_STALLED), "the first process withholding its ping")

    def named() -> bool:
        """Half of the connections go to the one that is stuck, and are given up."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return Reason.PROCESS_STALLED in call(daemon.url, "GET", "/healthz", timeout_s=2).json()["reasons"]
        return False

    until(named, "the other process naming it")
    assert len(pings.paths) <= had + STALLED_INTERVALS
    os.kill(pids[2], signal.SIGCONT)
    pings.wait()

    os.kill(pids[1], signal.SIGSTOP)  # it is the one that sends
    had = len(pings.paths)
    until(named, "the second process naming the first")
    assert len(pings.paths) <= had + 1  # what was under way
    os.kill(pids[1], signal.SIGCONT)
    pings.wait()
    daemon.stop()
