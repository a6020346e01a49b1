"""The fast path for heartbeats: from a complete request directly to the intake, without the framework.

It accepts only a plain request with credentials that were verified before and a valid body. It declines every other
request without side effects; that request then goes through the router, which alone decides what is wrong with it.
An accepted beat gets the answer that the router's path would give, including the refusals for a rate limit or a full
intake. ``tests/api/test_fast_path.py`` runs both paths side by side.
"""

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from monitor.api.contract.beats import parse_beat, path_worker_id
from monitor.api.contract.errors import ContractError
from monitor.api.heartbeats import accepted_headers, unknown_headers
from monitor.api.problems import entry_of, head_lines, problem_of
from monitor.api.services import Services
from monitor.auth import Scope
from monitor.errors import IntakeFullError, OverShareError, SlowDownError
from monitor.metrics.registry import BeatOutcome

_BEAT: Final = b"/api/v1/workers/heartbeat"
_BEFORE_ID: Final = b"/api/v1/workers/"
_AFTER_ID: Final = b"/heartbeat"
_PLAIN_HOST: Final = re.compile(rb"[A-Za-z0-9.-]{1,255}(:[0-9]{1,5})?")
_JSON: Final = b"application/json"
_CHUNKED: Final = b"chunked"
# Constants, because looking up a member of an enumeration runs Python code each time.
_WRITE: Final = Scope.HEARTBEAT_WRITE.value
_STORED: Final = BeatOutcome.STORED

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""
Sender = tuple[bytes, str | None]
"""The digest of a request's credentials, and the worker id in its target."""


class FastPath:
    """The fast path of one event loop."""

    begins: Final = b"POST %b HTTP/1.1\r\n" % _BEAT
    """Start of the heads worth caching. Not those with the id in the target: each worker has different ones."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._authenticator = services.authenticator
        self._clock = services.store.clock
        self._intake = services.intake
        self._refused = services.admission.refused
        self._count = services.metrics.beat
        self._good_host = b""

    def leads(self, target: bytes) -> bool:
        """Whether a POST to this request target is a heartbeat."""
        if target == _BEAT:
            return True
        return (
            target.endswith(_AFTER_ID)
            and target.startswith(_BEFORE_ID)
            and b"/" not in target[len(_BEFORE_ID) : -len(_AFTER_ID)]
            and b"?" not in target
        )

    def sender(self, target: bytes, headers: Headers) -> Sender | None:
        """The sender of a request whose target ``leads`` here; None if the router has to handle the request.

        A pure function of its arguments: the result may be cached.
        """
        found = dict(headers)
        authorization = found.get(b"authorization")
        if authorization is None or b"userkey" in found or b"expect" in found or len(found) != len(headers):
            return None
        if found.get(b"content-type", _JSON) != _JSON or found.get(b"transfer-encoding", _CHUNKED) != _CHUNKED:
            return None
        host = found.get(b"host")
        if host != self._good_host:
            if host is None or not _PLAIN_HOST.fullmatch(host):
                return None
            self._good_host = host
        try:
            worker_id = None if target == _BEAT else self._id_in(target)
        except ContractError:
            return None
        # The router gets header values without trailing spaces.
        return self._authenticator.digest(authorization.rstrip(b" \t")), worker_id

    def take(self, sender: Sender, body: bytes, answer: Callable[[bytes, bytes], None]) -> bool:
        """Handle a complete request; False, without side effects, if the router has to handle it.

        ``answer`` is called once, later: with the status line and the headers, each with its line end, and the body.
        """
        services = self._services
        digest, path_worker_id = sender
        principal = self._authenticator.known(digest, now_ms=self._clock.now_ms())
        if principal is None or _WRITE not in principal.scopes or len(body) > services.body_bytes:
            return False
        try:
            beat = parse_beat(
                body,
                content_type=None,
                limits=services.beat_limits,
                tenant=principal.tenant,
                path_worker_id=path_worker_id,
                token_environments=principal.environments,
            )
        except ContractError:
            return False
        if principal.worker_id is not None and principal.worker_id != beat.key.worker_id:
            return False

        def answered(interval_ms: int, error: Exception | None) -> None:
            if error is None:
                self._count(_STORED)
                unknown = beat.unknown
                if unknown is None or not unknown.registers:
                    answer(_accepted(interval_ms), b"")
                else:
                    named = unknown_headers(services, beat.key, unknown.names)
                    answer(head_lines(HTTPStatus.NO_CONTENT, {**accepted_headers(interval_ms), **named}), b"")
            else:
                self._count(entry_of(error).outcome)
                services.rejected_beats.refused(principal, beat.key.worker_id, error)
                answer(*_problem(error))

        refused: Exception | None = self._refused(beat.key)
        if refused is None:
            try:
                self._intake.submit_beat(beat, answered)
            except SlowDownError as error:
                refused = error
        if refused is not None:
            asyncio.get_running_loop().call_soon(answered, 0, refused)
        return True

    def _id_in(self, target: bytes) -> str:
        return path_worker_id(target[len(_BEFORE_ID) : -len(_AFTER_ID)].decode("utf-8", "surrogateescape"))


@lru_cache(maxsize=1_024)
def _accepted(interval_ms: int) -> bytes:
    return head_lines(HTTPStatus.NO_CONTENT, accepted_headers(interval_ms))


def _problem(error: Exception) -> tuple[bytes, bytes]:
    if isinstance(error, SlowDownError):
        # Under overload these are frequent, and few of them differ: cached.
        is_full = isinstance(error, IntakeFullError)
        return _slow_down("" if is_full else str(error), error.retry_after_s, is_full=is_full)
    return problem_of(error).raw()


@lru_cache(maxsize=1_024)
def _slow_down(message: str, retry_after_s: int, *, is_full: bool) -> tuple[bytes, bytes]:
    # All other kinds of SlowDownError are rendered alike.
    return problem_of((IntakeFullError if is_full else OverShareError)(message, retry_after_s)).raw()
