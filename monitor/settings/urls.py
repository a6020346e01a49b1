"""URLs of the configuration: validation, and masking for output. Pure."""

import re
from ipaddress import ip_address
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator

_OPEN_PATHS: Final = frozenset({"redis", "rediss", "unix", "redis+sentinel"})
"""Schemes whose path is a number, a socket or a service name; other paths may be secret."""
LABEL_LENGTH, NAME_LENGTH = 63, 253
"""Maximum characters of a label between two dots, and of a host name (RFC 1035, 2.3.4)."""
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
"""A last label that a resolver may read as part of an IPv4 address (WHATWG URL, "ends in a number")."""


class Url(str):
    """A URL whose ``repr`` shows no credentials: neither the user part, nor the query, nor a webhook's path."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the masked form, quoted."""
        return repr(masked_url(self))


def masked_url(url: str) -> str:
    """Replace every possible credential in ``url`` by ``***``; never fails, whatever the text is."""
    scheme, colon, rest = url.partition(":") if ":" in url else ("", "", url)
    slashes = "//" if rest.startswith("//") else ""
    user, at, host = rest.removeprefix("//").rpartition("@")
    if "?" in user:  # or the @ is in the query, and the text after it is the rest of a password
        return f"{scheme}{colon}{slashes}***"
    host, question, _ = host.partition("?")
    if not at and any(not port.isdigit() for port in re.findall(r":([^],:/]+)", host)):
        host = "***"  # or the @ is missing, and the apparent port is a password
    if scheme not in _OPEN_PATHS:
        host, slash, path = host.partition("/")
        host += slash + ("***" if path else "")
    return f"{scheme}{colon}{slashes}{'***@' if at or user else ''}{host}{'?***' if question else ''}"


def checked_web_url(text: str) -> Url:
    """Return the URL, if HTTP requests can be made to it and it contains no plain password.

    It is requested byte for byte; a host with characters other than ASCII is converted to its IDNA form.

    Raises:
        ValueError: the URL is invalid. The message does not contain it.
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
    """Return the host of a URL in ASCII, if a connection to it is possible. ``literal``: it was in brackets.

    Raises:
        ValueError: the host is neither an IP address nor a name that can be resolved.
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


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is this machine, as far as is known without a resolver."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def checked_base_url(text: str) -> Url:
    """Return a web URL that paths can be appended to."""
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or a fragment: paths are added to it")
    return checked_web_url(text)


WebUrl: TypeAlias = Annotated[str, AfterValidator(checked_web_url)]
BaseUrl: TypeAlias = Annotated[str, AfterValidator(checked_base_url)]
