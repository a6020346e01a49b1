"""P29: each further tenant may take half of what is left of a shared resource. Tenants at a limit are logged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from monitor.errors import NoRoomError, OverShareError
from monitor.limit_log import MOST_NAMES, SPACING_S, Limits
from monitor.metrics.registry import Limit, Metrics
from monitor.shares import Holding, Shares, Tenants


def tenants(*names: str) -> Tenants:
    made = Tenants()
    for name in names:
        made.add(name)
    return made


def taken(shares: Shares, tenant: str, count: int = 1) -> int:
    """How often the tenant could take ``count``."""
    number = 0
    while shares.fits(tenant, count):
        shares.acquire(tenant, count)
        number += 1
    return number


def test_p29_each_next_tenant_finds_half_of_what_is_left() -> None:
    shares = Shares(64, tenants("a", "b"), what="things")
    assert [taken(shares, name) for name in "abcdefgh"] == [32, 16, 8, 4, 2, 1, 1, 0]
    assert shares.free == 0
    with pytest.raises(OverShareError, match="the tenant's share of things is used up"):
        shares.acquire("a")
    with pytest.raises(NoRoomError, match="too many things at once"):
        shares.acquire("h")


def test_p29_until_a_second_tenant_is_known_one_may_take_all() -> None:
    known = tenants("a", "a", "a")
    shares = Shares(8, known, what="things")
    assert taken(shares, "a") == 8
    with pytest.raises(NoRoomError):
        shares.acquire("a")
    known.add("b")
    with pytest.raises(NoRoomError):
        shares.acquire("b")
    with pytest.raises(OverShareError):
        shares.acquire("a")
    shares.give("a", 1)
    assert not shares.fits("a"), "it holds more than its share"
    shares.acquire("b")


def test_p29_a_tenant_that_holds_nothing_has_room_for_one_request_while_anything_is_free() -> None:
    shares = Shares(8, tenants("a", "b"), what="places")
    assert [taken(shares, name) for name in "abcde"] == [4, 2, 1, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", range(14, 40))
def test_p29_a_tenant_takes_what_leaves_as_much_to_others_and_nothing_more(total: int, count: int) -> None:
    shares = Shares(total, tenants("a", "b"), what="things")
    held = count * taken(shares, "a", count)
    assert held <= shares.free == total - held
    assert held + count > shares.free - count, "one more would be too many"


def test_p29_what_a_request_holds_is_given_back_whatever_ends_it() -> None:
    refused: list[str] = []
    shares = Shares(100, tenants("a", "b"), what="bytes", on_refused=refused.append)

    def request() -> None:
        with Holding(shares, "a") as held:
            held.acquire(40)
            held.acquire(10)
            assert shares.free == 50
            held.acquire(1)

    with pytest.raises(OverShareError):
        request()
    assert shares.free == 100
    assert refused == ["a"]


@given(
    st.integers(1, 1_000), st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 300), st.booleans()), max_size=60)
)
def test_p29_no_tenant_holds_more_than_is_left_except_by_its_first_request(
    total: int, steps: list[tuple[str, int, bool]]
) -> None:
    shares = Shares(total, tenants("a", "b"), what="things")
    held = dict.fromkeys("abcd", 0)
    for tenant, count, gives in steps:
        if gives and held[tenant]:
            shares.give(tenant, held[tenant])
            held[tenant] = 0
        elif shares.fits(tenant, count):
            assert not held[tenant] or held[tenant] + count <= shares.free - count
            shares.acquire(tenant, count)
            held[tenant] += count
        assert shares.free == total - sum(held.values()) >= 0


def test_p29_a_limit_that_is_met_is_counted_and_logged_once_a_minute_with_the_tenant_that_met_it_most() -> None:
    now_s = 1_000.0
    metrics = Metrics(version="test")
    limits = Limits(metrics.limit, now_s=lambda: now_s)
    with capture_logs() as lines:
        limits.hit(Limit.BODY_BYTES, "acme")
        for number in range(2 * MOST_NAMES):
            limits.hit(Limit.BODY_BYTES, f"t{number}")
        for _ in range(5):
            limits.hit(Limit.BODY_BYTES, "t7")
        now_s += SPACING_S
        limits.hit(Limit.BODY_BYTES, "globex")
        limits.hit(Limit.HEAD, "192.0.2.7")
    common: dict[str, Any] = {"event": "limit.met", "log_level": "warning"}
    assert lines == [
        {**common, "limit": "body_bytes", "who": "acme", "refused": 1, "refused_in_all": 1},
        {**common, "limit": "body_bytes", "who": "t7", "refused": 6, "refused_in_all": 2 * MOST_NAMES + 6},
        {**common, "limit": "head", "who": "192.0.2.7", "refused": 1, "refused_in_all": 1},
    ]
    text = metrics.exposition("")[0].decode()
    assert f'lastseen_limits_met_total{{limit="body_bytes"}} {2 * MOST_NAMES + 7:.1f}' in text
    assert 'lastseen_limits_met_total{limit="head"} 1.0' in text
    assert 'lastseen_limits_met_total{limit="readers"} 0.0' in text
