"""How what all tenants share is divided among them, so that none can take it from the others (P29). Pure.

A tenant may hold no more than is left free for others: alone it can take half, the next one half of the rest. Until a
second tenant is known there is none to share with, and one may take all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from monitor.errors import NoRoomError, OverShareError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Tenants:
    """Whether this process has seen valid tokens of several tenants since it started."""

    def __init__(self) -> None:
        self.several = False
        self._first: str | None = None

    def add(self, tenant: str) -> None:
        """A request of this tenant has come."""
        if self._first is None:
            self._first = tenant
        elif tenant != self._first:
            self.several = True


def over_share(held: int, count: int, free: int) -> bool:
    """Whether ``count`` more of ``free`` are too many for a tenant that holds some.

    A tenant that holds nothing may always take one request's worth.
    """
    return held > 0 and held + count > free - count


class Shares:
    """``total`` of something; ``what`` names it in refusals. ``on_refused`` is called with the tenant of each."""

    def __init__(
        self, total: int, tenants: Tenants, *, what: str, on_refused: Callable[[str], None] = lambda _: None
    ) -> None:
        self.free = total
        self._tenants = tenants
        self._what = what
        self._on_refused = on_refused
        self._held: dict[str, int] = {}

    def fits(self, tenant: str, count: int = 1) -> bool:
        """Whether the tenant may take ``count`` now."""
        return count <= self.free and not self._is_over(tenant, count)

    def acquire(self, tenant: str, count: int = 1) -> None:
        """Take ``count``, or none.

        Raises:
            OverShareError, NoRoomError: as ``refusal``.
        """
        if not self.fits(tenant, count):
            raise self.refusal(tenant, count)
        self.free -= count
        self._held[tenant] = self._held.get(tenant, 0) + count

    def give(self, tenant: str, count: int = 1) -> None:
        """Give back ``count`` of what was taken."""
        self.free += count
        left = self._held.get(tenant, 0) - count
        if left:
            self._held[tenant] = left
        else:
            self._held.pop(tenant, None)

    def refusal(self, tenant: str, count: int = 1) -> OverShareError | NoRoomError:
        """Why the tenant may not take ``count`` now: its own share is used up, or there is no room for any tenant."""
        self._on_refused(tenant)
        if self._is_over(tenant, count):
            return OverShareError(f"the tenant's share of {self._what} is used up")
        return NoRoomError(f"too many {self._what} at once")

    def _is_over(self, tenant: str, count: int) -> bool:
        return self._tenants.several and over_share(self._held.get(tenant, 0), count, self.free)


class Holding:
    """What one request holds of ``shares``; given back at the end of the block."""

    def __init__(self, shares: Shares, tenant: str) -> None:
        self._shares, self._tenant = shares, tenant
        self._count = 0

    def acquire(self, count: int) -> None:
        """As ``Shares.take``."""
        self._shares.acquire(self._tenant, count)
        self._count += count

    def __enter__(self) -> Self:
        """Begin with nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give everything back."""
        if self._count:
            self._shares.give(self._tenant, self._count)
