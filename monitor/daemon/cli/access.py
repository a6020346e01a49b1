"""Helpers of the commands: configuration, tokens, the client of a running daemon, output lines."""

import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import jwt
from cyclopts import Parameter

from monitor.auth import Scope, mint
from monitor.clock import wall_ms
from monitor.daemon.cli.client import Client, ClientError, MisuseError
from monitor.daemon.config.model import Config, load
from monitor.daemon.config.sources import ConfigError
from monitor.daemon.signing_key import NoSigningKeyError, SigningKeyError, existing_key, key_ring
from monitor.printable import escaped
from monitor.settings.units import duration_ms

FAILED: Final = 1
MISUSED: Final = 2
TOKEN: Final = "LASTSEEN_TOKEN"  # noqa: S105 - the name of a variable
URL: Final = "LASTSEEN_URL"
CONFIG: Final = "LASTSEEN_CONFIG"
PLACES: Final = (Path("lastseen.toml"), Path("/etc/lastseen/lastseen.toml"))
"""Default locations of the configuration file, in the order in which they are tried."""
TOKEN_MS: Final = 300_000
"""Lifetime of a token that a command creates for its own requests."""
OPERATORS: Final = "operators"
"""The tenant claim of tokens that have only the scope operator: these belong to no tenant."""
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - to connect, not to bind

ConfigPath = Annotated[
    Path | None,
    Parameter(
        name="--config",
        help=f"Configuration file. Default: ${CONFIG}, then the first of {', '.join(map(str, PLACES))}.",
    ),
]


def fail(status: int, text: str) -> NoReturn:
    """Print a line on stderr and exit with ``status``."""
    warn(text)
    raise SystemExit(status)


def warn(text: str) -> None:
    """Print one line on stderr, with terminal control characters escaped."""
    sys.stderr.write(f"{escaped(text)}\n")


def config_file(given: Path | None) -> Path | None:
    """The configuration file: the given one, then that of the environment, then the first default that exists."""
    if given is not None:
        return given
    if (named := os.environ.get(CONFIG)) is not None:
        return Path(named)
    for path in PLACES:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return path  # reading the file reports the error
        # A configuration names programs to run: in the working directory another user may have written it.
        if not path.is_absolute() and (status.st_uid not in {0, os.geteuid()} or status.st_mode & stat.S_IWOTH):
            fail(MISUSED, f"{path.absolute()} is writable by other users: to use it anyway, name it with --config")
        return path
    return None


def configured(given: Path | None) -> Config:
    """Load the configuration, or print every problem on stderr and exit."""
    environ = {name: value for name, value in os.environ.items() if name not in {TOKEN, URL, CONFIG}}
    try:
        return load(config_file(given), environ)
    except ConfigError as error:
        for line in error.lines:
            warn(line)
        raise SystemExit(MISUSED) from None


def origin(given: Path | None) -> str:
    """Description of where the configuration comes from."""
    path = config_file(given)
    return "no file: defaults" if path is None else str(path.absolute())


def made_token(
    settings: Config,
    *,
    origin: str,
    tenant: str,
    subject: str,
    scopes: Sequence[Scope],
    expires_in_ms: int,
    worker_id: str | None = None,
    environments: tuple[str, ...] | None = None,
    token_id: str | None = None,
) -> str:
    """Create a token, signed with the daemon's own key or the first configured HS256 key. Exits if it cannot."""
    try:
        key = key_ring(settings, existing_key).signing()
    except NoSigningKeyError as error:
        fail(
            FAILED,
            f"lastseen: {error} (configuration: {origin}). `lastseen serve` creates the key at its first start: run"
            f" this command in the same folder, or name its configuration by --config or ${CONFIG}. A relative"
            " store.data_dir depends on the working directory; an absolute one does not",
        )
    except SigningKeyError as error:
        fail(FAILED, f"lastseen: {error}")
    if key is None:
        fail(FAILED, "lastseen: no HS256 key is configured: only the holder of a private key can create tokens")
    try:
        return mint(
            key=key,
            tenant=tenant,
            tenant_claim=settings.auth.tenant_claim,
            subject=subject,
            scopes=scopes,
            now_ms=wall_ms(),
            expires_in_ms=min(expires_in_ms, settings.auth.max_lifetime_ms),
            audience=settings.auth.audience or None,
            issuer=settings.auth.issuer or None,
            worker_id=worker_id,
            environments=environments,
            token_id=token_id or secrets.token_hex(8),
        )
    except ValueError as error:
        fail(MISUSED, f"lastseen: {error}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Access:
    """How to reach the running daemon."""

    url: Annotated[
        str | None, Parameter(help=f"URL of the daemon. Default: ${URL}, then the configured host and port.")
    ] = None
    token: Annotated[
        str | None, Parameter(help=f"Token. Default: ${TOKEN}, then one created with the daemon's key.")
    ] = None
    tenant: Annotated[str | None, Parameter(help="Tenant. Required if the daemon has several.")] = None
    config: ConfigPath = None

    @contextmanager
    def client(self, scope: Scope, *, operator: bool = False) -> Iterator[Client]:
        """A client with this scope. Exits if there is none, or if the daemon refuses a request.

        ``operator``: access to all tenants, if no token and no tenant are given.
        """
        if operator and not (self._given or self.tenant):
            tenants, scope = [OPERATORS], Scope.OPERATOR
        else:
            tenants = self._tenants()
        if not tenants:
            fail(FAILED, "lastseen: the daemon knows no tenant: no worker has sent a heartbeat yet (or give --tenant)")
        if len(tenants) > 1:
            fail(MISUSED, f"--tenant: is required, the daemon has several: {', '.join(tenants)}")
        with _asking():
            yield self._as(tenants[0], scope)

    @contextmanager
    def clients(self, scope: Scope) -> Iterator[list[Client]]:
        """As ``client``, but a client for each tenant to list."""
        clients = [self._as(tenant, scope) for tenant in self._tenants()]
        with _asking():
            yield clients

    def check_known(self) -> None:
        """Exit if the given tenant has no worker: called after an empty list, where the name may be mistyped."""
        if self.tenant and not self._given and self.tenant not in (known := self._known_tenants()):
            others = f"; there are workers of {', '.join(known)}" if known else ""
            fail(FAILED, f"lastseen: there is no worker of a tenant {self.tenant!r}{others}")

    @property
    def _given(self) -> str | None:
        return self.token or os.environ.get(TOKEN)

    @cached_property
    def _settings(self) -> Config:
        return configured(self.config)

    def _tenants(self) -> list[str]:
        """The given tenant (empty: that of the token), or all tenants."""
        return [self.tenant or ""] if self._given or self.tenant else self._known_tenants()

    def _known_tenants(self) -> list[str]:
        with _asking():
            found: list[str] = self._as(OPERATORS, Scope.OPERATOR).get("tenants")["tenants"]
        return found

    def _as(self, tenant: str, scope: Scope) -> Client:
        url, token = self.url or os.environ.get(URL), self._given
        url_from, token_from = f"from --url or ${URL}", f"from --token or ${TOKEN}"
        if not (url and token):
            settings, where = self._settings, origin(self.config)
            if not url:
                url, url_from = _address(settings), f"from the configuration, {where}"
            if not token:
                own = f"the key in {settings.store.data_dir.absolute()}"
                token_from = f"signed with {'a configured key' if settings.auth.keys else own} (configuration: {where})"
                who = _person()
                token = made_token(
                    settings, origin=where, tenant=tenant, subject=who, scopes=[scope], expires_in_ms=TOKEN_MS
                )
        if not token.isascii() or not token.isprintable():
            fail(MISUSED, "--token: is not a token")
        if self._given and self.tenant:
            theirs = _tenant_of(token, self._settings.auth.tenant_claim)
            if theirs not in {None, self.tenant}:
                fail(MISUSED, f"--tenant: is {self.tenant!r}, but the token is for {theirs!r}")
        try:
            return Client(url, token, url_from=url_from, token_from=token_from)
        except ValueError as error:
            fail(MISUSED, f"--url: {error}, got {url!r}")


NOWHERE: Final = Access()
"""The default of every command: nothing is given."""


def _tenant_of(token: str, claim: str) -> str | None:
    """The tenant claim of a token, unverified; None if the token cannot be decoded."""
    try:
        found = jwt.decode(token, options={"verify_signature": False})[claim]
    except (jwt.InvalidTokenError, KeyError):
        return None
    return found if isinstance(found, str) else None


@contextmanager
def _asking() -> Iterator[None]:
    """Exit if the daemon refuses the request: with status 2 for an invalid request (422), else with 1."""
    try:
        yield
    except ClientError as error:
        fail(MISUSED if isinstance(error, MisuseError) else FAILED, f"lastseen: {error}")


def say(*words: object) -> None:
    """Print one line on stdout, with terminal control characters escaped. None and empty text become a dash."""
    line = "  ".join("-" if word is None or word == "" else str(word) for word in words)
    sys.stdout.write(f"{escaped(line)}\n")


def say_json(value: Mapping[str, Any]) -> None:
    """Print one line of ASCII JSON on stdout."""
    sys.stdout.write(json.dumps(value) + "\n")


def say_item(item: Mapping[str, Any], *words: object, as_json: bool) -> None:
    """Print one item of a list: itself as JSON, or a line of these words."""
    if as_json:
        say_json(item)
    else:
        say(*words)


def duration_option(name: str, text: str) -> int:
    """Parse an option's duration to milliseconds, or exit."""
    try:
        return duration_ms(text)
    except ValueError as error:
        fail(MISUSED, f"{name}: {error}, got {text!r}")


def _address(settings: Config) -> str:
    host = settings.server.host.strip("[]")
    host = _ANY_HOST.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def _person() -> str:
    """Name of the user who runs the command, as far as the environment says."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or "operator"
