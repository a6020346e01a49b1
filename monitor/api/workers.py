"""Endpoints for workers: list them, get one, delete one."""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get, route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from msgspec import Meta

from monitor.api.contract.beats import path_worker_id
from monitor.api.endpoints import DEFAULT_LIMIT, Caller, Cursor, Limit, any_of, needs
from monitor.api.query import bad_cursor, decode_cursor, encode_cursor, narrowed
from monitor.api.requests import caller, stamp
from monitor.api.responses import NO_STORE, extended, json_answer
from monitor.api.services import Services
from monitor.auth import Scope
from monitor.errors import NotAllowedError, UnknownWorkerError
from monitor.events import Time, rfc3339
from monitor.health import MonitorState
from monitor.liveness import EventKind, Liveness
from monitor.pace import AT_ONCE, Piece, gathered
from monitor.store import Store
from monitor.store.results import Page, Want
from monitor.workers import Forget, Rejection, WorkerKey
from monitor.workers import Worker as StoredWorker

PAGE_CALLS: Final = 50
PAGE_WORKERS: Final = 50
"""Maximum workers that one call to the store scans. The product of the two bounds the work of one request: a call that
ends its partition counts as the workers that it found, and one more; any other as ``PAGE_WORKERS``."""
PAGE_BYTES: Final = 8_388_608
"""A page ends early at this size; the cursor continues the list."""


class WorkerRejection(msgspec.Struct, frozen=True, kw_only=True):
    """A rejected beat of a worker."""

    reason: Rejection
    at: Time
    sub: str


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker. What it has sent as JSON is passed on as it is stored."""

    tenant: str
    worker_id: str
    environment_name: str
    liveness: Liveness
    status: str
    tasks_processed: int
    current_task_id: str | None
    worker_metadata: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object", "additionalProperties": True})]
    system_info: Annotated[
        msgspec.Raw, Meta(extra_json_schema={"type": ["object", "null"], "additionalProperties": True})
    ]
    system_info_cut: bool
    logs: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["array", "null"], "items": {"type": "string"}})]
    logs_cut: bool
    last_seen: Time
    deadline: Time
    interval_seconds: float
    grace_seconds: float
    registered_at: Time
    generation: int
    seq: Annotated[int, Meta(ge=1)]
    since: Time
    back_at: Annotated[Time | None, Meta(description="End of the absence that the worker has announced.")]
    rejected: Annotated[
        WorkerRejection | None,
        Meta(description="The newest beat of the worker that was rejected after its last accepted one."),
    ]


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A transition of a worker."""

    type: EventKind
    seq: int
    due_at: Time
    detected_at: Time
    reason: str


class WorkerDetail(Worker, frozen=True, kw_only=True):
    """A worker with its last transitions."""

    transitions: list[Transition]
    recent_gaps_seconds: list[float]
    monitor: MonitorState


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of workers."""

    workers: list[Worker]
    next_cursor: str | None
    monitor: MonitorState


def worker_of(stored: StoredWorker, now_ms: int) -> Worker:
    """The answer for a worker at ``now_ms``. Correct even if the sweeper is stuck (P22)."""
    back_ms, rejected = stored.absent_until(now_ms), stored.rejected
    return Worker(
        tenant=stored.key.tenant,
        worker_id=stored.key.worker_id,
        environment_name=stored.environment_name,
        liveness=stored.liveness(now_ms),
        status=stored.status,
        tasks_processed=stored.tasks_processed,
        current_task_id=stored.current_task_id,
        worker_metadata=msgspec.Raw(stored.metadata_json),
        system_info=msgspec.Raw(stored.system_info_json or "null"),
        system_info_cut=stored.system_info_cut,
        logs=msgspec.Raw(stored.logs_json or "null"),
        logs_cut=stored.logs_cut,
        last_seen=rfc3339(stored.last_seen_ms),
        deadline=rfc3339(stored.deadline_ms),
        interval_seconds=stored.interval_ms / 1000,
        grace_seconds=stored.grace_ms / 1000,
        registered_at=rfc3339(stored.generation),
        generation=stored.generation,
        seq=stored.seq,
        since=rfc3339(stored.since(now_ms)),
        back_at=None if back_ms is None else rfc3339(back_ms),
        rejected=None
        if rejected is None
        # A newer release on the same store may have more reasons.
        else WorkerRejection(reason=rejected.reason, at=rfc3339(rejected.at_ms), sub=rejected.subject),  # type: ignore[arg-type]
    )


def _steady(worker: Worker) -> tuple[object, ...]:
    """What a poller is to learn of when it changes: not what each beat of a steady worker changes."""
    rejected = worker.rejected
    return (
        *(worker.worker_id, worker.environment_name, worker.liveness, worker.status, worker.current_task_id),
        *(worker.worker_metadata, worker.interval_seconds, worker.grace_seconds),
        *(worker.generation, worker.seq, worker.since, worker.back_at),
        None if rejected is None else (rejected.reason, rejected.sub),
    )


def _detail_of(stored: StoredWorker, now_ms: int, monitor: MonitorState) -> WorkerDetail:
    transitions = [
        Transition(
            type=past.kind,
            seq=past.seq,
            due_at=rfc3339(past.due_ms),
            detected_at=rfc3339(past.detected_ms),
            reason=past.reason,
        )
        for past in stored.transitions
    ]
    gaps = [gap / 1000 for gap in stored.recent_gaps_ms]
    worker = worker_of(stored, now_ms)
    return extended(WorkerDetail, worker, transitions=transitions, recent_gaps_seconds=gaps, monitor=monitor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Filter of a list of workers. None: no restriction."""

    environments: tuple[str, ...] | None
    worker_id: str | None
    liveness: frozenset[str] | None
    status: frozenset[str] | None
    text: frozenset[str] | None

    def holds(self, worker: StoredWorker, now_ms: int) -> bool:
        """Whether the worker passes the filter at ``now_ms``."""
        return (
            (self.environments is None or worker.environment_name in self.environments)
            and (self.worker_id is None or worker.key.worker_id == self.worker_id)
            and (self.liveness is None or worker.liveness(now_ms) in self.liveness)
            and (self.status is None or worker.status in self.status)
            and (self.text is None or any(part in worker.key.worker_id for part in self.text))
        )

    def want(self) -> Want | None:
        """The part of the filter that the store can apply cheaply. Never excludes a worker of the selection."""
        if self.liveness is None:
            return None
        return Want(
            alive=Liveness.ALIVE in self.liveness,
            late=Liveness.LATE in self.liveness,
            overdue=bool(self.liveness & {Liveness.STALE, Liveness.STOPPED}),
            down=bool(self.liveness & {Liveness.STALE, Liveness.STOPPED, Liveness.FAILED}),
        )


@dataclass(slots=True)
class _Listing:
    """Builds one page. ``partition`` and ``after`` are the start of the next page."""

    selection: Selection
    limit: int
    partition: int
    after: str
    now_ms: int = 0
    swept_ms: int | None = None
    size: int = 0
    found: list[Any] = field(default_factory=list)
    """Encoded workers, as ``msgspec.Raw``."""
    digest: Any = field(default_factory=hashlib.blake2b)
    """Of what a poller is to learn of when it changes, from worker to worker: all at once would hold up others."""

    def full(self) -> bool:
        return len(self.found) >= self.limit or self.size >= PAGE_BYTES

    def observe(self, now_ms: int, swept_ms: int) -> None:
        self.now_ms = max(self.now_ms, now_ms)
        self.swept_ms = swept_ms if self.swept_ms is None else min(self.swept_ms, swept_ms)

    def take(self, worker: StoredWorker, now_ms: int) -> None:
        if self.selection.holds(worker, now_ms):
            found = worker_of(worker, now_ms)
            text = msgspec.json.encode(found)
            self.found.append(msgspec.Raw(text))
            self.digest.update(msgspec.json.encode(_steady(found)))
            self.size += len(text)

    async def fill(self, store: Store, tenant: str) -> None:
        """Read the partitions in order, each in the order of worker ids; several at once where they hold few."""
        narrow = self.selection.status is None and self.selection.text is None
        want = self.selection.want()

        async def read(partition: int) -> Page:
            return await store.list_workers(
                partition,
                tenant,
                after=self.after,  # empty where several are read
                limit=min(PAGE_WORKERS, self.limit - len(self.found)) if narrow else PAGE_WORKERS,
                environments=self.selection.environments,
                want=want,
            )

        at_once, left = 1, PAGE_CALLS * PAGE_WORKERS
        while left > 0 and self.partition < store.partitions and not self.full():
            pages = await gathered(read, range(self.partition, min(self.partition + at_once, store.partitions)))
            # Ids are spread evenly over the partitions, so the next ones are likely to hold about as few.
            is_sparse = not any(page.last for page in pages) and sum(len(page.workers) for page in pages) < PAGE_WORKERS
            at_once = min(2 * at_once, AT_ONCE) if is_sparse else 1
            left -= sum(PAGE_WORKERS if page.last else len(page.workers) + 1 for page in pages)
            for page in pages:
                self.observe(page.now_ms, page.swept_ms)
                if not await self._take_page(page):
                    break

    async def _take_page(self, page: Page) -> bool:
        """Take what fits; return whether that ends the page's partition."""
        piece = Piece()
        for worker in page.workers:
            if self.full():
                return False
            if piece.is_over():
                await piece.rest()
            self.take(worker, page.now_ms)
            self.after = worker.key.worker_id
        self.after = page.last
        self.partition += not page.last
        return not page.last

    async def single(self, store: Store, tenant: str, worker_id: str) -> None:
        """Fill the page for a token that is restricted to one worker."""
        now_ms, swept_ms, worker = await store.get(WorkerKey(tenant, worker_id))
        self.observe(now_ms, swept_ms)
        if worker is not None and self.partition == 0 and not self.after:
            self.take(worker, now_ms)
        self.partition, self.after = store.partitions, ""


def _place(cursor: str | None, partitions: int) -> tuple[int, str]:
    if cursor is None:
        return 0, ""
    match decode_cursor(cursor):
        case [int(partition), str(after)] if not isinstance(partition, bool) and 0 <= partition < partitions:
            try:
                after.encode()
            except UnicodeEncodeError:
                raise bad_cursor(cursor) from None
            return partition, after
        case _:
            raise bad_cursor(cursor)


def routes(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""
    store = services.store

    async def one_worker(request: Request[Any, Any, Any]) -> ASGIResponse:
        principal = caller(request.scope, services, Scope.WORKERS_READ)
        key = WorkerKey(principal.tenant, path_worker_id(request.path_params["worker_id"]))
        async with services.shared.reads.place(principal.tenant):
            now_ms, swept_ms, worker = await store.get(key)
        if worker is None or not principal.may_see(
            worker_id=worker.key.worker_id, environment_name=worker.environment_name
        ):
            raise UnknownWorkerError(key)
        monitor = services.health.monitor_state(now_ms, swept_ms)
        detail = _detail_of(worker, now_ms, monitor)
        stamp(request.scope, _steady(detail), now_ms=now_ms, monitor=monitor)
        return json_answer(detail)

    async def delete_worker(request: Request[Any, Any, Any]) -> ASGIResponse:
        principal = caller(request.scope, services, Scope.ADMIN)
        key = WorkerKey(principal.tenant, path_worker_id(request.path_params["worker_id"]))
        if principal.worker_id is not None and principal.worker_id != key.worker_id:
            raise UnknownWorkerError(key)
        try:
            await services.intake.apply(Forget(key=key, allowed=principal.environments))
        except NotAllowedError:
            raise UnknownWorkerError(key) from None
        return ASGIResponse(status_code=204, headers=dict(NO_STORE))

    # One handler for both: Litestar's answer to OPTIONS covers only the first handler of a path.
    @route("/api/v1/workers/{worker_id:str}", http_method=[HttpMethod.GET, HttpMethod.DELETE], status_code=200)
    async def worker(request: Request[Any, Any, Any]) -> ASGIResponse:
        return await (delete_worker if request.method == HttpMethod.DELETE else one_worker)(request)

    return [worker]


def list_handlers(services: Services) -> list[HTTPRouteHandler]:
    """The handler of the list."""
    store = services.store

    @get(
        "/api/v1/workers",
        opt=needs(Scope.WORKERS_READ, polled=True),
        summary="List workers; one that exists throughout the listing appears exactly once",
        response_description="A page",
    )
    async def list_workers(  # noqa: PLR0917 - the parameters of the request, which are given by name
        request: Caller,
        environment: Annotated[list[str] | None, any_of("Workers of this environment.")] = None,
        liveness: Annotated[list[Liveness] | None, any_of("Workers with this liveness.")] = None,
        status: Annotated[list[str] | None, any_of("Workers that report this status.")] = None,
        text: Annotated[list[str] | None, any_of("Workers whose id contains this text; case-sensitive.")] = None,
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> WorkerList:
        principal = request.user
        selection = Selection(
            environments=narrowed(environment, principal.environments),
            worker_id=principal.worker_id,
            liveness=None if liveness is None else frozenset(liveness),
            status=None if status is None else frozenset(status),
            text=None if text is None else frozenset(text),
        )
        partition, after = _place(cursor, store.partitions)
        listing = _Listing(selection, limit, partition, after)
        async with services.shared.reads.place(principal.tenant):
            if principal.worker_id is not None:
                await listing.single(store, principal.tenant, principal.worker_id)
            else:
                await listing.fill(store, principal.tenant)
        ended = listing.partition >= store.partitions
        next_cursor = None if ended else encode_cursor([listing.partition, listing.after])
        monitor = services.health.monitor_state(listing.now_ms, listing.swept_ms or 0)
        stamp(request.scope, listing.digest.hexdigest(), next_cursor, now_ms=listing.now_ms, monitor=monitor)
        return WorkerList(workers=listing.found, next_cursor=next_cursor, monitor=monitor)

    return [list_workers]
