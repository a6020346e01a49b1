"""The webhook body of an event. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from alerts.errors import UnrenderableEventError
from monitor.events import rfc3339

if TYPE_CHECKING:
    from monitor.events import Event


def render(event: Event) -> str:
    """The body as compact JSON in ASCII: ``{"type", "timestamp", "data"}``.

    Rendered once, when the notification is queued, and stored, so that every attempt sends the same
    bytes. ASCII because a lone surrogate in a worker's metadata has no UTF-8 form.

    Raises:
        UnrenderableEventError: the event holds something that has no JSON form.
    """
    try:
        body = {"type": event.kind.value, "timestamp": rfc3339(event.detected_ms), "data": event.data()}
        return json.dumps(body, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
        position = f"{event.partition}/{event.position}"
        raise UnrenderableEventError(f"event at {position} cannot be rendered: {type(error).__name__}") from error
