"""Startup banner for the user at the terminal, and the same information as one log line."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import structlog

from monitor.daemon.config.model import Config
from monitor.daemon.signing_key import KeyRing
from monitor.logs import is_console
from monitor.printable import escaped
from monitor.version import version

log = structlog.get_logger(__name__)


def _program() -> str:
    """Path of this program that works in another shell and another folder."""
    name = Path(sys.argv[0])
    if name.name == "lastseen" and name.exists():
        return str(name.absolute())
    return shutil.which("lastseen") or f"{sys.executable} -m monitor"


def _token_command(config: Config, ring: KeyRing, config_path: Path | None) -> str:
    """Command line that creates a worker's token, from any working directory."""
    settings = {name: value for name, value in os.environ.items() if name.upper().startswith("LASTSEEN_AUTH__")}
    if ring.generated is not None:
        settings["LASTSEEN_STORE__DATA_DIR"] = str(config.store.data_dir.absolute())
    words = [f"{name}={shlex.quote(value)}" for name, value in sorted(settings.items())]
    words += [_program(), "token create --tenant acme --scope heartbeat:write"]
    if config_path is not None:
        words.append(f"--config {shlex.quote(str(config_path.absolute()))}")
    return " ".join(words)


def greet(config: Config, ring: KeyRing, port: int, *, config_path: Path | None, origin: str) -> None:
    """Log the daemon's address. On a terminal also print how to send the first heartbeat.

    The banner goes to stderr. It is omitted where both streams may be collected as one log of JSON lines.
    """
    host = config.server.host.strip("[]")
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("daemon.ready", version=version(), url=url, config=origin, signing_key=str(ring.generated or ""))
    if not (sys.stderr.isatty() or is_console(config.log.format, sys.stdout)):
        return
    command = _token_command(config, ring, config_path)
    # A short interval, so that the first alert comes while the reader looks.
    beat = '{"worker_id": "worker-1", "environment_name": "dev", "interval_seconds": 2, "grace_seconds": 3}'
    curl = (
        f'curl -i {url}/api/v1/workers/heartbeat -H "Authorization: Bearer $({command})" '
        f"-H 'Content-Type: application/json' -d '{beat}'"
    )
    status = command.replace("heartbeat:write", "workers:read")
    look = f'curl -s {url}/api/v1/workers -H "Authorization: Bearer $({status})"'
    lines = [f"lastseen {version()} listens on {url}", f"configuration: {origin}"]
    if ring.generated is not None:
        lines.append(f"signing key:  {ring.generated} (mode 0600; keep it, every token depends on it)")
    else:
        lines.append(f"signing keys: {', '.join(key.kid for key in ring.keys)} (from the configuration)")
    if ring.signing() is not None:
        lines += [f"make a worker's token:\n  {command}", f"send a heartbeat:\n  {curl}", f"see the workers:\n  {look}"]
    else:
        lines.append("tokens are created by the holder of the private keys: none of the configured keys can sign")
    shown = "\n".join(escaped(line) for text in lines for line in text.split("\n"))
    sys.stderr.write(f"\n{shown}\n\n")
    sys.stderr.flush()
