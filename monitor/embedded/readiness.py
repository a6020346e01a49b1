"""Whether a server that was just started answers yet."""

from __future__ import annotations

import contextlib
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, assert_never

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from monitor.clock import monotonic_s
from monitor.embedded.errors import EmbeddedStoreError

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

SILENCE_LIMIT_S: Final = 30.0
"""A server that has not said a word for this long is not going to."""
LOADING_LIMIT_S: Final = 900.0
"""How long a server may read its append-only file, as long as it answers that it does."""
LOG_LIMIT_BYTES: Final = 1 << 20
"""Past this the server's log becomes ``valkey.log.1``, and the one before it is gone."""

_LOADING_LOG_S: Final = 5.0
_ANSWER_S: Final = 1.0
_TAIL_LINES: Final = 10

_log: FilteringBoundLogger = structlog.get_logger()


class Answer(Enum):
    """What a server says to a PING."""

    PONG = auto()
    LOADING = auto()
    SILENCE = auto()


class Readiness:
    """Whether a server that was just started answers yet; says so in the log while it is loading.

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
        """Ask once; blocks for at most about a second.

        Raises:
            EmbeddedStoreError: it has ended, or there is no hope left; with the last lines of its log.
        """
        exit_code = self._process.poll()
        if exit_code is not None:
            raise self._error(f"ended with {exit_code} before it was ready")
        answer = ping(self._socket)
        now_s = monotonic_s()
        match answer:
            case Answer.PONG:
                return True
            case Answer.LOADING:
                self._heard_s = now_s
            case Answer.SILENCE:
                pass
            case _:
                assert_never(answer)
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
    """A client that asks once and does not wait for long."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=_ANSWER_S,
        socket_connect_timeout=_ANSWER_S,
        retry=Retry(NoBackoff(), 0),
    )


def ping(socket: Path) -> Answer:
    """Ask once whether the server behind a socket is there and has its data."""
    try:
        with client_of(socket) as client:
            client.ping()
    except redis.BusyLoadingError:
        return Answer.LOADING
    except redis.RedisError:
        return Answer.SILENCE
    return Answer.PONG
