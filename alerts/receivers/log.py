"""Log receiver: one log line for each notification."""

import json
import re
from collections.abc import Mapping
from typing import Final, Literal

from alerts.errors import PermanentDeliveryError
from alerts.receivers.receiver import Notification, ReceiverSettings
from alerts.rendering.phrases import SHOWN_CHARS, Style

_WORDS: Final = {
    "worker.stale": "DOWN",
    "worker.failed": "DOWN",
    "group.firing": "DOWN",
    "worker.recovered": "RESOLVED",
    "group.resolved": "RESOLVED",
}
_STALE: Final = re.compile(r"^ is (still )?stale: ")


def page(kind: str, data: Mapping[str, object]) -> str:
    """A notification as one human-readable line. Pure."""
    word = _WORDS.get(kind) or kind.rpartition(".")[2].replace("_", " ").upper()
    word += f" (reminder {data['reminder']})" if data.get("reminder") else ""
    summary = str(data.get("summary", ""))
    style = Style(most=SHOWN_CHARS[0], day=None)
    worker, environment = (style.name(str(data.get(name, ""))) for name in ("worker_id", "environment_name"))
    _, found, rest = summary.partition(f"orker {worker} in {environment}")
    if "worker_id" not in data or not found:
        return f"{word} {summary}"
    return f"{word} {worker} ({environment}): {_STALE.sub('', rest).lstrip(', ')}"


class LogReceiver:
    """Writes each notification as the log event ``notification``, with its id, its type and the fields of its ``data``.

    On a terminal this is one human-readable line instead.
    """

    timeout_s = 1.0
    resend_ms = None
    takes_groups = True

    def __init__(self, *, name: str = "log") -> None:
        import structlog  # noqa: PLC0415 - see alerts.receivers.receiver

        self.name = name
        self._log = structlog.get_logger()

    async def send(self, notification: Notification, *, attempt: int, now_ms: int) -> None:  # noqa: ARG002
        """Write the log line. Does not wait for anything."""
        try:
            body = json.loads(notification.body)
            fields = dict(body["data"])
        except (ValueError, TypeError, KeyError) as error:
            raise PermanentDeliveryError(f"body of {notification.nid} is not a notification: {error}") from error
        fields.pop("event", None)  # the name of the log event itself
        fields |= {"nid": notification.nid, "receiver": self.name, "type": notification.event_type, "attempt": attempt}
        self._log.info("notification", page=page(notification.event_type, fields), **fields)

    async def reach(self) -> None:
        """Do nothing: the log is always reachable."""

    async def close(self) -> None:
        """Do nothing: no connection is open."""


class LogSettings(ReceiverSettings):
    """Type ``log``: the daemon's own log."""

    type: Literal["log"]

    def open(self) -> LogReceiver:
        """See ``ReceiverSettings``."""
        return LogReceiver(name=self.name)


SETTINGS: Final = LogSettings
