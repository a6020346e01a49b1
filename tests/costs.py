"""What a warm heartbeat costs, and a page, counted and not timed: calls in the daemon, and what the store is asked.

``store_calls`` are calls of functions: the round trips. ``store_commands`` counts the commands inside of them too.
``python -m tests.costs`` prints it, with ``--write`` into ``costs.json``, against which ``test_costs.py`` holds.
"""

import argparse
import asyncio
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from unittest import mock

import uvloop
from redis import Redis
from structlog.testing import capture_logs

from alerts.groups.flapping import Flapping
from alerts.groups.mass_failure import Rule
from alerts.receivers.webhook import WebhookReceiver
from alerts.rendering.payload import Wording
from alerts.routing.routes import Route
from alerts.service import AlertService, AlertSettings
from monitor.api.admission import Admission, BeatRates
from monitor.api.app import create_app
from monitor.api.fast_path import FastPath
from monitor.clock import wall_ms
from monitor.daemon.alerts import StoredFleet
from monitor.http.server import HttpServer, listen
from monitor.liveness import EventKind
from monitor.ownership import Bid, Ownership
from monitor.rate_limit import NS, Rate
from monitor.store.connection import Functions
from monitor.store.outbox import Outbox
from tests.support import api, daemons, servers, stores
from tests.support.alerts_daemons import Daemon
from tests.support.alerts_fakes import Clock, ListSource, Tally, event, until
from tests.support.fleets import BEAT

RECORDED: Final = Path(__file__).with_name("costs.json")
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
BEATS: Final = 1_000
WORKERS: Final = 50
AT_ONCE: Final = 25
ALERTS: Final = 100
ALONE: Final = 10
"""Deaths of which each is waited for."""
POLL_S: Final = 0.3
"""Long, so that looks for work that is not there do not count for much."""
SHORT_MS: Final = 5_000
"""Interval and grace: the clock is put on by both for a death, and webhooks may be five minutes ahead at most."""
NEVER_S: Final = 3_600.0
"""As a poll interval: only what is woken looks for work."""
PATIENCE_S: Final = 30.0
CALLS: Final = ("fcall", "fcall_ro")
"""Beats and alerts ask the store for nothing else: in the statistics a function's commands look like a client's."""
NOT_COUNTED: Final = ("wait", "waitaof", "info", "client|list")
"""Waits for the disk and for replicas, and the reading of the counts."""
_RATE: Final = Rate(per_s=1_000_000, burst=1_000_000)


class Counts:
    """What was called in this thread, and asked of the store by others, while it was entered: once or several times."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._id = str(redis.client_id())
        self._calls = {"call": 0, "c_call": 0}
        self._asked: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._asked.subtract(self._at_the_store())
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._asked.update(self._at_the_store())

    def each(self, number: int) -> dict[str, float]:
        """The counts, divided by ``number``."""
        total = {"python_calls": self._calls["call"], "c_calls": self._calls["c_call"], **self._asked}
        return {name: round(value / number, 2) for name, value in total.items()}

    def _count(self, _frame: object, event: str, _argument: object) -> None:
        if event in self._calls:
            self._calls[event] += 1

    def _at_the_store(self) -> dict[str, int]:
        others = [client for client in self._redis.client_list() if client["id"] != self._id]
        stats: Mapping[str, Any] = self._redis.info("commandstats")
        commands = {name.removeprefix("cmdstat_"): command["calls"] for name, command in stats.items()}
        return {
            "store_calls": sum(commands.get(name, 0) for name in CALLS),
            "store_commands": sum(calls for name, calls in commands.items() if name not in NOT_COUNTED),
            "store_bytes": sum(int(client["tot-net-in"]) + int(client["tot-net-out"]) for client in others),
        }


@contextmanager
def named() -> Iterator[Counter[str]]:
    """The functions of the store that were called meanwhile, by name."""
    called: Counter[str] = Counter()
    call = Functions.call

    async def counted(functions: Functions, send: Any, function: str, key: str, *args: Any) -> Any:
        library = functions._library.name.rpartition("_")[0]  # without the hash of its text
        called[f"{library}_{function}"] += 1
        return await call(functions, send, function, key, *args)

    with mock.patch.object(Functions, "call", counted):
        yield called


class Clients:
    """Connections in a thread of their own, so that what they do is not counted."""

    def __init__(self, port: int, token: str, loop: asyncio.AbstractEventLoop) -> None:
        self._address = ("127.0.0.1", port)
        self._head = f"POST {BEAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n".encode()
        self._loop = loop
        self._number = 1_000_000
        """Of the next beat: all have as many digits."""

    def beat(self, count: int, at_once: int) -> None:
        """Send ``count`` beats, ``at_once`` of them on connections of their own before any is read."""
        with ExitStack() as stack:
            connections = [
                stack.enter_context(socket.create_connection(self._address, PATIENCE_S)) for _ in range(at_once)
            ]
            for _ in range(count // at_once):
                looking, may_look = threading.Event(), threading.Event()
                self._loop.call_soon_threadsafe(_wait, looking, may_look)
                looking.wait(PATIENCE_S)
                for connection in connections:
                    connection.sendall(self._request())
                may_look.set()
                for connection in connections:
                    answer = b""
                    while not answer.endswith(b"\r\n\r\n"):
                        answer += connection.recv(65_536)
                    assert answer.startswith(b"HTTP/1.1 204 "), answer

    def _request(self) -> bytes:
        self._number += 1
        body = {
            "worker_id": f"worker-{self._number % WORKERS:02}",
            "environment_name": "prod",
            "tasks_processed": self._number,
        }
        data = json.dumps(body).encode()
        return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (self._head, len(data), data)


def _wait(looking: threading.Event, may_look: threading.Event) -> None:
    looking.set()
    may_look.wait(PATIENCE_S)


def measured() -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The costs of a beat, by how many there are at once, and of a page, in a burst and alone, on an embedded store.

    And the functions that a page alone calls, by name.
    """
    found: dict[str, dict[str, float]] = {}
    functions: Counter[str] = Counter()
    for measure in (_beats, _alerts, partial(_alone, functions=functions)):
        with (
            servers.running(servers.valkey_binary()) as server,
            Redis.from_url(server.url) as redis,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            capture_logs(),  # what a line costs is a matter of the configuration
        ):
            found |= runner.run(measure(server.url, redis))
    return found, {name: round(calls / ALONE, 2) for name, calls in sorted(functions.items())}


async def _beats(url: str, redis: Redis) -> dict[str, dict[str, float]]:
    async with stores.opened(url) as store:
        admission = Admission(BeatRates(worker=_RATE, tenant=_RATE, batch=10_000), now_ns=lambda: NS)
        services = api.make_services(store, admission=admission)
        server = HttpServer(
            create_app(services), connections=1_000, shutdown_timeout_ms=1_000, fast_path=FastPath(services)
        )
        listener = listen("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.accepting.wait()
        loop = asyncio.get_running_loop()
        clients = Clients(listener.getsockname()[1], api.token(store.clock.now_ms()), loop)
        found = {}
        for at_once in (1, AT_ONCE):
            await loop.run_in_executor(None, clients.beat, 4 * WORKERS, at_once)
            with Counts(redis) as counts:
                await loop.run_in_executor(None, clients.beat, BEATS, at_once)
            found[f"a beat, {at_once} at once"] = counts.each(BEATS)
        server.should_exit = True
        await serving
        await services.intake.drain()
        return found


async def _alerts(url: str, redis: Redis) -> dict[str, dict[str, float]]:
    """From the event of a death, which a list gives, to the answer of a webhook in another thread."""
    hook, receiver = _webhook()
    route = Route(receivers=("ops",), events=frozenset(EventKind), repeat_interval_ms=0)
    source = ListSource([])
    daemon = Daemon(url, [receiver], source, Clock(wall_ms()), [route], poll_s=POLL_S)
    await daemon.service.start()

    async def die(prefix: str) -> None:
        first = len(source.stream) + 1
        source.stream += [
            event(worker_id=f"{prefix}-{number}", position=f"{number}-0") for number in range(first, first + ALERTS)
        ]
        async with asyncio.timeout(PATIENCE_S):
            while daemon.outcomes.total() < len(source.stream):  # noqa: ASYNC110 - outcomes are counted, not waited for
                await asyncio.sleep(POLL_S)

    try:
        await die("warm")
        with Counts(redis) as counts:
            await die("cold")
    finally:
        await daemon.service.stop(0)
        hook.close()
    assert not hook.bad, hook.bad
    return {"a page": counts.each(ALERTS)}


async def _alone(url: str, redis: Redis, *, functions: Counter[str]) -> dict[str, dict[str, float]]:
    """From the wakeup after the sweep that found a death to the recorded answer of a webhook, and what follows.

    One worker of a fleet dies at a time, long after the one before: no batch is shared, no mass failure suspected.
    """
    hook, receiver = _webhook()
    fleet = [f"w{number}" for number in range(10 * ALONE)]
    tally, clock = Tally(), stores.ManualClock(url)
    async with stores.opened(url) as store:
        ownership = Ownership(store.settings.daemon, 1, sweep_interval_s=1.0)

        async def beat() -> int:
            beats = [stores.beat(worker, interval_ms=SHORT_MS, grace_ms=SHORT_MS) for worker in fleet]
            return (await store.beat(0, beats)).now_ms

        last_ms = await beat()
        service = AlertService(
            AlertSettings(
                receivers=[receiver],
                routes=[Route(receivers=("ops",))],
                wording=Wording(public_url="", redact=()),
                rule=Rule(),
                flapping=Flapping(),
            ),
            store=stores.alert_store(url),
            source=Outbox(store, ownership),
            partitions=1,
            fleet=StoredFleet(store.inside()),
            now_ms=store.clock.now_ms,
            counts=tally,
            poll_s=NEVER_S,
        )

        async def die() -> None:
            nonlocal last_ms
            fleet.pop()
            for later_ms in (2 * SHORT_MS - 1_000, 2 * SHORT_MS):  # the others are never late at a deadline
                await clock.set(last_ms + later_ms)
                now_ms = await beat()
            last_ms = now_ms
            assert len((await store.sweep(0, limit=10)).moved) == 1
            ownership.note(0, Bid.OWN, await store.lease(0, bid=Bid.OWN))

        async def page() -> None:
            known = tally.outcomes.total()
            service.wakeup()
            await until(lambda: tally.outcomes.total() > known)
            await asyncio.sleep(POLL_S)  # for what is looked for after it

        await service.start()
        try:
            await asyncio.sleep(POLL_S)  # until the registrations are routed, and every loop waits to be woken
            await die()
            await page()  # opens the connections
            counts = Counts(redis)
            for _ in range(ALONE):
                await die()
                with counts, named() as called:
                    await page()
                functions.update(called)
        finally:
            await service.stop(0)
            hook.close()
    assert not hook.bad, hook.bad
    assert set(tally.outcomes) == {("ops", "delivered")}, tally.outcomes
    # How often a call waits in Python for an answer that may be there already depends on the machine.
    return {"a page alone": {name: each for name, each in counts.each(ALONE).items() if name.startswith("store_")}}


def _webhook() -> tuple[daemons.Receiver, WebhookReceiver]:
    """A server that takes webhooks in a thread of its own, and the receiver for it."""
    hook = daemons.Receiver()
    hook.open()
    return hook, WebhookReceiver(name="ops", url=hook.url, secrets=(daemons.WEBHOOK_SECRET,), allow_private=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write it into {RECORDED.name}, for CPython {PYTHON}")
    found, functions = measured()
    if parser.parse_args().write:
        recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
        RECORDED.write_text(json.dumps({**recorded, PYTHON: found}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({**found, "functions called for a page alone": functions}, indent=2))  # noqa: T201 - a command


if __name__ == "__main__":
    main()
