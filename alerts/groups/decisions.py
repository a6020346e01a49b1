"""Why a group notifies now, or why it does not: the answer to "why was I not paged?". Pure."""

from enum import StrEnum
from typing import Final


class Decision(StrEnum):
    """Name of a decision of the planner, as in logs, metrics and answers of the API."""

    FIRST = "first"
    """It notifies of an outage for the first time."""
    UPDATED = "updated"
    """It notifies of what has changed in an outage: an escalation, or members of a group."""
    RECOVERED = "recovered"
    FACT = "fact"
    """It notifies of an event that is neither the start nor the end of an outage."""
    REMINDER = "reminder"
    ATTEMPT = "attempt"
    """It sends the notification in flight: a retry, or a dead letter that is sent again."""

    GROUP_WAIT = "group_wait"
    """It collects the first news of an outage: ``group_wait`` of the route."""
    GROUP_INTERVAL = "group_interval"
    """It collects further news: ``group_interval`` of the route."""
    SILENCED = "silenced"
    DAMPED = "damped"
    """The worker flaps, and this outage has not lasted long enough (P20)."""
    HELD = "held"
    """A mass failure is suspected and not declared (P16)."""
    ACKNOWLEDGED = "acknowledged"
    """The incident is acknowledged: no reminders (P19)."""
    SETTLED = "settled"
    """The outage is over; its end is not routed yet."""
    BEHIND = "behind"
    """Members of the group are back; their events are not routed yet."""
    RETRY = "retry"
    """The last attempt or plan failed; the next one is due later."""
    NOTIFIED = "notified"
    """All news is delivered. A reminder may be due later."""
    DEAD_LETTERED = "dead_lettered"
    """The notification is a dead letter that may be retried."""
    OVER = "over"
    """Nothing is pending, and no outage was notified that has not ended."""


IDLE: Final = frozenset({Decision.NOTIFIED, Decision.ACKNOWLEDGED, Decision.DEAD_LETTERED})
"""Decisions about a group without news."""
HOLDS_BACK: Final = frozenset(
    {Decision.SILENCED, Decision.DAMPED, Decision.HELD, Decision.ACKNOWLEDGED, Decision.SETTLED, Decision.BEHIND}
)
"""Decisions that withhold a notification, or delay it longer than its route does."""
