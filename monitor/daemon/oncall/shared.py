"""What the on-call endpoints share: cursors, optional times, an empty body."""

import re

import msgspec

from alerts.oncall.dead_letters import Place
from monitor.api.json_body import LATEST_MS
from monitor.api.query import bad_cursor, decode_cursor, encode_cursor
from monitor.events import rfc3339


class EmptyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body without members. It may be left out."""


def place_of(cursor: str | None, prefix: str) -> Place | None:
    """The place that a cursor names, in a list of items whose ids begin with ``prefix``.

    Raises:
        ParameterError: not a cursor of this list.
    """
    if cursor is None:
        return None
    match decode_cursor(cursor):
        case [int(ms), str(ident)] if (
            not isinstance(ms, bool) and 0 <= ms <= LATEST_MS and re.fullmatch(prefix + "[0-9a-f]{32}", ident)
        ):
            return ms, ident
        case _:
            raise bad_cursor(cursor)


def cursor_of(last: Place | None) -> str | None:
    """The cursor of the next page."""
    return None if last is None else encode_cursor([*last])


def time_or_none(ms: int | None) -> str | None:
    """JSON of an optional time."""
    return None if ms is None else rfc3339(ms)
