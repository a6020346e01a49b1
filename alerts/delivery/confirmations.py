"""Logs how durable the store says that the writes of deliveries are (P23)."""

from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from monitor.durability import Confirmation

DURABILITY_EVENTS: Final = {
    Confirmation.CONFIRMED: "durability.confirmed",
    Confirmation.UNCONFIRMED: "durability.unconfirmed",
    Confirmation.UNAVAILABLE: "durability.unavailable",
}
"""The log event of each change."""
UNAVAILABLE_HINT: Final = (
    "the store cannot confirm this, so notifications leave without: give it an append-only file (appendonly yes;"
    ' Valkey, or Redis 7.2 or newer), or set store.durability to "memory"'
)

_log: FilteringBoundLogger = structlog.get_logger()


class Confirmations:
    """Logs each change of the store's confirmations once."""

    def __init__(self, receiver: str, mode: str) -> None:
        self._facts = {"receiver": receiver, "durability": mode}
        self._known = Confirmation.CONFIRMED

    def note(self, confirmation: Confirmation) -> None:
        """Note a confirmation."""
        if confirmation is not self._known:
            self._known = confirmation
            log = _log.info if confirmation is Confirmation.CONFIRMED else _log.warning
            hint = {"hint": UNAVAILABLE_HINT} if confirmation is Confirmation.UNAVAILABLE else {}
            log(DURABILITY_EVENTS[confirmation], **self._facts, **hint)
