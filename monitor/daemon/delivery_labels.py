"""Labels of the delivery counters. Known at start, so that every series exists from the first scrape on.

In its own module: the supervisor of processes needs the labels, but not the alert service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alerts.delivery.loop import Counted
from alerts.errors import Cause

if TYPE_CHECKING:
    from monitor.daemon.config.model import Config


def delivery_outcomes(config: Config) -> list[tuple[str, str]]:
    """Every receiver with every outcome that an ``AlertService`` may report for it."""
    return [(receiver.name, outcome.value) for receiver in config.alerts.effective_receivers for outcome in Counted]


def delivery_failures(config: Config) -> list[tuple[str, str]]:
    """Every receiver with every cause of a failed attempt."""
    return [(receiver.name, cause.value) for receiver in config.alerts.effective_receivers for cause in Cause]
