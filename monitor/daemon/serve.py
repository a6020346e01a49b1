"""Runs the daemon from its start to its exit status: opens the port, the store and the keys, then serves."""

import asyncio
import contextlib
import functools
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final

import structlog

from monitor import logs
from monitor.clock import monotonic_s
from monitor.daemon.config.model import Config
from monitor.daemon.errors import StartError
from monitor.daemon.signals import StopSignal
from monitor.daemon.signing_key import KeyRing, SigningKeyError, key_ring
from monitor.data_dir_ownership import DataDirError, trusted_dir
from monitor.embedded import EmbeddedStore, EmbeddedStoreError, StartAbandonedError, share_of_memory
from monitor.http.server import ListenError, listen
from monitor.printable import escaped

log = structlog.get_logger(__name__)


SLOW_START_S: Final = 2.0
"""If the embedded store takes longer, it has much data to load, and requests are answered meanwhile."""
CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""CPU quota of a container's control group: microseconds of processor time and of the period, or ``max``."""


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Number of cores that this process may use: its CPU affinity, or the quota of its container if that is less."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        granted, period = (int(word) for word in quota.read_text(encoding="ascii").split())
        cores = min(cores, max(granted // period, 1))
    return cores


def serve(
    config: Config, stop: StopSignal, on_ready: Callable[[Config, KeyRing, int], None], *, warnings: Sequence[str]
) -> int:
    """Run the daemon until a stop signal. Returns the exit status.

    ``on_ready`` is called once, when beats are accepted, with the listening port.
    """
    logs.configure(level=config.log.level, form=config.log.format, paged=config.alerts.paged)
    for warning in warnings:
        log.warning("config.warning", warning=warning)
    embedded = None
    try:
        with contextlib.closing(listen(config.server.host, config.server.port)) as listener:
            port = int(listener.getsockname()[1])
            url = str(config.store.address)
            if config.store.embedded:
                embedded = EmbeddedStore(
                    trusted_dir(config.store.data_dir),
                    binary=config.store.valkey_binary or None,
                    maxmemory_bytes=config.store.maxmemory_bytes or share_of_memory(),
                )
                url = _started(embedded, listener, stop)
            ring = key_ring(config)
            ready = functools.partial(on_ready, config, ring, port)
            work, new_loop = _work(config, url=url, ring=ring, listener=listener, stop=stop, on_ready=ready)
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(_beside(embedded, work))
    except StartAbandonedError:
        log.info("daemon.stopping", why=stop.why)
    except (StartError, ListenError, DataDirError, EmbeddedStoreError, SigningKeyError) as error:
        log.critical("daemon.failed", error=str(error))
        sys.stderr.write(f"lastseen: {escaped(str(error))}\n")
        return 1
    log.info("daemon.stopped")
    return 0


def _started(embedded: EmbeddedStore, listener: socket.socket, stop: StopSignal) -> str:
    """Start the embedded store and return its URL. If loading its data takes long, requests are answered meanwhile."""
    begun_s, waiting = monotonic_s(), None

    def abandoned() -> bool:
        nonlocal waiting
        if waiting is None and monotonic_s() - begun_s >= SLOW_START_S:
            from monitor.daemon.waiting import Waiting  # noqa: PLC0415 - the supervisor needs no server

            waiting = Waiting(listener)
        return bool(stop.why)

    try:
        return embedded.start(abandoned=abandoned)
    finally:
        if waiting is not None:
            waiting.end()


def _work(
    config: Config, *, url: str, ring: KeyRing, listener: socket.socket, stop: StopSignal, on_ready: Callable[[], None]
) -> tuple[Coroutine[object, object, None], Callable[[], asyncio.AbstractEventLoop] | None]:
    """The serving itself, in this process or in child processes, and what makes its event loop."""
    count = usable_cores() if config.server.processes == "auto" else config.server.processes
    if count == 1:
        # Imported here: the supervisor of processes does not need the servers, which take a second to load.
        import uvloop  # noqa: PLC0415

        from monitor.daemon.daemon import run  # noqa: PLC0415

        work = run(config, store_url=url, ring=ring, listeners=[listener], stop=stop, on_ready=on_ready)
        return work, uvloop.new_event_loop
    from monitor.daemon.processes.supervisor import Supervisor  # noqa: PLC0415

    supervisor = Supervisor(config, processes=count, store_url=url, ring=ring, listener=listener)
    return supervisor.run(stop, on_ready), None


async def _beside(embedded: EmbeddedStore | None, work: Coroutine[object, object, None]) -> None:
    """Do the work while watching the embedded store; stop the store afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        if embedded is not None:
            watching = asyncio.create_task(embedded.watch(lambda: None), name="watch store")
            stack.push_async_callback(asyncio.wait, [watching])
            stack.push_async_callback(embedded.stop)
        await work
