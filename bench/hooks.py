"""What the bench of alerts puts around a daemon: receivers of webhooks that note arrivals, and a fleet that dies."""

import asyncio
import base64
import contextlib
import http.client
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from math import gcd
from typing import Any, Final, Self
from urllib.parse import urlsplit

from aiohttp import web

from bench.harness import CALL_LIMIT_S, BenchError, Daemon, call, can_pin, daemon, directory, until
from bench.tokens import TENANT, minted
from monitor.clock import monotonic_s, wall_ms

SERVER_CORES: Final = {0}
OTHER_CORES: Final = {1}
"""Store, generator and receivers: not the core that the daemon has for itself."""
ONE_BY_ONE: Final = "worker_id"
TOGETHER: Final = "environment"
GROUP_WAIT_S: Final = 2.0
_KEY_VARIABLE: Final = "BENCH_WEBHOOK_KEY"
NEVER: Final = "never"
ERRORS: Final = "errors"
SLOW: Final = "slow"
BAD: Final = (NEVER, ERRORS, SLOW)
"""Receivers of these names behave badly, all others take what comes."""
SLOW_S: Final = 2.0
LONG_S: Final = 3_600.0
"""An interval that no worker misses while a bench lasts."""
SENDERS: Final = 16
BATCH: Final = 5_000
QUIET_LIMIT_S: Final = 360.0
_START_LIMIT_S: Final = 10.0
_NO_CONTENT: Final = 204


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def moment_ms(text: object) -> int:
    """Milliseconds since the epoch of a time that the daemon wrote."""
    return round(datetime.fromisoformat(str(text)).timestamp() * 1_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One attempt at a receiver, noted when its head was read. The daemon's store has the same wall clock."""

    at_ms: int
    nid: str
    body: bytes

    def events(self) -> list[Mapping[str, Any]]:
        """The events that it lists: one, or those of a group."""
        data: Mapping[str, Any] = json.loads(self.body)["data"]
        listed: list[Mapping[str, Any]] = data.get("events", [data])
        return listed


class Hooks:
    """A server for any receivers, by the last part of their URL, in a thread of its own while it is entered."""

    def __init__(self) -> None:
        self._arrivals: dict[str, list[Arrival]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_LIMIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_START_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, receiver: str) -> str:
        """Where this receiver is."""
        return f"http://127.0.0.1:{self._port}/{receiver}"

    def arrivals(self, receiver: str) -> list[Arrival]:
        """Every attempt so far, in order."""
        return list(self._arrivals.get(receiver, ()))

    def count(self, receiver: str) -> int:
        """How many attempts there were."""
        return len(self._arrivals.get(receiver, ()))

    def repeated(self, receiver: str) -> int:
        """How many attempts were not the first of their notification."""
        return self.count(receiver) - len({arrival.nid for arrival in self.arrivals(receiver)})

    def quiet(self, receivers: Sequence[str], *, quiet_s: float) -> None:
        """Wait until nothing has come to these for so long.

        Raises:
            BenchError: there was no end of it.
        """
        seen, since_s = -1, monotonic_s()

        def still() -> bool:
            nonlocal seen, since_s
            if (count := sum(map(self.count, receivers))) != seen:
                seen, since_s = count, monotonic_s()
            return monotonic_s() - since_s >= quiet_s

        until(still, "the receivers are quiet", limit_s=quiet_s + QUIET_LIMIT_S)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/{receiver}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # attempts that the daemon has given up
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _take(self, request: web.Request) -> web.Response:
        at_ms = wall_ms()
        name = request.match_info["receiver"]
        arrival = Arrival(at_ms=at_ms, nid=request.headers["webhook-id"], body=await request.read())
        self._arrivals.setdefault(name, []).append(arrival)
        match name:
            case "never":
                await asyncio.sleep(LONG_S)
            case "errors":
                return web.Response(status=500)
            case "slow":
                await asyncio.sleep(SLOW_S)
        return web.Response(status=_NO_CONTENT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A receiver and how its events are gathered."""

    name: str
    group_by: str = ONE_BY_ONE

    def sections(self, hooks: Hooks, kinds: Sequence[str]) -> str:
        """Its part of the configuration."""
        wait = "0s" if self.group_by == ONE_BY_ONE else f"{GROUP_WAIT_S:g}s"
        return f"""
[[alerts.receivers]]
name = "{self.name}"
type = "webhook"
url = "{hooks.url(self.name)}"
allow_private = true
secret_env = "{_KEY_VARIABLE}"

[[alerts.routes]]
receivers = ["{self.name}"]
events = {json.dumps(list(kinds))}
group_by = ["{self.group_by}"]
group_wait = "{wait}"
"""


@contextlib.contextmanager
def alerting(
    told: Sequence[Told], *, kinds: Sequence[str], mass_failure: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[tuple[Daemon, Hooks]]:
    """A daemon that notifies these receivers of these kinds of events, on a core of its own."""
    with contextlib.ExitStack() as stack:
        hooks = stack.enter_context(Hooks())
        config = stack.enter_context(directory()) / "lastseen.toml"
        head = f"""
[liveness]
interval = "1h"
grace = "1h"
[alerts.mass_failure]
enabled = {str(mass_failure).lower()}
"""
        config.write_text(head + "".join(one.sections(hooks, kinds) for one in told), encoding="utf-8")
        server = stack.enter_context(daemon({_KEY_VARIABLE: _new_secret(), **(env or {})}, "--config", str(config)))
        if can_pin():
            server.pin(cores=SERVER_CORES, store_cores=OTHER_CORES)
        yield server, hooks


class Fleet:
    """Workers ``0, 1, 2...``: they are made known, and then say that they failed, or fall silent.

    ``per_tenant`` workers of consecutive numbers have one tenant; None: all have the tenant ``bench``.
    """

    def __init__(self, server: Daemon, environment: Callable[[int], str], *, per_tenant: int | None = None) -> None:
        self._server = server
        self._environment = environment
        self._per_tenant = per_tenant
        self._tokens: dict[str, str] = {}

    def beat(self, workers: range, *, interval_s: float = LONG_S, grace_s: float = LONG_S) -> None:
        """A beat of each, in batches.

        Raises:
            BenchError: one was not taken.
        """
        size = BATCH if self._per_tenant is None else gcd(BATCH, self._per_tenant)
        for start in range(0, len(workers), size):
            some = workers[start : start + size]
            beats = [
                {
                    "worker_id": _name(worker),
                    "environment_name": self._environment(worker),
                    "interval_seconds": interval_s,
                    "grace_seconds": grace_s,
                    "status": "busy",
                }
                for worker in some
            ]
            token = self._token(some[0])
            answer = call(self._server.url, "POST", "/api/v1/workers/heartbeats", token=token, body=beats)
            if answer.status != http.client.OK or json.loads(answer.body)["rejected"]:
                raise BenchError(f"a batch of beats: {answer.status} {answer.body[:500]!r}")

    def fail(self, workers: range, *, per_s: float | None) -> list[str]:
        """Each says goodbye as after a crash, at this rate, open loop; None: as fast as it goes. The faults found."""
        start_s = monotonic_s()
        with ThreadPoolExecutor(SENDERS) as pool:
            jobs = [pool.submit(self._send, workers, sender, start_s, per_s) for sender in range(SENDERS)]
            return [fault for job in jobs for fault in job.result()]

    def _send(self, workers: range, sender: int, start_s: float, per_s: float | None) -> list[str]:
        body = json.dumps({"reason": "crash", "exit_code": 1, "error_message": "MemoryError: ended by the kernel"})
        faults: Counter[str] = Counter()
        connection = http.client.HTTPConnection(urlsplit(self._server.url).netloc, timeout=CALL_LIMIT_S)
        for number in range(sender, len(workers), SENDERS):
            if per_s is not None:
                time.sleep(max(start_s + number / per_s - monotonic_s(), 0))
            headers = {"authorization": f"Bearer {self._token(workers[number])}", "content-type": "application/json"}
            try:
                connection.request("POST", f"/api/v1/workers/{_name(workers[number])}/disconnect", body, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                faults[f"no answer: {error!r}"] += 1
            else:
                if answer.status != _NO_CONTENT:
                    faults[f"{answer.status} {text[:200]!r}"] += 1
        connection.close()
        return [f"{count} disconnects: {what}" for what, count in faults.items()]

    def _token(self, worker: int) -> str:
        tenant = TENANT if self._per_tenant is None else f"{TENANT}-{worker // self._per_tenant}"
        if tenant not in self._tokens:
            (self._tokens[tenant],) = minted(self._server.config, 1, tenant=tenant)
        return self._tokens[tenant]


def _name(worker: int) -> str:
    return f"bench-{worker}"


@dataclass(kw_only=True, slots=True)
class LagWatch:
    """How long ago the last sweep was, asked again and again in a thread of its own while it is entered."""

    server: Daemon
    longest_s: float = 0.0
    polls: int = 0
    faults: list[str] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(0.1):
            try:
                text = self.server.text("/metrics")
            except (OSError, http.client.HTTPException, BenchError) as error:
                self.faults.append(f"/metrics: {error!r}")
                return
            self.longest_s = max(self.longest_s, metric(text, "lastseen_sweep_lag_seconds"))
            self.polls += 1


def metric(text: str, name: str) -> float:
    """The value of one series in what ``/metrics`` answered; 0 when it is not there."""
    lines: Sequence[str] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0
