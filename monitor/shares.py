"""Divides a shared resource among tenants, so that no tenant can take it from the others (P29). Pure.

A tenant may hold at most as much as it leaves free: alone it gets half, the next one half of the rest. Until a second
tenant is known, one tenant may use everything.
"""

from collections.abc import Callable
from typing import Self

from monitor.errors import NoRoomError, OverShareError


class Tenants:
    """Whether this process has seen valid tokens of several tenants since it started."""

    def __init__(self) -> None:
        self.several = False
        self._first: str | None = None

    def add(self, tenant: str) -> None:
        """Note a request of this tenant."""
        if self._first is None:
            self._first = tenant
        elif tenant != self._first:
            self.several = True


def over_share(held: int, count: int, free: int) -> bool:
    """Whether taking ``count`` more of ``free`` exceeds the share of a tenant that holds ``held``.

    A tenant that holds nothing may always take one request's worth.
    """
    return held > 0 and held + count > free - count


class Shares:
    """``total`` units of a resource, named ``what`` in refusals. ``on_refused`` gets the tenant of each refusal."""

    def __init__(
        self, total: int, tenants: Tenants, *, what: str, on_refused: Callable[[str], None] = lambda _: None
    ) -> None:
        self.free = total
        self._tenants = tenants
        self._what = what
        self._on_refused = on_refused
        self._held: dict[str, int] = {}

    def fits(self, tenant: str, count: int = 1) -> bool:
        """Whether the tenant may take ``count`` units now."""
        return count <= self.free and not self._is_over(tenant, count)

    def acquire(self, tenant: str, count: int = 1) -> None:
        """Take ``count`` units, or none.

        Raises:
            OverShareError, NoRoomError: as ``refusal`` returns.
        """
        if not self.fits(tenant, count):
            raise self.refusal(tenant, count)
        self.free -= count
        self._held[tenant] = self._held.get(tenant, 0) + count

    def give(self, tenant: str, count: int = 1) -> None:
        """Give back ``count`` units."""
        self.free += count
        left = self._held.get(tenant, 0) - count
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)

    def refusal(self, tenant: str, count: int = 1) -> OverShareError | NoRoomError:
        """Return why the tenant may not take ``count`` now: its share is used up, or the resource is."""
        self._on_refused(tenant)
        if self._is_over(tenant, count):
            return OverShareError(f"the tenant's share of {self._what} is used up")
        return NoRoomError(f"too many {self._what} at once")

    def _is_over(self, tenant: str, count: int) -> bool:
        return self._tenants.several and over_share(self._held.get(tenant, 0), count, self.free)


class Holding:
    """The units of ``shares`` that one request holds; given back at the end of the block."""

    def __init__(self, shares: Shares, tenant: str) -> None:
        self._shares, self._tenant = shares, tenant
        self._count = 0

    def acquire(self, count: int) -> None:
        """Take ``count`` units, as ``Shares.acquire`` does."""
        self._shares.acquire(self._tenant, count)
        self._count += count

    def __enter__(self) -> Self:
        """Begin with no units."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back all units."""
        if self._count:
            self._shares.give(self._tenant, self._count)
