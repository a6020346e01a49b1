"""What a warm heartbeat costs, and a page, counted and not timed: calls in the daemon, commands and bytes at the store.

``python -m tests.costs`` prints it, with ``--write`` into ``costs.json``, against which ``test_costs.py`` holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import uvloop
from redis import Redis
from structlog.testing import capture_logs

from alerts.receivers.webhook import WebhookReceiver
from alerts.routing.routes import Route
from monitor.api.admission import Admission, BeatRates
from monitor.api.app import create_app
from monitor.api.fast_path import FastPath
from monitor.clock import wall_ms
from monitor.http.server import HttpServer, listen
from monitor.liveness import EventKind
from monitor.rate_limit import NS, Rate
from tests.support import api, daemons, servers, stores
from tests.support.alerts_daemons import Daemon
from tests.support.alerts_fakes import Clock, ListSource, event
from tests.support.fleets import BEAT

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDED: Final = Path(__file__).with_name("costs.json")
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
BEATS: Final = 1_000
WORKERS: Final = 50
AT_ONCE: Final = 25
ALERTS: Final = 100
POLL_S: Final = 0.3
"""Long, so that looks for work that is not there do not count for much."""
PATIENCE_S: Final = 30.0
_RATE: Final = Rate(per_s=1_000_000, burst=1_000_000)


class Counts:
    """What was called in this thread, and asked of the store, while it was entered."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._calls = {"call": 0, "c_call": 0}

    def __enter__(self) -> Self:
        self._before = self._at_the_store()
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._after = self._at_the_store()

    def each(self, number: int) -> dict[str, float]:
        """The counts, divided by ``number``."""
        total = {"python_calls": self._calls["call"], "c_calls": self._calls["c_call"]}
        total |= {name: after - self._before[name] for name, after in self._after.items()}
        return {name: round(value / number, 2) for name, value in total.items()}

    def _count(self, _frame: object, event: str, _argument: object) -> None:
        if event in self._calls:
            self._calls[event] += 1

    def _at_the_store(self) -> dict[str, int]:
        stats: Mapping[str, Any] = self._redis.info("stats")
        commands: Mapping[str, Any] = self._redis.info("commandstats")
        return {
            "store_commands": sum(command["calls"] for command in commands.values()),
            "store_bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
        }


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


def measured() -> dict[str, dict[str, float]]:
    """The costs of a beat, by how many there are at once, and of a page, on an embedded store."""
    found: dict[str, dict[str, float]] = {}
    for measure in (_beats, _alerts):
        with (
            servers.running(servers.valkey_binary()) as server,
            Redis.from_url(server.url) as redis,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            capture_logs(),  # what a line costs is a matter of the configuration
        ):
            found |= runner.run(measure(server.url, redis))
    return found


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
    hook = daemons.Receiver()
    hook.open()
    receiver = WebhookReceiver(name="ops", url=hook.url, secrets=(daemons.WEBHOOK_SECRET,), allow_private=True)
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


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.costs", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write it into {RECORDED.name}, for CPython {PYTHON}")
    found = measured()
    if parser.parse_args().write:
        recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
        RECORDED.write_text(json.dumps({**recorded, PYTHON: found}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))  # noqa: T201 - a command


if __name__ == "__main__":
    main()
