"""The composition root: creates every part from its own section of the configuration, and stops it."""

import asyncio
import contextlib
import functools
import gc
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import structlog

from alerts.service import AlertService
from monitor.api.admission import Admission
from monitor.api.app import create_app
from monitor.api.fast_path import FastPath
from monitor.api.health import reasons_now
from monitor.api.rejected_beats import RejectedBeats
from monitor.api.services import Services
from monitor.api.shared import BATCHES_AT_ONCE, Shared
from monitor.auth import Authenticator
from monitor.clock import monotonic_s
from monitor.daemon.alerts import alert_service
from monitor.daemon.config.model import Config
from monitor.daemon.delivery_labels import delivery_labels
from monitor.daemon.errors import StartError
from monitor.daemon.expiring import ExpiryWatch
from monitor.daemon.oncall.routes import oncall_router
from monitor.daemon.revoking import RevocationWatch
from monitor.daemon.self_check import SelfCheck
from monitor.daemon.settings import beat_limits, beat_rates, store_settings, sweep_settings
from monitor.daemon.signals import StopSignal
from monitor.daemon.signing_key import KeyRing, auth_policy
from monitor.daemon.waiting import Waiting
from monitor.daemon.watchdog import Watchdog
from monitor.errors import StoreUnavailableError
from monitor.events import Moved
from monitor.eviction import EvictionWatch
from monitor.health import Health
from monitor.http.listeners import relieve
from monitor.http.server import HttpServer, allowed_connections
from monitor.intake.backlog import is_too_old
from monitor.intake.batches import BatchIntake
from monitor.intake.evidence import Recorder
from monitor.intake.queue import Intake
from monitor.limit_log import Limits
from monitor.metrics.registry import Limit, Metrics, Share
from monitor.ownership import Ownership
from monitor.pulse import Pulse
from monitor.scheduler import Scheduler
from monitor.store import Store, StoreDeniedError, StoreRefusedError, StoreSettings
from monitor.store.outbox import Outbox
from monitor.sweeper import Sweeper
from monitor.version import version

log = structlog.get_logger(__name__)

STORE_RETRY_S: Final = 0.5
STORE_SAY_S: Final = 60.0
"""Time between log lines while the start waits for the store."""
ALERTS_STOP_S: Final = 3.0
COLLECT_AFTER: Final = (1_000, 4, 100)
"""Garbage collection thresholds: usually some thousands of objects, which takes some milliseconds; rarely all objects,
which takes a quarter of a second with 3,000 connections. Reference counting frees the objects of heartbeats and
connections without a collection.
"""


class Daemon:
    """One running daemon, or one process of several. Created, run and discarded inside one event loop.

    ``listeners``: its own listening socket first, then those of the other processes.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: Store,
        ring: KeyRing,
        listeners: Sequence[socket.socket],
        share: Share | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._listener, *self._others = listeners
        self._stop = asyncio.Event()
        self._failed: str | None = None
        self._metrics = Metrics(version=version(), labels=delivery_labels(config), share=share)
        self._limits = Limits(self._metrics.limit)
        self._health = self._build_health()
        # Beats
        shared = self._build_shared()
        self._intake = self._build_intake(shared)
        self._evidence = Recorder(store, metrics=self._metrics, tenants=shared.tenants)
        # Deadlines
        self._ownership = Ownership(
            store.settings.daemon, store.partitions, sweep_interval_s=config.liveness.sweep_interval_ms / 1_000
        )
        self._sweeper = Sweeper(store, sweep_settings(config), on_moved=self._moved, ownership=self._ownership)
        self._scheduler = self._build_scheduler()
        # Alerts
        self._outbox = Outbox(store, self._ownership)
        self._alerts: AlertService = alert_service(config, store=store, outbox=self._outbox, counts=self._metrics)
        # HTTP
        authenticator = Authenticator(auth_policy(config, ring))
        services = self._build_services(authenticator, shared)
        self._http = self._build_http(services)
        # What the daemon watches
        self._expiring = ExpiryWatch(authenticator, now_ms=store.clock.now_ms)
        self._revoking = RevocationWatch(authenticator, store, config.auth.revoked_path)
        self._eviction = EvictionWatch(store)
        self._health.add_reasons(self._metrics.processes.reasons)
        self._health.add_reasons(self._eviction.reasons)
        self._health.watch_alerts(self._alerts.failing)
        self._health.add_reasons(self._http.connections.reasons)
        self._pulse = Pulse(
            store,
            self._ownership,
            on_sums=self._metrics.blind,
            on_waiting=self._alerts.wakeup,
            is_behind=self._is_behind,
        )
        self._self_check = self._build_self_check()
        # Only process 1 pings the watchdog. It sees the health of the others; if it dies, the missing ping raises the
        # alarm.
        is_first = share is None or share.process == 1
        self._watchdog = _watchdog(config, services) if is_first and config.watchdog.target else None

    def _build_health(self) -> Health:
        return Health(
            sweep_interval_ms=self._config.liveness.sweep_interval_ms,
            probe=self._store.takes_beats,
            others=self._metrics.reasons_of_others,
        )

    def _build_shared(self) -> Shared:
        limits = self._config.limits
        return Shared(
            body_bytes=limits.pending_bytes,
            # As sent and inflated.
            batch_bytes=2 * BATCHES_AT_ONCE * limits.batch_bytes,
            hit=self._limits.hit,
        )

    def _build_intake(self, shared: Shared) -> Intake:
        limits = self._config.limits
        return Intake(
            self._store,
            capacity=limits.pending_beats,
            capacity_bytes=limits.pending_bytes,
            on_moved=self._moved,
            tenants=shared.tenants,
            on_refused=functools.partial(self._limits.hit, Limit.PENDING_BEATS),
        )

    def _build_scheduler(self) -> Scheduler:
        return Scheduler(
            sweep=self._sweeper.sweep,
            tidy=self._sweeper.tidy,
            interval_s=self._config.liveness.sweep_interval_ms / 1_000,
            on_error=lambda error: self._fail("sweep", error),
        )

    def _build_services(self, authenticator: Authenticator, shared: Shared) -> Services:
        config, limits = self._config, self._config.limits
        return Services(
            store=self._store,
            intake=self._intake,
            batches=BatchIntake(self._store, graces=self._intake.graces, on_moved=self._moved),
            admission=Admission(beat_rates(config), on_refused=self._limits.hit),
            rejected_beats=RejectedBeats(self._evidence.note, lost=self._evidence.lost),
            authenticator=authenticator,
            body_bytes=limits.body_bytes,
            shared=shared,
            batch_bytes=limits.batch_bytes,
            batch_beats=limits.batch_beats,
            beat_limits=beat_limits(config),
            health=self._health,
            metrics=self._metrics,
            anonymous=frozenset(config.auth.anonymous),
        )

    def _build_http(self, services: Services) -> HttpServer:
        limits = self._config.limits
        return HttpServer(
            create_app(services, oncall_router(services, self._alerts)),
            connections=limits.connections,
            shutdown_timeout_ms=self._config.server.shutdown_timeout_ms,
            head_bytes=limits.head_bytes,
            head_fields=limits.head_fields,
            fast_path=FastPath(services),
            hit=self._limits.hit,
        )

    def _is_behind(self) -> bool:
        return self._http.connections.is_refusing() or is_too_old(
            self._intake.graces,
            turn_s=self._http.time_slices.oldest_s(),
            store_s=self._intake.oldest_s(),
            note_s=self._evidence.oldest_s(),
        )

    def _build_self_check(self) -> SelfCheck:
        return SelfCheck(
            store=self._store,
            health=self._health,
            metrics=self._metrics,
            outbox=self._outbox,
            pulse=self._pulse,
            queues=self._alerts.health,
            owners=self._alerts.owners,
        )

    async def run(self, stop: StopSignal, on_ready: Callable[[], None]) -> None:
        """Serve until a signal or a failure. Accepted requests are finished before the return.

        Raises:
            StartError: a part of the daemon ended because of a bug; the process supervisor is expected to restart it.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_loop_error)
        stop.then(self._begin_stop)
        self._scheduler.start()
        await self._alerts.start()
        await self._revoking.look()
        beside = [
            _beside("revocations", self._revoking.run(), on_bug=self._fail),
            _beside("expiring tokens", self._expiring.run(), on_bug=_log_end),
            _beside("self_check", self._self_check.run(), on_bug=self._fail),
            _beside("evidence", self._evidence.run(), on_bug=self._fail),
            _beside("eviction", self._eviction.run(), on_bug=self._fail),
        ]
        # Objects created at the start live as long as the process: exclude them from garbage collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._http.serve(sockets=[self._listener]), name="http")
                await self._http.accepting.wait()
                pulsing = group.create_task(self._pulse.run(), name="pulse")
                relief = group.create_task(relieve(self._others, self._adopt), name="relieve the other processes")
                if not self._stop.is_set():
                    on_ready()
                # A bug in the watchdog ends only the watchdog: the missing ping then raises the alarm outside.
                pinging = _beside("watchdog", self._ping(), on_bug=_log_end)
                beside.append(pinging)
                await self._stop.wait()
                pulsing.cancel()
                pinging.cancel()
                relief.cancel()
                for sock in self._others:
                    sock.close()
                # Requests, sweeps and deliveries in flight end concurrently, each within its own timeout.
                group.create_task(self._scheduler.stop(), name="stop the scheduler")
                group.create_task(self._alerts.stop(ALERTS_STOP_S), name="stop the alerts")
                group.create_task(self._pulse.end(), name="end the pulse")
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        await self._intake.drain()
        if self._failed:
            raise StartError(self._failed)

    async def _ping(self) -> None:
        if self._watchdog is not None:
            await self._watchdog.run()

    def _begin_stop(self, why: str) -> None:
        again = self._health.stopping
        self._health.stopping = True
        self._http.should_exit = True
        self._stop.set()
        if not again:
            log.info("daemon.stopping", why=why)

    def _fail(self, part: str, error: BaseException) -> None:
        self._failed = f"{part} failed: {error!r}"
        self._begin_stop(f"{part} failed")
        log.critical("daemon.part_failed", part=part, error=repr(error), exc_info=error)

    def _moved(self, moved: list[Moved]) -> None:
        """Called after every committed store call: logs each transition, counts them, wakes the alert router."""
        self._metrics.moved(moved)
        for move in moved:
            log.info(
                move.kind.value,
                event_id=move.event_id,
                tenant=move.tenant,
                worker_id=move.worker_id,
                environment_name=move.environment_name,
                generation=move.generation,
                seq=move.seq,
                reason=move.reason,
                detected_ms_after_due=move.detected_ms - move.due_ms,
                silent_ms=move.detected_ms - move.last_seen_ms,
            )
        self._alerts.wakeup()

    async def _adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted for another process."""
        server = self._http
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: server.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn's own startup does
                config=server.config, server_state=server.server_state, app_state=server.lifespan.state
            ),
            connection,
        )


def _beside(
    part: str, work: Coroutine[object, object, None], *, on_bug: Callable[[str, BaseException], None]
) -> asyncio.Task[None]:
    """Run a part as a background task until it is cancelled. ``on_bug`` is called if it ends with an exception."""
    task = asyncio.create_task(work, name=part)

    def ended(_: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            on_bug(part, error)

    task.add_done_callback(ended)
    return task


def _log_end(part: str, error: BaseException) -> None:
    log.error("daemon.part_ended", part=part, error=repr(error), exc_info=error)


def _watchdog(config: Config, services: Services) -> Watchdog:
    settings = config.watchdog
    return Watchdog(
        url=settings.target,
        interval_s=settings.interval_ms / 1_000,
        timeout_s=settings.timeout_ms / 1_000,
        allow_private=settings.allow_private,
        reasons=functools.partial(reasons_now, services),
        on_outcome=services.metrics.ping,
    )


def _log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    log.error("loop.error", message=context.get("message"), exc_info=error if isinstance(error, Exception) else None)


def _as_descriptors_allow(config: Config, processes: int) -> Config:
    """Lower ``limits.connections`` to the available descriptors. Warns if the configured number is not the default."""
    limits = config.limits
    allowed = allowed_connections(limits.connections)
    if allowed == limits.connections:
        return config
    usual = -(-type(limits)().connections // processes)
    say = log.info if limits.connections == usual else log.warning
    hint = 'limits.connections is lowered because of the limit on open files: raise that limit ("ulimit -n")'
    say("http.few_descriptors", connections=allowed, configured=limits.connections, hint=hint)
    return config.model_copy(update={"limits": limits.model_copy(update={"connections": allowed})})


async def _open_store(settings: StoreSettings, stop: StopSignal, listener: socket.socket) -> Store | None:
    """Open the store. Answers on the listener while the store is unavailable. None if a signal came first.

    Raises:
        StartError: the store answers but cannot be used; waiting would not help.
    """
    stopped = asyncio.Event()
    stop.then(lambda _: stopped.set())
    logged, logged_s = "", 0.0
    async with contextlib.AsyncExitStack() as stack:
        while not stopped.is_set():
            try:
                return await Store.open(settings)
            except StoreRefusedError as error:
                raise StartError(f"the store can't be used: {error}") from error
            except StoreDeniedError as error:
                raise StartError(f"store.url: the store can't be used: {error}") from error
            except StoreUnavailableError as error:
                if not logged:
                    waiting = Waiting(listener)
                    stack.push_async_callback(asyncio.to_thread, waiting.end)
                if str(error) != logged or monotonic_s() - logged_s >= STORE_SAY_S:
                    logged, logged_s = str(error), monotonic_s()
                    log.warning("store.unavailable", error=logged, hint="beats are answered 503 until it answers")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), STORE_RETRY_S)
    return None


async def run(
    config: Config,
    *,
    store_url: str,
    ring: KeyRing,
    listeners: Sequence[socket.socket],
    stop: StopSignal,
    on_ready: Callable[[], None],
    share: Share | None = None,
) -> None:
    """Run one daemon, or one process of several. Waits for a store that is not available yet.

    Raises:
        StartError: the daemon cannot start, or a part of it ended because of a bug.
    """
    config = _as_descriptors_allow(config, 1 if share is None else share.processes)
    stop.attach()
    daemon_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    store = await _open_store(store_settings(config, store_url, daemon_id), stop, listeners[0])
    if store is None:
        return
    try:
        await Daemon(config, store=store, ring=ring, listeners=listeners, share=share).run(stop, on_ready)
    finally:
        await store.close()
