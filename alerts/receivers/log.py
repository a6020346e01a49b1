"""The log as a receiver: one line for each notification."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from alerts.errors import PermanentDeliveryError

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from alerts.notification import Notification

_log: FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSettings:
    """A receiver that writes to the daemon's log."""

    name: str = "log"


class LogReceiver:
    """Writes each notification as the log event ``notification``, the fields of its ``data`` beside its id and type."""

    timeout_s = 1.0

    def __init__(self, settings: LogSettings) -> None:
        self.name = settings.name

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        """Write the line; there is nothing to wait for."""
        try:
            body = json.loads(notification.body)
            fields = dict(body["data"])
        except (ValueError, TypeError, KeyError) as error:
            raise PermanentDeliveryError(f"body of {notification.nid} is not a notification: {error}") from error
        fields.pop("event", None)  # the name of the log event itself
        fields |= {"nid": notification.nid, "receiver": self.name, "type": notification.event_type, "attempt": attempt}
        _log.info("notification", **fields)

    async def close(self) -> None:
        """Nothing is held open."""
