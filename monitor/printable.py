"""Text that is safe to print on a terminal. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


def escaped(text: str) -> str:
    r"""Return the text in one line. An escape such as ``\x1b`` or ``\u202e`` replaces every character that a terminal
    interprets or does not show: control characters, line breaks, text direction marks, zero-width characters.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paged:
    """What the log also has as a page: events of these ``kinds``, and deliveries to these ``receivers``."""

    kinds: frozenset[str] = frozenset()
    receivers: frozenset[str] = frozenset()

    def has(self, line: Mapping[str, object]) -> bool:
        """Whether a log line has the same content as a page."""
        name = line["event"]
        return name in self.kinds or (name == "delivery.delivered" and line.get("receiver") in self.receivers)
