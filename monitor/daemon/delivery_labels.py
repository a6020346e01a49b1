"""Which deliveries are counted: known at start, so that every series is there from the first scrape on.

Apart from what makes the alert service, which a supervisor of processes need not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alerts.delivery.loop import Counted
from alerts.errors import Cause

if TYPE_CHECKING:
    from monitor.daemon.config.model import Config


def delivery_outcomes(config: Config) -> list[tuple[str, str]]:
    """Every receiver with every outcome that an ``AlertService`` may tell of it."""
    return [(receiver.name, outcome.value) for receiver in config.alerts.effective_receivers for outcome in Counted]


def delivery_failures(config: Config) -> list[tuple[str, str]]:
    """Every receiver with every cause for which attempts at it may fail."""
    return [(receiver.name, cause.value) for receiver in config.alerts.effective_receivers for cause in Cause]
