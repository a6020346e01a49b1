"""Redaction: metadata values whose keys match a pattern are not sent in notifications. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from alerts.groups.classify import fits
from monitor.events import Event

REDACTED: Final = "[redacted]"
"""Replacement for a redacted value."""
_USERINFO: Final = re.compile(r"""(?<=://)(?:[^/?#\s"'<>]*@|[^/?#\s@:]{0,200}:(?!\d+/)[^\s"'<>@]{0,200}@)""")
"""The second alternative: a password with a slash, a question mark or a hash that should have been escaped."""
TEXTS: Final = ("status", "old_status", "current_task_id", "reason", "error_message")
"""Fields of an event that may hold text from its worker."""


def without_userinfo(text: str) -> str:
    """The text without user and password in its URLs."""
    return _USERINFO.sub("", text) if "://" in text else text


class Redaction:
    """Replaces the values under certain keys of a worker's metadata.

    Args:
        patterns: globs on the names of keys, case-insensitive; ``*`` is the only wildcard.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(pattern.casefold() for pattern in patterns)

    def hides(self, name: str) -> bool:
        """Whether values under this key must not be sent."""
        folded = name.casefold()
        return any(fits(pattern, folded) for pattern in self._patterns)

    def cleaned(self, value: object) -> object:
        """The JSON value with each value under a hidden key replaced as a whole, at any depth. The keys remain.

        URLs in other values lose their userinfo.

        Raises:
            RecursionError: the value is nested too deeply.
        """
        if isinstance(value, dict):
            return {name: REDACTED if self.hides(name) else self.cleaned(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.cleaned(item) for item in value]
        return without_userinfo(value) if isinstance(value, str) else value

    def event(self, event: Event) -> Event:
        """The event without userinfo in its texts. Its metadata is not changed; see ``cleaned``."""
        changes: dict[str, Any] = {
            name: without_userinfo(text)
            for name in TEXTS
            if isinstance(text := getattr(event, name), str) and "://" in text
        }
        return replace(event, **changes) if changes else event
