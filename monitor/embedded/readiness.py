"""Waits until a server that was just started is ready."""

import contextlib
import subprocess
from pathlib import Path
from typing import Final

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog.typing import FilteringBoundLogger

from monitor.clock import monotonic_s
from monitor.embedded.errors import EmbeddedStoreError

SILENCE_LIMIT_S: Final = 30.0
"""A server without any answer for this long is given up."""
LOADING_LIMIT_S: Final = 900.0
"""Maximum time for loading the append-only file, while the server answers that it is loading."""
LOG_LIMIT_BYTES: Final = 1 << 20
"""Above this size the server's log is renamed to ``valkey.log.1``, which replaces the previous one."""

_LOADING_LOG_S: Final = 5.0
_ANSWER_S: Final = 1.0
_TAIL_LINES: Final = 10

_log: FilteringBoundLogger = structlog.get_logger()


class Readiness:
    """Checks whether a server that was just started is ready, and logs while it is loading.

    Used by one thread at a time.
    """

    def __init__(self, process: subprocess.Popen[bytes], socket: Path, log_path: Path, log_start: int) -> None:
        self._process = process
        self._socket = socket
        self._log_path = log_path
        self._log_start = log_start
        self._begun_s = self._heard_s = monotonic_s()
        self._next_log_s = self._begun_s + _LOADING_LOG_S

    def check(self) -> bool:
        """Ping once; blocks for at most about a second.

        Raises:
            EmbeddedStoreError: the server has ended, or is given up; with the last lines of its log.
        """
        exit_code = self._process.poll()
        if exit_code is not None:
            raise self._error(f"ended with {exit_code} before it was ready")
        try:
            with client_of(self._socket) as client:
                client.ping()
        except redis.BusyLoadingError:
            self._heard_s = monotonic_s()
        except redis.RedisError:
            pass  # it is silent
        else:
            return True
        now_s = monotonic_s()
        if now_s - self._heard_s > SILENCE_LIMIT_S:
            raise self._error(f"said nothing for {SILENCE_LIMIT_S:g} s")
        if now_s - self._begun_s > LOADING_LIMIT_S:
            raise self._error(f"was still loading its data after {LOADING_LIMIT_S:g} s")
        if now_s >= self._next_log_s:
            self._next_log_s = now_s + _LOADING_LOG_S
            _log.info("store.loading", pid=self._process.pid, seconds=round(now_s - self._begun_s, 1))
        return False

    def _error(self, what: str) -> EmbeddedStoreError:
        with contextlib.suppress(OSError), self._log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read(LOG_LIMIT_BYTES).decode(errors="replace").splitlines()
            tail = "\n  ".join([line for line in lines if line.strip()][-_TAIL_LINES:])
            return EmbeddedStoreError(f"the embedded store {what}; {self._log_path} ends with\n  {tail}")
        return EmbeddedStoreError(f"the embedded store {what}; its log {self._log_path} can't be read")


def client_of(socket: Path) -> redis.Redis:
    """Return a client with a short timeout and without retries."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=_ANSWER_S,
        socket_connect_timeout=_ANSWER_S,
        retry=Retry(NoBackoff(), 0),
    )
