"""URLs of the store: validation, and parsing of those with Sentinel. Pure.

``redis://[user:password@]host[:port][/db]``, ``rediss://`` with the ``ssl_`` options below, and
``unix://[user:password@]/path[?db=number]`` are parsed by redis-py, after ``checked_server_url`` has accepted them.

``redis+sentinel://[user:password@]host1:port1,host2:port2/service[/db][?option=value&...]``, with these options:

- ``sentinel_username``, ``sentinel_password``: for the Sentinels themselves; those before the ``@`` are the servers';
- ``tls``: ``store``, TLS to the servers; ``all``, to the Sentinels too;
- ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``: paths, as in the query of a ``rediss://`` URL;
- ``ssl_check_hostname``: ``yes`` or ``no``.

Special characters are percent-encoded.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, quote, unquote

SENTINEL_SCHEME: Final = "redis+sentinel"
SENTINEL_PORT: Final = 26_379
"""Default port of a Sentinel."""
SERVER_PORT: Final = 6_379
_EXAMPLE: Final = f"{SENTINEL_SCHEME}://host1:{SENTINEL_PORT},host2:{SENTINEL_PORT}/service"
_HIGHEST_PORT: Final = 65_535

Tls: TypeAlias = Literal["none", "store", "all"]

_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS: Final = (*_FILES, "ssl_check_hostname")
_OPTIONS: Final = ("sentinel_username", "sentinel_password", "tls", *_TLS_OPTIONS)
_SERVER_OPTIONS: Final = {"redis": (), "rediss": _TLS_OPTIONS, "unix": ("db",)}
"""By scheme. Other options of redis-py are not supported, or break what we rely on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SentinelUrl:
    """A parsed Sentinel URL. ``sentinels`` are (host, port) in the order in which they are asked."""

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
    """Whether the store is found through Sentinel."""
    return url.startswith(f"{SENTINEL_SCHEME}://")


def checked_server_url(url: str) -> None:
    """Check that a server's URL has one of the forms above.

    Raises:
        ValueError: it has not. The message contains no possible credential.
    """
    scheme = url.partition("://")[0]
    if "://" not in url or scheme not in _SERVER_OPTIONS:
        raise ValueError(f"must be embedded:, redis://, rediss://, unix:// or {SENTINEL_SCHEME}://")
    rest = _after_user(url.removeprefix(f"{scheme}://"))[2]
    rest, _, query = rest.partition("?")
    options = _options(query, _SERVER_OPTIONS[scheme])
    if scheme == "unix":
        db = options.get("db", "")
        if not rest.startswith("/") or not rest.strip("/"):
            raise ValueError("needs the path of a socket, such as unix:///run/redis.sock")
    else:
        host, _, db = rest.partition("/")
        if not host:
            raise ValueError(f"needs a host, such as {scheme}://redis.example.org:{SERVER_PORT}/0")
        _host(host, "server", SERVER_PORT)
    _database(db)
    _yes(options.get("ssl_check_hostname", "yes"))


def with_password(url: str, password: str) -> str:
    """Return the URL with this password, percent-encoded."""
    scheme, _, rest = url.partition("://")
    user, _, rest = _after_user(rest)
    return f"{scheme}://{user}:{quote(password, safe='')}@{rest}"


def has_password(url: str) -> bool:
    """Whether the URL contains a password."""
    return ":" in _after_user(url.partition("://")[2])[0]


def tls_files(url: str) -> list[str]:
    """Return the paths in the ``ssl_`` options."""
    return [path for name, path in parse_qsl(url.partition("?")[2]) if name in _FILES]


def _after_user(rest: str) -> tuple[str, str, str]:
    """Return user and password, the @ if there is one, and the rest.

    Splits at the last @ first: everything before it may be a password, and is never shown.
    """
    user, at, rest = rest.rpartition("@")
    if any(mark in user for mark in "/?#@,") or "#" in rest:
        raise ValueError("must have the special characters of its user, password and options percent-encoded")
    return user, at, rest


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError(f"has a database that is not a number: {text!r}")
    return int(text or 0)


def sentinel_url(url: str) -> SentinelUrl:
    """Parse ``url``.

    Raises:
        ValueError: the URL does not have the form above. The message contains no possible credential.
    """
    user, at, rest = _after_user(url.removeprefix(f"{SENTINEL_SCHEME}://"))
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    service, _, db = path.partition("/")
    if not hosts or not service:
        raise ValueError(f"needs Sentinels and the name of a service, such as {_EXAMPLE}")
    username, _, password = user.partition(":")
    options = _options(query, _OPTIONS)
    if options.get("tls", "none") == "none" and any(name.startswith("ssl_") for name in options):
        raise ValueError("has ssl_ options without tls=store or tls=all")
    return SentinelUrl(
        sentinels=tuple(_host(text, "Sentinel", SENTINEL_PORT) for text in hosts.split(",")),
        service=unquote(service),
        db=_database(db),
        username=unquote(username) or None if at else None,
        password=unquote(password) or None if at else None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=_tls(options.get("tls", "none")),
        files=tuple((name, options[name]) for name in _FILES if name in options),
        check_hostname=_yes(options.get("ssl_check_hostname", "yes")),
    )


def _host(text: str, what: str, usual_port: int) -> tuple[str, int]:
    if text.startswith("["):  # an IPv6 address
        host, bracket, port = text[1:].partition("]")
        bad = not bracket or (port != "" and not port.startswith(":"))
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
        bad = "]" in host
    if port and not port.isdigit():
        text = f"{host}:***"  # a port that is no number may be a password, if the @ is missing
    if bad or not host:
        raise ValueError(f"has a {what} that is not host:port: {text!r}")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port[:9]) <= _HIGHEST_PORT):
        raise ValueError(f"has a {what} whose port is not from 1 to {_HIGHEST_PORT}: {text!r}")
    return host, int(port or usual_port)


def _options(query: str, known: tuple[str, ...]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("has a query that is not option=value&...") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError("has an option twice")
    if not options.keys() <= set(known):  # the option is not named: it may be the rest of a password with an & in it
        raise ValueError(f"has an option that is not known; there are {', '.join(known) or 'none'}")
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
