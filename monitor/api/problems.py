"""The table of errors: HTTP status, headers, and the outcome that a failed heartbeat counts as."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.response import Response
from litestar.response.base import ASGIResponse

from monitor.api.admission import RateLimitedError
from monitor.api.contract.errors import ContractError
from monitor.api.errors import (
    BodyError,
    BodyTooLargeError,
    BodyTooSlowError,
    ClientGoneError,
    ConflictError,
    EncodingError,
    MediaTypeError,
    NoSuchError,
    ParameterError,
    TooManyError,
    UnreadableBodyError,
)
from monitor.api.responses import JSON, NO_STORE
from monitor.auth import ExpiredError, ForbiddenError, ScopeMissingError, UnauthenticatedError
from monitor.errors import (
    IntakeFullError,
    NoRoomError,
    NotAllowedError,
    OverShareError,
    QuotaExceededError,
    SlowDownError,
    StoreUnavailableError,
    UnknownWorkerError,
)
from monitor.metrics.registry import BeatOutcome
from monitor.workers import Rejection

PROBLEM_JSON: Final = "application/problem+json"
_LITERAL_PATHS: Final = frozenset({b"/api/v1/workers/heartbeat", b"/api/v1/workers/heartbeats"})
_NOT_SEEN: Final = frozenset({401, 403, 404})
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """The answer to an error, and what a heartbeat with it counts as.

    ``rejection`` is recorded for the worker; None: the error is no evidence, as the token may not speak for the worker.
    ``detail`` None: the error's own message, which is safe to show to the caller.
    """

    status: int
    outcome: BeatOutcome
    rejection: Rejection | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: str | None = None


_BEARER: Final = {"www-authenticate": "Bearer"}
_AFTER_60_S: Final = {"retry-after": "60"}
_BUSY: Final = "too many requests are waiting for the store; the request was not accepted"
_STORE_AWAY: Final = "the store is unavailable; retry later"

PROBLEMS: Final[Mapping[type[Exception], Problem]] = {
    UnauthenticatedError: Problem(401, BeatOutcome.UNAUTHENTICATED, headers=_BEARER),
    ExpiredError: Problem(401, BeatOutcome.UNAUTHENTICATED, Rejection.TOKEN_EXPIRED, _BEARER),
    ForbiddenError: Problem(403, BeatOutcome.FORBIDDEN),
    ScopeMissingError: Problem(403, BeatOutcome.FORBIDDEN, Rejection.SCOPE_MISSING),
    NotAllowedError: Problem(403, BeatOutcome.FORBIDDEN),
    UnknownWorkerError: Problem(404, BeatOutcome.INVALID),
    BodyTooLargeError: Problem(413, BeatOutcome.TOO_LARGE, Rejection.TOO_LARGE),
    BodyTooSlowError: Problem(408, BeatOutcome.FAILED, Rejection.INCOMPLETE, {"connection": "close"}),
    ClientGoneError: Problem(400, BeatOutcome.FAILED, Rejection.INCOMPLETE, detail="the body is incomplete"),
    ContractError: Problem(422, BeatOutcome.INVALID, Rejection.MALFORMED),
    ParameterError: Problem(422, BeatOutcome.INVALID),
    BodyError: Problem(422, BeatOutcome.INVALID),
    UnreadableBodyError: Problem(422, BeatOutcome.INVALID),
    EncodingError: Problem(415, BeatOutcome.INVALID, Rejection.MALFORMED),
    MediaTypeError: Problem(415, BeatOutcome.INVALID),
    NoSuchError: Problem(404, BeatOutcome.INVALID),
    ConflictError: Problem(409, BeatOutcome.INVALID),
    TooManyError: Problem(429, BeatOutcome.QUOTA, headers=_AFTER_60_S),
    QuotaExceededError: Problem(429, BeatOutcome.QUOTA, Rejection.OVER_QUOTA, _AFTER_60_S),
    RateLimitedError: Problem(429, BeatOutcome.RATE_LIMITED, Rejection.RATE_LIMITED),
    OverShareError: Problem(429, BeatOutcome.RATE_LIMITED, Rejection.OVER_SHARE),
    IntakeFullError: Problem(503, BeatOutcome.UNAVAILABLE, Rejection.OVERLOADED, detail=_BUSY),
    NoRoomError: Problem(503, BeatOutcome.UNAVAILABLE, Rejection.OVERLOADED),
    # The store is slow or down: it cannot record evidence either, and all workers are credited (P1).
    StoreUnavailableError: Problem(
        503, BeatOutcome.UNAVAILABLE, Rejection.OVERLOADED, {"retry-after": "1"}, _STORE_AWAY
    ),
}

_UNEXPECTED: Final = Problem(500, BeatOutcome.FAILED, detail="internal error; see the server log")


def entry_of(error: Exception) -> Problem:
    """The entry of an error in the table."""
    for kind in type(error).__mro__:
        if kind in PROBLEMS:
            return PROBLEMS[kind]
    return _UNEXPECTED


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemAnswer:
    """RFC 9457 problem details, ready to be sent."""

    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes

    def response(self) -> Response[bytes]:
        """As a response of the framework."""
        return Response(self.body, status_code=self.status, headers=dict(self.headers), media_type=PROBLEM_JSON)

    def raw(self) -> tuple[bytes, bytes]:
        """As ``head_lines``, and the body, for a connection without the framework."""
        about = {"content-type": PROBLEM_JSON, "content-length": str(len(self.body))}
        return head_lines(self.status, {**self.headers, **about}), self.body

    def asgi(self) -> ASGIResponse:
        """As an ASGI response, for use outside the router."""
        return ASGIResponse(
            body=self.body, status_code=self.status, headers=dict(self.headers), media_type=PROBLEM_JSON
        )


def head_lines(status: HTTPStatus, headers: Mapping[str, str]) -> bytes:
    """The status line and the headers of an HTTP/1.1 answer, without the empty line that ends them."""
    lines = [f"HTTP/1.1 {status} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items()), ""]
    return "\r\n".join(lines).encode("ascii")


def problem_details(status: HTTPStatus, detail: str, headers: Mapping[str, str], **members: object) -> ProblemAnswer:
    """Create problem details. Their type is ``about:blank``, so the title is the status phrase."""
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail, **members}
    return ProblemAnswer(status=status, headers={**NO_STORE, **headers}, body=msgspec.json.encode(body))


def problem_of(error: Exception) -> ProblemAnswer:
    """The answer to an error of the table. Any other error is an internal error."""
    problem = entry_of(error)
    detail = str(error) if problem.detail is None else problem.detail
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, SlowDownError) else problem.headers
    reason = {"reason": error.reason.value} if isinstance(error, UnauthenticatedError) else {}
    return problem_details(HTTPStatus(problem.status), detail, headers, **reason)


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to any error. An unexpected one is logged, without query, headers and body."""
    if isinstance(error, ContractError):
        return Response(error.body(), status_code=422, headers=dict(NO_STORE), media_type=JSON)
    if _misses_method(request, error):
        error = MethodNotAllowedException(headers={"allow": "OPTIONS, POST"})
    if isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return _routing_error(error).response()
    if entry_of(error) is _UNEXPECTED:
        _log.error(
            "request.failed",
            method=request.scope["method"],
            path=request.scope.get("raw_path", b"").decode("ascii", "backslashreplace"),
            # As text: a renderer that shows local variables would log headers and bodies.
            exception="".join(traceback.format_exception(error)),
        )
    return problem_of(error).response()


def _misses_method(request: Request[Any, Any, Any], error: Exception) -> bool:
    """Whether the method of a POST-only path is wrong, and no worker of that name is visible to the caller."""
    scope = request.scope
    is_literal = scope["method"] != "POST" and scope.get("raw_path") in _LITERAL_PATHS
    return is_literal and entry_of(error).status in _NOT_SEEN


def _routing_error(error: HTTPException) -> ProblemAnswer:
    """The answer to an error of the router: unknown path, wrong method, unusable Host header."""
    headers: dict[str, str] = {}
    for name, value in (error.headers or {}).items():
        if name.lower() == "allow":
            methods = {method.strip() for method in str(value).split(",")}
            headers["allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    status = HTTPStatus(error.status_code)
    match status:
        case HTTPStatus.NOT_FOUND:
            detail = "there is nothing at this path"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"allowed methods: {headers.get('allow', 'others')}"
        case _:
            detail = error.detail
    return problem_details(status, detail, headers)
