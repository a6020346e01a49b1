"""Evidence from rejected beats: a rejected beat still shows that its worker is alive (P11).

Counts only for workers that the sender may speak for: the token's signature, audience, issuer, start and claims were
valid, the token is not restricted to other workers, and it names the worker or has the scope to beat. Nothing here
changes an answer or waits. A body that was not read is inspected when the server drops it, after the answer.
"""

import contextlib
import functools
import itertools
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from litestar.types import Scope

from monitor.api.contract.beats import path_worker_id
from monitor.api.contract.errors import ContractError
from monitor.api.contract.fast import readable_id
from monitor.api.contract.salvage import claimed_ids
from monitor.api.problems import entry_of
from monitor.api.raw_path import unread_of
from monitor.auth import ExpiredError, Principal, UnauthenticatedError
from monitor.clock import monotonic_ns
from monitor.limit_log import RefusedBeats
from monitor.rate_limit import Limiter, Rate
from monitor.workers import Evidence, Rejection, WorkerKey

MOST_OF_A_BATCH: Final = 1_000
SUBJECT_CHARS: Final = 100
"""Maximum length of a token's subject in evidence, because notifications include it."""
_BODY_BYTES: Final = 16_384
_TOKENS: Final = 500
_TOKENS_OF_A_BATCH: Final = 10_000
_BATCH_BYTES: Final = 65_536
_GZIP: Final = 31
_DETAIL_CHARS: Final = 200
_LOOKS: Final = Rate(per_s=500, burst=500)
"""Rate limit on inspected bodies of a tenant, so that refused requests stay cheap. A batch counts ``_BATCH_LOOKS``."""
_BATCH_LOOKS: Final = 20


@dataclass(kw_only=True, slots=True)
class Seen:
    """What is known of a request so far. ``segment`` is the undecoded id in its path; None: the path has none."""

    scope: Scope
    segment: str | None = None
    principal: Principal | None = None
    body: bytes | None = None
    read: list[bytes] = field(default_factory=list)
    """The part of the body that was received."""
    worker_id: str | None = None
    """Set when a valid beat was parsed."""
    inflated: bool = False
    beats: Iterable[str] | None = None
    """The worker ids of a batch that was parsed."""


class RejectedBeats:
    """Logs rejected beats and reports them as evidence.

    ``note`` is called for each rejected beat of a worker that its sender may speak for; it does not raise.
    ``lost`` is called when beats were rejected because the monitor was overloaded, and some of their workers are not
    known.
    """

    def __init__(
        self,
        note: Callable[[Evidence], None],
        *,
        lost: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._note = note
        self._lost = lost
        self._now_ns = now_ns
        self._looks = Limiter(_LOOKS, most_count=_BATCH_LOOKS)
        self._refused = RefusedBeats(now_ns=now_ns)

    def record_error(self, principal: Principal | None, worker_id: str | None, error: Exception) -> None:
        """Log a rejected beat that is no evidence, or whose worker is not known."""
        reason = error.reason.value if isinstance(error, UnauthenticatedError) else entry_of(error).rejection
        tenant = None if principal is None else principal.tenant
        # Messages quote values of the request. Values of an unauthenticated sender do not belong in the log.
        detail = None if principal is None else str(error)[:_DETAIL_CHARS]
        self._refused.log(tenant, worker_id, reason or entry_of(error).outcome.value, detail)

    def disconnect_refused(self, principal: Principal, worker_id: str, error: Exception) -> None:
        """Log a rejected disconnect. It is no evidence of life; it is logged because the client may not retry."""
        self._refused.log(principal.tenant, worker_id, f"disconnect {entry_of(error).rejection}", str(error))

    def record(self, principal: Principal, worker_id: str, rejection: Rejection, detail: str | None = None) -> None:
        """Record a rejected beat of this worker. ``detail`` is for the log only."""
        self._refused.log(principal.tenant, worker_id, rejection, detail)
        if principal.speaks_for(worker_id):
            key, subject = WorkerKey(principal.tenant, worker_id), principal.subject
            if len(subject) > SUBJECT_CHARS:
                subject = subject[: SUBJECT_CHARS - 1] + "…"
            self._note(Evidence(key=key, allowed=principal.environments, rejection=rejection, subject=subject))

    def refused(self, principal: Principal, worker_id: str, error: Exception) -> None:
        """Record a beat of this worker that was rejected with this error."""
        rejection = entry_of(error).rejection
        if rejection is None:
            self.record_error(principal, worker_id, error)
        else:
            # The message of a quota error names the quota. Other messages may quote values of the request.
            self.record(principal, worker_id, rejection, str(error) if rejection is Rejection.OVER_QUOTA else None)

    def beat_refused(self, error: Exception, seen: Seen) -> None:
        """Record a request with one beat that is answered with this error."""
        principal, rejection = _sender(error, seen), entry_of(error).rejection
        worker_id = seen.worker_id
        if worker_id is None and seen.segment is not None:
            with contextlib.suppress(ContractError):
                worker_id = path_worker_id(seen.segment)
        if principal is None or rejection is None:
            self.record_error(principal, None if principal is None else worker_id, error)
        elif worker_id is not None:
            self.refused(principal, worker_id, error)
        elif seen.segment is None:
            self._see(seen, functools.partial(self.record_body, principal, rejection))

    def batch_refused(self, error: Exception, seen: Seen) -> None:
        """Record a batch that is answered with this error, as evidence for its first workers or for all of them."""
        principal, rejection = _sender(error, seen), entry_of(error).rejection
        if principal is None or rejection is None:
            self.record_error(principal, None, error)
            return
        if seen.beats is not None:
            # A rejection that moves deadlines must reach every worker.
            most = None if rejection.moves_deadline else MOST_OF_A_BATCH
            for worker_id in itertools.islice(seen.beats, most):
                self.record(principal, worker_id, rejection)
            return
        is_gzip = not seen.inflated and any(
            name == b"content-encoding" and b"gzip" in value.lower() for name, value in seen.scope["headers"]
        )
        look = self._look_at_gzip if is_gzip else self._look_at_batch
        self._see(seen, functools.partial(look, principal, rejection, is_whole=seen.body is not None))

    def _see(self, seen: Seen, look: Callable[[bytes], None]) -> None:
        if seen.body is not None:
            look(seen.body)
        elif seen.read:
            look(b"".join(seen.read))
        elif (unread := unread_of(seen.scope)) is not None:
            unread.look(look)

    def record_body(self, principal: Principal, rejection: Rejection, body: bytes) -> None:
        """Record a rejected beat with this body, or the beginning of it."""
        worker_id = None
        if not self._looks.wait_ns(hash(principal.tenant), self._now_ns()):
            worker_id = readable_id(body) or next(claimed_ids(body[:_BODY_BYTES], tokens=_TOKENS), None)
        if worker_id is not None:
            self.record(principal, worker_id, rejection)
        else:
            self._refused.log(principal.tenant, principal.worker_id, rejection)
            self._unknown(principal, rejection)

    def _unknown(self, principal: Principal, rejection: Rejection) -> None:
        """Handle rejected beats of which some workers are not known."""
        if rejection is Rejection.OVERLOADED:
            # A token restricted to one worker can only have sent beats of that worker.
            if principal.worker_id is not None:
                self.record(principal, principal.worker_id, rejection)
            else:
                self._lost()

    def _look_at_batch(self, principal: Principal, rejection: Rejection, body: bytes, *, is_whole: bool) -> None:
        if self._looks.wait_for_ns(hash(principal.tenant), self._now_ns(), _BATCH_LOOKS):
            self._unknown(principal, rejection)
            return
        begin = body[:_BATCH_BYTES]
        found = list(itertools.islice(claimed_ids(begin, tokens=_TOKENS_OF_A_BATCH), MOST_OF_A_BATCH))
        for worker_id in found:
            self.record(principal, worker_id, rejection)
        if not found:
            self._refused.log(principal.tenant, principal.worker_id, rejection)
        if not is_whole or len(body) > len(begin) or len(found) < begin.count(b'"worker_id"'):
            self._unknown(principal, rejection)

    def _look_at_gzip(self, principal: Principal, rejection: Rejection, body: bytes, *, is_whole: bool) -> None:
        with contextlib.suppress(zlib.error):
            member = zlib.decompressobj(_GZIP)
            begin = member.decompress(body[:_BATCH_BYTES], _BATCH_BYTES)
            is_whole = is_whole and member.eof and not member.unused_data
            self._look_at_batch(principal, rejection, begin, is_whole=is_whole)


def _sender(error: Exception, seen: Seen) -> Principal | None:
    return error.lately if isinstance(error, ExpiredError) else seen.principal
