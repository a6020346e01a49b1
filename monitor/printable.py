"""What a terminal shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def escaped(text: str) -> str:
    r"""The text in one line, with an escape such as ``\x1b`` or ``\u202e`` in place of every character that a terminal
    would obey or not show: controls, line breaks, what turns the direction of text, what has no width.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paged:
    """What the log has as a page anyway: events of these ``kinds``, and deliveries to these ``receivers``."""

    kinds: frozenset[str] = frozenset()
    receivers: frozenset[str] = frozenset()

    def has(self, line: Mapping[str, object]) -> bool:
        """Whether a line says what a page says."""
        name = line["event"]
        return name in self.kinds or (name == "delivery.delivered" and line.get("receiver") in self.receivers)
