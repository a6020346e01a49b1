"""JSON answers: compact and not cacheable."""

from typing import Any, Final, TypeVar

import msgspec
from litestar.response.base import ASGIResponse

_T = TypeVar("_T")
JSON: Final = "application/json"
NO_STORE: Final = {"cache-control": "no-store"}


def json_answer(value: object, *, status_code: int = 200) -> ASGIResponse:
    """An answer with a JSON body."""
    body = msgspec.json.encode(value)
    return ASGIResponse(body=body, status_code=status_code, headers=dict(NO_STORE), media_type=JSON)


def extended(kind: type[_T], base: msgspec.Struct, **more: Any) -> _T:
    """Copy ``base`` into ``kind``, which inherits from its type, with the members in ``more``."""
    return kind(**msgspec.structs.asdict(base), **more)
