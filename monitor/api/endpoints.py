"""Typed endpoints: the signature of a handler declares its parameters, its body and its answer.

Litestar reads and converts them, and ``openapi`` describes them. Added here: who may call (the guard), limits of a
body, strictness (an unknown or repeated parameter and an unknown member of a body are refused), errors that name the
parameter and its value, decoded path segments, and OPTIONS for all methods of a path. Requests of workers have no typed
endpoints: their contract is published, and they are hot.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast, get_args, get_origin
from urllib.parse import unquote

import msgspec
from litestar import Request, Router, route
from litestar.connection import ASGIConnection
from litestar.datastructures import CacheControlHeader, State
from litestar.enums import HttpMethod
from litestar.exceptions import ClientException, ValidationException
from litestar.handlers import HTTPRouteHandler
from litestar.handlers.base import BaseRouteHandler
from litestar.params import ParameterKwarg, PathParameter, QueryParameter
from litestar.response import Response
from litestar.types import Empty
from litestar.typing import FieldDefinition
from litestar.utils.typing import make_non_optional_union

from monitor.api.errors import ParameterError, UnreadableBodyError
from monitor.api.json_body import decoded
from monitor.api.problems import answer_error
from monitor.api.query import query_pairs
from monitor.api.requests import caller, headers_of, read_body
from monitor.api.services import Services
from monitor.auth import Principal, Scope
from monitor.pace import in_pieces
from monitor.shares import Holding

_T = TypeVar("_T")
MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100
MAX_BODY_BYTES: Final = 65_536

Caller: TypeAlias = Request[Principal, Any, State]
"""The request of an authenticated caller: ``user`` is its principal."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

Cursor: TypeAlias = Annotated[
    str | None, QueryParameter(description="The `next_cursor` of the previous page, with the same filters.")
]
Limit: TypeAlias = Annotated[
    int,
    QueryParameter(
        ge=1, le=MAX_LIMIT, description="Maximum items of a page; a page may be shorter although more follow."
    ),
]


def path_id(description: str) -> PathParameter:
    """A path parameter that is an id or a name. Any text is accepted: what does not exist is not found."""
    return PathParameter(description=description, schema_extra={"min_length": 1, "max_length": 256})


def any_of(description: str, *, name: str | None = None) -> QueryParameter:
    """A query parameter that may be repeated. ``name``: that in the request, if the handler calls it otherwise."""
    return QueryParameter(name=name, description=f"{description} Repeated: any of them.", max_items=20)


async def in_json(form: Callable[[_T], msgspec.Struct], items: Sequence[_T]) -> list[Any]:
    """Convert and encode the items of a list in pieces (P29). The answer has them as they are, as ``msgspec.Raw``."""
    encode = msgspec.json.encode
    return [msgspec.Raw(one) for one in await in_pieces(lambda some: [encode(form(one)) for one in some], items)]


def needs(
    scope: Scope, *, operator: bool = False, problems: tuple[int, ...] = (), polled: bool = False
) -> dict[str, Any]:
    """The ``opt`` of a handler: who may call it, and its problems beyond those that follow from its signature.

    ``operator``: that scope is accepted too, for the data of any tenant. ``polled``: its answers have a tag.
    """
    return {"scope": scope, "operator": operator, "problems": problems, "polled": polled}


def typed_router(services: Services, handlers: Sequence[HTTPRouteHandler]) -> Router:
    """The router of typed endpoints."""

    # A coroutine, because Litestar runs other guards in a thread.
    async def admit(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Authenticate the caller, check its scope and the names of the parameters, and decode the path's segments."""
        scope: Scope | None = handler.opt["scope"]
        if scope is None:
            return
        connection.scope["user"] = caller(connection.scope, services, scope, operator=handler.opt["operator"])
        _check_query(connection, handler)
        # Invalid UTF-8 becomes a text that no name equals.
        connection.scope["path_params"] = {
            name: unquote(value).encode(errors="replace").decode() for name, value in connection.path_params.items()
        }

    class BoundedRequest(Request[Principal, Any, State]):
        """A request whose body is limited in size, time and memory, and parsed strictly."""

        async def body(self) -> bytes:
            if self._body is Empty:
                headers, most = headers_of(self.scope), min(services.body_bytes, MAX_BODY_BYTES)
                with Holding(services.shared.bodies, self.user.tenant) as held:
                    self._body = await read_body(self.receive, headers, most, held=held)
                if not self._body and self._declared.is_required:
                    raise UnreadableBodyError("the body can't be used: it is empty")
            return self._body

        async def json(self) -> Any:
            return decoded(await self.body(), headers_of(self.scope), self._declared.annotation)

        @property
        def _declared(self) -> FieldDefinition:
            return cast("FieldDefinition", self.route_handler.parsed_data_field)

    return Router(
        "/",
        route_handlers=[*_options(handlers), *handlers],
        guards=[admit],
        request_class=BoundedRequest,
        cache_control=CacheControlHeader(no_store=True),
        exception_handlers={ValidationException: _answer_invalid},
    )


def _options(handlers: Sequence[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """The answer to OPTIONS of each path. Litestar's names only the methods of the first handler of a path."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {HttpMethod.OPTIONS}).update(handler.http_methods)
    return [_options_of(path, ", ".join(sorted(allowed))) for path, allowed in methods.items()]


def _options_of(path: str, allowed: str) -> HTTPRouteHandler:
    @route(path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False, opt={"scope": None})
    async def options() -> Response[None]:
        return Response(None, status_code=204, headers={"allow": allowed})

    return options


def _check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse unknown, repeated and missing query parameters: a misspelled filter must not widen a list."""
    known = {
        field.kwarg_definition.name or name: field
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }
    given: set[str] = set()
    for name, value in query_pairs(connection.scope):
        if name not in known:
            raise ParameterError(name, value, f"known parameters: {', '.join(known) or 'none'}")
        if name in given and not known[name].is_non_string_sequence:
            raise ParameterError(name, value, "it is given more than once")
        given.add(name)
    for name, field in known.items():
        if field.is_required and name not in given:
            raise ParameterError(name, "", "a value is expected")
    if given:
        try:
            _ = connection.url  # Litestar needs it for the error about a value
        except ValueError:
            raise ClientException("the Host header is invalid") from None


def _answer_invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    """The answer to a parameter that Litestar could not convert."""
    fields = request.route_handler.parsed_fn_signature.parameters
    for item in error.extra if isinstance(error.extra, list) else ():
        field = fields.get(str(item.get("key", "")).partition(".")[0])
        if field is not None and isinstance(field.kwarg_definition, ParameterKwarg):
            name = field.kwarg_definition.name or field.name
            values = [value for other, value in query_pairs(request.scope) if other == name]
            expected = _expected(field, values) or str(item["message"])
            return answer_error(request, ParameterError(name, ", ".join(values), expected))
    return answer_error(request, error)


def _expected(field: FieldDefinition, values: Sequence[str]) -> str | None:
    """What a parameter must be, where that says more than the message of the conversion."""
    kind, definition = field.annotation, field.kwarg_definition
    if field.is_optional:
        kind = make_non_optional_union(kind)
    if get_origin(kind) is list:
        [kind] = get_args(kind)
    words: tuple[str, ...] = ()
    if get_origin(kind) is Literal:
        words = get_args(kind)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        words = tuple(sorted(one.value for one in kind))
    if words and not set(values) <= set(words):
        return f"one of {', '.join(words)} is expected"
    if kind is int and isinstance(definition, ParameterKwarg) and definition.le is not None:
        return f"an integer from {definition.ge} to {definition.le} is expected"
    return None
