"""Which deliveries are counted: known at start, so that every series is there from the first scrape on.

Apart from what makes the alert service, which a supervisor of processes need not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.delivery import Outcome

if TYPE_CHECKING:
    from monitor.daemon.config import Config

UNRENDERABLE: Final = "unrenderable"
"""The outcome of an event that no body could be made of; the router's word."""


def delivery_outcomes(config: Config) -> list[tuple[str, str]]:
    """Every receiver with every outcome that an ``AlertService`` may tell of it."""
    return [
        (receiver.name, outcome)
        for receiver in config.alerts.effective_receivers
        for outcome in (*(outcome.value for outcome in Outcome), UNRENDERABLE)
    ]
