"""The OpenAPI document: it is the contract, it names every route, and what it allows is answered as it says."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from monitor.api.app import create_router, typed_endpoints
from monitor.api.openapi.components import CONTRACT
from monitor.api.openapi.document import document
from monitor.daemon.oncall.routes import oncall_router
from tests.support import api, servers
from tests.support.openapi import surface


class NoServices:
    """Handlers are declared with it: they name services when they are declared, and use them when they are called."""

    def __getattr__(self, _: str) -> "NoServices":
        return self


_NONE: Final[Any] = NoServices()
DOCUMENT: Final = json.loads(json.dumps(document([typed_endpoints(_NONE), oncall_router(_NONE, _NONE)])))
METHODS: Final = frozenset({"get", "post", "put", "patch", "delete"})
OPERATIONS: Final = sorted(
    (path, method) for path, item in DOCUMENT["paths"].items() for method in item if method in METHODS
)
EXAMPLES: Final = 12
SURFACE: Final = Path(__file__).with_name("surface.txt")


@pytest.mark.parametrize("store_url", ["valkey"], indirect=True)
async def test_the_document_names_the_routes_that_there_are(store_url: str) -> None:
    async with api.running(store_url) as lastseen:
        router = oncall_router(lastseen.services, lastseen.alerts)
        routes = create_router(lastseen.services, [router]).routes
        served = {
            (route.path.replace(":str}", "}"), method.lower())
            for route in routes
            for method in getattr(route, "methods", ())
            if method != "OPTIONS"
        }
        answer = await lastseen.json("/schema/openapi.json")
    assert served == set(OPERATIONS)
    assert answer == DOCUMENT
    assert answer["openapi"] == "3.1.0"
    assert answer["info"]["title"] == "Lastseen"


def test_the_api_that_is_served_is_the_one_on_record() -> None:
    # `python -m tests.api.test_schema > tests/api/surface.txt` after a change that is meant.
    assert surface(DOCUMENT) == SURFACE.read_text("utf-8").splitlines()


def test_every_reference_in_the_document_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    named = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert named == set(DOCUMENT["components"]["schemas"])
    assert "cdn" not in text


def test_the_contracts_components_are_as_published() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert {name: schemas[name] for name in CONTRACT} == CONTRACT
    assert schemas["WorkerHeartbeatRequest"]["required"] == ["worker_id", "environment_name"]
    assert set(schemas["WorkerHeartbeatRequest"]["properties"]) == {
        *("worker_id", "environment_name", "status", "tasks_processed", "current_task_id", "worker_metadata")
    }
    post = DOCUMENT["paths"][api.BEAT]["post"]
    assert post["operationId"] == "worker_heartbeat_api_v1_workers_heartbeat_post"
    assert post["responses"]["422"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/HTTPValidationError"
    }


@contextmanager
def _served() -> Iterator[tuple[str, dict[str, str]]]:
    """The app on a loop and a server of its own, for a client that blocks; (its URL, headers with a token)."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="lastseen")
    thread.start()
    stack = AsyncExitStack()

    unhurried = {"sweep_interval_ms": 3_600_000}

    async def start(url: str) -> tuple[str, dict[str, str]]:
        running = await stack.enter_async_context(api.running(url, services=unhurried, workers_per_tenant=50))
        await running.sweep()
        await running.beat("w", status="busy", worker_metadata={"a": 1}, logs=["x"], system_info={"pid": 1})
        port = await stack.enter_async_context(api.served(running.app))
        return f"http://127.0.0.1:{port}", running.auth()

    with servers.running(servers.valkey_binary()) as server:
        try:
            yield asyncio.run_coroutine_threadsafe(start(server.url), loop).result(30)
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[str, dict[str, str]]]:
    with _served() as served:
        yield served


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_what_the_document_allows_is_answered_as_it_says(
    live: tuple[str, dict[str, str]], path: str, method: str, mode: GenerationMode
) -> None:
    url, headers = live
    operation: Any = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        return

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered(case: Any) -> None:
        case.call_and_validate(
            base_url=url,
            headers=headers,
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_headers_conformance,
                response_schema_conformance,
            ],
        )

    answered()


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in surface(DOCUMENT))
