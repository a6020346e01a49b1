"""Which partitions a daemon bids for, and which it sweeps, with a manual clock and answers written by hand."""

from collections import Counter
from typing import Final

import pytest

from monitor.ownership import SPARE_S, SWEEP_LATE_S, Bid, Lease, Ownership, preferred

PARTITIONS: Final = 256
DAEMONS: Final = frozenset({"d1", "d2", "d3", "d4"})
NOW_MS: Final = 1_000_000


class Daemon:
    """A daemon's ownership of two partitions, and its clock."""

    def __init__(self, daemon: str = "d1", partitions: int = 2) -> None:
        self.now_s = 0.0
        self.ownership = Ownership(daemon, partitions, sweep_interval_s=1.0, elapsed_s=lambda: self.now_s)

    def note(
        self, partition: int = 0, *, token: int = 0, bid: Bid = Bid.OWN, swept_s: float = 0.0, waiting_ms: int = 0
    ) -> None:
        """An answer by which the last sweep was ``swept_s`` ago."""
        lease = Lease(NOW_MS, token, waiting_ms, NOW_MS - round(swept_s * 1_000))
        self.ownership.note(partition, bid, lease)

    def note_daemons(self, *daemons: str) -> None:
        self.ownership.note(0, Bid.OWN, Lease(NOW_MS, 0, 0, NOW_MS, frozenset(daemons)))


def test_each_partition_has_one_preferred_owner_and_daemons_have_about_equal_shares() -> None:
    shares = Counter(preferred(DAEMONS, partition) for partition in range(PARTITIONS))
    assert shares.keys() == DAEMONS
    assert all(PARTITIONS / 8 < share < PARTITIONS / 2 for share in shares.values()), shares


def test_a_daemon_that_comes_or_goes_moves_only_its_own_share() -> None:
    for partition in range(PARTITIONS):
        before, after = preferred(DAEMONS, partition), preferred(DAEMONS | {"new"}, partition)
        assert after in {before, "new"}


def test_daemons_that_know_each_other_bid_for_each_partition_once_between_them() -> None:
    bids: Counter[int] = Counter()
    for name in DAEMONS:
        daemon = Daemon(name, PARTITIONS)
        assert {daemon.ownership.bid(one) for one in range(PARTITIONS)} == {Bid.OWN}, "it knows no other yet"
        daemon.note_daemons(*DAEMONS)
        bids.update(one for one in range(PARTITIONS) if daemon.ownership.bid(one) is Bid.OWN)
    assert bids == dict.fromkeys(range(PARTITIONS), 1)


def test_a_daemon_counts_itself_even_if_the_store_does_not() -> None:
    daemon = Daemon("d1", PARTITIONS)
    daemon.note_daemons("d2")  # as when it is behind with beats, and sends no pulses
    assert {daemon.ownership.bid(one) for one in range(PARTITIONS)} == {Bid.OWN, Bid.SPARE}
    daemon.note_daemons("d1")
    daemon.note_daemons("d1")
    assert {daemon.ownership.bid(one) for one in range(PARTITIONS)} == {Bid.OWN}


def test_a_partition_that_its_preferred_owner_did_not_take_is_kept_for_a_while() -> None:
    daemon = Daemon("d1", PARTITIONS)
    daemon.note_daemons("d1", "d2")
    spare = next(one for one in range(PARTITIONS) if daemon.ownership.bid(one) is Bid.SPARE)
    daemon.note(spare, token=7, bid=Bid.SPARE)
    daemon.now_s = SPARE_S - 0.1
    daemon.note(spare, token=7, bid=daemon.ownership.bid(spare))
    assert (daemon.ownership.bid(spare), daemon.ownership.token(spare)) == (Bid.OWN, 7)
    daemon.now_s = SPARE_S
    assert daemon.ownership.bid(spare) is Bid.SPARE


def test_the_owner_sweeps_and_another_daemon_only_what_the_owner_does_not() -> None:
    daemon = Daemon()
    assert daemon.ownership.is_to_sweep(0), "nothing is known yet"
    daemon.note(token=0, swept_s=1.0)
    assert not daemon.ownership.is_to_sweep(0)
    daemon.now_s += SWEEP_LATE_S + 0.001  # without an answer since
    assert daemon.ownership.is_to_sweep(0)
    daemon.note(token=0, swept_s=1.0)
    assert not daemon.ownership.is_to_sweep(0)
    daemon.note(token=3, swept_s=0.1)
    assert daemon.ownership.is_to_sweep(0)


def test_p14_a_former_owner_sweeps_on_until_its_successor_surely_does() -> None:
    daemon = Daemon()
    daemon.note(token=3)
    daemon.note(token=0)
    daemon.now_s = 2.0
    daemon.note(token=0)
    assert daemon.ownership.is_to_sweep(0)
    daemon.now_s = 2.1
    daemon.note(token=0)
    assert not daemon.ownership.is_to_sweep(0)


@pytest.mark.parametrize("token", [0, 3])
def test_p27_an_event_that_no_daemon_routes_is_known_to_each(token: int) -> None:
    daemon = Daemon()
    daemon.note(token=token, waiting_ms=9_000)
    daemon.now_s = 2.0
    assert daemon.ownership.unrouted_s(0) == 11.0
    assert daemon.ownership.unrouted_s(1) == 2.0, "as long as no answer says so, it may be"
    daemon.note(token=token, waiting_ms=0)
    assert daemon.ownership.unrouted_s(0) == 0.0


def test_a_daemon_that_does_not_reach_one_partition_makes_no_bid_change_from_round_to_round() -> None:
    daemon = Daemon("d1", PARTITIONS)
    others = [one for one in range(PARTITIONS) if preferred({"d1", "d2"}, one) == "d2"]
    daemon.note_daemons("d1", "d2")
    for _ in range(4):
        for answer in (("d1",), ("d1", "d2")):  # of the partition that d2 does not reach, and of another one
            daemon.note_daemons(*answer)
            assert {daemon.ownership.bid(one) for one in others} == {Bid.SPARE}
    for _ in range(2):  # it is gone
        daemon.note_daemons("d1")
    assert {daemon.ownership.bid(one) for one in others} == {Bid.OWN}
