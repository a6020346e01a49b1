"""Query parameters and cursors."""

import base64
import json
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import parse_qsl

from litestar.types import Scope

from monitor.api.errors import ParameterError

MAX_PARAMETERS: Final = 100
MAX_BYTES: Final = 16_384
"""Of a query. Litestar keeps the last 1,024 queries parsed."""


def query_pairs(scope: Scope) -> list[tuple[str, str]]:
    """Query parameters in their order, decoded.

    Raises:
        ParameterError: too long, too many parameters, or bytes that are not UTF-8.
    """
    text = scope["query_string"].decode("latin-1")
    if len(text) > MAX_BYTES:
        raise ParameterError("(query)", text, f"at most {MAX_BYTES} bytes are expected")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError:
        raise ParameterError("(query)", text, "percent-encoded UTF-8 is expected") from None
    except ValueError:
        raise ParameterError("(query)", text, f"at most {MAX_PARAMETERS} parameters are expected") from None


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


def narrowed(given: Collection[str] | None, allowed: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Intersect a filter with the restriction of a token. No filter: None or empty.

    Returns:
        None: no restriction; empty: nothing matches.
    """
    if allowed is None:
        return tuple(sorted(set(given))) if given else None
    return tuple(name for name in allowed if name in given) if given else allowed
