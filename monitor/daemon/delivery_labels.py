"""Labels of the delivery counters. Known at start, so that every series exists from the first scrape on.

In its own module: the supervisor of processes needs the labels, but not the alert service.
"""

from alerts.delivery.counts import Counted
from alerts.errors import Cause
from alerts.groups.decisions import Decision
from monitor.daemon.config.model import Config
from monitor.metrics.registry import DeliveryLabels


def delivery_labels(config: Config) -> DeliveryLabels:
    """Every receiver, with every outcome, cause of a failure and decision that an ``AlertService`` may count for it."""
    return DeliveryLabels(
        receivers=tuple(receiver.name for receiver in config.alerts.effective_receivers),
        outcomes=tuple(Counted),
        causes=tuple(Cause),
        decisions=tuple(Decision),
    )
