"""Wording of names, times and the monitor's own outages in notifications. Pure.

Text from a worker, or from the issuer of its token, is shown in one line, cut to a sane length, and quoted where it
could be mistaken for the monitor's own text.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from monitor.events import Event

LINE_CHARS: Final = 600
"""Upper bound of the length of a sentence."""
SHOWN_CHARS: Final = (120, 60, 30)
"""Maximum characters shown of each value. The first of these that makes the sentence short enough is used."""
DAY_MS: Final = 86_400_000

_READ_CHARS: Final = 1_000
_PLAIN: Final = re.compile(r"[\w.:/@#+=~-]+")


def duration(ms: int) -> str:
    """A duration in at most two units: ``4 min 10 s``. A negative duration counts as 0."""
    ms = max(0, ms)
    if ms < 9_950:  # noqa: PLR2004 - rounds to less than 10.0 s
        return f"{ms} ms" if 0 < ms < 50 else f"{round(ms / 100) / 10:g} s"  # noqa: PLR2004 - rounds to 0.0 s
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
    if days >= 10 or not rest:  # noqa: PLR2004 - from ten days on, hours are left out
        days = round(hours / 24)
        return f"{days:,} day{'s' * (days != 1)}"
    return f"{days} day{'s' * (days != 1)} {rest} h"


def shown(text: str, most: int) -> str:
    """At most ``most`` characters of the text in one line, without characters that a terminal would interpret."""
    line = " ".join(text[:_READ_CHARS].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= most else line[: most - 1] + "…"


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How values are shown. ``day``: the day, in days since 1970, whose times have no date; None: all have one."""

    most: int
    day: int | None

    def name(self, text: str) -> str:
        """A name, in quotes unless it is clearly one word."""
        name = shown(text, self.most)
        return name if _PLAIN.fullmatch(name.removesuffix("…")) else self.quote(name)

    def quote(self, text: str) -> str:
        """Text from outside the monitor, in quotes."""
        return '"' + shown(text, self.most).replace('"', "'") + '"'

    def clock(self, ms: int) -> str:
        """A time in UTC, to the second."""
        form = "%H:%M:%S" if ms // DAY_MS == self.day else "%Y-%m-%d %H:%M:%S"
        return datetime.fromtimestamp(ms // 1_000, UTC).strftime(form)

    def at(self, ms: int) -> str:
        """As ``clock``, with the suffix UTC."""
        return f"{self.clock(ms)} UTC"


def own_outage(event: Event) -> str:
    """The monitor's own outages before it noticed the event; empty: there were none."""
    if not event.outage_windows:
        return ""
    many = event.outage_windows > 1
    text = f"the monitor's own outage{'s' * many} of {duration(event.outage_ms)}{' in all' * many}"
    if not (stalls := event.outage_uncredited):
        return text
    return f"{text}; it stalled {stalls:,} more time{'s' * (stalls != 1)}, which moved no deadline"


def reminding(reminder: int, text: str) -> str:
    """The text as that of the n-th reminder; 0: it is no reminder."""
    return f"Reminder {reminder}: {text[0].lower()}{text[1:]}" if reminder else text


def fitted(made: Callable[[int], str], shown_chars: Sequence[int]) -> str:
    """A sentence that is short enough: ``made`` with the first length of values that fits, or else cut."""
    text = ""
    for most in shown_chars:
        text = made(most)
        if len(text) < LINE_CHARS:
            return text
    return text[: LINE_CHARS - 2] + "…"


def _units(count: int, per: int, unit: str, part: str) -> str:
    whole, rest = divmod(count, per)
    return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
