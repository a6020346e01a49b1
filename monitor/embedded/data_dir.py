"""The data directory's locks and lock record, and the server's socket."""

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Final

import redis
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from structlog.typing import FilteringBoundLogger

from monitor.clock import monotonic_s
from monitor.embedded.errors import EmbeddedStoreError
from monitor.embedded.readiness import client_of

MAX_SOCKET_PATH_BYTES: Final = 100
"""``sun_path`` has 104 bytes on macOS and 108 on Linux, including a closing zero."""
POLL_S: Final = 0.02

_SOCKET_NAME: Final = "valkey.sock"

_log: FilteringBoundLogger = structlog.get_logger()


class LockRecord(BaseModel):
    """Content of the lock file: the holder of the data directory. For messages and for comparison only."""

    model_config = ConfigDict(frozen=True)

    daemon_pid: int
    store_pid: int | None
    socket: Path
    """The server's socket."""
    socket_dir: Path | None
    """The temporary directory of the socket, if the data directory's path is too long for it."""


def open_lock(path: Path) -> int:
    """Open a lock file, created if missing; only for its owner, and never through a link."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def lock(fd: int) -> bool:
    """Take the lock if it is free. Return whether it was.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_record(path: Path) -> LockRecord | None:
    """Return the record of the last holder if it lives or was killed; None after a clean stop."""
    try:
        return LockRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def await_orphan(fd: int, record: LockRecord | None, *, data_dir: Path, limit_s: float) -> None:
    """Take the server's lock, after the end of a server whose daemon is dead. The caller has the daemon's lock.

    On Linux such a server is already shutting down; otherwise it is asked to, through its own socket.

    Raises:
        EmbeddedStoreError: the server still runs after ``limit_s``.
        OSError: as ``lock``.
    """
    if lock(fd):
        return
    pid = record.store_pid if record else None
    _log.warning("store.orphan_found", pid=pid, data_dir=str(data_dir))
    give_up_s = monotonic_s() + limit_s
    asked = False
    while not lock(fd):
        if monotonic_s() >= give_up_s:
            raise EmbeddedStoreError(
                f"data directory {data_dir}: the store (pid {pid or 'unknown'}) of a lastseen that is gone "
                f"did not end within {limit_s:g} s"
            )
        asked = asked or (record is not None and _shutdown_accepted(record))
        time.sleep(POLL_S)


def _shutdown_accepted(record: LockRecord) -> bool:
    """Send SHUTDOWN, if the server behind the recorded socket is the recorded process. Return whether it was sent."""
    try:
        with client_of(record.socket) as client:
            if client.info("server").get("process_id") != record.store_pid:
                return False
            client.shutdown()
    except redis.RedisError:
        return False
    return True


def place_socket(store_dir: Path) -> tuple[Path, Path | None]:
    """Return the path of the server's socket, and the private directory created for it, if one was needed.

    Not under ``XDG_RUNTIME_DIR``, which is removed when the user logs out while the daemon stays.

    Raises:
        EmbeddedStoreError: no path is short enough.
        OSError: no directory can be created.
    """
    socket = store_dir / _SOCKET_NAME
    if _fits(socket):
        return socket, None
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108  # mkdtemp makes a private one there
        if _fits(Path(base) / "lastseen-12345678" / _SOCKET_NAME):
            directory = Path(tempfile.mkdtemp(prefix="lastseen-", dir=base))
            return directory / _SOCKET_NAME, directory
    raise EmbeddedStoreError(f"neither {socket} nor a temporary directory has a path short enough for a socket")


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= MAX_SOCKET_PATH_BYTES


def remove_socket(socket: Path, socket_dir: Path | None) -> None:
    """Remove an unused socket, and the directory created for it. Missing ones are ignored."""
    if socket.name != _SOCKET_NAME:
        return
    with contextlib.suppress(OSError):
        socket.unlink(missing_ok=True)
        if socket_dir is not None:
            socket_dir.rmdir()
