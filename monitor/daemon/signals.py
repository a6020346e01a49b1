"""SIGTERM and SIGINT, remembered from the program's first moment on.

Before the event loop runs there are seconds of imports and of loading the embedded store's data. A signal that
comes then must neither end the program halfway, nor get lost in some library's exception handling.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Made in the main thread. ``why`` is the name of the signal that came, empty before one has."""

    def __init__(self) -> None:
        self.why = ""
        self._then: Callable[[str], None] | None = None
        for number in STOPPING:
            signal.signal(number, lambda received, _: self._on(received))

    def attach(self) -> None:
        """Let the running event loop notice signals from now on."""
        for number in STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, self._on, number)

    def then(self, action: Callable[[str], None]) -> None:
        """Have ``action`` called with the signal's name, and no other action any more: at once, if one has come."""
        self._then = action
        if self.why:
            action(self.why)

    def _on(self, number: int) -> None:
        self.why = signal.Signals(number).name
        if self._then is not None:
            self._then(self.why)
