"""When a daemon counts as one that accepts no beats, though it runs (P28)."""

from __future__ import annotations

import math

import pytest

from monitor.behind import KEPT_S, LIMIT_S, Behind, Graces

MINUTE_MS = 60_000


class Now:
    """A clock that is set."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:
        return self.s


@pytest.mark.parametrize(
    ("grace_ms", "waits_s", "expected"),
    [
        (MINUTE_MS, (0.0, 0.0, 0.0), False),
        (MINUTE_MS, (0.7, 0.7, 0.6), False),
        (MINUTE_MS, (0.7, 0.7, 0.7), True),
        (MINUTE_MS, (0.0, LIMIT_S + 0.1, 0.0), True),
        (MINUTE_MS, (0.0, 0.0, math.inf), True),
        # A gap between pulses shows after 750 ms: who has 1 s of grace can wait for 250 ms, and who has 2 s for 1.25 s.
        (1_000, (0.1, 0.1, 0.0), False),
        (1_000, (0.1, 0.1, 0.1), True),
        (2_000, (0.2, 1.0, 0.0), False),
        (2_000, (0.2, 1.0, 0.1), True),
    ],
)
def test_p28_beats_wait_no_longer_than_the_most_impatient_worker_can(
    grace_ms: int, waits_s: tuple[float, ...], *, expected: bool
) -> None:
    behind = Behind(Graces([grace_ms]), *(lambda wait_s=wait_s: wait_s for wait_s in waits_s))
    assert behind() == expected


def test_p28_the_shortest_grace_is_of_those_that_have_beaten_lately() -> None:
    now = Now()
    graces = Graces([MINUTE_MS, 2 * MINUTE_MS], now_s=now)
    assert graces.shortest_ms() == MINUTE_MS
    graces.see(2_000)
    graces.see(3_000)
    graces.see(2 * MINUTE_MS)
    assert graces.shortest_ms() == 2_000
    now.s += KEPT_S
    assert graces.shortest_ms() == 2_000, "it is remembered for a minute at least"
    graces.see(3_000)
    now.s += KEPT_S
    assert graces.shortest_ms() == 3_000, "and for two at most"
    now.s += KEPT_S
    assert graces.shortest_ms() == MINUTE_MS
