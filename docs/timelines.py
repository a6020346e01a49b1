"""Pictures of outages for the documents, drawn from the arithmetic itself so that they can't say anything else."""

from dataclasses import dataclass
from typing import Final

from monitor.blindness import Window
from tests.support.deadlines import credited

_S: Final = 1_000
INTERVAL_S: Final = 30
GRACE_S: Final = 60
CELL_S: Final = 10
"""A character stands for this long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A day in seconds. The worker beats every interval from 0 until ``dies_s`` (None: it lives on)."""

    title: str
    until_s: int
    blind_s: tuple[tuple[int, int], ...]
    dies_s: int | None


def drawn(scene: Scene) -> str:
    """The scene in rows of characters: the monitor, the worker, and the deadline of its last accepted beat."""
    windows = [Window(begin_ms=begin * _S, end_ms=end * _S) for begin, end in scene.blind_s]
    monitor = ["." if _is_blind(at, windows) else "#" for at in range(0, scene.until_s, CELL_S)]
    worker = [" "] * len(monitor)
    accepted, stale = [], None
    for at in range(0, scene.until_s, INTERVAL_S):
        if scene.dies_s is not None and at >= scene.dies_s:
            break
        lost = _is_blind(at, windows)
        worker[at // CELL_S] = "x" if lost else "|"
        if not lost:
            accepted.append(at)
    if scene.dies_s is not None:
        worker[scene.dies_s // CELL_S] = "+"
    rows = [scene.title, "", "monitor  " + "".join(monitor), "worker   " + "".join(worker).rstrip()]
    for seen, following in zip(accepted, [*accepted[1:], None], strict=True):
        allowance_ms = (INTERVAL_S + GRACE_S) * _S
        plain_ms = seen * _S + allowance_ms
        credit = credited(plain_ms, allowance_ms=allowance_ms, interval_ms=INTERVAL_S * _S, windows=windows)
        moved_ms = credit.deadline_ms
        if plain_ms < min(scene.until_s if following is None else following, scene.until_s) * _S:
            row = [" "] * (len(monitor) + 1)
            row[plain_ms // _S // CELL_S] = "d"
            if moved_ms > plain_ms and moved_ms // _S // CELL_S < len(row):
                row[moved_ms // _S // CELL_S] = "D"
            rows.append("deadline " + "".join(row).rstrip())
        if following is None and moved_ms <= scene.until_s * _S:
            stale = moved_ms // _S
    rows.append("page     " + (" " * (stale // CELL_S) + "!" if stale is not None else "none"))
    return "\n".join(["```", *rows, "```"])


def _is_blind(at_s: int, windows: list[Window]) -> bool:
    return any(window.begin_ms <= at_s * _S < window.end_ms for window in windows)


SCENES: Final = (
    Scene(
        title="The monitor is away for 4 min 10 s, and the worker lives.",
        until_s=600,
        blind_s=((100, 350),),
        dies_s=None,
    ),
    Scene(title="The worker dies while the monitor is away.", until_s=600, blind_s=((100, 350),), dies_s=200),
    Scene(
        title="The worker was overdue before the monitor went away: that deadline is left alone.",
        until_s=600,
        blind_s=((200, 350),),
        dies_s=70,
    ),
    Scene(
        title="The monitor stalls again and again: three short windows move the deadline, and no more do.",
        until_s=600,
        blind_s=((100, 110), (140, 150), (180, 190), (220, 230), (260, 270), (300, 310), (340, 350)),
        dies_s=70,
    ),
)


def pictures() -> str:
    """All scenes, and what the characters mean."""
    legend = (
        "One character is 10 s; interval 30 s, grace 60 s. `#` the monitor accepts beats, `.` it is blind; "
        "`|` a beat that is accepted, `x` one that is lost, `+` the worker dies; `d` the deadline of the last accepted "
        "beat, `D` where the blind windows move it; `!` the page."
    )
    return "\n\n".join([legend, *(drawn(scene) for scene in SCENES)])
