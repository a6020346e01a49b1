"""Helpers of the on-call handlers: viewers, path segments, pages, times."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote

from monitor.api.health import monitor_now
from monitor.api.json_body import LATEST_MS
from monitor.api.query import bad_cursor, decode_cursor, encode_cursor
from monitor.api.responses import json_answer, list_answer, monitor_json
from monitor.daemon.oncall.models import Viewer
from monitor.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from litestar import Request
    from litestar.response.base import ASGIResponse

    from monitor.api.query import Query
    from monitor.api.services import Services
    from monitor.auth import Principal
    from monitor.daemon.oncall.models import Place


_T = TypeVar("_T")
_DIGITS: Final = re.compile(r"[0-9a-f]{32}")


def viewer_of(principal: Principal) -> Viewer:
    """The viewer that a token stands for."""
    return Viewer(
        tenant=principal.tenant,
        environments=principal.environments,
        worker_id=principal.worker_id,
        is_operator=principal.is_operator,
    )


def segment(request: Request[Any, Any, Any], name: str) -> str:
    """Decode an id or a name from the undecoded path. Invalid UTF-8 becomes a text that no name equals."""
    return unquote(request.path_params[name]).encode(errors="replace").decode()


def place_of(query: Query, prefix: str) -> Place | None:
    """The place in the ``cursor`` parameter, in a list of items whose ids begin with ``prefix``.

    Raises:
        ParameterError: not a cursor of this list.
    """
    cursor = query.single("cursor")
    if cursor is None:
        return None
    match decode_cursor(cursor):
        case [int(ms), str(ident)] if (
            not isinstance(ms, bool)
            and 0 <= ms <= LATEST_MS
            and ident.startswith(prefix)
            and _DIGITS.fullmatch(ident, len(prefix))
        ):
            return ms, ident
        case _:
            raise bad_cursor(cursor)


def time_or_none(ms: int | None) -> str | None:
    """JSON of an optional time."""
    return None if ms is None else rfc3339(ms)


async def with_monitor(services: Services, answer: dict[str, object], *, status_code: int = 200) -> ASGIResponse:
    """An answer with the ``monitor`` member."""
    state = await monitor_now(services)
    return json_answer({**answer, "monitor": monitor_json(state)}, status_code=status_code)


async def page_answer(
    services: Services, name: str, items: Sequence[_T], form: Callable[[_T], object], last: Place | None
) -> ASGIResponse:
    """A page of a list, with the cursor of the next page and the ``monitor`` member."""
    cursor = None if last is None else encode_cursor([*last])
    return await list_answer(name, items, form, cursor=cursor, state=await monitor_now(services))
