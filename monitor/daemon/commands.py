"""The commands of ``lastseen``, each loaded when it is called: ``--version`` and ``--help`` load none of them.

Exit status: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

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
    "serve": (f"{_MAIN}:serve", "Run the daemon until SIGTERM or ^C."),
    "check": (f"{_MAIN}:check", "Validate the configuration, print warnings and what the daemon will do."),
    "backup": (f"{_MAIN}:backup", "Copy the embedded store, and prove the copy by starting a server on it."),
    "token": (f"{_MAIN}:token", "Tokens for workers, dashboards and operators."),
    "silence": (f"{_ONCALL}:silence", "Suppress notifications for matching workers until a set end."),
    "incidents": (f"{_ONCALL}:incidents", "Who is down, and who has taken it over."),
    "deliveries": (f"{_ONCALL}:deliveries", "Notifications: what was delivered, and what could not be."),
    "alerts": (f"{_ONCALL}:alerts", "The receivers of alerts."),
}
"""Where each is, and what it does."""

for name, (where, what) in COMMANDS.items():
    app.command(where, name=name, help=what)


def main() -> None:
    """The program's entry. Who closes the pipe that stdout is ends it, as other programs of the system."""
    try:
        try:
            status = app(result_action="return_value")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes in the end
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    sys.exit(status)
