"""The store, the daemons, the proxies between them and the receivers of one run. Starts and breaks real processes."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jwt
from redis.asyncio import Redis

from monitor.clock import wall_ms
from tests.chaos.plan import Plan, Shape, Skew
from tests.chaos.receivers import Receiver
from tests.chaos.record import NIGHT, RECEIVERS, TENANT, Record
from tests.chaos.timeline import Timeline
from tests.support import servers
from tests.support.daemons import Daemon, Home, gone
from tests.support.proxies import Proxy
from tests.support.sentinels import Watched, free_ports, watched

SECRET: Final = "chaos" * 8
SWEEP_S: Final = 0.5
READY_S: Final = 30.0
FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
"""The library that gives a process another clock; None: this machine does not have it."""
REPEAT_S: Final = 2.0
"""How often ``desk`` is reminded."""
CROWD_LEAST: Final = 30
"""The least number of workers that fall silent together as a mass failure: more than die one by one."""
CROWD_HOLD_S: Final = 6.0
FLAPS_AFTER: Final = 1
FLAPPING_HOLD_S: Final = 2.0
HASTY_PER_S: Final = 2
"""The limit of one worker's beats in plans where a worker sends more. No other worker reaches the limit."""
HOSTILE_CONNECTIONS: Final = 240
HOSTILE_PENDING: Final = "4MiB"
"""What a daemon may hold where hostile clients ask for more than that."""
PENDING_BEATS: Final = 24
"""The limit of waiting beats in plans that overload a daemon. This machine could not send enough for the default."""
ROUTED: Final = frozenset({"worker.stale", "worker.rejected", "worker.failed", "worker.recovered"})
EVERY: Final = ROUTED | {"worker.registered", "worker.resumed", "worker.stopped"}


def config(plan: Plan, receivers: Mapping[str, Receiver]) -> str:
    """What all daemons have; each has its port and its way to the store from its environment."""
    parts = [
        f'[store]\npartitions = {plan.partitions}\ntimeout = "1s"\ndurability = "{plan.durability}"\n',
        f'[liveness]\ninterval = "2s"\ngrace = "2s"\nsweep_interval = "{SWEEP_S:g}s"\n',
        '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n',
        '[alerts]\nretry_initial = "100ms"\nretry_max = "500ms"\n',
        f"[alerts.mass_failure]\nenabled = {str(plan.has_crowd).lower()}\n",
        f'least = {CROWD_LEAST}\nhold = "{CROWD_HOLD_S:g}s"\n',
        f'[alerts.flapping]\noutages = {FLAPS_AFTER}\nhold = "{FLAPPING_HOLD_S:g}s"\n',
        f"[server]\nprocesses = {plan.processes}\n",
    ]
    if plan.is_hasty or plan.is_overloaded or plan.is_hostile:
        parts.append("[limits]\n")
    if plan.is_hostile:
        parts.append(f'connections = {HOSTILE_CONNECTIONS}\npending_bytes = "{HOSTILE_PENDING}"\n')
    if plan.is_hasty:
        parts.append(f"worker_beats_per_second = {HASTY_PER_S}\nworker_beats_burst = {2 * HASTY_PER_S}\n")
    if plan.is_overloaded:
        parts.append(f"pending_beats = {PENDING_BEATS}\n")
    parts += [
        f'[[alerts.receivers]]\nname = "{name}"\ntype = "webhook"\nurl = "{receiver.url}"\n'
        f'secret_file = "ops-secret"\nallow_private = true\ntimeout = "1s"\n'
        for name, receiver in receivers.items()
    ]
    parts += ['[[alerts.routes]]\nreceivers = ["ops"]\n', '[[alerts.routes]]\nreceivers = ["audit"]\nevents = ["*"]\n']
    parts.append(
        '[[alerts.routes]]\nreceivers = ["team"]\ngroup_by = ["tenant", "environment"]\n'
        'group_wait = "500ms"\ngroup_interval = "1s"\n'
    )
    parts.append(
        f'[[alerts.routes]]\nreceivers = ["desk"]\nenvironments = ["{NIGHT}"]\nrepeat_interval = "{REPEAT_S:g}s"\n'
    )
    return "".join(parts)


def token(*, expires_s: int = 30 * 86_400, tenant: str = TENANT, worker_id: str | None = None) -> str:
    """A token that is good in every year that a stepped clock can show; or one that has expired for so long."""
    claims = {
        "sub": "chaos",
        "org_id": tenant,
        "scope": "heartbeat:write workers:read alerts:write",
        "aud": "lastseen",
        "iss": "lastseen",
        "exp": wall_ms() // 1000 + expires_s,
        **({"worker_id": worker_id} if worker_id else {}),
    }
    return jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "k1"})


def _faked(**words: str) -> dict[str, str]:
    """The environment of a process under faketime; its monotonic clock stays what it is."""
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1", **words}


def _children(pid: int) -> list[int]:
    """The processes that one has started (Linux); none if it is gone."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Seat:
    """One daemon's place: its port, its proxy, and the process that sits there now."""

    def __init__(
        self, home: Home, port: int, proxy: Proxy | None, url: str | None, skew: Skew | None, *, processes: int
    ) -> None:
        self.port = port
        self.proxy = proxy
        self.daemon: Daemon | None = None
        self._home = home
        self._count = processes
        self._env = {"LASTSEEN_SERVER__PORT": str(port)}
        if url is not None:
            self._env["LASTSEEN_STORE__URL"] = url
        if skew is not None:
            rate = "" if skew.rate == 1.0 else f" x{skew.rate:g}"
            self._env |= _faked(FAKETIME=f"{skew.offset_s:+d}{rate}")

    async def launch(self) -> None:
        """Start a daemon here; it need not be ready."""
        self.daemon = await asyncio.to_thread(self._home.launch, env=self._env)

    def signal(self, number: int) -> None:
        """Signal the daemon, and its processes where it has several."""
        if self.daemon is not None:
            for pid in self.processes():
                _signal(pid, number)
            self.daemon.signal(number)

    def processes(self) -> list[int]:
        """Those that take beats, where the daemon has several; they do not outlive it."""
        return _children(self.daemon.pid) if self.daemon is not None and self._count > 1 else []

    async def kill(self) -> None:
        """Kill -9. The embedded store ends with it, and so do its processes."""
        if self.daemon is not None:
            self.signal(signal.SIGCONT)  # what is stopped can't be waited for with a bound, on some kernels
            await asyncio.to_thread(self.daemon.kill)

    async def stop(self) -> int | None:
        """SIGTERM, and the exit status."""
        if self.daemon is None:
            return None
        self.signal(signal.SIGCONT)
        self.daemon.signal(signal.SIGTERM)
        return await asyncio.to_thread(self.daemon.exit_status)


class Store:
    """The external store: killed, paused, and started again on its own files or on an older copy of them."""

    def __init__(self, directory: Path, shape: Shape, *, is_stepped: bool) -> None:
        found = servers.valkey_binary() if shape is Shape.VALKEY else servers.redis_binary()
        if found is None:
            raise FileNotFoundError("redis-server")
        self._binary = found
        self._directory = directory
        self._clock = directory / "clock"
        self._env = _faked(FAKETIME_TIMESTAMP_FILE=str(self._clock)) if is_stepped else None
        self._server: servers.Server | None = None
        self.pids: list[int] = []
        directory.mkdir()
        self.step_clock(0.0)

    @property
    def url(self) -> str:
        return f"unix://{self._directory / 's'}"

    @property
    def pid(self) -> int:
        return self.pids[-1]

    @property
    def directory(self) -> Path:
        return self._directory

    async def start(self) -> None:
        """Start on the files that are there; it answers."""
        self._server = await asyncio.to_thread(servers.start, self._binary, self._directory, env=self._env)
        self.pids.append(self._server.process.pid)

    def signal(self, number: int) -> None:
        _signal(self.pid, number)

    async def kill(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.kill)

    def step_clock(self, offset_s: float) -> None:
        """Set its clock so far off the machine's."""
        self._clock.write_text(f"{offset_s:+g}\n")

    async def command(self, *words: str | int) -> object:
        """One command past every proxy."""
        async with Redis.from_url(self.url, socket_timeout=READY_S) as client:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]

    def copy_to(self, other: Path) -> None:
        """Copy its files as they are now, which is what a power cut leaves behind."""
        shutil.copytree(self._directory / "appendonlydir", other)

    def put_back(self, other: Path) -> None:
        """Have the files of a copy in place of its own. It must not run."""
        shutil.rmtree(self._directory / "appendonlydir")
        shutil.copytree(other, self._directory / "appendonlydir")


class Site:
    """Everything of one run. Where there is neither ``store`` nor ``watched``, the daemon keeps its own store.
    ``ports`` are the daemons'."""

    def __init__(self, plan: Plan, home: Home, record: Record, timeline: Timeline) -> None:
        self.plan = plan
        self.home = home
        self.record = record
        self.timeline = timeline
        ports = free_ports(plan.daemons + len(RECEIVERS))
        self.ports = ports[: plan.daemons]
        self.store: Store | None = None
        self.watched: Watched | None = None
        self._stack = contextlib.ExitStack()
        self.receivers = {
            name: Receiver(name, port, timeline, record.arrivals)
            for name, port in zip(RECEIVERS, ports[plan.daemons :], strict=True)
        }
        self.seats: list[Seat] = []
        record.receivers = {"ops": ROUTED, "audit": EVERY, "desk": ROUTED}
        record.of_one, record.repeat_s = {"desk": NIGHT}, {"desk": REPEAT_S}
        record.flaps_after, record.hold_s = FLAPS_AFTER, FLAPPING_HOLD_S
        record.groups = frozenset({"team"})

    async def open(self) -> None:
        """Start everything and return when every daemon takes beats."""
        for receiver in self.receivers.values():
            await receiver.open()
        self.home.write(SECRET, "token-secret")
        self.home.write(config(self.plan, self.receivers))
        if self.plan.shape is Shape.SENTINEL:
            self.watched = await asyncio.to_thread(self._stack.enter_context, watched())
        elif self.plan.shape is not Shape.EMBEDDED:
            directory = self.home.directory / "store"
            self.store = Store(directory, self.plan.shape, is_stepped=self.plan.is_clock_stepped)
            await self.store.start()
        for port, skew in zip(self.ports, self.plan.skews, strict=True):
            proxy = None
            if self.store is not None:
                proxy = Proxy(self.store.url)
                await proxy.heal()
            url = proxy.url if proxy else self.watched.url if self.watched else None
            self.seats.append(Seat(self.home, port, proxy, url, skew, processes=self.plan.processes))
        await asyncio.gather(*(seat.launch() for seat in self.seats))
        for seat in self.seats:
            assert seat.daemon is not None
            await asyncio.to_thread(seat.daemon.ready)

    def pids(self) -> list[int]:
        """Of the daemons, of their processes, and of the store, as they are now."""
        daemons = [seat.daemon.pid for seat in self.seats if seat.daemon is not None]
        stores = [pid for pid in [self.store_pid()] if pid is not None]
        return [*daemons, *(pid for seat in self.seats for pid in seat.processes()), *stores]

    def store_pid(self) -> int | None:
        """The id of the store's process, whether a daemon or the harness runs the store."""
        if self.store is not None:
            return self.store.pid
        with contextlib.suppress(OSError, ValueError, KeyError):
            pid = self.home.store_pid
            # The daemon may be gone, and its store with it: the id may be that of another process by now.
            if Path(f"/proc/{pid}/cwd").readlink().is_relative_to(self.home.directory):
                return pid
        return None

    async def close(self) -> None:
        """End everything; safe at any moment."""
        for seat in self.seats:
            await seat.kill()
        pids = [daemon.pid for daemon in self.home.daemons]
        if self.store is not None:
            self.store.signal(signal.SIGCONT)
            await self.store.kill()
            pids += self.store.pids
        elif self.watched is not None:
            for node in self.watched.nodes:
                node.resume()
            await asyncio.to_thread(self._stack.close)
        else:
            pid = self.store_pid()
            if pid is not None and not gone(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        for seat in self.seats:
            if seat.proxy is not None:
                await seat.proxy.close()
        for receiver in self.receivers.values():
            await receiver.close()
        _sweep_up(pids)


def _sweep_up(pids: list[int]) -> None:
    """Remove what faketime leaves of a process that was killed."""
    for pid in pids:
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            Path("/dev/shm", name).unlink(missing_ok=True)  # noqa: S108 - named by this process id alone
