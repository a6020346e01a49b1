"""The Lua function library as loaded: with a prelude generated from the transition table, named by its digest.

Function names are global over all libraries of a server, and ``FUNCTION LOAD REPLACE`` from two
releases would replace each other's code. So the names of the library and of its functions contain
a digest of the source, and two releases run side by side.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from monitor import blindness
from monitor.liveness import REJECTED_INTERVALS, STILL_REJECTED, STRAGGLER_MS, TRANSITIONS, EventKind, Liveness, Trigger
from monitor.store import results

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_CODES: Final[Mapping[Liveness, str]] = {
    Liveness.ALIVE: "a",
    Liveness.STALE: "s",
    Liveness.STOPPED: "o",
    Liveness.FAILED: "f",
}
"""The code of a stored liveness in a record, where a byte counts a million times."""

LIVENESS_OF: Final[Mapping[str, Liveness]] = {code: liveness for liveness, code in STATE_CODES.items()}
DOWN_STATES: Final = (Liveness.STALE, Liveness.STOPPED, Liveness.FAILED)


TRANSITIONS_KEPT: Final = 16
"""Last transitions that are kept of a worker, beside its registration."""
UNDECLARED: Final = 2**48 - 1
"""Stands for an interval or grace that a worker does not declare."""
_OUTCOMES: Final = (
    *("STORED", "OVER_WORKERS", "OVER_ENVIRONMENTS", "OVER_TIMINGS", "OVER_BYTES"),
    *("NOT_ALLOWED", "UNKNOWN", "REFUSED", "DAMAGED", "LATE"),
)

_PARTS: Final = (
    "blindness.lua",
    "workers.lua",
    "commit.lua",
    "beat.lua",
    "orders.lua",
    "sweep.lua",
    "outbox.lua",
    "reading.lua",
    "revocations.lua",
)
"""The files that ``lastseen.lua`` includes."""


def _prelude() -> str:
    lines = [
        f"local ALIVE = '{STATE_CODES[Liveness.ALIVE]}'",
        f"local BEAT, DEADLINE, FORGET = '{Trigger.BEAT}', '{Trigger.DEADLINE}', '{Trigger.FORGET}'",
        f"local DEADLINE_AFTER_STOP = '{Trigger.DEADLINE_AFTER_STOP}'",
        f"local RETURN_OVERDUE, REJECTIONS_ENDED = '{Trigger.RETURN_OVERDUE}', '{Trigger.REJECTIONS_ENDED}'",
        f"local DEADLINE_REJECTED = '{Trigger.DEADLINE_REJECTED}'",
        f"local REJECTED_INTERVALS, STILL_REJECTED = {REJECTED_INTERVALS}, '{STILL_REJECTED}'",
        f"local GAP_MS, SHORT_CREDITS = {blindness.GAP_MS}, {blindness.SHORT_CREDITS}",
        f"local WINDOWS_KEPT, WINDOW_AGE_MS = {blindness.WINDOWS_KEPT}, {blindness.WINDOW_AGE_MS}",
        f"local DAEMONS_KEPT, SLEW, BEHIND_MS = {blindness.DAEMONS_KEPT}, {blindness.SLEW}, {blindness.BEHIND_MS}",
        *(f"local {cause.name} = '{cause}'" for cause in blindness.Cause),
        *(f"local {outcome} = {getattr(results, outcome)}" for outcome in _OUTCOMES),
        f"local UNDECLARED, TRANSITIONS_KEPT = {UNDECLARED}, {TRANSITIONS_KEPT}",
        f"local STATUS_CHANGED, STRAGGLER_MS = '{EventKind.STATUS_CHANGED}', {STRAGGLER_MS}",
        "local WORD = { " + ", ".join(f"{code} = '{word}'" for word, code in STATE_CODES.items()) + " }",
        "local MOVE = { [''] = {}, " + ", ".join(f"{code} = {{}}" for code in STATE_CODES.values()) + " }",
    ]
    for (state, trigger), transition in TRANSITIONS.items():
        code = STATE_CODES[state] if state else ""
        to = f"'{STATE_CODES[transition.to]}'" if transition.to else "nil"
        event = f"'{transition.event}'" if transition.event else "nil"
        lines.append(f"MOVE['{code}']['{trigger}'] = {{ to = {to}, event = {event} }}")
    return "\n".join(lines)


def _render() -> tuple[str, str]:
    folder = resources.files("monitor.store.lua")
    text = folder.joinpath("lastseen.lua").read_text(encoding="utf-8")
    for part in _PARTS:
        text = text.replace(f"-- include: {part}\n", folder.joinpath(part).read_text(encoding="utf-8"))
    body = _prelude() + "\n" + text
    name = "lastseen_" + hashlib.sha256(body.encode()).hexdigest()[:10]
    return name, f"#!lua name={name}\nlocal PREFIX = '{name}_'\n{body}"


LIBRARY_NAME, LIBRARY_SOURCE = _render()
