"""URLs of the configuration: what is refused about them, and how they are shown. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator

_OPEN_PATHS: Final = frozenset({"redis", "rediss", "unix", "redis+sentinel"})
"""Their paths are a number, or name a socket or a service; others may be secret."""
LABEL_LENGTH, NAME_LENGTH = 63, 253
"""The most characters of a host name and of what is between two of its dots (RFC 1035, 2.3.4)."""
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
"""A last label that a resolver may read as part of an IPv4 address (WHATWG URL, "ends in a number")."""


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
    if not at and any(not port.isdigit() for port in re.findall(r":([^],:/]+)", host)):
        host = "***"  # or the @ is missing, and what should be a port is a password
    if scheme not in _OPEN_PATHS:
        host, slash, path = host.partition("/")
        host += slash + ("***" if path else "")
    return f"{scheme}{colon}{slashes}{'***@' if at or user else ''}{host}{'?***' if question else ''}"


def checked_web_url(text: str) -> Url:
    """The text, if it is an address that HTTP requests can be made to and that holds no password in the open.

    It is requested byte for byte; a host with other characters than ASCII is written as its IDNA form.

    Raises:
        ValueError: it is not. The message does not hold it.
    """
    if not text.isprintable() or " " in text:
        raise ValueError("must not hold spaces or control characters")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in {"http", "https"} or not parts.netloc.rpartition("@")[2]:
        raise ValueError("must be an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("must not hold user and password")
    if "#" in text:
        raise ValueError("must not hold a fragment: it would never be sent")
    try:
        port_is_fine = parts.port != 0
    except ValueError:
        port_is_fine = False
    if not port_is_fine:
        raise ValueError("must have a port from 1 to 65535")
    if not f"{parts.path}{parts.query}".isascii():
        raise ValueError("must have its path and query percent-encoded: they hold characters that are not ASCII")
    host, colon, port = parts.netloc.partition(":")
    if host.startswith("["):
        checked_host(parts.hostname or "", literal=True)
        return Url(text)
    return Url(text.replace(parts.netloc, checked_host(host) + colon + port, 1))


def checked_host(host: str, *, literal: bool = False) -> str:
    """The host of a URL in ASCII, if a connection can ever be made to it. ``literal``: it stood in brackets.

    Raises:
        ValueError: it is neither an IP address nor a name that a resolver can be asked for.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        if literal:
            raise ValueError("has a host in brackets that is no IPv6 address") from None
    else:
        if address.is_multicast or str(address) == "255.255.255.255":
            raise ValueError(f"has the host {host}: no connection can be made to that address")
        return host
    return _checked_name(host)


def _checked_name(host: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"has a host that is no IDNA name: {error.__cause__ or error}") from None
    labels = name.removesuffix(".").split(".")
    if "" in labels:
        raise ValueError("has a host with an empty label: two dots in a row, or one at the beginning")
    if any(len(label) > LABEL_LENGTH for label in labels):
        raise ValueError(f"has a host with a label of more than {LABEL_LENGTH} characters")
    if len(name.removesuffix(".")) > NAME_LENGTH:
        raise ValueError(f"has a host of more than {NAME_LENGTH} characters")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("has a host with other characters than letters, digits, `-`, `_` and dots")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"has the host {name}: it ends in a number and is no IPv4 address of four decimal numbers")
    return name


def checked_base_url(text: str) -> Url:
    """A web URL that paths can be added to."""
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or a fragment: paths are added to it")
    return checked_web_url(text)


WebUrl: TypeAlias = Annotated[str, AfterValidator(checked_web_url)]
BaseUrl: TypeAlias = Annotated[str, AfterValidator(checked_base_url)]
