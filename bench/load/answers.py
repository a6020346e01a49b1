"""As much of HTTP/1.1 as it takes to know that an answer is complete and what it says (RFC 9112). Pure."""

import json
from dataclasses import dataclass
from typing import Final

_BODILESS: Final = frozenset({204, 304})
_HEAD_END: Final = b"\r\n\r\n"
_MOST_BYTES: Final = 4_194_304


class BadAnswerError(Exception):
    """What came is not an answer that a server may send; the connection is of no more use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A complete answer. ``last``: the server closes the connection after it."""

    status: int
    body: bytes
    last: bool

    @property
    def rejects(self) -> bool:
        """Whether it is an answer to a batch that names beats which were not taken."""
        if not self.body:
            return False
        try:
            content = json.loads(self.body)
        except ValueError:
            return True
        return not isinstance(content, dict) or bool(content.get("rejected"))


def read_answer(data: bytes) -> Answer | None:
    """The answer in the bytes that one request has brought so far; None while it is incomplete.

    Raises:
        BadAnswerError: it is malformed, longer than 4 MiB, or followed by something.
    """
    head, end, body = data.partition(_HEAD_END)
    if not end:
        if len(data) > _MOST_BYTES:
            raise BadAnswerError("an endless head")
        return None
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"} or not rest[:3].isdigit():
        raise BadAnswerError(f"no status line: {first[:80]!r}")
    status = int(rest[:3])
    headers = {
        name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines)
    }
    last = headers.get(b"connection") == b"close" or (
        version == b"HTTP/1.0" and headers.get(b"connection") != b"keep-alive"
    )
    if status in _BODILESS:
        complete: bytes | None = b""
        extra = body
    elif headers.get(b"transfer-encoding") == b"chunked":
        complete, extra = _unchunked(body)
    else:
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            raise BadAnswerError("neither a length nor chunks")
        wanted = int(length)
        complete, extra = (body[:wanted], body[wanted:]) if len(body) >= wanted else (None, b"")
    if extra or len(body) > _MOST_BYTES:
        raise BadAnswerError("more than one answer")
    return None if complete is None else Answer(status=status, body=complete, last=last)


def _unchunked(body: bytes) -> tuple[bytes | None, bytes]:
    """The content of a chunked body, None while it is incomplete, and what follows it; no trailers are known."""
    parts: list[bytes] = []
    rest = body
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end:
            return None, b""
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise BadAnswerError(f"not a chunk's size: {line[:20]!r}") from None
        if len(rest) < size + 2:
            return None, b""
        if size == 0:
            return b"".join(parts), rest[2:]
        parts.append(rest[:size])
        rest = rest[size + 2 :]
