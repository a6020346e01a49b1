"""The log as a receiver: one line for each notification."""

import json
from typing import Final, Literal

from alerts.errors import PermanentDeliveryError
from alerts.notification import Notification
from alerts.receivers.receiver import ReceiverSettings


class LogReceiver:
    """Writes each notification as the log event ``notification``, the fields of its ``data`` beside its id and type."""

    timeout_s = 1.0
    resend_ms = None
    takes_groups = True

    def __init__(self, *, name: str = "log") -> None:
        import structlog  # noqa: PLC0415 - see alerts.receivers.receiver

        self.name = name
        self._log = structlog.get_logger()

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        """Write the line; there is nothing to wait for."""
        try:
            body = json.loads(notification.body)
            fields = dict(body["data"])
        except (ValueError, TypeError, KeyError) as error:
            raise PermanentDeliveryError(f"body of {notification.nid} is not a notification: {error}") from error
        fields.pop("event", None)  # the name of the log event itself
        fields |= {"nid": notification.nid, "receiver": self.name, "type": notification.event_type, "attempt": attempt}
        self._log.info("notification", **fields)

    async def reach(self) -> None:
        """The log is always there."""

    async def close(self) -> None:
        """Nothing is held open."""


class LogSettings(ReceiverSettings):
    """Type ``log``: the daemon's own log."""

    type: Literal["log"]

    def open(self) -> LogReceiver:
        """See ``ReceiverSettings``."""
        return LogReceiver(name=self.name)


SETTINGS: Final = LogSettings
