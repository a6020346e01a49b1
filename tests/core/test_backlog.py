"""When a daemon counts as one that accepts no beats, though it runs (P28)."""

import math

import pytest

from monitor.intake.backlog import KEPT_S, Graces, is_too_old

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
        # A beat waits for a turn, and then either for the store or to be noted as refused.
        (MINUTE_MS, (0.9, 1.0, 1.0), False),
        (MINUTE_MS, (0.9, 1.2, 0.0), True),
        (MINUTE_MS, (0.9, 0.0, 1.2), True),
        (MINUTE_MS, (0.0, 2.0, 0.0), False),
        (MINUTE_MS, (0.0, 2.1, 0.0), True),
        (MINUTE_MS, (0.0, 0.0, math.inf), True),
        # A gap between pulses shows after 750 ms: who has 1 s of grace can wait for 250 ms, and who has 2 s for 1.25 s.
        (1_000, (0.1, 0.1, 0.0), False),
        (1_000, (0.1, 0.2, 0.2), True),
        (2_000, (0.2, 1.0, 0.0), False),
        (2_000, (0.2, 1.0, 1.1), True),
    ],
)
def test_p28_beats_wait_no_longer_than_the_most_impatient_worker_can(
    grace_ms: int, waits_s: tuple[float, ...], *, expected: bool
) -> None:
    turn_s, store_s, note_s = waits_s
    assert is_too_old(Graces([grace_ms]), turn_s=turn_s, store_s=store_s, note_s=note_s) == expected


def test_p28_the_shortest_grace_is_of_workers_with_recent_beats() -> None:
    now = Now()
    graces = Graces([MINUTE_MS, 2 * MINUTE_MS], now_s=now)
    assert graces.shortest_ms() == MINUTE_MS
    graces.add(2_000)
    graces.add(3_000)
    graces.add(2 * MINUTE_MS)
    assert graces.shortest_ms() == 2_000
    now.s += KEPT_S
    assert graces.shortest_ms() == 2_000, "it is remembered for ten minutes at least"
    graces.add(3_000)
    now.s += KEPT_S
    assert graces.shortest_ms() == 3_000, "and for twenty at most"
    now.s += KEPT_S
    assert graces.shortest_ms() == MINUTE_MS
