"""GCRA compared with an exact leaky bucket, and what is kept of limited callers."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.rate_limit import NS, Limiter, Rate, admitted

RATES = st.builds(Rate, per_s=st.integers(1, 2_000), burst=st.integers(1, 50))
GAPS_NS = st.one_of(st.integers(0, 1_000), st.integers(0, 5 * NS), st.integers(0, 10**15))
COUNTS = st.integers(1, 80)
START_NS = 10**15 + 7


class Bucket:
    """As much as ``burst`` fits in; it leaks ``per_s`` a second. Exact, in another way."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._level = Fraction(0)
        self._at_ns = 0

    def take(self, now_ns: int, count: int) -> Fraction:
        """Add ``count``, or return the nanoseconds until ``count`` would fit in. 0: it was added."""
        self._level = max(Fraction(0), self._level - Fraction((now_ns - self._at_ns) * self._rate.per_s, NS))
        self._at_ns = now_ns
        over = self._level + min(count, self._rate.burst) - self._rate.burst
        if over > 0:
            return over * NS / self._rate.per_s
        self._level += count
        return Fraction(0)


@pytest.mark.parametrize(
    ("tat_s", "now_s", "count", "wait_s"),
    [
        (0, 100, 1, 0),  # after a pause
        (104, 100, 1, 0),  # the fifth of five at once
        (105, 100, 1, 1),  # the sixth
        (105, 101, 1, 0),  # and a second later
        (100, 100, 5, 0),
        (101, 100, 5, 1),
        (0, 100, 50, 0),  # more than the burst, with all of it free
        (101, 100, 50, 1),
        (150, 100, 1, 46),  # which is waited for afterwards
    ],
)
def test_one_a_second_and_five_at_once(tat_s: int, now_s: int, count: int, wait_s: int) -> None:
    rate = Rate(per_s=1, burst=5)
    tat, wait_ns = admitted(rate, tat_s * NS, now_ns=now_s * NS, count=count)
    assert wait_ns == wait_s * NS
    assert tat == (tat_s * NS if wait_s else max(tat_s, now_s) * NS + count * NS)


@given(RATES, st.lists(st.tuples(GAPS_NS, COUNTS), max_size=60))
def test_p28_it_lets_through_what_a_leaking_bucket_does_and_says_when_the_next_conforms(
    rate: Rate, arrivals: list[tuple[int, int]]
) -> None:
    bucket, tat, now_ns = Bucket(rate), 0, START_NS
    for gap_ns, count in arrivals:
        now_ns += gap_ns
        expected_ns = bucket.take(now_ns, count)
        before = tat
        tat, wait_ns = admitted(rate, tat, now_ns=now_ns, count=count)
        assert wait_ns == -(-expected_ns // 1)
        if wait_ns:
            assert tat == before
            assert admitted(rate, tat, now_ns=now_ns + wait_ns, count=count)[1] == 0
            assert admitted(rate, tat, now_ns=now_ns + wait_ns - 1, count=count)[1] == 1


@given(RATES, st.lists(st.tuples(st.integers(0, 3), GAPS_NS, COUNTS), max_size=80))
def test_p28_what_a_limiter_forgets_makes_no_difference(rate: Rate, arrivals: list[tuple[int, int, int]]) -> None:
    limiter = Limiter(rate, most_count=80)
    tats, now_ns = dict.fromkeys(range(4), 0), START_NS
    for key, gap_ns, count in arrivals:
        now_ns += gap_ns
        tats[key], expected_ns = admitted(rate, tats[key], now_ns=now_ns, count=count)
        wait_ns = limiter.wait_ns(key, now_ns) if count == 1 else limiter.wait_for_ns(key, now_ns, count)
        assert wait_ns == expected_ns


@given(st.integers(1, 1_000), st.lists(GAPS_NS, min_size=1, max_size=300))
def test_p28_a_worker_that_keeps_to_the_rate_is_never_refused_whatever_the_jitter(
    per_s: int, jitters: list[int]
) -> None:
    rate = Rate(per_s=per_s, burst=2)
    limiter = Limiter(rate)
    interval_ns = -(-NS // per_s)
    for number, jitter_ns in enumerate(jitters):
        assert limiter.wait_ns(1, START_NS + number * interval_ns + jitter_ns % interval_ns) == 0


@pytest.mark.parametrize("ask", [Limiter.wait_ns, partial(Limiter.wait_for_ns, count=1)])
def test_p28_the_number_of_known_keys_is_bounded_whichever_keys_come(ask: Callable[[Limiter, int, int], int]) -> None:
    limiter = Limiter(Rate(per_s=1, burst=1), most_kept=1_000)
    for key in range(10_000):
        assert ask(limiter, key, START_NS) == 0
        assert len(limiter) <= 1_000
    assert limiter.wait_ns(9_999, START_NS) == NS, "the last ones are still known"


def test_p28_a_quiet_caller_is_forgotten() -> None:
    limiter = Limiter(Rate(per_s=10, burst=10))
    for key in range(1_000):
        limiter.wait_ns(key, START_NS)
    limiter.wait_ns(0, START_NS + 10 * NS)
    assert len(limiter) == 1
