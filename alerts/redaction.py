"""Metadata that stays inside: the values of keys that match a pattern leave in no notification. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alerts.globs import fits

if TYPE_CHECKING:
    from collections.abc import Sequence

REDACTED: Final = "[redacted]"
"""What stands in place of a value."""


class Redaction:
    """Hides what a worker's metadata holds under certain names.

    Args:
        patterns: globs on the names of keys, case-insensitive; ``*`` is the only wildcard.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(pattern.casefold() for pattern in patterns)

    def hides(self, name: str) -> bool:
        """Whether what has this name must not leave."""
        folded = name.casefold()
        return any(fits(pattern, folded) for pattern in self._patterns)

    def cleaned(self, value: object) -> object:
        """The JSON value with every value under a hidden key replaced whole, at any depth; the key remains.

        Raises:
            RecursionError: it is nested too deeply.
        """
        if isinstance(value, dict):
            return {name: REDACTED if self.hides(name) else self.cleaned(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.cleaned(item) for item in value]
        return value
