"""Quotas of a tenant over several partitions: each partition allows a part of them, and the parts are divided anew.

A beat is judged in its partition, which knows only its own workers. When the part of one is used up, all partitions
first allow no more than they have; then what is free is divided, first for those that wait. So the parts never exceed
the quota together, and nothing is read while no part is used up.
"""

import random
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from monitor.clock import monotonic_s
from monitor.pace import gathered
from monitor.store.coalescing import CoalescedCall
from monitor.store.connection import Connection
from monitor.store.results import OVER_BYTES, OVER_WORKERS
from monitor.store.settings import StoreSettings

POOLED: Final = frozenset({OVER_WORKERS, OVER_BYTES})
"""Outcomes of a beat that may be stored when the quotas are divided again."""
FULL_S: Final = 1.0
"""How long a quota counts as used up after it was found to be. So refused beats cost no more than that."""
HELD_MS: Final = 1_000
"""How long room is held for beats that were promised it, whatever is divided meanwhile."""
BYTES_MORE: Final = 4_096
"""How much more than the size of its beat a new worker may need, in bytes."""
_TENANTS: Final = 1_000


class Quotas:
    """The division of the quotas, by this daemon. Others may divide at the same time: the last to begin decides."""

    def __init__(self, connection: Connection, settings: StoreSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._divisions: dict[str, CoalescedCall[frozenset[tuple[int, int]]]] = {}
        self._wanted: dict[str, Counter[tuple[int, int]]] = {}
        """By tenant: how many workers (of the first outcome) and bytes (of the second) are waited for, by partition."""
        self._full_until_s: dict[tuple[str, int], float] = {}

    async def has_room(self, tenant: str, partition: int, outcome: int, *, sizes: Sequence[int]) -> bool:
        """Whether beats that were answered an outcome of ``POOLED`` are worth another try. Divides the quota if needed.

        ``sizes``: of their metadata, system information and logs, in characters.

        Raises:
            StoreUnavailableError: not all partitions answer.
        """
        if self._settings.partitions == 1 or monotonic_s() < self._full_until_s.get((tenant, outcome), 0.0):
            return False
        wanted = self._wanted.setdefault(tenant, Counter())
        more = len(sizes) if outcome == OVER_WORKERS else 4 * sum(sizes) + BYTES_MORE * len(sizes)
        wanted[outcome, partition] += more
        if len(self._divisions) > _TENANTS:
            self._divisions.clear()
            self._full_until_s.clear()
        divide = self._divisions.get(tenant)
        if divide is None:
            call = partial(self._divide, tenant)
            divide = self._divisions[tenant] = CoalescedCall(call, name=f"quotas of {tenant}")
        return (outcome, partition) in await divide()

    async def _divide(self, tenant: str) -> frozenset[tuple[int, int]]:
        """Divide a tenant's quotas. Return the outcomes and partitions for which there is room."""
        wanted = self._wanted.pop(tenant, Counter())
        quotas = self._settings.workers_per_tenant, self._settings.bytes_per_tenant
        division = (tenant, *quotas, secrets.token_hex(8))
        partitions = range(self._settings.partitions)
        used = await gathered(lambda one: self._connection.write("share", one, *division), partitions)
        room = set[tuple[int, int]]()
        shares: list[list[int]] = [[] for _ in partitions]
        held: list[list[int]] = [[] for _ in partitions]
        for outcome, quota, have in zip(
            (OVER_WORKERS, OVER_BYTES), quotas, list(zip(*used, strict=True))[1:], strict=True
        ):
            here = {one: amount for (what, one), amount in wanted.items() if what == outcome}
            free = max(0, quota - sum(have))
            given, more = divided(free, here, len(partitions))
            least = {one: amount if outcome == OVER_BYTES else 1 for one, amount in here.items()}
            room |= {(outcome, one) for one in here if given[one] >= least[one]}
            if not free:
                self._full_until_s[tenant, outcome] = monotonic_s() + FULL_S
            for one, count in enumerate(have):
                held[one].append(count + given[one])
                shares[one].append(count + given[one] + more[one])

        async def give(one: int) -> None:
            await self._connection.write("share", one, *division, *shares[one], *held[one], HELD_MS)

        await gathered(give, partitions)
        return frozenset(room)


def divided(free: int, wanted: Mapping[int, int], partitions: int) -> tuple[list[int], list[int]]:
    """Divide what is free among partitions: first to those that want some, the least first, and the rest equally."""
    given = [0] * partitions
    for one in sorted(wanted, key=lambda one: wanted[one]):
        given[one] = min(wanted[one], free)
        free -= given[one]
    equal, rest = divmod(free, partitions)
    lucky = set(random.sample(range(partitions), rest))
    return given, [equal + (one in lucky) for one in range(partitions)]
