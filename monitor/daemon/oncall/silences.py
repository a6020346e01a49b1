"""Endpoints for silences, which suppress notifications for matching workers for a limited time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from litestar import route
from litestar.enums import HttpMethod

from monitor.api.errors import BodyError
from monitor.api.json_body import LATEST_MS, checked_text, moment_ms, read_json
from monitor.api.query import Query
from monitor.api.requests import headers_of, principal_of, reads
from monitor.api.responses import empty_answer
from monitor.auth import ForbiddenError, Scope
from monitor.daemon.oncall.models import SILENCE_STATES, Matchers, NewSilence
from monitor.daemon.oncall.shared import page_answer, place_of, segment, time_or_none, viewer_of, with_monitor
from monitor.events import rfc3339
from monitor.settings.globs import checked_glob

if TYPE_CHECKING:
    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.response.base import ASGIResponse

    from monitor.api.services import Services
    from monitor.auth import Principal
    from monitor.daemon.oncall.models import OnCall, Silence

PARAMETERS: Final = ("state", "cursor", "limit")
PATH: Final = "/api/v1/silences"
PATTERN_CHARS: Final = 256
METADATA_MATCHERS: Final = 16
COMMENT_CHARS: Final = 1_000
AUTHOR_CHARS: Final = 256
LONGEST_S: Final = 3_650 * 86_400
"""Ten years; a longer silence is taken for a typing error."""


class MatchersBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Matchers of a new silence."""

    environment: str | None = None
    worker_id: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    exact: bool = False


class SilenceBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a new silence. It ends at ``ends_at``, or ``for_seconds`` after its start."""

    matchers: MatchersBody
    comment: str = ""
    author: str | None = None
    starts_at: str | None = None
    ends_at: str | None = None
    for_seconds: float | None = None


def silence_json(silence: Silence) -> dict[str, object]:
    """JSON of a silence."""
    return {
        "id": silence.id,
        "tenant": silence.tenant,
        "matchers": {
            "environment": silence.matchers.environment,
            "worker_id": silence.matchers.worker_id,
            "metadata": dict(silence.matchers.metadata),
            "exact": silence.matchers.exact,
        },
        "state": silence.state,
        "starts_at": rfc3339(silence.starts_ms),
        "ends_at": rfc3339(silence.ends_ms),
        "comment": silence.comment,
        "author": silence.author,
        "created_at": rfc3339(silence.created_ms),
        "ended_at": time_or_none(silence.ended_ms),
        "ended_by": silence.ended_by,
    }


def asked(body: SilenceBody, *, subject: str, now_ms: int) -> NewSilence:
    """Validate a body and convert it to a ``NewSilence``. Pure.

    Raises:
        BodyError: a field is invalid; the message has its name and value.
    """
    starts_ms = now_ms if body.starts_at is None else moment_ms("starts_at", body.starts_at)
    return NewSilence(
        matchers=_matchers(body.matchers),
        starts_ms=starts_ms,
        ends_ms=_ends_ms(body, starts_ms=starts_ms, now_ms=now_ms),
        comment=checked_text("comment", body.comment, most=COMMENT_CHARS, lines=True) if body.comment else "",
        author=subject[:AUTHOR_CHARS]
        if body.author is None
        else checked_text("author", body.author, most=AUTHOR_CHARS),
    )


def _ends_ms(body: SilenceBody, *, starts_ms: int, now_ms: int) -> int:
    if body.for_seconds is not None:
        if body.ends_at is not None:
            raise BodyError("ends_at", body.ends_at, "either ends_at or for_seconds is expected, not both")
        if not 1 <= body.for_seconds <= LONGEST_S:
            raise BodyError("for_seconds", body.for_seconds, f"a number from 1 to {LONGEST_S} is expected")
        field, value = "for_seconds", str(body.for_seconds)
        ends_ms = starts_ms + round(body.for_seconds * 1_000)
        if ends_ms > LATEST_MS:
            raise BodyError(field, value, "an end before the year 10000 is expected")
    elif body.ends_at is not None:
        field, value = "ends_at", body.ends_at
        ends_ms = moment_ms(field, value)
    else:
        raise BodyError("ends_at", None, "an end is expected: give ends_at or for_seconds")
    if ends_ms <= starts_ms:
        raise BodyError(field, value, f"an end after the start, {rfc3339(starts_ms)}, is expected")
    if ends_ms <= now_ms:
        raise BodyError(field, value, f"an end in the future is expected; now is {rfc3339(now_ms)}")
    return ends_ms


def _matchers(body: MatchersBody) -> Matchers:
    if body.environment is None and body.worker_id is None and not body.metadata:
        raise BodyError("matchers", "{}", "at least one of environment, worker_id and metadata is expected")
    if len(body.metadata) > METADATA_MATCHERS:
        raise BodyError("matchers.metadata", f"{len(body.metadata)} keys", f"at most {METADATA_MATCHERS} are expected")
    for name, pattern in (("environment", body.environment), ("worker_id", body.worker_id)):
        if pattern is not None:
            _check(f"matchers.{name}", pattern, exact=body.exact)
    for name, pattern in body.metadata.items():
        checked_text("matchers.metadata: a key", name, most=PATTERN_CHARS)
        _check(f"matchers.metadata.{name}", pattern, exact=body.exact)
    return Matchers(
        environment=body.environment, worker_id=body.worker_id, metadata=dict(body.metadata), exact=body.exact
    )


def _check(field: str, pattern: str, *, exact: bool) -> None:
    checked_text(field, pattern, most=PATTERN_CHARS, blank=True)
    if not exact:
        try:
            checked_glob(pattern)
        except ValueError as error:
            raise BodyError(field, pattern, f"{error}; with exact it is compared literally") from None


def require_own(principal: Principal, matchers: Matchers) -> None:
    """Check that the token may silence every worker that might match.

    Raises:
        ForbiddenError: the token is restricted, and the silence may match workers outside the restriction.
    """
    if principal.environments is not None and matchers.environment not in principal.environments:
        allowed = ", ".join(map(repr, principal.environments))
        raise ForbiddenError(f"the token may silence in {allowed} only: matchers.environment must be one of them")
    if principal.worker_id is not None and matchers.worker_id != principal.worker_id:
        raise ForbiddenError(f"the token may silence {principal.worker_id!r} only: matchers.worker_id must be that id")
    for field, value in (("environment", principal.environments), ("worker_id", principal.worker_id)):
        if value is not None and not matchers.exact and "*" in (getattr(matchers, field) or ""):
            raise ForbiddenError(f"the token is restricted: matchers.{field} must not have a wildcard")


def routes(services: Services, oncall: OnCall) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @reads(services)
    async def list_silences(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        query = Query(request.scope, PARAMETERS)
        states = query.words("state", frozenset((*SILENCE_STATES, "all"))) or frozenset({"active", "pending"})
        after, limit = place_of(query, "sil_"), query.limit()
        found = [
            silence
            for silence in await oncall.silences(viewer_of(principal))
            if (silence.state in states or "all" in states)
            and (after is None or (silence.created_ms, silence.id) < after)
        ]
        last = (found[limit - 1].created_ms, found[limit - 1].id) if len(found) > limit else None
        return await page_answer(services, "silences", found[:limit], silence_json, last)

    async def add(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        principal = principal_of(headers, services, Scope.ALERTS_WRITE)
        body = await read_json(request, headers, SilenceBody, services=services, tenant=principal.tenant)
        new = asked(body, subject=principal.subject, now_ms=services.store.clock.now_ms())
        require_own(principal, new.matchers)
        async with services.shared.reads.place(principal.tenant):
            silence, warnings = await oncall.add_silence(viewer_of(principal), new)
        return await with_monitor(services, {**silence_json(silence), "warnings": list(warnings)}, status_code=201)

    @reads(services, Scope.ALERTS_WRITE)
    async def end(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        await oncall.end_silence(viewer_of(principal), segment(request, "silence_id"), by=principal.subject)
        return empty_answer()

    @reads(services)
    async def one(request: Request[Any, Any, Any], principal: Principal) -> ASGIResponse:
        silence = await oncall.silence(viewer_of(principal), segment(request, "silence_id"))
        return await with_monitor(services, silence_json(silence))

    # One handler for both: Litestar's answer to OPTIONS covers only the first handler of a path.
    @route(PATH, http_method=[HttpMethod.GET, HttpMethod.POST], status_code=200)
    async def silences(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await (add if request.method == HttpMethod.POST else list_silences)(request)

    @route(f"{PATH}/{{silence_id:str}}", http_method=[HttpMethod.GET, HttpMethod.DELETE], status_code=200)
    async def silence(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await (end if request.method == HttpMethod.DELETE else one)(request)

    return [silences, silence]
