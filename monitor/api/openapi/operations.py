"""Building blocks of operations in the OpenAPI document: answers, problems, parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.api.batch import JSON_LINES
from monitor.api.openapi.components import Schema, ref
from monitor.auth import Refusal, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PROBLEM: Final = {"application/problem+json": {"schema": ref("Problem")}}
SECONDS: Final[Schema] = {"schema": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}}
_RETRY_AFTER: Final[Schema] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_PROBLEMS: Final[dict[str, Schema]] = {
    "400": {"description": "The Host header is invalid"},
    "401": {
        "description": "The token is invalid; `reason` is one of " + ", ".join(f"`{word}`" for word in Refusal),
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    },
    "403": {"description": "The token lacks the scope, or is restricted to other workers or environments"},
    "404": {"description": "Not found, or not visible to this token"},
    "408": {"description": "The body did not arrive within 10 s"},
    "409": {"description": "The current state does not allow this; the detail says why"},
    "413": {"description": "The body is over a limit; the detail names it"},
    "415": {"description": "The media type or the encoding of the body is not supported"},
    "422": {"description": "A query parameter or the body is invalid; the detail names the field and the reason"},
    "429": {"description": "A quota or a rate limit is reached; the detail names it", "headers": _RETRY_AFTER},
    "500": {"description": "Internal error; see the server log"},
    "503": {"description": "The store is unavailable or overloaded; nothing is acknowledged", "headers": _RETRY_AFTER},
}
_EVERYWHERE: Final = ("400", "500")
AUTH: Final = ("401", "403")
READ_ONE: Final = (*AUTH, "404", "503")


def answer(description: str, name: str) -> Schema:
    """An answer that is JSON of this schema."""
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}


def responses(
    success: Schema, problems: Iterable[str], *, code: str = "200", contract: bool = False
) -> dict[str, Schema]:
    """The answers of an operation: ``success`` under ``code``, and problems by their status.

    ``contract``: with 422 in the published shape.
    """
    failures = {key: {**_PROBLEMS[key], "content": _PROBLEM} for key in sorted({*problems, *_EVERYWHERE})}
    if contract:
        failures["422"] = answer("Validation Error", "HTTPValidationError")
    return {code: success, **failures}


def described_scope(scope: Scope, *, operator: bool = False) -> str:
    """The scope that an operation needs, in words. ``operator``: that scope is accepted too."""
    either = f", or `{Scope.OPERATOR.value}` for the data of any tenant" if operator else ""
    return f"Scope: `{scope.value}`{either}."


def operation(
    name: str,
    summary: str,
    success: Schema,
    problems: Iterable[str],
    *,
    scope: Scope = Scope.WORKERS_READ,
    parameters: Sequence[Schema] = (),
    body: Schema | None = None,
    lines: Schema | None = None,
    code: str = "200",
    contract: bool = False,
) -> Schema:
    """One method of a path. ``lines``: schema of a line of a JSON lines body.

    Other arguments as for ``responses``.
    """
    made: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": responses(success, problems, code=code, contract=contract),
        "description": described_scope(scope),
    }
    if parameters:
        made["parameters"] = [*parameters]
    if body is not None:
        content: Schema = {"application/json": {"schema": body}}
        if lines is not None:
            content |= {kind: {"schema": lines} for kind in JSON_LINES}
        made["requestBody"] = {"required": True, "content": content}
    return made


NO_CONTENT: Final[Schema] = {"description": "Done"}
