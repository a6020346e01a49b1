"""What holds when a daemon starts beside another, is stopped, or is killed, and when its store is."""

import http.client
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from monitor.clock import monotonic_s
from tests.support import servers
from tests.support.daemons import ANY_PORT, BEAT, Daemon, Home, Stream, call, gone, until

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
            signalled_s = monotonic_s()
            daemon.signal(signal.SIGTERM)
            daemon.wait_for("daemon.stopping", why="SIGTERM")
        finally:
            os.kill(store_pid, signal.SIGCONT)
        assert status_of(in_flight) == 204
        assert daemon.exit_status() == 0, daemon.output()
        assert monotonic_s() - signalled_s < STOP_LIMIT_S
    assert gone(store_pid)
    assert daemon.lines("request.failed") == []
    assert daemon.lines()[-1]["event"] == "daemon.stopped"
    assert home.start().worker_ids() == {"before", "idle", "in-flight"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_stop_while_it_waits_for_its_store_is_a_stop_as_asked(empty_home: Home, number: signal.Signals) -> None:
    on_store(empty_home, "redis://127.0.0.1:1")
    daemon = empty_home.launch()
    daemon.wait_for("store.unavailable")
    daemon.signal(number)
    assert daemon.exit_status() == 0, daemon.output()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_sighup_and_sigquit_are_orderly_stops(home: Home, number: signal.Signals, processes: int) -> None:
    home.write(f"{ANY_PORT}processes = {processes}\n")
    daemon, store_pid = home.start(), home.store_pid
    assert daemon.beat("before").status == 204
    daemon.signal(number)
    daemon.wait_for("daemon.stopping", why=number.name)
    assert daemon.exit_status() == 0, daemon.output()
    assert daemon.lines()[-1]["event"] == "daemon.stopped"
    assert gone(store_pid)
    assert home.start().worker_ids() == {"before"}


@pytest.mark.parametrize("processes", [1, 2])
def test_signals_of_other_daemons_end_no_process_and_are_said(home: Home, processes: int) -> None:
    home.write(f"{ANY_PORT}processes = {processes}\n")
    daemon = home.start()
    children = [line["pid"] for line in daemon.lines("process.started")]
    assert len(children) == (processes if processes > 1 else 0)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        for pid in (daemon.pid, *children):
            os.kill(pid, number)
        daemon.wait_for("signal.ignored", signal=number.name, count=1 + len(children))
    assert daemon.beat("after").status == 204
    assert daemon.lines("process.exited") == []
    daemon.stop()


def test_under_nohup_the_end_of_the_terminal_stops_nothing(home: Home) -> None:
    home.write(ANY_PORT)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it, for what is started from here
    try:
        daemon = home.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    daemon.signal(signal.SIGHUP)
    assert daemon.beat("after").status == 204
    assert daemon.lines("daemon.stopping") == []
    daemon.stop()


@pytest.mark.parametrize("processes", [1, 2])
def test_where_no_terminal_is_everything_written_is_json_and_says_which_file_was_read(
    empty_home: Home, processes: int
) -> None:
    empty_home.write(f"{ANY_PORT}processes = {processes}\n")
    (empty_home.directory / "config.toml").write_text('[liveness]\ninterval = "31s"\n')
    daemon = empty_home.launch("--config", "lastseen.toml").ready()
    daemon.stop()
    (ready,) = daemon.lines("daemon.ready")
    assert ready["config"] == str(empty_home.directory.resolve() / "lastseen.toml")
    for line in daemon.output().splitlines():
        assert isinstance(json.loads(line), dict)
    assert daemon.lines("config.warning") == []
    (empty_home.directory / "lastseen.toml").unlink()
    free = {"LASTSEEN_SERVER__PORT": "0"}
    other = empty_home.launch("--processes", "1", env=free).ready()
    assert other.lines("daemon.ready")[0]["config"] == "no file: defaults"
    (warning,) = other.lines("config.warning")
    assert warning["warning"].startswith(f"{empty_home.directory.resolve()}/config.toml is not read")
    other.stop()
    person = empty_home.launch("--processes", "1", env={**free, "LASTSEEN_LOG__FORMAT": "console"})
    until(lambda: "configuration: no file: defaults\n" in person.output(), "the banner")
    assert "lastseen 0.1.0 listens on http://127.0.0.1:" in person.output()
    person.signal(signal.SIGTERM)
    assert person.exit_status() == 0


@pytest.mark.parametrize(("configured", "level"), [("", "info"), ("[limits]\nconnections = 19000\n", "warning")])
def test_the_limit_of_connections_follows_the_descriptors_that_there_are(
    home: Home, configured: str, level: str
) -> None:
    home.write(ANY_PORT + configured)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1_200, before[0]), before[1]))
    try:
        daemon = home.launch(env={"LASTSEEN_LIMITS__CONNECTIONS": "20000"} if not configured else None)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1_200, 1_200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    daemon.ready()
    (line,) = daemon.lines("http.few_descriptors")
    assert (line["level"], line["connections"]) == (level, 800)
    assert "raise that" in line["hint"]
    daemon.stop()


# A store that is not there, or not for us ---------------------------------------------------------------------------


def on_store(home: Home, url: str, port: int = 0) -> None:
    """Configure a store of one's own; its URL stands on line 4."""
    home.write("k" * 32, "token-secret")
    home.write(
        f'[server]\nport = {port}\n[store]\nurl = "{url}"\n'
        f'[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
    )


@pytest.fixture
def guarded() -> Iterator[int]:
    """The port of a store with the password ``sesame`` and a user ``reader`` that may call nothing."""
    binary = servers.redis_binary()
    assert binary is not None
    port = free_port()
    with servers.running(binary, "--port", str(port), "--bind", "127.0.0.1") as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+info", "+ping", "+select")
            client.config_set("requirepass", "sesame")
        yield port


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:hunter2@127.0.0.1:{}/0", "the store refuses our credentials: "),
        ("redis://127.0.0.1:{}/0", "the store refuses our credentials: "),
        ("redis://reader:hunter2@127.0.0.1:{}/0", "the store refuses our credentials: "),
        ("redis://reader:pw@127.0.0.1:{}/0", "the store refuses our credentials: "),
        ("redis://:sesame@127.0.0.1:{}/99", "the store has no such database: DB index is out of range"),
    ],
)
def test_a_store_that_refuses_us_ends_the_start_at_once(
    empty_home: Home, guarded: int, url: str, message: str, processes: int
) -> None:
    on_store(empty_home, url.format(guarded))
    daemon = empty_home.launch("--processes", str(processes))
    assert daemon.exit_status() == 1
    (line,) = daemon.lines("daemon.failed")
    assert line["error"].startswith(f"store.url: the store can't be used: {message}")
    assert daemon.lines("store.unavailable") == []
    assert daemon.lines("process.exited") == []
    for secret in ("hunter2", "sesame"):
        assert secret not in daemon.output()


@pytest.mark.parametrize("processes", [1, 2])
def test_p27_while_the_store_is_not_there_the_port_is_open_and_says_so(empty_home: Home, processes: int) -> None:
    binary = servers.redis_binary()
    assert binary is not None
    port, store_port = free_port(), free_port()
    on_store(empty_home, f"redis://127.0.0.1:{store_port}/0", port)
    daemon = empty_home.launch("--config", "lastseen.toml", "--processes", str(processes))
    daemon.wait_for("store.unavailable", count=processes)
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(url), "an answer")
    assert call(url, "GET", "/livez").json() == {"status": "ok", "reasons": []}
    for path, status in (("/readyz", "not_ready"), ("/healthz", "degraded")):
        answer = call(url, "GET", path)
        assert (answer.status, answer.json()) == (503, {"status": status, "reasons": ["store_unavailable"]})
    for method, path in (("POST", BEAT), ("GET", "/api/v1/workers"), ("GET", "/metrics"), ("DELETE", "/x")):
        answer = call(url, method, path, body={} if method == "POST" else None)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
    with servers.running(binary, "--port", str(store_port), "--bind", "127.0.0.1"):
        daemon.ready()
        until(lambda: call(url, "GET", "/readyz").status == 200, "ready")
        assert call(url, "POST", BEAT, body={}).status == 401
        daemon.stop()


def test_p27_while_the_embedded_store_loads_the_port_is_open_and_says_so(empty_home: Home) -> None:
    port, gate = free_port(), empty_home.directory / "gate"
    slow = empty_home.directory / "slow-server"
    slow.write_text(f'#!/bin/sh\nuntil test -e "{gate}"; do sleep 0.05; done\nexec "{servers.valkey_binary()}" "$@"\n')
    slow.chmod(0o700)
    empty_home.write(f'[server]\nport = {port}\n[store]\nvalkey_binary = "{slow}"\n')
    daemon = empty_home.launch()
    url = f"http://127.0.0.1:{port}"
    until(lambda: answers(url), "an answer")
    assert call(url, "GET", "/livez").status == 200
    assert call(url, "GET", "/readyz").json() == {"status": "not_ready", "reasons": ["store_unavailable"]}
    gate.touch()
    daemon.ready()
    until(lambda: call(url, "GET", "/readyz").status == 200, "ready")
    daemon.stop()


def answers(url: str) -> bool:
    """Whether anything answers there."""
    try:
        return bool(call(url, "GET", "/livez", timeout_s=1).status)
    except (OSError, http.client.HTTPException):
        return False


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
