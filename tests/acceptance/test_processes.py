"""`lastseen serve --processes 2`: one daemon to its users and operators, whichever process answers."""

import contextlib
import http.client
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.clock import monotonic_s
from tests.support.daemons import BEAT, Daemon, Home, call, gone, until

CONFIG = """
[server]
port = 0
processes = 2
[liveness]
interval = "1s"
grace = "1s"
sweep_interval = "100ms"
[limits]
worker_beats_per_second = 0
"""
BEATS = 200
LOOKS = 20
"""Number of requests, each on its own connection, that reaches both processes."""
STOP_LIMIT_S = 10.0


def processes(daemon: Daemon) -> dict[int, int]:
    """The process id of each process, as it was started last."""
    return {line["process"]: line["pid"] for line in daemon.lines("process.started")}


def scraped(daemon: Daemon, series: str) -> float:
    """One sample of one scrape, from the process that accepted the connection."""
    text = daemon.call("GET", "/metrics").body.decode()
    (value,) = [line.split()[1] for line in text.splitlines() if line.startswith(series + " ")]
    return float(value)


STORED = 'lastseen_beats_total{outcome="stored"}'


class Sender:
    """Beats one after another in a thread, each on a connection of its own; goes on when one is cut."""

    def __init__(self, daemon: Daemon, token: str) -> None:
        self.statuses: list[int] = []
        self.cut: list[Exception] = []
        self._url, self._token = daemon.url, token
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(STOP_LIMIT_S)

    def _run(self) -> None:
        body = {"worker_id": "sender", "environment_name": "prod", "interval_seconds": 60}
        while not self._ending.is_set():
            try:
                self.statuses.append(call(self._url, "POST", BEAT, token=self._token, body=body).status)
            except (OSError, http.client.HTTPException) as error:
                self.cut.append(error)


@pytest.fixture
def sender() -> Iterator[Callable[[Daemon, str], Sender]]:
    """Makes senders, and ends them."""
    made: list[Sender] = []

    def make(daemon: Daemon, token: str) -> Sender:
        made.append(Sender(daemon, token))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_every_process_shows_the_metrics_and_the_state_of_all_and_one_outage_is_one_event(home: Home) -> None:
    home.write(CONFIG)
    daemon = home.start()
    assert len(daemon.lines("daemon.ready")) == 1
    assert len(set(processes(daemon).values()) - {daemon.pid}) == 2
    for number in range(BEATS):
        assert daemon.beat(f"w-{number}").status == 204
    assert {scraped(daemon, STORED) for _ in range(LOOKS)} == {BEATS}
    assert {scraped(daemon, "lastseen_processes") for _ in range(LOOKS)} == {2}
    until(lambda: scraped(daemon, 'lastseen_transitions_total{event="worker.stale"}') >= BEATS, "every worker stale")
    # Two sweepers looked at each of them, many times.
    stale = daemon.get(f"/api/v1/events?type=worker.stale&limit={2 * BEATS}")["events"]
    assert sorted(event["data"]["worker_id"] for event in stale) == sorted(f"w-{number}" for number in range(BEATS))
    for _ in range(LOOKS):
        assert scraped(daemon, 'lastseen_transitions_total{event="worker.stale"}') == BEATS
        assert scraped(daemon, "lastseen_sweep_detection_seconds_count") == BEATS
        status = daemon.get("/api/v1/status")
        assert (status["counts"]["stale"], status["monitor"]["reasons"]) == (BEATS, [])
        assert [call(daemon.url, "GET", path).status for path in ("/livez", "/readyz", "/healthz")] == [200] * 3
    transitions = [line["worker_id"] for line in daemon.lines("worker.stale")]
    assert len(transitions) == len(set(transitions)) == BEATS
    daemon.stop()


def test_kill_9_of_a_process_is_mended_with_the_same_configuration_while_the_others_serve(
    home: Home, sender: Callable[[Daemon, str], Sender]
) -> None:
    home.write(CONFIG)
    daemon = home.start()
    home.write("this is no longer TOML")
    sending = sender(daemon, home.master)
    until(lambda: len(sending.statuses) >= BEATS, f"{BEATS} beats")
    first, second = processes(daemon)[1], processes(daemon)[2]
    counted = scraped(daemon, STORED)
    os.kill(first, signal.SIGKILL)
    seen = [counted]

    def restarted() -> bool:
        seen.append(scraped_again(daemon))
        return len(daemon.lines("process.started", process=1)) == 2

    until(restarted, "the process again")
    beats = len(sending.statuses)
    until(lambda: len(sending.statuses) >= beats + BEATS, "beats with both processes again")
    sending.end()
    assert set(sending.statuses) == {204}
    assert len(sending.cut) <= 1  # the one that the killed process had in hand
    assert seen == sorted(seen)
    total = {scraped(daemon, STORED) for _ in range(LOOKS)}
    assert total <= {len(sending.statuses), len(sending.statuses) + len(sending.cut)}
    assert len(total) == 1
    (ended,) = daemon.lines("process.exited")
    assert (ended["process"], ended["pid"], ended["exit_code"]) == (1, first, -signal.SIGKILL)
    assert processes(daemon)[1] != first
    assert processes(daemon)[2] == second
    assert scraped(daemon, "lastseen_process_restarts_total") == 1
    assert until(lambda: call(daemon.url, "GET", "/healthz").status == 200, "healthy again")
    assert len(daemon.lines("daemon.ready")) == 1
    daemon.stop()


def scraped_again(daemon: Daemon) -> float:
    """As ``scraped``, once more if the process that was asked was killed meanwhile."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return scraped(daemon, STORED)
    return scraped(daemon, STORED)


def refused(daemon: Daemon) -> bool:
    with contextlib.suppress(TimeoutError):
        try:
            socket.create_connection(("127.0.0.1", daemon.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
    return False


def test_ctrl_c_in_a_terminal_stops_all_once_and_within_10_s_whatever_clients_do(home: Home) -> None:
    home.write(CONFIG)
    daemon = home.start()
    store_pid = home.store_pid
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=STOP_LIMIT_S))
            for _ in range(LOOKS)
        ]
        for sock in idle[: LOOKS // 2]:
            sock.sendall(b"POST /api/v1/workers/heartbeat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert daemon.beat("before").status == 204
        signalled_s = monotonic_s()
        os.killpg(daemon.pid, signal.SIGINT)  # as the terminal does it: to the whole group
        until(lambda: refused(daemon), "the port to be closed, so that clients go elsewhere")
        assert daemon.process.poll() is None  # the requests that were begun have their time
        assert daemon.exit_status() == 0, daemon.output()
        assert monotonic_s() - signalled_s < STOP_LIMIT_S
    assert all(gone(pid) for pid in (store_pid, *processes(daemon).values()))
    stopping = {line.get("process", 0): line["why"] for line in daemon.lines("daemon.stopping")}
    assert stopping == {0: "SIGINT", 1: "SIGTERM", 2: "SIGTERM"}
    assert daemon.lines("process.exited") == []
    assert daemon.lines()[-1]["event"] == "daemon.stopped"
    assert daemon.lines("request.failed") == []


def test_kill_9_of_the_supervisor_leaves_no_process_and_the_port_free(home: Home) -> None:
    home.write(CONFIG)
    daemon = home.start()
    pids = [home.store_pid, *processes(daemon).values()]
    assert daemon.beat("before").status == 204
    daemon.kill()
    until(lambda: all(gone(pid) for pid in pids), "the end of the processes and the store", timeout_s=STOP_LIMIT_S)
    home.write(CONFIG.replace("port = 0", f"port = {daemon.port}"))
    assert home.start().worker_ids() == {"before"}


def test_no_secret_is_in_the_arguments_or_the_environment_of_a_process(home: Home) -> None:
    home.write("w" * 40, "token-secret")
    home.write(f'{CONFIG}[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n')
    home.make_master()
    daemon = home.start()
    for pid in processes(daemon).values():
        for name in ("cmdline", "environ"):
            assert b"w" * 40 not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert {daemon.beat("w").status for _ in range(LOOKS)} == {204}  # and yet both know it
    daemon.stop()


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_port_that_is_served_by_several_is_refused_to_a_second_daemon(home: Home, count: str) -> None:
    home.write(CONFIG)
    first = home.start()
    home.write(f'[server]\nport = {first.port}\n[store]\ndata_dir = "other"\n', "second.toml")
    second = home.launch("--config", "second.toml", "--processes", count)
    assert second.exit_status() == 1
    assert f"lastseen: port {first.port} on 127.0.0.1 is in use" in second.output()
    assert not (home.directory / "other").exists()
    assert {first.beat("after").status for _ in range(LOOKS)} == {204}


def test_a_store_that_is_refused_ends_the_start_with_one_message_and_no_restarts(home: Home) -> None:
    home.write(CONFIG)
    home.start().stop()
    home.write(f"{CONFIG}[store]\npartitions = 2\n")
    messages = []
    for count in ("1", "2"):
        daemon = home.launch("--config", "lastseen.toml", "--processes", count)
        assert daemon.exit_status() == 1
        (failed,) = daemon.lines("daemon.failed")
        messages.append(failed["error"])
        assert len(re.findall(r"(?m)^lastseen: the store can't be used: ", daemon.output())) == 1
        assert daemon.lines("process.started") == daemon.lines("process.exited") == []
    assert messages[0] == messages[1]
