"""Query parameters and cursors."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from monitor.api.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.types import Scope

MAX_PARAMETERS: Final = 100
MAX_LIMIT: Final = 1_000
DEFAULT_LIMIT: Final = 100


class Query:
    """Parsed query parameters. Unknown names are refused: a misspelled filter must not widen a list.

    Raises:
        ParameterError: an unknown name, too many parameters, or bytes that are not UTF-8.
    """

    def __init__(self, scope: Scope, known: Iterable[str]) -> None:
        text = scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
        except UnicodeDecodeError:
            raise ParameterError("(query)", text, "percent-encoded UTF-8 is expected") from None
        except ValueError:
            raise ParameterError("(query)", text, f"at most {MAX_PARAMETERS} parameters are expected") from None
        self._values: dict[str, list[str]] = {name: [] for name in known}
        for name, value in pairs:
            if name not in self._values:
                raise ParameterError(name, value, f"known parameters: {', '.join(self._values)}")
            self._values[name].append(value)

    def any_of(self, name: str) -> frozenset[str] | None:
        """The given values, any of which may match; None if the parameter is absent."""
        return frozenset(self._values[name]) or None

    def words(self, name: str, known: frozenset[str]) -> frozenset[str] | None:
        """As ``any_of``; every value must be one of ``known``."""
        given = self.any_of(name)
        for word in given or ():
            if word not in known:
                raise ParameterError(name, word, f"one of {', '.join(sorted(known))} is expected")
        return given

    def single(self, name: str) -> str | None:
        """The single value; None if the parameter is absent."""
        values = self._values[name]
        if len(values) > 1:
            raise ParameterError(name, values[1], "it is given more than once")
        return values[0] if values else None

    def limit(self) -> int:
        """The ``limit`` parameter, 1 to ``MAX_LIMIT``."""
        text = self.single("limit")
        if text is None:
            return DEFAULT_LIMIT
        limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) else 0
        if not 1 <= limit <= MAX_LIMIT:
            raise ParameterError("limit", text, f"an integer from 1 to {MAX_LIMIT} is expected")
        return limit


def encode_cursor(parts: list[int | str]) -> str:
    """Encode a position in a list as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).rstrip(b"=").decode()


def decode_cursor(text: str) -> list[Any]:
    """Decode the parts of a cursor; the caller validates them.

    Raises:
        ParameterError: not a cursor.
    """
    try:
        raw = text.encode("ascii")
        parts = json.loads(base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise bad_cursor(text) from None
    if not isinstance(parts, list):
        raise bad_cursor(text)
    return parts


def bad_cursor(text: str) -> ParameterError:
    """The error for a cursor that this list did not return."""
    return ParameterError("cursor", text, "the next_cursor of an earlier answer is expected")


def narrowed(given: frozenset[str] | None, allowed: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Intersect a filter with the restriction of a token; None: no restriction, empty: nothing matches."""
    if allowed is None:
        return None if given is None else tuple(sorted(given))
    return allowed if given is None else tuple(name for name in allowed if name in given)
