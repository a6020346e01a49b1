"""Endpoints for silences, which suppress notifications for matching workers for a limited time."""

import json
import secrets
from typing import Annotated, Final, Literal

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from alerts.groups.silences import Matchers as StoredMatchers
from alerts.groups.silences import Silence as StoredSilence
from alerts.groups.silences import SilenceState, UnknownSilenceError
from alerts.service import AlertService
from monitor.api.endpoints import DEFAULT_LIMIT, Caller, Cursor, Limit, any_of, in_json, needs, path_id
from monitor.api.errors import BodyError
from monitor.api.health import monitor_now
from monitor.api.json_body import LATEST_MS, checked_text, moment_ms
from monitor.api.responses import extended
from monitor.api.services import Services
from monitor.api.workers import PAGE_WORKERS
from monitor.auth import ForbiddenError, Principal, Scope
from monitor.daemon.oncall.shared import cursor_of, place_of, time_or_none
from monitor.errors import NoRoomError, StoreUnavailableError
from monitor.events import Time, rfc3339
from monitor.health import MonitorState
from monitor.pace import Piece
from monitor.settings.globs import checked_glob
from monitor.store import Store

PATTERN_CHARS: Final = 256
METADATA_MATCHERS: Final = 16
COMMENT_CHARS: Final = 1_000
AUTHOR_CHARS: Final = 256
LONGEST_S: Final = 3_650 * 86_400
"""Ten years; a longer silence is taken for a typing error."""
MATCHED_WORKERS: Final = 10_000
"""Maximum workers that are scanned to find out whether a silence matches any."""

_PATTERN: Final = Meta(
    description="`*` is the only wildcard; `?`, `[` and `]` are refused. With `exact` a literal text.",
    extra_json_schema={"minLength": 1, "maxLength": PATTERN_CHARS},
)


class MatchersRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Workers that a silence matches. All given matchers must match; at least one is required."""

    environment: Annotated[str, _PATTERN] | None = None
    worker_id: Annotated[str, _PATTERN] | None = None
    metadata: Annotated[dict[str, str], Meta(extra_json_schema={"maxProperties": METADATA_MATCHERS})] = msgspec.field(
        default_factory=dict
    )
    exact: Annotated[bool, Meta(description="Compare all values literally.")] = False


class SilenceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new silence. Exactly one of ``ends_at`` and ``for_seconds`` is required."""

    matchers: MatchersRequest
    comment: Annotated[str, Meta(extra_json_schema={"maxLength": COMMENT_CHARS})] = ""
    author: (
        Annotated[
            str, Meta(description="By default the token's subject.", extra_json_schema={"maxLength": AUTHOR_CHARS})
        ]
        | None
    ) = None
    starts_at: Annotated[Time | None, Meta(description="By default now.")] = None
    ends_at: Time | None = None
    for_seconds: (
        Annotated[float, Meta(description="Instead of `ends_at`.", extra_json_schema={"minimum": 1})] | None
    ) = None


class Matchers(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that a silence matches: all given globs must match; with ``exact`` values are compared literally."""

    environment: str | None
    worker_id: str | None
    metadata: dict[str, str]
    exact: bool


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """A silence. ``ended_at`` None: not ended early."""

    id: Annotated[str, Meta(pattern="^sil_[0-9a-f]{32}$")]
    tenant: str
    matchers: Matchers
    state: SilenceState
    starts_at: Time
    ends_at: Time
    comment: str
    author: str
    created_at: Time
    ended_at: Time | None
    ended_by: str | None


class SilenceDetail(Silence, frozen=True, kw_only=True):
    """One silence."""

    monitor: MonitorState


class SilenceAdded(Silence, frozen=True, kw_only=True):
    """A silence that was added. Warnings: such as that no worker matches."""

    warnings: tuple[str, ...]
    monitor: MonitorState


class SilenceList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of silences."""

    silences: list[Silence]
    next_cursor: str | None
    monitor: MonitorState


def silence_of(silence: StoredSilence, now_ms: int) -> Silence:
    """The answer for a stored silence, with its state at ``now_ms``."""
    return Silence(
        id=silence.id,
        tenant=silence.tenant,
        matchers=Matchers(**msgspec.structs.asdict(silence.matchers)),
        state=silence.state(now_ms),
        starts_at=rfc3339(silence.starts_ms),
        ends_at=rfc3339(silence.ends_ms),
        comment=silence.comment,
        author=silence.author,
        created_at=rfc3339(silence.created_ms),
        ended_at=time_or_none(silence.ended_ms),
        ended_by=silence.ended_by,
    )


def new_silence(body: SilenceRequest, *, caller: Principal, now_ms: int) -> StoredSilence:
    """Validate a body and create the silence. Pure but for its id.

    Raises:
        BodyError: a field is invalid; the message has its name and value.
    """
    starts_ms = now_ms if body.starts_at is None else moment_ms("starts_at", body.starts_at)
    return StoredSilence(
        id=f"sil_{secrets.token_hex(16)}",
        tenant=caller.tenant,
        matchers=_matchers(body.matchers),
        starts_ms=starts_ms,
        ends_ms=_ends_ms(body, starts_ms=starts_ms, now_ms=now_ms),
        comment=checked_text("comment", body.comment, most=COMMENT_CHARS, lines=True) if body.comment else "",
        author=caller.subject[:AUTHOR_CHARS]
        if body.author is None
        else checked_text("author", body.author, most=AUTHOR_CHARS),
        created_ms=now_ms,
    )


def _ends_ms(body: SilenceRequest, *, starts_ms: int, now_ms: int) -> int:
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


def _matchers(body: MatchersRequest) -> StoredMatchers:
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
    return StoredMatchers(**msgspec.structs.asdict(body))


def _check(field: str, pattern: str, *, exact: bool) -> None:
    checked_text(field, pattern, most=PATTERN_CHARS, blank=True)
    if not exact:
        try:
            checked_glob(pattern)
        except ValueError as error:
            raise BodyError(field, pattern, f"{error}; with exact it is compared literally") from None


def require_own(principal: Principal, matchers: StoredMatchers) -> None:
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


def _covers(caller: Principal, silence: StoredSilence) -> bool:
    """Whether a silence only matches workers that the caller may see."""
    matchers = silence.matchers
    return caller.may_see(
        worker_id=matchers.only(matchers.worker_id), environment_name=matchers.only(matchers.environment)
    )


async def _visible(alerts: AlertService, caller: Principal, silence_id: str) -> StoredSilence:
    silence = await alerts.silences.get(caller.tenant, silence_id)
    if not _covers(caller, silence):
        raise UnknownSilenceError(silence_id)
    return silence


async def _warnings(store: Store, silence: StoredSilence) -> tuple[str, ...]:
    """Warnings about a silence: no known worker matches."""
    environment = silence.matchers.only(silence.matchers.environment)
    environments = None if environment is None else (environment,)
    looked_at = 0
    for partition in range(store.partitions):
        after = ""
        while True:
            page = await store.list_workers(
                partition, silence.tenant, after=after, limit=PAGE_WORKERS, environments=environments, want=None
            )
            piece = Piece()
            for worker in page.workers:
                if piece.is_over():
                    await piece.rest()
                if silence.matchers.match(
                    worker_id=worker.key.worker_id,
                    environment_name=worker.environment_name,
                    metadata=json.loads(worker.metadata_json) if silence.matchers.metadata else {},
                ):
                    return ()
            looked_at += PAGE_WORKERS
            after = page.last
            if not after:
                break
            if looked_at >= MATCHED_WORKERS:
                return (f"it matches none of the first {looked_at} workers; the others were not checked",)
    return ("it matches no worker that is known now",)


_Id = Annotated[str, path_id("The id of a silence.")]


def silence_handlers(services: Services, alerts: AlertService) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    now_ms, place = services.store.clock.now_ms, services.shared.reads.place

    @get(
        "/api/v1/silences",
        opt=needs(Scope.WORKERS_READ),
        summary="List silences, newest first; by default those that are active or pending",
        response_description="A page",
    )
    async def list_silences(
        request: Caller,
        which: Annotated[
            list[Literal["pending", "active", "ended", "all"]] | None, any_of("Silences in this state.", name="state")
        ] = None,
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> SilenceList:
        caller, after = request.user, place_of(cursor, "sil_")
        states = set(which or ("active", "pending"))
        async with place(caller.tenant):
            now = now_ms()
            found = [
                silence
                for silence in await alerts.silences.list_for(caller.tenant, now_ms=now)
                if _covers(caller, silence)
                and (silence.state(now) in states or "all" in states)
                and (after is None or (silence.created_ms, silence.id) < after)
            ]
            last = (found[limit - 1].created_ms, found[limit - 1].id) if len(found) > limit else None
            monitor = await monitor_now(services)
        return SilenceList(
            silences=await in_json(lambda one: silence_of(one, now), found[:limit]),
            next_cursor=cursor_of(last),
            monitor=monitor,
        )

    @post(
        "/api/v1/silences",
        opt=needs(Scope.ALERTS_WRITE, problems=(429,)),
        summary="Suppress notifications for matching workers until a given time; detection continues",
        response_description="The silence, and warnings",
    )
    async def add_silence(request: Caller, data: JSONBody[SilenceRequest]) -> SilenceAdded:
        caller, now = request.user, now_ms()
        silence = new_silence(data, caller=caller, now_ms=now)
        require_own(caller, silence.matchers)
        async with place(caller.tenant):
            await alerts.silences.add(silence, now_ms=now)
            try:
                warnings = await _warnings(services.store, silence)
            except (StoreUnavailableError, NoRoomError):
                warnings = ("could not check whether any worker matches",)
        return extended(SilenceAdded, silence_of(silence, now), warnings=warnings, monitor=await monitor_now(services))

    @get(
        "/api/v1/silences/{silence_id:str}",
        opt=needs(Scope.WORKERS_READ),
        summary="Get a silence",
        response_description="The silence",
    )
    async def get_silence(request: Caller, silence_id: _Id) -> SilenceDetail:
        async with place(request.user.tenant):
            silence = await _visible(alerts, request.user, silence_id)
            return extended(SilenceDetail, silence_of(silence, now_ms()), monitor=await monitor_now(services))

    @delete(
        "/api/v1/silences/{silence_id:str}",
        opt=needs(Scope.ALERTS_WRITE),
        summary="End a silence now; workers that are still down and were never notified are notified",
        response_description="Done",
    )
    async def end_silence(request: Caller, silence_id: _Id) -> None:
        caller = request.user
        async with place(caller.tenant):
            await _visible(alerts, caller, silence_id)
            now = now_ms()
            await alerts.silences.end(caller.tenant, silence_id, by=caller.subject, now_ms=now)
            # Also if it had ended before: the earlier call may have failed before this step.
            for groups in alerts.groups.values():
                await groups.wake_tenant(caller.tenant, now_ms=now)
            await alerts.wake()

    return [list_silences, add_silence, get_silence, end_silence]
