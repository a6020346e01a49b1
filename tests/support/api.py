"""The whole HTTP side over a real store, for tests: in process, and behind a real server."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import uvicorn
from litestar.types import ASGIApp

from monitor.api.admission import Admission, BeatRates
from monitor.api.app import create_app
from monitor.api.contract.limits import BeatLimits
from monitor.api.rejected_beats import RejectedBeats
from monitor.api.services import Services
from monitor.api.shared import Shared
from monitor.auth import Authenticator, AuthPolicy, Scope, VerifyingKey, mint
from monitor.daemon.oncall.routes import oncall_router
from monitor.health import Health
from monitor.intake.backlog import Graces
from monitor.intake.batches import BatchIntake
from monitor.intake.queue import Intake
from monitor.metrics.registry import DeliveryLabels, Metrics
from monitor.store import Store
from tests.support import oncall, stores

KEY: Final = VerifyingKey(kid="k1", algorithm="HS256", key=b"k" * 32)
OTHER_KEY: Final = VerifyingKey(kid="k1", algorithm="HS256", key=b"o" * 32)
POLICY: Final = AuthPolicy(keys=(KEY,), audience="lastseen", issuer="tests", leeway_s=5, tenant_claim="org_id")
BODY_BYTES: Final = 65_536
BEAT: Final = "/api/v1/workers/heartbeat"
WORKERS: Final = "/api/v1/workers"
SWEEP_INTERVAL_MS: Final = 1_000


def token(now_ms: int, tenant: str = "acme", **changes: Any) -> str:
    """A token with every scope that a tenant has, unless changed."""
    values: dict[str, Any] = {
        "key": KEY,
        "tenant": tenant,
        "tenant_claim": "org_id",
        "subject": "tests",
        "scopes": tuple(scope for scope in Scope if scope is not Scope.OPERATOR),
        "now_ms": now_ms,
        "expires_in_ms": 3_600_000_000,
        "audience": "lastseen",
        "issuer": "tests",
        "token_id": "t1",
    }
    return mint(**{**values, **changes})


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """A running HTTP side. ``client`` sends a token of tenant ``acme`` with every scope."""

    app: ASGIApp
    services: Services
    store: Store
    clock: stores.ManualClock
    client: httpx2.AsyncClient
    alerts: oncall.Alerts

    def auth(self, tenant: str = "acme", **changes: Any) -> dict[str, str]:
        """Headers with another token."""
        return {"authorization": f"Bearer {token(self.store.clock.now_ms(), tenant, **changes)}"}

    async def beat(
        self, worker_id: str, environment_name: str = "prod", *, tenant: str = "acme", **fields: Any
    ) -> httpx2.Response:
        """Post a beat in the published form."""
        body = {"worker_id": worker_id, "environment_name": environment_name, **fields}
        return await self.client.post(BEAT, json=body, headers=self.auth(tenant))

    async def json(self, path: str, **headers: str) -> Any:
        """The body of a GET that must be answered 200."""
        answer = await self.client.get(path, headers=headers or None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def sweep(self) -> None:
        """Sweep every partition to its end."""
        for partition in range(self.store.partitions):
            while (await self.store.sweep(partition, limit=1_000)).more:
                pass

    async def advance(self, ms: int) -> None:
        """Move the store's clock forward."""
        await self.clock.set(self.store.clock.now_ms() + ms)

    async def ids(self, query: str = "", **headers: str) -> list[str]:
        """The ids in the list, over all its pages."""
        found: list[str] = []
        cursor = ""
        for _ in range(10_000):
            page = await self.json(f"{WORKERS}?{query}{cursor}", **headers)
            found += [worker["worker_id"] for worker in page["workers"]]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"
        raise AssertionError("the list has no end")


def make_services(
    store: Store, *, anonymous: Iterable[str] = (), sweep_interval_ms: int = SWEEP_INTERVAL_MS, **changes: Any
) -> Services:
    """The collaborators as the daemon would make them."""
    metrics = Metrics(version="test", labels=DeliveryLabels(receivers=("ops",), outcomes=("delivered",)))
    values: dict[str, Any] = {
        "store": store,
        "intake": Intake(store, capacity=1_000, on_moved=metrics.moved),
        "batches": BatchIntake(store, graces=Graces(store.settings.graces_ms), on_moved=metrics.moved),
        "admission": Admission(BeatRates(worker=None, tenant=None, batch=10_000)),
        "rejected_beats": RejectedBeats(lambda _: None),
        "authenticator": Authenticator(POLICY),
        "body_bytes": BODY_BYTES,
        "shared": Shared(body_bytes=67_108_864, batch_bytes=268_435_456),
        "batch_bytes": 16_777_216,
        "batch_beats": 10_000,
        "beat_limits": BeatLimits(
            metadata_bytes=16_384,
            logs_bytes=16_384,
            system_info_bytes=16_384,
            min_interval_ms=1_000,
            max_interval_ms=86_400_000,
            min_grace_ms=1_000,
            max_grace_ms=86_400_000,
        ),
        "health": (health := Health(sweep_interval_ms=sweep_interval_ms, probe=store.takes_beats)),
        "metrics": metrics,
        "anonymous": frozenset(anonymous),
    }
    health.judges_sweeps_from_s = -math.inf  # as in a daemon that started a while ago
    return Services(**{**values, **changes})


def in_process(app: ASGIApp, headers: dict[str, str]) -> httpx2.AsyncClient:
    """A client of an app in this process."""
    transport = httpx2.ASGITransport(app=app)  # type: ignore[arg-type]  # two spellings of the ASGI types
    return httpx2.AsyncClient(transport=transport, base_url="http://lastseen", headers=headers)


@asynccontextmanager
async def running(
    url: str,
    *,
    services: dict[str, Any] | None = None,
    receivers: Mapping[str, Sequence[str]] | None = None,
    **settings: Any,
) -> AsyncIterator[Api]:
    """The app in process, over a store with these settings, and receivers of these names, each with its tenants."""
    async with stores.opened(url, **settings) as store, oncall.opened(url, receivers) as alerts:
        made = make_services(store, **(services or {}))
        app = create_app(made, oncall_router(made, alerts))
        headers = {"authorization": f"Bearer {token(store.clock.now_ms())}"}
        async with in_process(app, headers) as client:
            clock = stores.ManualClock(url, store.partitions)
            yield Api(app=app, services=made, store=store, clock=clock, client=client, alerts=alerts)
            await made.intake.drain()


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[int]:
    """A real server on a free port of the loopback; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", ws="none", http="httptools", loop="none"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
                await asyncio.sleep(0)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        listener.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class RawAnswer:
    """An answer read from a raw connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


async def raw(port: int, head: str, chunks: Iterable[bytes] = ()) -> RawAnswer:
    """Send a request byte for byte, whole, and only then read the one answer, as simple clients do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            writer.write(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in answer[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
    finally:
        writer.close()
    return RawAnswer(status=int(answer[0].split()[1]), headers=headers, body=body)
