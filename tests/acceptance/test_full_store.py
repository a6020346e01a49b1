"""A real daemon whose store is full, by its memory or by its disk: it says so, loses nothing, and goes on by itself."""

import secrets
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import redis

from monitor.clock import monotonic_s
from tests.support import disks, servers
from tests.support.daemons import ANY_PORT, Answer, Daemon, Home, Receiver, call, until

ROOM_BYTES: Final = 1 << 20
LARGE: Final = {"blob": "x" * 8_000}
CONFIG: Final = (
    f'{ANY_PORT}[store]\nurl = "%s"\n'
    '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
    '[liveness]\ninterval = "%s"\ngrace = "%s"\nsweep_interval = "200ms"\n'
    "[limits]\nworker_beats_per_second = 0\n%s"  # these send again at once
)

LINUX: Final = pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process is set by prlimit")


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    """Each server."""
    found = servers.valkey_binary() if request.param == "valkey" else servers.redis_binary()
    if found is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return found


@pytest.fixture
def server(binary: Path) -> Iterator[servers.Server]:
    with servers.running(binary) as made:
        yield made


def configure(home: Home, server: servers.Server, receiver: Receiver, *, interval: str = "1h") -> None:
    home.write(secrets.token_hex(32), "token-secret")
    home.write(CONFIG % (server.url, interval, interval, receiver.section()))


def is_ready(daemon: Daemon) -> bool:
    return daemon.call("GET", "/readyz").status == 200


def check_refused(answer: Answer) -> None:
    assert (answer.status, answer.headers["retry-after"]) == (503, "1"), answer


def check_degraded(daemon: Daemon) -> None:
    """The daemon is live, and names the reason."""
    assert daemon.call("GET", "/livez").status == 200
    health = daemon.call("GET", "/healthz")
    assert health.status == 503
    assert "store_unavailable" in health.json()["reasons"]


def check_every_event_is_kept(daemon: Daemon, workers: set[str]) -> None:
    """The history of each worker is complete: numbered from the first event, without a gap."""
    seqs: dict[str, list[int]] = {}
    cursor = ""
    while True:
        page = daemon.get(f"/api/v1/events?limit=1000{cursor}")
        for event in page["events"]:
            seqs.setdefault(event["data"]["worker_id"], []).append(event["data"]["seq"])
        if not page["events"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert {name: found for name, found in seqs.items() if found != list(range(1, len(found) + 1))} == {}
    assert workers <= seqs.keys()


def fill_memory(daemon: Daemon, direct: redis.Redis) -> list[str]:
    """Lower the store's limit and register workers until it stays full. Returns the workers."""
    direct.config_set("maxmemory", int(direct.info("memory")["used_memory"]) + ROOM_BYTES)
    names: list[str] = []
    for number in count():
        answer = daemon.beat(f"fill-{number}", worker_metadata=LARGE)
        if answer.status != 204:
            check_refused(answer)
            break
        names.append(f"fill-{number}")
    # Else there is room for small beats, or again for large ones when buffers have been given back.
    direct.config_set("maxmemory", int(direct.info("memory")["used_memory"]) - ROOM_BYTES // 4)
    until(lambda: not is_ready(daemon), "not ready")
    return names


def test_p26_a_full_store_refuses_beats_still_pages_and_recovers_by_itself(
    empty_home: Home, server: servers.Server, receiver: Receiver
) -> None:
    configure(empty_home, server, receiver)
    daemon = empty_home.start()
    oncall = empty_home.token("alerts:write")
    kept = {"failing", "late-failing", "going", *(f"w-{number}" for number in range(20))}
    for name in sorted(kept):
        assert daemon.beat(name).status == 204
    assert daemon.disconnect("failing", reason="crash", exit_code=1).status == 204  # queued: the receiver is away
    with redis.Redis.from_url(server.url) as direct:
        kept.update(fill_memory(daemon, direct))
        said = len(daemon.lines())
        for number in range(200):
            check_refused(daemon.beat(f"w-{number % 20}"))
            check_refused(daemon.beat(f"new-{number}"))
        check_degraded(daemon)

        # Still accepted: failures and their notifications, operator requests, and requests that free memory.
        receiver.open()
        receiver.wait_for("worker.failed", "failing")
        assert daemon.disconnect("late-failing", reason="crash", exit_code=1).status == 204
        receiver.wait_for("worker.failed", "late-failing")
        found = [one for one in daemon.get("/api/v1/incidents")["incidents"] if one["worker_id"] == "failing"]
        path = f"/api/v1/incidents/{found[0]['id']}/ack"
        assert call(daemon.url, "POST", path, token=oncall, body={"comment": "on it"}).status == 200
        silence = {"matchers": {"worker_id": "w-*"}, "for_seconds": 60}
        added = call(daemon.url, "POST", "/api/v1/silences", token=oncall, body=silence)
        assert added.status == 201
        assert call(daemon.url, "DELETE", f"/api/v1/silences/{added.json()['id']}", token=oncall).status == 204
        assert daemon.disconnect("going", reason="shutdown").status == 204
        assert daemon.call("DELETE", "/api/v1/workers/going").status == 204

        assert not is_ready(daemon)
        assert daemon.process.poll() is None
        lines = [line["event"] for line in daemon.lines()[said:]]
        assert len(lines) < 60, lines  # of 400 refused beats, hundreds of passes, and the few that was done

        direct.config_set("maxmemory", 0)
    until(lambda: is_ready(daemon), "ready again")
    assert daemon.beat("new").status == 204
    assert daemon.beat("failing").status == 204
    receiver.wait_for("worker.recovered", "failing")
    assert daemon.worker_ids() == {*kept, "new"} - {"going"}
    check_every_event_is_kept(daemon, {*kept, "new"})
    daemon.stop()


def test_p1_workers_whose_beats_a_full_store_refused_are_not_reported(
    empty_home: Home, server: servers.Server, receiver: Receiver
) -> None:
    configure(empty_home, server, receiver, interval="1s")
    receiver.open()
    daemon = empty_home.start()
    assert daemon.beat("w").status == 204
    seen_s = monotonic_s()
    with redis.Redis.from_url(server.url) as direct:
        direct.config_set("maxmemory", 1)
        check_refused(daemon.beat("w"))
        until(lambda: monotonic_s() > seen_s + 3, "its deadline has passed, and some sweeps since")
        check_degraded(daemon)
        assert "blind" in daemon.call("GET", "/healthz").json()["reasons"]
        direct.config_set("maxmemory", 0)
    until(lambda: daemon.beat("w").status == 204, "taken again")
    events = daemon.get("/api/v1/events")["events"]
    assert [event["type"] for event in events] == ["worker.registered"]
    assert receiver.attempts == []
    daemon.stop()


@pytest.mark.parametrize("lacking", ["nothing", "its functions"])
def test_p26_a_start_on_a_full_store_waits_for_room_and_does_not_end(
    empty_home: Home, server: servers.Server, receiver: Receiver, lacking: str
) -> None:
    configure(empty_home, server, receiver)
    daemon = empty_home.start()
    assert daemon.beat("w").status == 204
    daemon.stop()
    with redis.Redis.from_url(server.url) as direct:
        if lacking != "nothing":
            direct.function_flush()  # as another release finds it
        direct.config_set("maxmemory", 1)
        daemon = empty_home.start()
        check_refused(daemon.beat("w"))
        assert not is_ready(daemon)
        check_degraded(daemon)
        direct.config_set("maxmemory", 0)
    until(lambda: is_ready(daemon), "ready")
    assert daemon.beat("w").status == 204
    assert daemon.worker_ids() == {"w"}
    daemon.stop()


def fill_disk(daemon: Daemon, server: servers.Server) -> list[str]:
    """Register workers until the disk is full. Returns the workers that were acknowledged."""
    disks.fill(server.process.pid, server.directory, room_bytes=2_000)
    names: list[str] = []
    for number in count():
        answer = daemon.beat(f"disk-{number}")
        if answer.status != 204:
            check_refused(answer)
            break
        names.append(f"disk-{number}")
    until(lambda: not is_ready(daemon), "not ready")
    return names


@LINUX
def test_p26_a_full_disk_refuses_beats_loses_none_that_was_acknowledged_and_recovers_by_itself(
    empty_home: Home, binary: Path, server: servers.Server, receiver: Receiver
) -> None:
    configure(empty_home, server, receiver)
    daemon = empty_home.start()
    kept = {"failing", *(f"w-{number}" for number in range(20))}
    for name in sorted(kept):
        assert daemon.beat(name).status == 204
    assert daemon.disconnect("failing", reason="crash", exit_code=1).status == 204
    said = len(daemon.lines())
    kept.update(fill_disk(daemon, server))
    receiver.open()
    for number in range(200):
        check_refused(daemon.beat(f"w-{number % 20}"))
        check_refused(daemon.beat(f"new-{number}"))
        check_refused(daemon.disconnect("w-1", reason="crash", exit_code=1))
    check_degraded(daemon)
    assert daemon.process.poll() is None
    lines = [line["event"] for line in daemon.lines()[said:] if line["event"] != "worker.registered"]
    assert len(lines) < 30, lines

    disks.clear(server.process.pid)
    until(lambda: is_ready(daemon), "ready again")
    assert daemon.beat("new").status == 204
    receiver.wait_for("worker.failed", "failing")
    assert daemon.worker_ids() == {*kept, "new"}
    server.kill()
    again = servers.start(binary, server.directory)  # from what is on the disk
    try:
        until(lambda: is_ready(daemon), "ready on the store that was started again")
        assert daemon.worker_ids() == {*kept, "new"}
        check_every_event_is_kept(daemon, {*kept, "new"})
        daemon.stop()
    finally:
        again.kill()
    assert len({attempt.webhook_id for attempt in receiver.of("worker.failed", "failing")}) == 1


@LINUX
def test_p26_a_store_that_is_killed_while_its_disk_is_full_has_what_it_had_before(
    empty_home: Home, binary: Path, server: servers.Server, receiver: Receiver
) -> None:
    configure(empty_home, server, receiver)
    daemon = empty_home.start()
    kept = {f"w-{number}" for number in range(20)}
    for name in sorted(kept):
        assert daemon.beat(name).status == 204
    with redis.Redis.from_url(server.url) as direct:
        until(lambda: not int(direct.info("persistence").get("aof_buffer_length", 0)), "it is written")
    fill_disk(daemon, server)  # of these the last, which found the disk full, is in the store's memory only
    server.kill()
    again = servers.start(binary, server.directory)
    try:
        until(lambda: is_ready(daemon), "ready on the store that was started again")
        assert daemon.worker_ids() >= kept
        assert daemon.beat("new").status == 204
        check_every_event_is_kept(daemon, kept)
        daemon.stop()
    finally:
        again.kill()


@LINUX
def test_p26_the_embedded_store_on_a_full_disk_refuses_beats_and_goes_on_when_there_is_room(home: Home) -> None:
    home.write(ANY_PORT)
    daemon = home.start()
    assert daemon.beat("w").status == 204
    pid = home.store_pid
    with disks.full(pid, home.directory / "data" / "store"):
        until(lambda: daemon.beat("w").status == 503, "refused")
        until(lambda: not is_ready(daemon), "not ready")
        check_degraded(daemon)
    until(lambda: is_ready(daemon), "ready again")
    assert daemon.beat("w").status == 204
    assert home.store_pid == pid
    daemon.stop()


@LINUX
def test_p26_a_start_on_a_store_whose_disk_is_full_waits_for_room_and_does_not_end(
    empty_home: Home, server: servers.Server, receiver: Receiver
) -> None:
    configure(empty_home, server, receiver)
    daemon = empty_home.start()
    fill_disk(daemon, server)
    daemon.stop()
    daemon = empty_home.start()
    check_refused(daemon.beat("w"))
    check_degraded(daemon)
    disks.clear(server.process.pid)
    until(lambda: is_ready(daemon), "ready")
    assert daemon.beat("w").status == 204
    daemon.stop()


def test_p26_a_policy_that_begins_to_evict_degrades_a_running_daemon(empty_home: Home, receiver: Receiver) -> None:
    with servers.running(servers.valkey_binary()) as server, redis.Redis.from_url(server.url) as direct:
        configure(empty_home, server, receiver)
        daemon = empty_home.start()
        direct.config_set("maxmemory-policy", "allkeys-lru")
        until(lambda: "store_evicts" in daemon.call("GET", "/healthz").json()["reasons"], "noticed")
        assert is_ready(daemon)
        assert daemon.beat("w").status == 204
        direct.config_set("maxmemory-policy", "noeviction")
        until(lambda: "store_evicts" not in daemon.call("GET", "/healthz").json()["reasons"], "all is well")
        daemon.stop()
