"""URLs of the configuration: what is refused about them, and how they are shown. Pure."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator

_OPEN_PATHS: Final = frozenset({"redis", "rediss", "unix", "redis+sentinel"})
"""Their paths are a number, or name a socket or a service; others may be secret."""


class Url(str):
    """A URL whose ``repr`` shows no credentials: neither the user part, nor the query, nor a webhook's path."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The masked form, quoted."""
        return repr(masked_url(self))


def masked_url(url: str) -> str:
    """``url`` with all that may be a credential replaced by ``***``; never fails, whatever the text is."""
    scheme, colon, rest = url.partition(":") if ":" in url else ("", "", url)
    slashes = "//" if rest.startswith("//") else ""
    user, at, host = rest.removeprefix("//").rpartition("@")
    if "?" in user:  # or the @ is in the query, and what follows it is the rest of a password
        return f"{scheme}{colon}{slashes}***"
    host, question, _ = host.partition("?")
    if scheme not in _OPEN_PATHS:
        host, slash, path = host.partition("/")
        host += slash + ("***" if path else "")
    return f"{scheme}{colon}{slashes}{'***@' if at or user else ''}{host}{'?***' if question else ''}"


def checked_web_url(text: str) -> Url:
    """The text, if it is an address that HTTP requests can be made to and that holds no password in the open.

    Raises:
        ValueError: it is not. The message does not hold it.
    """
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine:
        raise ValueError("must be an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("must not hold user and password")
    if not text.isprintable() or " " in text:
        raise ValueError("must not hold spaces or control characters")
    return Url(text)


def checked_base_url(text: str) -> Url:
    """A web URL that paths can be added to."""
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or a fragment: paths are added to it")
    return checked_web_url(text)


WebUrl: TypeAlias = Annotated[str, AfterValidator(checked_web_url)]
BaseUrl: TypeAlias = Annotated[str, AfterValidator(checked_base_url)]
