"""Signal handling: stop signals are remembered from the start of the program on, and others are ignored.

Before the event loop runs, imports and loading the embedded store's data take seconds. A signal in that time must
neither end the program halfway, nor get lost in the exception handling of a library.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals with a meaning for other daemons. Unhandled, they would kill this one."""


class StopSignal:
    """Receives stop signals. Must be created in the main thread. ``why``: name of the received signal, or empty."""

    def __init__(self) -> None:
        self.why = ""
        self._then: Callable[[str], None] | None = None
        # Under nohup the daemon outlives the terminal.
        self._stopping = [
            number for number in STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        for number in self._stopping:
            signal.signal(number, lambda received, _: self._on(received))
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def attach(self) -> None:
        """Handle signals in the running event loop from now on."""
        loop = asyncio.get_running_loop()
        for number in self._stopping:
            loop.add_signal_handler(number, self._on, number)
        for number in IGNORED:
            loop.add_signal_handler(number, _say_ignored, number)

    def then(self, action: Callable[[str], None]) -> None:
        """Set the action to call with the signal's name; replaces the previous one. Called now if a signal came."""
        self._then = action
        if self.why:
            action(self.why)

    def _on(self, number: int) -> None:
        self.why = signal.Signals(number).name
        if self._then is not None:
            self._then(self.why)


def _say_ignored(number: int) -> None:
    import structlog  # noqa: PLC0415 - some commands do not log

    log = structlog.get_logger(__name__)
    log.warning("signal.ignored", signal=signal.Signals(number).name, hint="SIGTERM stops the daemon")
