"""The command line: ``lastseen serve``, ``lastseen check``, ``lastseen token create``.

Exit status: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import functools
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from monitor.auth import Scope, mint
from monitor.clock import wall_ms
from monitor.daemon.config import ConfigError, load, process_count
from monitor.daemon.greeting import greet, version
from monitor.daemon.keys import key_ring
from monitor.daemon.signals import StopSignal
from monitor.daemon.signing_key import SigningKeyError
from monitor.daemon.units import duration_ms

if TYPE_CHECKING:
    from monitor.daemon.config import Config

FAILED: Final = 1
MISUSED: Final = 2

app = App(name="lastseen", help="A liveness monitoring daemon.", version=version)
token = App(name="token", help="Tokens for workers, dashboards and operators.")
app.command(token)

ConfigPath = Annotated[
    Path | None,
    Parameter(name="--config", help="The configuration file; without one, the defaults and the environment."),
]


def _configured(path: Path | None) -> Config:
    """The configuration, or the end of the program with every fault of it on stderr."""
    try:
        return load(path, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(MISUSED) from None


@app.command
def serve(
    *,
    config: ConfigPath = None,
    processes: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,  # "-1" is a bad number, and no option
            help="How many processes serve: a number, or auto for one for each core; else as server.processes says.",
        ),
    ] = None,
) -> int:
    """Run the daemon until SIGTERM or ^C."""
    stop = StopSignal()
    settings = _configured(config)
    if processes is not None:
        try:
            server = settings.server.model_copy(update={"processes": process_count(processes)})
        except ValueError as error:
            sys.stderr.write(f"--processes: {error}, got {processes!r}\n")
            return MISUSED
        settings = settings.model_copy(update={"server": server})
    from monitor.daemon.serve import serve as run  # noqa: PLC0415 - the other commands need not load the servers

    return run(settings, stop, functools.partial(greet, config_path=config))


@app.command
def check(*, config: ConfigPath = None) -> int:
    """Say whether the configuration is good, and what it warns of; nothing is started."""
    settings = _configured(config)
    for warning in settings.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write("the configuration is good\n")
    return 0


@token.command
def create(
    *,
    tenant: Annotated[str, Parameter(help="The organisation that the token belongs to.")],
    scope: Annotated[
        tuple[str, ...],
        Parameter(
            negative_iterable=(), help=f"What it may do, one of {', '.join(Scope)}; give it several times for several."
        ),
    ],
    worker_id: Annotated[str | None, Parameter(help="Restrict it to one worker.")] = None,
    environment: Annotated[
        tuple[str, ...],
        Parameter(negative_iterable=(), help="Restrict it to environments; give it several times for several."),
    ] = (),
    expires: Annotated[str, Parameter(help="How long it is good for, such as 12h or 30d.")] = "30d",
    subject: Annotated[str | None, Parameter(help="Who it is for; by default the worker, or the tenant.")] = None,
    config: ConfigPath = None,
) -> int:
    """Print a JWT, signed with the daemon's own key or the first HS256 key of the configuration."""
    settings = _configured(config)
    try:
        expires_in_ms = duration_ms(expires)
    except ValueError as error:
        sys.stderr.write(f"--expires: {error}, got {expires!r}\n")
        return MISUSED
    unknown = [name for name in scope if name not in set(Scope)]
    if unknown:
        sys.stderr.write(f"--scope: must be one of {', '.join(Scope)}, got {unknown[0]!r}\n")
        return MISUSED
    try:
        key = key_ring(settings).signing()
    except SigningKeyError as error:
        sys.stderr.write(f"lastseen: {error}\n")
        return FAILED
    if key is None:
        sys.stderr.write("lastseen: no HS256 key is configured: only the holder of a private key can make tokens\n")
        return FAILED
    try:
        made = mint(
            key=key,
            tenant=tenant,
            tenant_claim=settings.auth.tenant_claim,
            subject=subject or worker_id or tenant,
            scopes=[Scope(name) for name in scope],
            now_ms=wall_ms(),
            expires_in_ms=expires_in_ms,
            audience=settings.auth.audience or None,
            issuer=settings.auth.issuer or None,
            worker_id=worker_id,
            environments=environment or None,
            token_id=secrets.token_hex(8),
        )
    except ValueError as error:
        sys.stderr.write(f"lastseen: {error}\n")
        return MISUSED
    sys.stdout.write(made + "\n")
    return 0


def main() -> None:
    """The program's entry."""
    sys.exit(app(result_action="return_value"))
