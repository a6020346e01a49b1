"""JSON answers, compact and uncacheable, and the members that several of them share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import msgspec
from litestar.response.base import ASGIResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from monitor.health import MonitorState

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


def encoded_list_answer(name: str, items: Iterable[bytes], *, cursor: str | None, state: MonitorState) -> ASGIResponse:
    """A page of a list whose items are already encoded JSON."""
    rest = encoded({"next_cursor": cursor, "monitor": monitor_json(state)})
    return json_bytes_answer(b'{"%b":[%b],%b' % (name.encode(), b",".join(items), rest[1:]))


def empty_answer() -> ASGIResponse:
    """204 No Content."""
    return ASGIResponse(status_code=204, headers=dict(NO_STORE))


def monitor_json(state: MonitorState) -> dict[str, object]:
    """The ``monitor`` member of answers that are not typed."""
    return msgspec.structs.asdict(state)
