"""The commands of ``lastseen``. Each is loaded when it is called; ``--version`` and ``--help`` load none of them.

Exit status: 0 done, 1 failed, 2 wrong command line or configuration.
"""

import os
import signal
import sys
from typing import Final

from cyclopts import App

from monitor.version import version

app = App(name="lastseen", help="A liveness monitoring daemon.", help_format="plaintext", version=version)

_MAIN: Final = "monitor.daemon.cli.main"
_ONCALL: Final = "monitor.daemon.cli.oncall"
COMMANDS: Final = {
    "serve": (
        f"{_MAIN}:serve",
        """Run the daemon until SIGTERM or ^C.

Example: lastseen serve --config lastseen.toml""",
    ),
    "check": (
        f"{_MAIN}:check",
        """Validate the configuration, print warnings and what the daemon will do.

Starts nothing and writes nothing.

Example: lastseen check --config lastseen.toml""",
    ),
    "backup": (
        f"{_MAIN}:backup",
        """Copy the embedded store, and verify the copy by starting a server on it.

The daemon may keep running.

Example: lastseen backup /var/backups/lastseen-1""",
    ),
    "token": (
        f"{_MAIN}:token",
        """Create and revoke tokens for workers, dashboards and operators.

Example: lastseen token create --tenant acme --scope heartbeat:write""",
    ),
    "silence": (
        f"{_ONCALL}:silence",
        """Suppress notifications for matching workers until a given time. Detection continues.

Example: lastseen silence add --worker-id w1 --exact --for 2h""",
    ),
    "incidents": (
        f"{_ONCALL}:incidents",
        """List, show and acknowledge incidents.

Example: lastseen incidents list --state all""",
    ),
    "deliveries": (
        f"{_ONCALL}:deliveries",
        """List notifications; replay or drop dead letters.

Example: lastseen deliveries list --outcome queued""",
    ),
    "alerts": (
        f"{_ONCALL}:alerts",
        """List, test and enable the receivers of alerts.

Example: lastseen alerts test ops""",
    ),
}
"""Import path and help text of each command."""

for name, (where, text) in COMMANDS.items():
    app.command(where, name=name, help=text)


def main() -> None:
    """Entry point. A closed pipe at stdout ends the program by SIGPIPE, as it does other Unix programs."""
    try:
        try:
            status = app(result_action="return_value")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    sys.exit(status)
