"""Describes typed endpoints: operations by Litestar, schemas by msgspec, both from the handlers' signatures."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Litestar, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.routes import HTTPRoute

from monitor.api.batch import BatchAnswer
from monitor.api.health import Probe
from monitor.api.openapi.components import AUTH, BODY, Schema, described_scope, make_polled, responses
from monitor.api.workers import WorkerDetail


def described(routers: Sequence[Router]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The paths and the schemas of typed endpoints.

    Litestar's schemas of Structs lose formats and constraints, so msgspec's, which have the same names, replace them.
    """
    config = OpenAPIConfig(
        title="Lastseen",
        version="",
        create_examples=False,
        operation_id_creator=lambda handler, *_: handler.handler_name,
    )
    app = Litestar(routers, openapi_config=config, logging_config=None)
    document: dict[str, Any] = app.openapi_schema.to_schema()
    paths = document["paths"]
    types: list[Any] = [BatchAnswer, Probe, WorkerDetail]  # answers of operations that are described by hand
    for route in app.routes:
        if not isinstance(route, HTTPRoute) or route.path_format not in paths:
            continue
        for method, (handler, _) in route.route_handler_map.items():
            if handler.opt.get("scope") is not None:
                _complete(paths[route.path_format][method.lower()], handler)
                types += _types_of(handler)
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return paths, {**document["components"]["schemas"], **schemas}


def _types_of(handler: HTTPRouteHandler) -> list[Any]:
    answer, body = handler.parsed_fn_signature.return_type, handler.parsed_data_field
    return [one.annotation for one in (answer, body) if one is not None and one.is_subclass_of(msgspec.Struct)]


def _complete(operation: dict[str, Any], handler: HTTPRouteHandler) -> None:
    """Add what Litestar does not know: the scope, the problems, and that a body may be left out."""
    body, code = handler.parsed_data_field, str(handler.status_code)
    success = {name: value for name, value in operation["responses"][code].items() if name != "headers"}
    problems = {*AUTH, "422", "503", *map(str, handler.opt["problems"])}
    if "{" in next(iter(handler.paths)):
        problems.add("404")
    if body is not None:
        operation["requestBody"]["required"] = not body.has_default
        problems |= set(BODY)
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _never_null(parameter["schema"])
    operation["description"] = described_scope(handler.opt["scope"], operator=handler.opt["operator"])
    operation["responses"] = responses(success, problems, code=code)
    if handler.opt.get("polled"):
        make_polled(operation)


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is ``None`` if it is left out: in a request it is never null."""
    rest = {name: value for name, value in schema.items() if name != "oneOf"}
    [kind] = [one for one in schema.get("oneOf", [{}]) if one != {"type": "null"}]
    return {**kind, **rest}
