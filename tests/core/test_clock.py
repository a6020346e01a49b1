"""The store's time between two answers of the store."""

import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from monitor.clock import StoreClock, monotonic_s, wall_ms

T = 1_790_000_000_000
PATIENCE_NS = 20_000_000_000


def test_before_the_first_answer_it_is_no_time_at_all() -> None:
    clock = StoreClock()
    assert [clock.now_ms() for _ in range(3)] == [0, 0, 0]


def test_it_goes_on_from_the_answer_as_our_monotonic_clock_does() -> None:
    clock = StoreClock()
    before_ns = time.monotonic_ns()
    clock.observe(T)
    observed_ns = time.monotonic_ns()
    while clock.now_ms() < T + 20:
        assert time.monotonic_ns() - before_ns < PATIENCE_NS
    read_ns = time.monotonic_ns()
    now_ms = clock.now_ms()
    assert now_ms - T >= (read_ns - observed_ns) // 1_000_000
    assert now_ms - T <= (time.monotonic_ns() - before_ns) // 1_000_000


def test_a_later_answer_moves_it_forward_at_once() -> None:
    clock = StoreClock()
    clock.observe(T)
    assert clock.now_ms() >= T
    clock.observe(T + 3_600_000)
    assert clock.now_ms() >= T + 3_600_000


def test_p9_an_answer_from_before_holds_it_where_it_is_until_it_has_caught_up() -> None:
    clock = StoreClock()
    clock.observe(T)
    before = clock.now_ms()
    clock.observe(T - 10_000)
    assert [clock.now_ms() for _ in range(3)] == [before] * 3
    observed_ns = time.monotonic_ns()
    while time.monotonic_ns() < observed_ns + 20_000_000:
        assert clock.now_ms() == before
    # Only the newest answer counts, so that a single answer that is far off does not determine the time permanently.
    clock.observe(before + 1)
    assert clock.now_ms() > before


@given(st.lists(st.integers(min_value=1, max_value=2 * T) | st.none(), max_size=30))
def test_p9_it_never_goes_back_whatever_the_store_answers(answers: list[int | None]) -> None:
    clock = StoreClock()
    newest = clock.now_ms()
    for answer_ms in answers:
        if answer_ms is not None:
            clock.observe(answer_ms)
        now_ms = clock.now_ms()
        assert now_ms >= newest
        assert answer_ms is None or now_ms >= answer_ms
        newest = now_ms


def test_two_stores_have_two_clocks() -> None:
    one, other = StoreClock(), StoreClock()
    one.observe(T)
    assert other.now_ms() == 0


def test_the_monotonic_seconds_do_not_go_back() -> None:
    begun_ns = time.monotonic_ns()
    readings = [monotonic_s() for _ in range(100)]
    assert readings == sorted(readings)
    assert begun_ns <= readings[0] * 1e9 + 1_000


def test_the_wall_clock_is_that_of_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "now").touch()
    written_ms = (tmp_path / "now").stat().st_mtime_ns // 1_000_000
    assert abs(wall_ms() - written_ms) < 60_000
