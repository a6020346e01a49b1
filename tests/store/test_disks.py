"""The full disk of the tests does to a server what a full disk does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support import disks, servers
from tests.support.daemons import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit of another process is set by prlimit")


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


def refusal(client: redis.Redis, key: str) -> str:
    """What a write is refused with; empty when it is done."""
    try:
        client.set(key, "x" * 100)
    except redis.ResponseError as error:
        return str(error)
    return ""


def test_a_store_on_a_full_disk_refuses_writes_and_goes_on_by_itself_when_there_is_room(
    server: servers.Server, binary: Path
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("before", "x")
        kept = ["before"]
        with disks.full(server.process.pid, server.directory, room_bytes=50):
            # The write that finds the disk full is answered: it is kept in memory until it can be written.
            while not (refused := refusal(client, f"k{len(kept)}")):
                kept.append(f"k{len(kept)}")
            assert refused.startswith("MISCONF Errors writing to the AOF file")
            assert client.info("persistence")["aof_last_write_status"] == "err"
            assert client.get("before") == b"x", "it still answers reads"
        until(lambda: not refusal(client, "after"), "the store takes writes again")
    server.kill()
    again = servers.start(binary, server.directory)
    try:
        with redis.Redis.from_url(again.url) as client:
            assert [key for key in (*kept, "after") if client.get(key) is None] == []
    finally:
        again.kill()


def test_a_store_that_is_killed_while_its_disk_is_full_starts_from_what_it_had_written(
    server: servers.Server, binary: Path
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("before", "x")
        disks.fill(server.process.pid, server.directory, room_bytes=10)  # so that its last write is cut short
        until(lambda: refusal(client, "late"), "the disk is full")
    server.kill()
    again = servers.start(binary, server.directory)
    try:
        with redis.Redis.from_url(again.url) as client:
            assert client.get("before") == b"x"
            assert not refusal(client, "after")
    finally:
        again.kill()


def test_a_process_that_the_limit_would_kill_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            with pytest.raises(ValueError, match="does not ignore SIGXFSZ"):
                disks.fill(sleeper.pid, tmp_path)
        finally:
            sleeper.kill()
    with pytest.raises(ProcessLookupError):
        disks.fill(sleeper.pid, tmp_path)
    disks.clear(sleeper.pid)
