"""How operations are written down in the OpenAPI document: answers, problems, parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.api.batch import JSON_LINES
from monitor.api.openapi.components import Schema, ref
from monitor.api.query import DEFAULT_LIMIT, MAX_LIMIT
from monitor.auth import Refusal, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PROBLEM: Final = {"application/problem+json": {"schema": ref("Problem")}}
SECONDS: Final[Schema] = {"schema": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}}
_RETRY_AFTER: Final[Schema] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_PROBLEMS: Final[dict[str, Schema]] = {
    "400": {"description": "The Host header cannot be used"},
    "401": {
        "description": "The token is not good; `reason` is one of " + ", ".join(f"`{word}`" for word in Refusal),
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    },
    "403": {"description": "The token lacks the scope, or is restricted to other workers or environments"},
    "404": {"description": "There is no such thing, or none that this token may see"},
    "408": {"description": "The body did not come within 10 s"},
    "409": {"description": "It can't be done with the thing as it stands now; the detail says why"},
    "413": {"description": "The body is over its limit; the detail names it"},
    "415": {"description": "The body comes in a type or an encoding that is not taken"},
    "422": {"description": "A query parameter or the body cannot be used; the detail says what of it, and why"},
    "429": {"description": "A quota or a rate is reached; the detail names it", "headers": _RETRY_AFTER},
    "500": {"description": "An error of ours"},
    "503": {"description": "The store cannot take this now; nothing was acknowledged", "headers": _RETRY_AFTER},
}
_EVERYWHERE: Final = ("400", "500")
AUTH: Final = ("401", "403")
READ: Final = (*AUTH, "422", "503")
READ_ONE: Final = (*AUTH, "404", "503")


def answer_of(name: str) -> Schema:
    """Content that is JSON of this schema."""
    return {"application/json": {"schema": ref(name)}}


def answer(description: str, name: str) -> Schema:
    """An answer that is JSON of this schema."""
    return {"description": description, "content": answer_of(name)}


def responses(
    success: Schema, problems: Iterable[str], *, code: str = "200", contract: bool = False
) -> dict[str, Schema]:
    """The answers of an operation: ``success`` under ``code``, and problems by their status.

    ``contract``: with 422 in the published shape.
    """
    told = {key: {**_PROBLEMS[key], "content": _PROBLEM} for key in sorted({*problems, *_EVERYWHERE})}
    if contract:
        told["422"] = answer("Validation Error", "HTTPValidationError")
    return {code: success, **told}


def operation(
    name: str,
    summary: str,
    success: Schema,
    problems: Iterable[str] = READ,
    *,
    scope: Scope = Scope.WORKERS_READ,
    operator: bool = False,
    parameters: Sequence[Schema] = (),
    body: Schema | None = None,
    body_required: bool = True,
    lines: Schema | None = None,
    code: str = "200",
    contract: bool = False,
) -> Schema:
    """One method of a path. ``operator``: that scope will do, too. ``lines``: the body may come as lines, too.

    The others as for ``responses``.
    """
    either = f", or `{Scope.OPERATOR.value}` for what belongs to any tenant" if operator else ""
    made: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": responses(success, problems, code=code, contract=contract),
        "description": f"Scope: `{scope.value}`{either}.",
    }
    if parameters:
        made["parameters"] = [*parameters]
    if body is not None:
        content: Schema = {"application/json": {"schema": body}}
        if lines is not None:
            content |= {kind: {"schema": lines} for kind in JSON_LINES}
        made["requestBody"] = {"required": body_required, "content": content}
    return made


def query(name: str, description: str, schema: Schema) -> Schema:
    """A parameter that may be left out."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def any_of(name: str, description: str, words: Iterable[str] | None = None) -> Schema:
    """A parameter that may be given several times."""
    item: Schema = {"type": "string"} if words is None else {"type": "string", "enum": list(words)}
    schema: Schema = {"type": "array", "items": item, "maxItems": 20}
    return {**query(name, f"{description} Repeated: any of them.", schema), "style": "form", "explode": True}


CURSOR: Final = query("cursor", "The `next_cursor` of the page before, with the same filters.", {"type": "string"})
LIMIT: Final = query(
    "limit",
    "At most this many; a page may be shorter although more follow.",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
)
NO_CONTENT: Final[Schema] = {"description": "Done"}
