"""JSON answers: compact and not cacheable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from litestar.response.base import ASGIResponse

if TYPE_CHECKING:
    import msgspec

_T = TypeVar("_T")
JSON: Final = "application/json"
NO_STORE: Final = {"cache-control": "no-store"}
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def encoded(value: object) -> bytes:
    """Compact UTF-8 JSON."""
    return _encode(value).encode()


def json_answer(value: object, *, status_code: int = 200) -> ASGIResponse:
    """An answer with a JSON body."""
    return json_bytes_answer(encoded(value), status_code=status_code)


def json_bytes_answer(body: bytes, *, status_code: int = 200) -> ASGIResponse:
    """An answer whose body is already encoded JSON."""
    return ASGIResponse(body=body, status_code=status_code, headers=dict(NO_STORE), media_type=JSON)


def empty_answer() -> ASGIResponse:
    """204 No Content."""
    return ASGIResponse(status_code=204, headers=dict(NO_STORE))


def extended(kind: type[_T], base: msgspec.Struct, **more: Any) -> _T:
    """Copy ``base`` into ``kind``, which inherits from its type, with the members in ``more``."""
    return kind(**{name: getattr(base, name) for name in base.__struct_fields__}, **more)
