"""The supervisor of several processes of one daemon: starts, watches, restarts and stops them.

Each process does everything, as replicas on one store do, with its own daemon id. They are fresh interpreters, never
forks, and share only the port (``listeners``), the counters (``monitor.metrics.shared_memory``) and the store.
All run the configuration that the daemon was started with, even if the file has changed before a restart.
Each has its own session, so that a terminal's ^C reaches the supervisor only. They end with the supervisor, however
it ends.
"""

import asyncio
import contextlib
import os
import pickle
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from monitor.clock import monotonic_s
from monitor.daemon.config.model import Config
from monitor.daemon.delivery_labels import delivery_labels
from monitor.daemon.errors import StartError
from monitor.daemon.processes.handover import READY, Assignment
from monitor.daemon.signals import StopSignal
from monitor.daemon.signing_key import KeyRing
from monitor.embedded.server import BACKOFF_FIRST_S, BACKOFF_MOST_S, STEADY_AFTER_S
from monitor.http.listeners import dealt
from monitor.http.server import BACKLOG
from monitor.metrics.registry import ProcessTable, Share, Slots
from monitor.metrics.shared_memory import Table, shared_memory

log = structlog.get_logger(__name__)

DIVIDED: Final = ("connections", "pending_beats", "pending_bytes", "tenant_beats_per_second", "tenant_beats_burst")
"""The names of the limits that apply to all processes together."""
STOP_MARGIN_S: Final = 4.0
"""Time after ``server.shutdown_timeout`` before a process that has not stopped is killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _End:
    """How a process ended. ``accepted``: it was ready before; ``reason``: its error message, often empty."""

    accepted: bool
    pid: int | None = None
    exit_code: int | None = None
    reason: str = ""


def divided(config: Config, processes: int) -> Config:
    """The configuration of each process: the limits of the daemon are divided by the number of processes.

    The rate limit of a worker is not divided: all beats of one connection reach the same process.
    """
    limits = config.limits
    parts = {name: -(-getattr(limits, name) // processes) for name in DIVIDED}
    return config.model_copy(update={"limits": limits.model_copy(update=parts)})


class Supervisor:
    """Runs ``processes`` processes. Created, run and discarded inside one event loop, in the main thread."""

    def __init__(
        self, config: Config, *, processes: int, store_url: str, ring: KeyRing, listener: socket.socket
    ) -> None:
        self._config = divided(config, processes)
        self._count = processes
        self._store_url = store_url
        self._ring = ring
        self._stop_within_s = config.server.shutdown_timeout_ms / 1_000 + STOP_MARGIN_S
        slots = Slots(delivery_labels(config))
        self._counters = shared_memory(slots=slots.count, rows=processes)
        self._table = ProcessTable(Table(slots=slots.count, rows=processes, fd=self._counters), slots)
        self._listeners = dealt(listener, count=processes, backlog=BACKLOG)
        self._descriptors = tuple(sock.fileno() for sock in self._listeners)
        self._running: dict[int, Process] = {}
        self._accepting: set[int] = set()
        self._on_ready: Callable[[], None] | None = None
        self._stopping = asyncio.Event()
        self._failed: str | None = None

    async def run(self, stop: StopSignal, on_ready: Callable[[], None]) -> None:
        """Keep the processes running until a signal; ``on_ready`` is called once, when all of them accept.

        Raises:
            StartError: a process cannot start, and no other one accepts beats.
        """
        self._on_ready = on_ready
        stop.attach()
        stop.then(self._begin_stop)
        try:
            async with asyncio.TaskGroup() as group:
                numbers = range(1, self._count + 1)
                keepers = [group.create_task(self._keep(number), name=f"process {number}") for number in numbers]
                await self._stopping.wait()
                await asyncio.wait(keepers, timeout=self._stop_within_s)
                for number, process in self._running.items():
                    log.error("process.killed", process=number, pid=process.pid, after_s=self._stop_within_s)
                    process.kill()
        finally:
            self._close_listeners()
            os.close(self._counters)
        if self._failed:
            raise StartError(self._failed)

    def _begin_stop(self, why: str) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        log.info("daemon.stopping", why=why)
        # First: while any copy is open, clients continue to connect, and get no answer.
        self._close_listeners()
        for process in self._running.values():
            _terminate(process)

    def _close_listeners(self) -> None:
        for sock in self._listeners:
            sock.close()

    async def _keep(self, number: int) -> None:
        """Keep process ``number`` running until the stop."""
        backoff_s = BACKOFF_FIRST_S
        while not self._stopping.is_set():
            begun_s = monotonic_s()
            try:
                end = await self._live(number)
            except OSError as error:
                end = _End(accepted=False, reason=f"process {number} can't be started: {error}")
            if self._stopping.is_set():
                return
            self._table.ended(number)
            if not end.accepted and not self._accepting:
                code = "" if end.exit_code is None else f" with {end.exit_code}"
                self._failed = end.reason or f"process {number} ended{code} before it accepted beats"
                self._begin_stop("a process can't start")
                return
            if monotonic_s() - begun_s >= STEADY_AFTER_S:
                backoff_s = BACKOFF_FIRST_S
            facts = {"pid": end.pid, "exit_code": end.exit_code, "reason": end.reason}
            log.error("process.exited", process=number, **facts, next_start_s=backoff_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MOST_S)

    async def _live(self, number: int) -> _End:
        """Start process ``number`` and wait for its end.

        Raises:
            OSError: the process cannot be started.
        """
        begun_s = monotonic_s()
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            with contextlib.closing(writer):
                if self._stopping.is_set():
                    return _End(accepted=False)
                process = await self._spawn(theirs)
                self._running[number] = process
                theirs.close()
                writer.write(self._assignment(number))
                if self._stopping.is_set():
                    _terminate(process)
                accepted, reason = False, b""
                with contextlib.suppress(ConnectionError):
                    reason = await reader.readline()
                    if reason == READY:
                        accepted = True
                        self._accepts(number, process.pid, round(monotonic_s() - begun_s, 3))
                        reason = await reader.read()
                    else:
                        reason += await reader.read()
                exit_code = await process.wait()
        del self._running[number]
        self._accepting.discard(number)
        return _End(
            accepted=accepted, pid=process.pid, exit_code=exit_code, reason=reason.decode(errors="replace").strip()
        )

    def _accepts(self, number: int, pid: int, seconds: float) -> None:
        self._table.started(number, pid)
        self._accepting.add(number)
        log.info("process.started", process=number, pid=pid, seconds=seconds)
        if self._on_ready is not None and len(self._accepting) == self._count and not self._stopping.is_set():
            self._on_ready()
            self._on_ready = None

    async def _spawn(self, channel: socket.socket) -> Process:
        return await asyncio.create_subprocess_exec(
            # -P and this process's path: the child must run the same code, not files of the working directory.
            *(sys.executable, "-P", "-m", "monitor.daemon.processes.child", str(channel.fileno())),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[channel.fileno(), self._counters, *self._descriptors],
            start_new_session=True,
        )

    def _assignment(self, number: int) -> bytes:
        own = self._descriptors[number - 1]
        others = [one for one in dict.fromkeys(self._descriptors) if one != own]
        return pickle.dumps(
            Assignment(
                config=self._config,
                ring=self._ring,
                store_url=self._store_url,
                listeners=(own, *others),
                share=Share(fd=self._counters, processes=self._count, process=number, supervisor_pid=os.getpid()),
            )
        )


def _terminate(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
