"""The signals that stop, remembered from the program's first moment on, and those that must not end it.

Before the event loop runs there are seconds of imports and of loading the embedded store's data. A signal that
comes then must neither end the program halfway, nor get lost in some library's exception handling.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""They mean something to other daemons. Unhandled, they would end this one at once."""


class StopSignal:
    """Made in the main thread. ``why`` is the name of the signal that came, empty before one has."""

    def __init__(self) -> None:
        self.why = ""
        self._then: Callable[[str], None] | None = None
        # Under nohup it outlives the terminal.
        self._stopping = [
            number for number in STOPPING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        for number in self._stopping:
            signal.signal(number, lambda received, _: self._on(received))
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)

    def attach(self) -> None:
        """Let the running event loop notice signals from now on."""
        loop = asyncio.get_running_loop()
        for number in self._stopping:
            loop.add_signal_handler(number, self._on, number)
        for number in IGNORED:
            loop.add_signal_handler(number, _say_ignored, number)

    def then(self, action: Callable[[str], None]) -> None:
        """Have ``action`` called with the signal's name, and no other action any more: at once, if one has come."""
        self._then = action
        if self.why:
            action(self.why)

    def _on(self, number: int) -> None:
        self.why = signal.Signals(number).name
        if self._then is not None:
            self._then(self.why)


def _say_ignored(number: int) -> None:
    import structlog  # noqa: PLC0415 - there are commands that log nothing

    log = structlog.get_logger(__name__)
    log.warning("signal.ignored", signal=signal.Signals(number).name, hint="SIGTERM stops the daemon")
