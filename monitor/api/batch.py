"""Batches: many beats in one request. Processed in slices of half a millisecond, so as not to delay single beats."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope
from msgspec import Meta

from monitor.api.contract.batches import TooManyBeatsError, long_array_reader, split_array, split_lines
from monitor.api.contract.beats import parse_beat
from monitor.api.contract.errors import ContractError, Fault
from monitor.api.contract.fast import readable_id
from monitor.api.contract.strict import is_json
from monitor.api.endpoints import Count
from monitor.api.errors import ECHO_CHARS, BodyTooLargeError
from monitor.api.inflate import inflated
from monitor.api.problems import entry_of
from monitor.api.rejected_beats import Seen
from monitor.api.requests import headers_of, identified, read_body
from monitor.api.responses import json_answer
from monitor.api.services import Services
from monitor.auth import ForbiddenError, Principal
from monitor.auth import Scope as TokenScope
from monitor.errors import NotAllowedError, QuotaExceededError
from monitor.metrics.registry import BeatOutcome
from monitor.pace import Piece
from monitor.shares import Holding
from monitor.workers import Beat, Rejection

JSON_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
MAX_FAULTS_OF_A_BEAT: Final = 3


class RejectedBeat(msgspec.Struct, frozen=True, kw_only=True):
    """A beat of the batch that is not stored."""

    index: Annotated[Count, Meta(description="Index in the array, or of the line, from 0; blank lines count.")]
    worker_id: Annotated[str | None, Meta(description="Null if it could not be read.")]
    status: Annotated[
        int, Meta(description="Status of the same beat sent alone.", extra_json_schema={"enum": [403, 413, 422, 429]})
    ]
    detail: Annotated[list[Fault] | str, Meta(description="The first faults for 422, else a message.")]


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every beat of the batch is stored, superseded or rejected."""

    stored: Count
    superseded: Annotated[
        Count, Meta(description="Valid beats that were replaced by a later one of the same worker in this batch.")
    ]
    rejected: list[RejectedBeat]


class UnknownFormError(HTTPException):
    """The media type or the encoding of the batch is not supported (415)."""

    status_code = 415


class _Batch:
    """One request with its beats and their rejections. Of several valid beats of a worker the last one counts."""

    def __init__(self, services: Services, scope: Scope) -> None:
        self._services = services
        self._seen = Seen(scope=scope)
        self._latest: dict[str, tuple[int, Beat]] = {}
        """The valid beats, with their index, by worker."""
        self._superseded = 0
        self._rejected: dict[int, Any] = {}
        """Rejections by index of the beat, encoded."""
        self._outcomes: Counter[BeatOutcome] = Counter()

    async def take(self, receive: Receive, turn: asyncio.Lock) -> ASGIResponse:
        """Handle the request, from its headers to its answer. Beats are parsed in ``turn``."""
        try:
            await self._handle(receive, turn)
        except Exception as error:
            # Count the beats on any error, or 1 if their number is not known; then re-raise.
            is_unsupported = isinstance(error, UnknownFormError)
            outcome = BeatOutcome.INVALID if is_unsupported else entry_of(error).outcome
            self._outcomes[outcome] += max(len(self._latest), 1)
            self._services.rejected_beats.batch_refused(error, self._seen)
            raise
        else:
            stored = len(self._latest)
            self._outcomes[BeatOutcome.STORED] += stored
            rejected = [self._rejected[index] for index in sorted(self._rejected)]
            return json_answer(BatchAnswer(stored=stored, superseded=self._superseded, rejected=rejected))
        finally:
            for outcome, count in self._outcomes.items():
                self._services.metrics.beat(outcome, count)

    async def _handle(self, receive: Receive, turn: asyncio.Lock) -> None:
        services, seen = self._services, self._seen
        headers = headers_of(seen.scope)
        seen.principal = principal = identified(headers, services)
        principal.require(TokenScope.HEARTBEAT_WRITE)
        is_lines = _is_lines(headers.content_type)
        is_gzip = _is_gzip(seen.scope["headers"])
        with Holding(services.shared.batch_bytes, principal.tenant) as held:
            seen.body = body = await read_body(
                receive, headers, services.batch_bytes, of="batch", held=held, read=seen.read
            )
            # After the body was read: a slow client must not hold a place.
            async with services.shared.batches.place(principal.tenant):
                # One batch at a time: two at once would take twice as much of the loop from single beats.
                async with turn:
                    if is_gzip:
                        seen.body = body = await self._inflated(body, held)
                        seen.inflated = True
                    await self._read(body, principal, is_lines=is_lines)
                seen.body, seen.beats = None, self._latest
                seen.read.clear()
                del body
                await self._store(principal)

    async def _inflated(self, body: bytes, held: Holding) -> bytes:
        pieces = []
        work = Piece()
        for piece in inflated(body, self._services.batch_bytes):
            held.acquire(len(piece))
            pieces.append(piece)
            if work.is_over():
                await work.rest()
        return b"".join(pieces)

    async def _read(self, body: bytes, principal: Principal, *, is_lines: bool) -> None:
        services = self._services
        split = split_lines if is_lines else split_array
        try:
            items = split(body, services.batch_beats)
        except TooManyBeatsError:
            raise BodyTooLargeError(
                f"the batch has more than limits.batch_beats = {services.batch_beats} beats"
            ) from None
        if (refused := services.admission.batch_refused(principal.tenant, len(items))) is not None:
            raise refused
        work = Piece()
        for index, item in enumerate(items):
            if work.is_over():
                await work.rest()
            beat = bytes(item)
            if is_lines and not beat.strip():
                continue
            self._read_one(index, beat, principal)

    def _read_one(self, index: int, body: bytes, principal: Principal) -> None:
        services = self._services
        environments = principal.environments
        if len(body) > services.body_bytes:
            self._refuse(index, None, BodyTooLargeError(f"the beat is over limits.body_bytes = {services.body_bytes}"))
            services.rejected_beats.record_body(principal, Rejection.TOO_LARGE, body)
            return
        try:
            beat = parse_beat(
                body,
                content_type=None,
                limits=services.beat_limits,
                tenant=principal.tenant,
                path_worker_id=None,
                token_environments=environments,
            )
        except ContractError as error:
            worker_id = readable_id(body)
            self._refuse(index, worker_id, error)
            if worker_id is not None:
                services.rejected_beats.record(principal, worker_id, Rejection.MALFORMED)
            return
        worker_id = beat.key.worker_id
        if principal.worker_id is not None and principal.worker_id != worker_id:
            self._refuse(index, worker_id, ForbiddenError("the token is restricted to another worker"))
        elif environments is not None and beat.environment_name not in environments:
            # Checked here as well as in the store: this beat must not replace an earlier valid one of the worker.
            self._refuse(index, worker_id, NotAllowedError(beat.key))
        elif worker_id not in self._latest and (over := services.admission.worker_refused(beat.key)) is not None:
            self._refuse(index, worker_id, over)
            services.rejected_beats.record(principal, worker_id, Rejection.RATE_LIMITED)
        else:
            self._superseded += worker_id in self._latest
            self._latest[worker_id] = index, beat

    def _refuse(self, index: int, worker_id: str | None, error: Exception) -> None:
        """Count and record a rejected beat; ``error`` is one of ``PROBLEMS``."""
        problem = entry_of(error)
        self._outcomes[problem.outcome] += 1
        if worker_id is not None:
            self._services.rejected_beats.record_error(self._seen.principal, worker_id, error)
        detail = error.faults[:MAX_FAULTS_OF_A_BEAT] if isinstance(error, ContractError) else str(error)
        rejected = RejectedBeat(index=index, worker_id=worker_id, status=problem.status, detail=detail)
        self._rejected[index] = msgspec.Raw(msgspec.json.encode(rejected))

    async def _store(self, principal: Principal) -> None:
        """Store the valid beats. Beats that the store refuses move from ``_latest`` to ``_rejected``."""
        services, work = self._services, Piece()
        taken = list(self._latest.values())
        refusals = await services.batches.beats([beat for _, beat in taken])
        for (index, beat), refusal in zip(taken, refusals, strict=True):
            if beat.unknown is not None and beat.unknown.registers:
                services.unknown_fields.log(beat.key, beat.unknown.names)
            if refusal is not None:
                if work.is_over():
                    await work.rest()
                worker_id = beat.key.worker_id
                del self._latest[worker_id]
                self._refuse(index, worker_id, refusal)
                if isinstance(refusal, QuotaExceededError):
                    services.rejected_beats.record(principal, worker_id, Rejection.OVER_QUOTA)


def _is_lines(content_type: str | None) -> bool:
    """Whether the media type is JSON lines; False: a JSON array.

    Raises:
        UnknownFormError: any other media type.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in JSON_LINES:
        return True
    if is_json(content_type):
        return False
    expected = f"a batch is application/json or one of {', '.join(JSON_LINES)}"
    raise UnknownFormError(detail=f"the Content-Type is {kind[:ECHO_CHARS]!r}: {expected}")


def _is_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the body is gzip-compressed.

    Raises:
        UnknownFormError: another encoding than gzip, or several.
    """
    codings = b",".join(value for name, value in headers if name == b"content-encoding").lower()
    match [coding for part in codings.split(b",") if (coding := part.strip()) not in {b"", b"identity"}]:
        case []:
            return False
        case [b"gzip" | b"x-gzip"]:
            return True
        case _:
            raise UnknownFormError(detail="the Content-Encoding is not supported: use gzip or identity")


def routes(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    turn = asyncio.Lock()
    long_array_reader(services.batch_beats)

    @post("/api/v1/workers/heartbeats", status_code=200)
    async def heartbeats(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await _Batch(services, request.scope).take(request.receive, turn)

    return [heartbeats]
