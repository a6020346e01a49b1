"""Small JSON bodies of operators' requests. Parsed strictly; errors have the field and its value."""

import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import msgspec

from monitor.api.errors import ECHO_CHARS, BodyError, EncodingError, MediaTypeError, UnreadableBodyError
from monitor.api.requests import Headers
from monitor.api.responses import JSON

LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999. Later times have no RFC 3339 form."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T")


def decoded(raw: bytes, headers: Headers, kind: type[_T]) -> _T:
    """Parse a body as a ``kind``.

    Raises:
        MediaTypeError, EncodingError, UnreadableBodyError: the body cannot be parsed.
    """
    media_type = (headers.content_type or JSON).partition(";")[0].strip().lower()
    if media_type != JSON and not media_type.endswith("+json"):
        raise MediaTypeError(f"the Content-Type is {media_type[:ECHO_CHARS]!r}, {JSON} is expected")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if headers.compression is not None:
            raise EncodingError(headers.compression) from None
        raise UnreadableBodyError(f"the body can't be used: {error}") from None


def checked_text(field: str, value: str, *, most: int, lines: bool = False, blank: bool = False) -> str:
    """Return the text if it has 1 to ``most`` characters and no control characters.

    ``lines``: line feeds and tabs are allowed. ``blank``: a text of blanks only is allowed.

    Raises:
        BodyError: the text is invalid.
    """
    plain = value.replace("\n", " ").replace("\t", " ") if lines else value
    if not 0 < len(value) <= most or not (blank or plain.strip()):
        raise BodyError(field, value, f"1 to {most} characters that are not all blank are expected")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in plain):
        raise BodyError(field, value, "text without control characters is expected")
    return value


def moment_ms(field: str, text: str) -> int:
    """Parse an RFC 3339 time with an offset to milliseconds.

    Raises:
        BodyError: not such a time, or before 1970.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or "T" not in text.upper():
        raise BodyError(field, text, 'an RFC 3339 time with its offset, as "2026-11-24T16:00:00Z", is expected')
    try:
        ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        ms = -1
    if not 0 <= ms <= LATEST_MS:
        raise BodyError(field, text, "a time from 1970 to 9999 is expected")
    return ms
