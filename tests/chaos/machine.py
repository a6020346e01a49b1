"""Watching for the machine's part in a run: spans in which a process that matters got too little of its cores."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.chaos.record import Record, Stall
from tests.chaos.timeline import Timeline

TICK_S: Final = 0.05
STALLED_S: Final = 0.2
WINDOW_S: Final = 1.0
STARVED_S: Final = 0.5
"""A process that could have run and waited for a core so long, of the window, is starved."""


async def watch(record: Record, timeline: Timeline, pids: Callable[[], Iterable[int]]) -> None:
    """Note when this very process got no time of the machine, and when one of ``pids`` got little. Does not end."""
    window_s, waited_s = timeline.now_s(), dict[int, float]()
    while True:
        due_s = timeline.now_s() + TICK_S
        await timeline.reach(due_s)
        now_s = timeline.now_s()
        if now_s > due_s + STALLED_S:
            record.stalls.append(Stall(begun_s=due_s, ended_s=now_s))
        if now_s >= window_s + WINDOW_S:
            before_s, waited_s = waited_s, {pid: _waited_s(pid) for pid in pids()}
            if any(after_s - before_s.get(pid, after_s) >= STARVED_S for pid, after_s in waited_s.items()):
                record.stalls.append(Stall(begun_s=window_s, ended_s=now_s))
            window_s = now_s


def _waited_s(pid: int) -> float:
    """How long a process has waited for a core in its life, while it could have run (Linux; 0 if it is gone)."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0
