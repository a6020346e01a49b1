"""The URL of a store behind Sentinel, taken apart. Pure.

``redis+sentinel://[user:password@]host1:port1,host2:port2/service[/db][?option=value&...]``, with these options:

- ``sentinel_username``, ``sentinel_password``: for the Sentinels themselves; those before the ``@`` are the servers';
- ``tls``: ``store``, TLS to the servers; ``all``, to the Sentinels too;
- ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``: paths, as in the query of a ``rediss://`` URL;
- ``ssl_check_hostname``: ``yes`` or ``no``.

What may hold a special character is percent-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, unquote

SENTINEL_SCHEME: Final = "redis+sentinel"
SENTINEL_PORT: Final = 26_379
"""Where a Sentinel listens that is named without a port."""
_EXAMPLE: Final = f"{SENTINEL_SCHEME}://host1:{SENTINEL_PORT},host2:{SENTINEL_PORT}/service"
_HIGHEST_PORT: Final = 65_535

Tls: TypeAlias = Literal["none", "store", "all"]

_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = ("sentinel_username", "sentinel_password", "tls", *_FILES, "ssl_check_hostname")


@dataclass(frozen=True, kw_only=True, slots=True)
class SentinelUrl:
    """Who is asked for what. ``sentinels`` are (host, port) in the order in which they are asked."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Tls = "none"
    files: tuple[tuple[str, str], ...] = ()
    """``ssl_...`` option and path."""
    check_hostname: bool = True


def is_sentinel_url(url: str) -> bool:
    """Whether the store is found by way of Sentinel."""
    return url.startswith(f"{SENTINEL_SCHEME}://")


def sentinel_url(url: str) -> SentinelUrl:
    """The parts of ``url``.

    Raises:
        ValueError: it is not of the form above. The message holds nothing that may be a credential.
    """
    # Cut at the last @ first: whatever stands before it may be a password, and is never shown.
    user, at, rest = url.removeprefix(f"{SENTINEL_SCHEME}://").rpartition("@")
    if any(mark in user for mark in "/?#@,"):
        raise ValueError("must have the special characters of its user, password and options percent-encoded")
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    service, _, db = path.partition("/")
    if not hosts or not service:
        raise ValueError(f"needs Sentinels and the name of a service, such as {_EXAMPLE}")
    if db and not (db.isascii() and db.isdigit()):
        raise ValueError(f"has a database that is not a number: {db!r}")
    username, _, password = user.partition(":")
    options = _options(query)
    return SentinelUrl(
        sentinels=tuple(_host(text) for text in hosts.split(",")),
        service=unquote(service),
        db=int(db or 0),
        username=unquote(username) or None if at else None,
        password=unquote(password) or None if at else None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_tls(options.get("tls", "none")),
        files=tuple((name, options[name]) for name in _FILES if name in options),
        check_hostname=_yes(options.get("ssl_check_hostname", "yes")),
    )


def _host(text: str) -> tuple[str, int]:
    if text.startswith("["):  # an IPv6 address
        host, bracket, port = text[1:].partition("]")
        bad = not bracket or (port != "" and not port.startswith(":"))
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
        bad = "]" in host
    if bad or not host:
        raise ValueError(f"has a Sentinel that is not host:port: {text!r}")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port[:9]) <= _HIGHEST_PORT):
        raise ValueError(f"has a Sentinel whose port is not from 1 to {_HIGHEST_PORT}: {text!r}")
    return host, int(port or SENTINEL_PORT)


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("has a query that is not option=value&...") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError("has an option twice")
    if not options.keys() <= set(_OPTIONS):  # which one is not said: it may be the rest of a password with an & in it
        raise ValueError(f"has an option that is not known; there are {', '.join(_OPTIONS)}")
    if options.get("tls", "none") == "none" and any(name.startswith("ssl_") for name in options):
        raise ValueError("has ssl_ options without tls=store or tls=all")
    return options


def _tls(word: str) -> Tls:
    for one in get_args(Tls):
        if word == one:
            return one  # type: ignore[no-any-return]
    raise ValueError("has an option tls that is none of store, all and none")


def _yes(word: str) -> bool:
    if word not in {"yes", "no"}:
        raise ValueError("has an option ssl_check_hostname that is neither yes nor no")
    return word == "yes"
