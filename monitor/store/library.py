"""Lua function libraries as loaded. The worker store's has a prelude generated from the transition table.

Function names are global over all libraries of a server, and ``FUNCTION LOAD REPLACE`` from two
releases would replace each other's code. So the names of the library and of its functions contain
a digest of the source, and two releases run side by side.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from monitor import blindness, ownership
from monitor.liveness import REJECTED_INTERVALS, STILL_REJECTED, STRAGGLER_MS, TRANSITIONS, EventKind, Liveness, Trigger
from monitor.store import results

STATE_CODES: Final[Mapping[Liveness, str]] = {
    Liveness.ALIVE: "a",
    Liveness.STALE: "s",
    Liveness.STOPPED: "o",
    Liveness.FAILED: "f",
}
"""The code of a stored liveness in a record, where a byte counts a million times."""

TRANSITIONS_KEPT: Final = 16
"""Last transitions that are kept of a worker, beside its registration."""
UNDECLARED: Final = 2**48 - 1
"""Stands for an interval or grace that a worker does not declare."""
_INCLUDE: Final = re.compile(r"^-- include: (\S+)\n", re.MULTILINE)
_OUTCOMES: Final = (
    *("STORED", "OVER_WORKERS", "OVER_ENVIRONMENTS", "OVER_TIMINGS", "OVER_BYTES"),
    *("NOT_ALLOWED", "UNKNOWN", "REFUSED", "DAMAGED", "LATE"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """A function library as it is loaded. The name of each function is ``name``, ``_`` and its name in the source."""

    name: str
    source: str


def rendered(package: str, main: str, *, name: str, prelude: str = "") -> Library:
    """Build a library from the Lua file ``main`` of a package, in which ``-- include: FILE`` is replaced by that file.

    The result begins with ``PREFIX``, the prefix of all function names, and ``prelude``.
    """
    folder = resources.files(package)

    def text(file: str) -> str:
        return _INCLUDE.sub(lambda found: text(found[1]), folder.joinpath(file).read_text(encoding="utf-8"))

    body = prelude + text(main)
    name = f"{name}_{hashlib.sha256(body.encode()).hexdigest()[:10]}"
    return Library(name=name, source=f"#!lua name={name}\nlocal PREFIX = '{name}_'\n{body}")


def _prelude() -> str:
    lines = [
        *(f"local {state.name} = '{code}'" for state, code in STATE_CODES.items()),
        *(f"local {one.name} = '{one}'" for one in (*Trigger, *blindness.Cause)),
        f"local REJECTED_INTERVALS, STILL_REJECTED = {REJECTED_INTERVALS}, '{STILL_REJECTED}'",
        f"local GAP_MS, SHORT_CREDITS = {blindness.GAP_MS}, {blindness.SHORT_CREDITS}",
        f"local WINDOWS_KEPT, WINDOW_AGE_MS = {blindness.WINDOWS_KEPT}, {blindness.WINDOW_AGE_MS}",
        f"local LEASE = {{ MS = {ownership.LEASE_MS}, SPARE_MS = {ownership.SPARE_MS},",
        *(f"  {bid.name} = '{bid}'," for bid in ownership.Bid),
        "}",
        f"local DAEMONS_KEPT, SLEW, BEHIND_MS = {blindness.DAEMONS_KEPT}, {blindness.SLEW}, {blindness.BEHIND_MS}",
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
    return "\n".join(lines) + "\n"


LIBRARY: Final = rendered("monitor.store.lua", "lastseen.lua", name="lastseen", prelude=_prelude())
"""The worker store's."""
