"""Checks the head of a request before the app or the fast path gets it (RFC 9112).

The parser refuses heads that two servers may read differently: two lengths, a length with a transfer coding, folded
lines, a bare CR or LF, a space before the colon. This module checks the heads that the parser accepts.
"""

import re
from http import HTTPStatus
from typing import Final

from monitor.api.problems import problem_details
from monitor.http.port import Headers

_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_VERSIONS: Final = frozenset({"1.0", "1.1"})


class BadRequestError(Exception):
    """The data is not a request that this server supports; the connection is closed after the answer."""

    def __init__(self, detail: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.status = status

    def answer(self, defaults: bytes) -> bytes:
        """The complete answer. ``defaults``: header lines that every answer has."""
        head, body = problem_details(self.status, str(self), {"connection": "close"}).raw()
        return b"%b%b\r\n%b" % (head, defaults, body)


def check_head(version: str, fields: Headers) -> None:
    """Refuse heads that RFC 9112 (2.3, 3.2, 6.1) requires a server to refuse.

    Raises:
        BadRequestError: unknown version; missing, repeated or invalid Host; another coding than ``chunked``.
    """
    if version not in _VERSIONS:
        raise BadRequestError(f"HTTP/{version} is not supported: use HTTP/1.1", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequestError(f"exactly one Host header is required, got {len(hosts)}")
    if hosts and not _HOST.fullmatch(hosts[0].rstrip()):
        raise BadRequestError("the Host header is not a valid host name")
    for name, value in fields:
        if name == b"transfer-encoding":
            if version == "1.0":
                raise BadRequestError("HTTP/1.0 has no Transfer-Encoding")
            if value.strip().lower() != b"chunked":
                raise BadRequestError("the only supported Transfer-Encoding is chunked", HTTPStatus.NOT_IMPLEMENTED)


def without_upgrade(method: bytes, target: bytes, version: str, fields: Headers) -> bytes:
    """Serialize a head without Upgrade, which a server may ignore (RFC 9110, 7.8)."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode("ascii"))]
    lines += [b"%b: %b" % field for field in fields if field[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
