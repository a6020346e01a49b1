import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, Self

import pytest
import redis

from monitor.embedded import EmbeddedStore, EmbeddedStoreError, StartAbandonedError, share_of_memory
from monitor.embedded.data_dir import LockRecord, await_orphan, lock, open_lock
from monitor.embedded.readiness import LOG_LIMIT_BYTES
from monitor.store import StoreFullError
from monitor.store.results import STORED
from monitor.workers import WorkerKey
from tests.support import servers
from tests.support.stores import beat, opened

REPOSITORY: Final = Path(__file__).parents[2]
BOUND_S: Final = 10.0

DAEMON: Final = """
import asyncio, sys, uvloop
from pathlib import Path
from monitor.embedded import EmbeddedStore, EmbeddedStoreError, StartAbandonedError
store = EmbeddedStore(Path(sys.argv[1]))
try:
    url = store.start()
except EmbeddedStoreError as error:
    sys.exit(f"refused: {error}")
print("ready", store.pid, url, flush=True)
async def main():
    watch = asyncio.create_task(store.watch(lambda: print("again", store.pid, flush=True)))
    await asyncio.to_thread(sys.stdin.readline)
    await store.stop()
    await watch
uvloop.run(main())
"""


class Daemon:
    """A process that has an embedded store and does nothing else; `end` or `kill` it."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", DAEMON, str(data_dir)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.store_pid = 0
        self.url = ""

    def wait_for(self, words: str) -> str:
        """Read its output up to the first line with ``words``; its own start is bounded, so this is."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"ended without {words!r}: {self.process.communicate()[1]}")

    def ready(self) -> Self:
        _, pid, self.url = self.wait_for("ready ").split()
        self.store_pid = int(pid)
        return self

    def restarted(self) -> None:
        self.store_pid = int(self.wait_for("again ").split()[1])

    def refusal(self) -> str:
        return self.process.communicate(timeout=BOUND_S)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate("\n", timeout=BOUND_S)


@contextlib.contextmanager
def daemon(data_dir: Path) -> Iterator[Daemon]:
    started = Daemon(data_dir)
    try:
        yield started
    finally:
        started.kill()
        if started.store_pid:
            wait_until(lambda: gone(started.store_pid))


@contextlib.asynccontextmanager
async def started(
    data_dir: Path, *, binary: str | None = None, maxmemory_bytes: int = 0
) -> AsyncIterator[tuple[EmbeddedStore, str]]:
    store = EmbeddedStore(data_dir, binary=binary, maxmemory_bytes=maxmemory_bytes)
    try:
        yield store, store.start()
    finally:
        await store.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {BOUND_S} s"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that has and was not waited for by its new parent counts as ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip() or state.startswith("Z")


def remember(url: str, value: str) -> None:
    """Write a value and wait until it is on the disk."""
    with redis.Redis.from_url(url) as client:
        client.set("remembered", value)
        assert client.execute_command("WAITAOF", 1, 0, int(BOUND_S * 1000))[0] == 1


def remembered(url: str) -> bytes | None:
    with redis.Redis.from_url(url) as client:
        value = client.get("remembered")
        assert value is None or isinstance(value, bytes)
        return value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def environment_of(pid: int | None) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def record_of(data_dir: Path) -> LockRecord:
    return LockRecord.model_validate_json((data_dir / "lock").read_bytes())


async def test_a_clean_stop_keeps_the_data_and_leaves_no_process_no_socket_and_no_lock(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, url):
        with redis.Redis.from_url(url) as client:
            client.set("remembered", "x")
        pid = store.pid
        assert pid is not None
        await store.stop()
        assert gone(pid)
        assert store.pid is None
        assert not (tmp_path / "store" / "valkey.sock").exists()
        assert (tmp_path / "lock").read_bytes() == b""
    async with started(tmp_path) as (_, url):
        assert remembered(url) == b"x"


async def test_stop_may_come_twice_at_once_again_and_before_the_start(tmp_path: Path) -> None:
    await EmbeddedStore(tmp_path).stop()
    async with started(tmp_path) as (store, _):
        await asyncio.gather(store.stop(), store.stop())
        await store.stop()


async def test_a_stopped_store_does_not_start_again(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, _):
        await store.stop()
        with pytest.raises(RuntimeError, match="starts once"):
            store.start()


async def test_a_server_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, _):
        pid = store.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await store.stop()
        assert gone(pid)


async def test_only_the_owner_reaches_the_store(tmp_path: Path) -> None:
    async with started(tmp_path) as (_, url):
        assert mode(Path(url.removeprefix("unix://"))) == 0o700
        assert mode(tmp_path / "store") == 0o700
        assert mode(tmp_path / "lock") == 0o600
        assert {mode(file) for file in (tmp_path / "store" / "appendonlydir").iterdir()} == {0o600}


async def test_the_server_runs_as_configured(tmp_path: Path) -> None:
    expected = {
        "port": "0",
        "dir": str(tmp_path / "store"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "latency-monitor-threshold": "0",
    }
    async with started(tmp_path) as (_, url):
        with redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.config_get(*expected) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n"}, 128 << 20),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "402653184\n",
                "sys/fs/cgroup/memory.max": "536870912\n",
            },
            192 << 20,
        ),
        (
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/x\n7:memory:/docker/1\n0::/\n",
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
            },
            128 << 20,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 64 << 20),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/memory.max": "7\n"}, None),
    ],
)
def test_the_store_s_memory_is_half_of_what_the_control_group_or_the_machine_has(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert share_of_memory(tmp_path) == (machine // 2 if expected is None else expected)


async def test_p26_a_full_store_takes_no_writes_evicts_nothing_and_recovers_when_something_goes(tmp_path: Path) -> None:
    async with started(tmp_path, maxmemory_bytes=16 << 20) as (_, url), opened(url) as store:
        large = '{"a":"' + "x" * 200_000 + '"}'
        stored: list[str] = []
        with contextlib.suppress(StoreFullError):
            while len(stored) < 100:
                await store.beat(0, [beat(f"w{len(stored)}", metadata_json=large)])
                stored.append(f"w{len(stored)}")
        assert 20 < len(stored) < 80
        for name in stored[:10]:
            assert (await store.delete(WorkerKey("acme", name), allowed=None, reason="deleted")).outcome == STORED
        assert (await store.beat(0, [beat("last", metadata_json=large)])).outcomes[0][0] == STORED
        for name in stored[10:]:
            _, _, worker = await store.get(WorkerKey("acme", name))
            assert worker is not None
            assert worker.metadata_json == large


async def test_a_directory_name_may_hold_anything_that_a_path_can(tmp_path: Path) -> None:
    data_dir = tmp_path / 'a "b" \\x41 #?%20 ü\n'
    async with started(data_dir) as (_, url):
        remember(url, "here")
        assert (data_dir / "store" / "appendonlydir").is_dir()
    async with started(data_dir) as (_, url):
        assert remembered(url) == b"here"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process's environment as a file")
async def test_the_daemons_environment_does_not_reach_the_server(tmp_path: Path) -> None:
    assert b"PATH=" in environment_of(os.getpid())
    async with started(tmp_path) as (store, _):
        assert b"PATH=" not in environment_of(store.pid)


async def test_the_terminals_interrupt_does_not_reach_the_server(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, _):
        assert store.pid is not None
        assert os.getsid(store.pid) == store.pid
        assert os.getpgid(store.pid) == store.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent ends")
def test_the_server_ends_with_a_killed_daemon_and_the_data_is_there_on_the_next_start(tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        first.ready()
        remember(first.url, "before the kill")
        first.kill()
        wait_until(lambda: gone(first.store_pid))
    with daemon(tmp_path) as second:
        assert remembered(second.ready().url) == b"before the kill"
        second.end()


def test_a_second_daemon_is_refused_at_once_and_the_refusal_names_the_holder_of_the_directory(tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        first.ready()
        begun_at = time.monotonic()
        with daemon(tmp_path) as second:
            refusal = second.refusal()
        assert f"data directory {tmp_path} is in use by another lastseen (pid {first.process.pid})" in refusal
        assert time.monotonic() - begun_at < BOUND_S / 2
        assert remembered(first.url) is None
        first.end()


async def test_a_second_store_in_the_same_process_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with started(tmp_path) as (_, url):
        remember(url, "first")
        with pytest.raises(EmbeddedStoreError, match=f"pid {os.getpid()}"):
            EmbeddedStore(tmp_path).start()
        assert remembered(url) == b"first"
        assert record_of(tmp_path).daemon_pid == os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the orphan is asked to go, which a stopped one can't")
def test_a_start_right_after_a_kill_waits_for_the_server_that_is_still_ending(tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        first.ready()
        remember(first.url, "before the kill")
        os.kill(first.store_pid, signal.SIGSTOP)
        first.kill()
        with daemon(tmp_path) as second:
            second.wait_for("store.orphan_found")
            assert not gone(first.store_pid)
            os.kill(first.store_pid, signal.SIGCONT)
            assert remembered(second.ready().url) == b"before the kill"
            assert gone(first.store_pid)
            second.end()


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a dead daemon leaves it where the kernel does not end it: it has its lock and runs on."""
    directory = tmp_path / "store"
    directory.mkdir(mode=0o700)
    fd = open_lock(directory / "lock")
    assert lock(fd)
    socket = directory / "valkey.sock"
    process = subprocess.Popen(
        [
            *(servers.valkey_binary(), "--port", "0", "--unixsocket", socket, "--dir", directory),
            *("--appendonly", "yes", "--save", "", "--logfile", directory / "valkey.log"),
        ],
        pass_fds=[fd],
    )
    os.close(fd)
    try:
        wait_until(lambda: answers(socket))
        record = LockRecord(daemon_pid=process.pid, store_pid=process.pid, socket=socket, socket_dir=None)
        (tmp_path / "lock").write_text(record.model_dump_json())
        yield process
    finally:
        process.kill()
        process.wait()


def answers(socket: Path) -> bool:
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


async def test_an_orphan_that_stays_is_asked_to_shut_down_and_its_data_is_kept(
    tmp_path: Path, orphan: subprocess.Popen[bytes]
) -> None:
    with redis.Redis(unix_socket_path=str(tmp_path / "store" / "valkey.sock")) as client:
        client.set("remembered", "of the orphan")
    async with started(tmp_path) as (store, url):
        assert orphan.wait(BOUND_S) == 0
        assert store.pid != orphan.pid
        assert remembered(url) == b"of the orphan"


def test_a_server_that_is_not_the_recorded_process_is_left_alone(
    tmp_path: Path, orphan: subprocess.Popen[bytes]
) -> None:
    record = record_of(tmp_path).model_copy(update={"store_pid": os.getpid()})
    fd = open_lock(tmp_path / "store" / "lock")
    try:
        with pytest.raises(EmbeddedStoreError, match=rf"{tmp_path}: the store \(pid {os.getpid()}\) .* within 0.2 s"):
            await_orphan(fd, record, data_dir=tmp_path, limit_s=0.2)
    finally:
        os.close(fd)
    assert orphan.poll() is None
    assert answers(record.socket)


@pytest.mark.parametrize("content", ["", "{", '{"daemon_pid": 1}', "null"])
async def test_what_a_lock_file_says_is_no_lock(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    async with started(tmp_path) as (store, _):
        assert record_of(tmp_path).store_pid == store.pid


async def test_a_lock_file_that_names_a_living_process_is_no_lock(tmp_path: Path) -> None:
    stranger = LockRecord(daemon_pid=os.getpid(), store_pid=os.getppid(), socket=tmp_path / "s", socket_dir=None)
    (tmp_path / "s").write_text("not a socket of ours")
    (tmp_path / "lock").write_text(stranger.model_dump_json())
    async with started(tmp_path):
        assert (tmp_path / "s").exists()


async def test_a_server_that_dies_is_started_again_with_what_was_on_the_disk(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, url):
        restarted = asyncio.Event()
        watch = asyncio.create_task(store.watch(restarted.set))
        for value in ("first", "second"):
            remember(url, value)
            first_pid = store.pid
            assert first_pid is not None
            os.kill(first_pid, signal.SIGKILL)
            async with asyncio.timeout(BOUND_S):
                await restarted.wait()
            restarted.clear()
            assert store.pid != first_pid
            assert record_of(tmp_path).store_pid == store.pid
            assert remembered(url) == value.encode()
        await store.stop()
        async with asyncio.timeout(BOUND_S):
            await watch


async def test_a_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, url):
        remember(url, "kept")
        restarted = asyncio.Event()
        first_pid = store.pid
        assert first_pid is not None
        aof = tmp_path / "store" / "appendonlydir"
        aof.rename(tmp_path / "aside")
        aof.write_text("in the way of the server's directory")
        watch = asyncio.create_task(store.watch(restarted.set))
        os.kill(first_pid, signal.SIGKILL)
        async with asyncio.timeout(BOUND_S):
            while b"Can't open" not in (tmp_path / "store" / "valkey.log").read_bytes():
                await asyncio.wait([watch], timeout=0.02)
        assert not restarted.is_set()
        aof.unlink()
        (tmp_path / "aside").rename(aof)
        async with asyncio.timeout(BOUND_S):
            await restarted.wait()
        assert remembered(url) == b"kept"
        await store.stop()
        await watch


async def test_stop_ends_the_watch_between_two_starts(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, _):
        calls: list[None] = []
        watch = asyncio.create_task(store.watch(lambda: calls.append(None)))
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        await store.stop()
        async with asyncio.timeout(BOUND_S):
            await watch
        assert calls == []
        assert store.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent ends")
def test_a_server_that_was_started_again_ends_with_a_killed_daemon_too(tmp_path: Path) -> None:
    with daemon(tmp_path) as first:
        first.ready()
        remember(first.url, "kept")
        os.kill(first.store_pid, signal.SIGKILL)
        first.restarted()
        assert remembered(first.url) == b"kept"
        os.kill(first.store_pid, signal.SIGSTOP)
        first.kill()
        with daemon(tmp_path) as second:
            second.wait_for("store.orphan_found")
            os.kill(first.store_pid, signal.SIGCONT)
            assert remembered(second.ready().url) == b"kept"
            assert gone(first.store_pid)
            second.end()


async def test_a_directory_stays_taken_over_a_restart(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, _):
        restarted = asyncio.Event()
        watch = asyncio.create_task(store.watch(restarted.set))
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        async with asyncio.timeout(BOUND_S):
            await restarted.wait()
        with pytest.raises(EmbeddedStoreError, match="in use"):
            EmbeddedStore(tmp_path).start()
        await store.stop()
        await watch


async def test_a_path_too_long_for_a_socket_works_and_its_private_directory_is_removed(tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 120)
    async with started(data_dir) as (store, url):
        remember(url, "deep")
        socket_dir = record_of(data_dir).socket_dir
        assert socket_dir is not None
        assert mode(socket_dir) == 0o700
        assert url == f"unix://{socket_dir}/valkey.sock"
        await store.stop()
        assert not socket_dir.exists()
    assert (data_dir / "store" / "appendonlydir").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent ends")
def test_what_a_killed_daemon_left_outside_its_directory_is_removed_by_the_next_start(tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 120)
    with daemon(data_dir) as first:
        first.ready()
        left = record_of(data_dir).socket_dir
        assert left is not None
        first.kill()
        with daemon(data_dir) as second:
            second.ready()
            assert not left.exists()
            second.end()


async def test_a_log_past_its_limit_is_moved_aside(tmp_path: Path) -> None:
    log = tmp_path / "store" / "valkey.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    async with started(tmp_path):
        assert log.stat().st_size < LOG_LIMIT_BYTES
        assert log.with_suffix(".log.1").stat().st_size > LOG_LIMIT_BYTES


def test_a_server_that_can_not_read_its_data_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "appendonlydir").write_text("not a directory")
    with pytest.raises(
        EmbeddedStoreError, match=r"ended with 1 before it was ready; .*valkey\.log ends with\n(.*\n)*.*Can't open"
    ):
        EmbeddedStore(tmp_path).start()
    fd = open_lock(tmp_path / "lock")
    try:
        assert lock(fd), "a start that failed holds no lock"
    finally:
        os.close(fd)


def test_a_program_that_is_no_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStoreError, match="ended with 1"):
        EmbeddedStore(tmp_path, binary="false").start()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStoreError, match="'/nowhere/valkey'"):
        EmbeddedStore(tmp_path, binary="/nowhere/valkey").start()
    assert not list(tmp_path.iterdir())


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedStoreError, match=str(tmp_path / "file" / "data")):
        EmbeddedStore(tmp_path / "file" / "data").start()


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStoreError, match="not UTF-8"):
        EmbeddedStore(tmp_path / os.fsdecode(b"\xff")).start()


async def test_the_lock_file_names_the_holder_of_the_directory(tmp_path: Path) -> None:
    async with started(tmp_path) as (store, url):
        assert json.loads((tmp_path / "lock").read_text()) == {
            "daemon_pid": os.getpid(),
            "store_pid": store.pid,
            "socket": url.removeprefix("unix://"),
            "socket_dir": None,
        }


def test_a_start_that_is_abandoned_leaves_no_server_and_no_lock(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    with pytest.raises(StartAbandonedError):
        store.start(abandoned=lambda: True)
    assert store.pid is None
    assert not (tmp_path / "store" / "valkey.sock").exists()
    again = EmbeddedStore(tmp_path)
    again.start()
    asyncio.run(again.stop())
