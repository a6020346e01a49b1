"""Which partitions this daemon owns: the owner of a partition routes its events, sweeps and tidies it.

The lease in the store decides (``store/lua/pulse.lua``); each pulse carries a bid for it. Here is what to bid: the
daemons that pulse share the partitions by rendezvous hashing. So each finds the same preferred owner of a partition,
and only a share of the partitions moves when a daemon comes or goes.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from monitor.clock import monotonic_s

LEASE_MS: Final = 1_500
"""How long a partition keeps its owner after the owner's last renewal. Another one takes over within 2 s of a kill: at
its first pulse after that."""
SPARE_MS: Final = 500
"""A partition that has had no owner for this long goes to any daemon, since the preferred one does not take it."""
SPARE_S: Final = 30.0
"""How long such a daemon keeps the partition before the preferred one gets another chance."""
SWEEP_LATE_S: Final = 0.5
"""A daemon sweeps a partition of another one whose last full sweep is later than its interval by this much."""


class Bid(IntEnum):
    """What a daemon wants of a partition's lease."""

    NONE = 0
    """Give it up."""
    SPARE = 1
    """Give it up, and take it if no other daemon does."""
    OWN = 2
    """Keep it, or take it as soon as it is free."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer to a bid, in the order of ``bid_for`` in ``pulse.lua``. Times in milliseconds of the store."""

    now_ms: int
    token: int
    """The fencing token of the owner; 0: this daemon is not the owner."""
    waiting_ms: int
    """The age of the oldest event that was not routed yet; 0: none waits."""
    swept_ms: int
    """The time of the partition's last full sweep; 0: never."""
    daemons: frozenset[str] = frozenset()
    """The daemons that pulse, if that was asked."""


_UNKNOWN: Final = Lease(0, 0, 0, -(10**12))
"""Before the first answer: not the owner, no event known, and never swept."""


def preferred(daemons: Iterable[str], partition: int) -> str:
    """Return the daemon that is to own a partition."""
    return max(daemons, key=lambda daemon: hashlib.sha256(f"{partition} {daemon}".encode()).digest())


class Ownership:
    """The partitions of one daemon, from the answers to its bids. Belongs to one event loop."""

    def __init__(
        self, daemon: str, partitions: int, *, sweep_interval_s: float, elapsed_s: Callable[[], float] = monotonic_s
    ) -> None:
        self._daemon = daemon
        self._sweep_interval_s = sweep_interval_s
        self._elapsed_s = elapsed_s
        self._daemons: frozenset[str] = frozenset()
        self._answers: tuple[frozenset[str], frozenset[str]] = frozenset(), frozenset()
        """The daemons that the last two answers named, each of another partition, if there are several."""
        self._wanted = frozenset(range(partitions))  # all, as long as no other daemon is known
        self._leases = dict.fromkeys(range(partitions), _UNKNOWN)
        self._answered_s = dict.fromkeys(range(partitions), elapsed_s())
        self._owned_s = dict.fromkeys(range(partitions), -math.inf)
        """When each partition was last known to be this daemon's."""
        self._spare_until_s = dict.fromkeys(range(partitions), -math.inf)

    def bid(self, partition: int) -> Bid:
        """Return what to bid for a partition."""
        is_wanted = partition in self._wanted or self._elapsed_s() < self._spare_until_s[partition]
        return Bid.OWN if is_wanted else Bid.SPARE

    def note(self, partition: int, bid: Bid, lease: Lease) -> None:
        """Take the answer to a bid."""
        now_s = self._elapsed_s()
        if lease.daemons:
            # A daemon that does not reach one partition is in the answers of the others.
            self._answers = self._answers[1], lease.daemons
            daemons = lease.daemons.union(*self._answers, {self._daemon})
            if daemons != self._daemons:
                self._daemons = daemons
                self._wanted = frozenset(one for one in self._owned_s if preferred(daemons, one) == self._daemon)
        if lease.token:
            self._owned_s[partition] = now_s
            if bid is Bid.SPARE:
                self._spare_until_s[partition] = now_s + SPARE_S
        self._leases[partition] = lease
        self._answered_s[partition] = now_s

    def token(self, partition: int) -> int:
        """Return the fencing token of a partition; 0: it is not this daemon's."""
        return self._leases[partition].token

    def is_to_sweep(self, partition: int) -> bool:
        """Whether this daemon sweeps a partition now: as its owner, or because its owner does not.

        The former owner goes on for two intervals, so that no sweep is missed when a partition moves.
        """
        now_s, lease = self._elapsed_s(), self._leases[partition]
        age_s = (lease.now_ms - lease.swept_ms) / 1_000 + now_s - self._answered_s[partition]
        is_late = age_s > self._sweep_interval_s + SWEEP_LATE_S
        return is_late or now_s - self._owned_s[partition] <= 2 * self._sweep_interval_s

    def unrouted_s(self, partition: int) -> float:
        """Return for how long the oldest event has waited for its router, at most: what is not known counts."""
        return self._leases[partition].waiting_ms / 1_000 + self._elapsed_s() - self._answered_s[partition]
