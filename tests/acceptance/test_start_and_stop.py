"""What holds when a daemon starts beside another, is stopped, or is killed, and when its store is."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from monitor.clock import monotonic_s
from tests.daemons import ANY_PORT, BEAT, Stream, call, gone, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemons import Daemon, Home

STOP_LIMIT_S = 10.0
"""What docs/operations.md promises of a stop, and of the store's end after a kill of the daemon."""


@pytest.fixture
def streams() -> Iterator[list[Stream]]:
    """Filled by the test; ended afterwards."""
    started: list[Stream] = []
    yield started
    for stream in started:
        stream.end()


def connection(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=STOP_LIMIT_S)


def request(daemon: Daemon, token: str, worker_id: str) -> bytes:
    """A whole beat, as bytes."""
    body = json.dumps({"worker_id": worker_id, "environment_name": "prod"})
    head = [f"POST {BEAT} HTTP/1.1", f"Host: {urlsplit(daemon.url).netloc}", f"Authorization: Bearer {token}"]
    head += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(head).encode()


def status_of(sock: socket.socket) -> int:
    """Read one answer; nothing follows its head but a body of its length."""
    answer = http.client.HTTPResponse(sock)
    try:
        answer.begin()
        answer.read()
        return answer.status
    finally:
        answer.close()


# A second daemon ----------------------------------------------------------------------------------------------------


def test_a_second_daemon_on_the_same_port_or_data_exits_1_names_what_is_taken_and_harms_nothing(home: Home) -> None:
    home.write(ANY_PORT)
    first = home.start()
    assert first.beat("before").status == 204
    home.write(f'[server]\nport = {first.port}\n[store]\ndata_dir = "other"\n', "second.toml")
    same_port = home.launch("--config", "second.toml")
    same_data = home.launch()
    assert same_port.exit_status() == 1
    assert f"lastseen: port {first.port} on 127.0.0.1 is in use" in same_port.output()
    assert not (home.directory / "other").exists()
    assert same_data.exit_status() == 1
    data_dir = (home.directory / "data").resolve()
    assert f"lastseen: data directory {data_dir} is in use by another lastseen (pid {first.pid})" in same_data.output()
    assert home.lock["daemon_pid"] == first.pid
    assert first.beat("after").status == 204
    assert first.worker_ids() == {"before", "after"}


# Stopping -----------------------------------------------------------------------------------------------------------


def test_sigterm_ends_it_within_10_s_whatever_clients_do_and_answers_the_beat_in_flight(home: Home) -> None:
    home.write(ANY_PORT + '[store]\ntimeout = "10s"\n')
    daemon = home.start()
    store_pid = home.store_pid
    assert daemon.beat("before").status == 204
    with connection(daemon) as idle, connection(daemon) as half_sent, connection(daemon) as in_flight:
        idle.sendall(request(daemon, home.master, "idle"))
        assert status_of(idle) == 204
        half_sent.sendall(request(daemon, home.master, "half-sent")[:-5])
        os.kill(store_pid, signal.SIGSTOP)
        try:
            in_flight.sendall(request(daemon, home.master, "in-flight"))
            assert call(daemon.url, "GET", "/livez").status == 200  # its loop has turned: it has read what was sent
            told_s = monotonic_s()
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("daemon.stopping", why="SIGTERM")
        finally:
            os.kill(store_pid, signal.SIGCONT)
        assert status_of(in_flight) == 204
        assert daemon.exit_status() == 0, daemon.output()
        assert monotonic_s() - told_s < STOP_LIMIT_S
    assert gone(store_pid)
    assert daemon.lines("request.failed") == []
    assert daemon.lines()[-1]["event"] == "daemon.stopped"
    assert home.start().worker_ids() == {"before", "idle", "in-flight"}


def test_sigterm_while_it_waits_for_its_store_is_a_stop_as_asked(empty_home: Home) -> None:
    empty_home.write("k" * 32, "token-secret")
    empty_home.write(
        f'{ANY_PORT}[store]\nurl = "redis://127.0.0.1:1"\n'
        f'[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
    )
    daemon = empty_home.launch()
    daemon.wait_for("store.unavailable")
    daemon.stop()


def test_no_acknowledged_beat_is_lost_and_no_store_stays_behind_after_ctrl_c_and_after_kill_9(
    home: Home, streams: list[Stream]
) -> None:
    home.write(ANY_PORT)
    acknowledged: set[str] = set()

    def run_until(number: signal.Signals, status: int) -> None:
        daemon, store_pid = home.start(), home.store_pid
        assert daemon.worker_ids() >= acknowledged
        running = [Stream(daemon.url, home.master, f"{name}-{number.name}") for name in ("a", "b", "c")]
        streams.extend(running)
        until(lambda: all(len(stream.acknowledged) >= 50 for stream in running), "50 beats of each stream")
        daemon.signal(number)
        assert daemon.exit_status() == status, daemon.output()
        until(lambda: gone(store_pid), "the end of the store after its daemon's", timeout_s=STOP_LIMIT_S)
        for stream in running:
            stream.end()
            acknowledged.update(stream.acknowledged)
            assert {answer.status for answer in stream.refused} <= {503}

    run_until(signal.SIGINT, 0)
    run_until(signal.SIGKILL, -signal.SIGKILL)
    last = home.start()
    assert last.worker_ids() >= acknowledged
    assert last.beat("after").status == 204


# A kill of the store ------------------------------------------------------------------------------------------------


def test_kill_9_of_the_store_is_mended_by_the_daemon_and_loses_nothing_that_was_confirmed(
    home: Home, streams: list[Stream]
) -> None:
    home.write(ANY_PORT)
    daemon = home.start()
    lock = home.lock
    stream = Stream(daemon.url, home.master, "w")
    streams.append(stream)
    # The log receiver gets an event when the store has confirmed it on the disk (store.durability, P23).
    confirmed = {line["worker_id"] for line in daemon.wait_for("notification", count=50)}
    os.kill(lock["store_pid"], signal.SIGKILL)
    daemon.wait_for("store.restarted")
    count = len(stream.acknowledged)
    until(lambda: len(stream.acknowledged) >= count + 50, "50 beats after the restart")
    stream.end()
    assert {answer.status for answer in stream.refused} <= {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in stream.refused)
    assert daemon.process.poll() is None
    assert home.lock["daemon_pid"] == lock["daemon_pid"] == daemon.pid
    assert home.lock["store_pid"] != lock["store_pid"]
    assert daemon.worker_ids() >= confirmed | set(stream.acknowledged[count:])
    assert until(lambda: call(daemon.url, "GET", "/readyz").status == 200, "ready again")
    daemon.stop()
