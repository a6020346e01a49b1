"""The commands ``lastseen serve``, ``check``, ``backup`` and ``token``. ``monitor.daemon.commands`` has their help."""

import functools
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from monitor.auth import Scope
from monitor.clock import wall_ms
from monitor.daemon.cli.access import (
    FAILED,
    MISUSED,
    NOWHERE,
    OPERATORS,
    Access,
    ConfigPath,
    config_file,
    configured,
    duration_option,
    fail,
    made_token,
    origin,
    say,
    warn,
)
from monitor.daemon.config.keys import are_defaults, entries
from monitor.daemon.config.model import Config, process_count
from monitor.daemon.config.sources import ConfigError, read_file
from monitor.daemon.plan import plan
from monitor.daemon.signals import StopSignal
from monitor.data_dir_ownership import own_dir

token = App(name="token")
IGNORED: Final = Path("config.toml")
"""A name that many users expect to be the default: warn if the file exists, because it is not read."""


def serve(
    *,
    config: ConfigPath = None,
    processes: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,  # "-1" is a bad number, not an option
            help="Number of processes, or auto for one per core. Default: server.processes.",
        ),
    ] = None,
) -> int:
    """Run the daemon until SIGTERM or ^C."""
    stop = StopSignal()
    config = config_file(config)
    settings = configured(config)
    if processes is not None:
        try:
            server = settings.server.model_copy(update={"processes": process_count(processes)})
        except ValueError as error:
            fail(MISUSED, f"--processes: {error}, got {processes!r}")
        settings = settings.model_copy(update={"server": server})
    # Imported here: the other commands do not need the servers.
    from monitor.daemon.banner import greet  # noqa: PLC0415
    from monitor.daemon.serve import serve as run  # noqa: PLC0415

    return run(
        settings,
        stop,
        functools.partial(greet, config_path=config, origin=origin(config)),
        warnings=_warnings(settings, config),
    )


def check(*, config: ConfigPath = None) -> None:
    """Validate the configuration, print warnings and what the daemon will do."""
    config = config_file(config)
    settings = configured(config)
    for warning in _warnings(settings, config):
        warn(f"warning: {warning}")
    say(f"the configuration is valid: {origin(config)}")
    for line in plan(settings):
        say(line)


def _warnings(settings: Config, config: Path | None) -> tuple[str, ...]:
    """Warnings: settings that are valid but probably not intended, and an ignored configuration file."""
    if config is None and IGNORED.is_file() and not _has_defaults_only(IGNORED):
        return (
            f"{IGNORED.absolute()} is not read: give --config {IGNORED}, or name it lastseen.toml",
            *settings.warnings,
        )
    return settings.warnings


def _has_defaults_only(path: Path) -> bool:
    """Whether a configuration file changes nothing, like the shipped example."""
    try:
        values = read_file(path).values
    except ConfigError:
        return False
    return are_defaults(values, entries(Config))


def backup(
    target: Annotated[Path, Parameter(help="Target: a new or empty directory.")], *, config: ConfigPath = None
) -> None:
    """Copy the embedded store, and verify the copy by starting a server on it."""
    settings = configured(config)
    if not settings.store.embedded:
        fail(MISUSED, "store.url names an external server: back it up with that server's own tools")
    from monitor import logs  # noqa: PLC0415 - the other commands do not need the store
    from monitor.embedded import EmbeddedStoreError, back_up  # noqa: PLC0415 - as above

    logs.configure(level="error", form=settings.log.format, stream=sys.stderr)
    try:
        made = back_up(own_dir(settings.store.data_dir), target, binary=settings.store.valkey_binary or None)
    except EmbeddedStoreError as error:
        fail(FAILED, f"lastseen: {error}")
    say(f"backed up {made.size_bytes} bytes in {made.files} files to {target}")


@token.command
def revoke(
    *,
    jti: Annotated[str | None, Parameter(help="One token, by the jti that `token create` printed.")] = None,
    sub: Annotated[str | None, Parameter(help="All tokens of this subject that were issued until now.")] = None,
    access: Access = NOWHERE,
) -> None:
    """Revoke tokens of a tenant. Takes effect on every replica within 5 seconds.

    Example: lastseen token revoke --tenant acme --sub worker-1
    """
    if (jti is None) == (sub is None):
        fail(MISUSED, "lastseen: one of --jti and --sub is needed")
    with access.client(Scope.ADMIN) as client:
        client.post("revocations", body={"jti": jti} if sub is None else {"sub": sub})


@token.command
def create(
    *,
    tenant: Annotated[
        str | None, Parameter(help="Tenant of the token. Not required for the scope operator alone.")
    ] = None,
    scope: Annotated[
        tuple[str, ...],
        Parameter(negative_iterable=(), help=f"Scope of the token: one of {', '.join(Scope)}. Repeat for several."),
    ],
    worker_id: Annotated[str | None, Parameter(help="Restrict the token to one worker.")] = None,
    environment: Annotated[
        tuple[str, ...], Parameter(negative_iterable=(), help="Restrict the token to environments. Repeat for several.")
    ] = (),
    expires: Annotated[str, Parameter(help="Lifetime, such as 12h or 30d.")] = "30d",
    subject: Annotated[str | None, Parameter(help="Subject (sub). Default: the worker, or the tenant.")] = None,
    config: ConfigPath = None,
) -> None:
    """Create a token and print it: a JWT, signed with the daemon's own key or the first configured HS256 key.

    Example: lastseen token create --tenant acme --scope heartbeat:write
    """
    settings = configured(config)
    expires_in_ms = min(duration_option("--expires", expires), settings.auth.max_lifetime_ms)
    unknown = [name for name in scope if name not in set(Scope)]
    if unknown:
        fail(MISUSED, f"--scope: must be one of {', '.join(Scope)}, got {unknown[0]!r}")
    if tenant is None:
        if set(scope) != {Scope.OPERATOR}:
            fail(MISUSED, "--tenant: is required for every scope except operator")
        tenant = OPERATORS
    token_id, subject = secrets.token_hex(8), subject or worker_id or tenant
    until = datetime.fromtimestamp((wall_ms() + expires_in_ms) // 1_000, UTC)
    made = made_token(
        settings,
        origin=origin(config),
        tenant=tenant,
        subject=subject,
        scopes=[Scope(name) for name in scope],
        expires_in_ms=expires_in_ms,
        worker_id=worker_id,
        environments=environment or None,
        token_id=token_id,
    )
    about = f"tenant {tenant!r}, sub {subject!r}, scope {' '.join(scope)!r}, jti {token_id}"
    sys.stderr.write(f"a token for {about}, good until {until:%Y-%m-%dT%H:%M:%SZ}\n")
    if worker_id is None and Scope.HEARTBEAT_WRITE in scope:
        sys.stderr.write("warning: without --worker-id its holder can report and stop every worker that it covers\n")
    sys.stdout.write(made + "\n")
