"""How notifications put names, times and the monitor's own outages into words. Pure.

What a worker, or the issuer of its token, has named is shown in one line, cut to a sane length, and in quotes
where it could be taken for words of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from monitor.events import Event

LINE_CHARS: Final = 600
"""Every sentence is shorter."""
SHOWN_CHARS: Final = (120, 60, 30)
"""So many characters of each value are shown: the first that makes the sentence short enough."""
DAY_MS: Final = 86_400_000

_READ_CHARS: Final = 1_000
_PLAIN: Final = re.compile(r"[\w.:/@#+=~-]+")


def duration(ms: int) -> str:
    """A span of time as people say it, in at most two units: ``4 min 10 s``. What is negative counts as nothing."""
    ms = max(0, ms)
    if ms < 9_950:  # noqa: PLR2004 - what rounds to less than 10.0 s
        return f"{ms} ms" if 0 < ms < 50 else f"{round(ms / 100) / 10:g} s"  # noqa: PLR2004 - what rounds to nothing
    seconds = round(ms / 1_000)
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds} s"
    if seconds < 3_600:  # noqa: PLR2004 - an hour
        return _units(seconds, 60, "min", "s")
    minutes = round(seconds / 60)
    if minutes < 1_440:  # noqa: PLR2004 - a day
        return _units(minutes, 60, "h", "min")
    hours = round(minutes / 60)
    days, rest = divmod(hours, 24)
    if days >= 10 or not rest:  # noqa: PLR2004 - the hours of ten days matter to nobody
        days = round(hours / 24)
        return f"{days:,} day{'s' * (days != 1)}"
    return f"{days} day{'s' * (days != 1)} {rest} h"


def shown(text: str, most: int) -> str:
    """At most ``most`` characters of the text in one line, with nothing in it that a terminal would obey."""
    line = " ".join(text[:_READ_CHARS].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= most else line[: most - 1] + "…"


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How values are shown. ``day``: days since 1970 of the day whose times go without a date; None: there is none."""

    most: int
    day: int | None

    def name(self, text: str) -> str:
        """A name; in quotes, unless it cannot be taken for anything but one word."""
        name = shown(text, self.most)
        return name if _PLAIN.fullmatch(name.removesuffix("…")) else self.quote(name)

    def quote(self, text: str) -> str:
        """What somebody else has said."""
        return '"' + shown(text, self.most).replace('"', "'") + '"'

    def clock(self, ms: int) -> str:
        """A moment in UTC, to the second."""
        form = "%H:%M:%S" if ms // DAY_MS == self.day else "%Y-%m-%d %H:%M:%S"
        return datetime.fromtimestamp(ms // 1_000, UTC).strftime(form)

    def at(self, ms: int) -> str:
        """As ``clock``, and says that it is UTC."""
        return f"{self.clock(ms)} UTC"


def own_outage(event: Event) -> str:
    """What the monitor missed itself of the time before it noticed; empty for nothing."""
    if not event.outage_windows:
        return ""
    many = event.outage_windows > 1
    text = f"the monitor's own outage{'s' * many} of {duration(event.outage_ms)}{' in all' * many}"
    if not (stalls := event.outage_uncredited):
        return text
    return f"{text}; it stalled {stalls:,} more time{'s' * (stalls != 1)}, which moved no deadline"


def reminding(reminder: int, text: str) -> str:
    """The text as that of the n-th reminder; 0: of none."""
    return f"Reminder {reminder}: {text[0].lower()}{text[1:]}" if reminder else text


def fitted(made: Callable[[int], str], shown_chars: Sequence[int]) -> str:
    """A sentence that is short enough: ``made`` with the first of these lengths of values, or else cut."""
    text = ""
    for most in shown_chars:
        text = made(most)
        if len(text) < LINE_CHARS:
            return text
    return text[: LINE_CHARS - 2] + "…"


def _units(count: int, per: int, unit: str, part: str) -> str:
    whole, rest = divmod(count, per)
    return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
