"""The list of revoked tokens, as all daemons of one store share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from monitor.store.results import STORED

if TYPE_CHECKING:
    from monitor.store.store import Store

MOST_IN_ALL: Final = 10_000


class RevocationList:
    """Both methods raise ``StoreUnavailableError``, and a replay is harmless."""

    def __init__(self, store: Store) -> None:
        self._write = store.connection.write

    async def add(self, tenant: str, claim: str, value: str, *, most: int) -> bool:
        """Revoke from now on; False: the tenant has ``most`` already, or there are ``MOST_IN_ALL``."""
        _, outcome = await self._write("revoke", 0, tenant, claim, value, most, MOST_IN_ALL)
        return bool(outcome == STORED)

    async def read(self, known: str) -> tuple[str, list[bytes]]:
        """The revision and all that is revoked, packed as ``Revocation``; nothing if ``known`` is the revision."""
        _, revision, packed = await self._write("revoked", 0, known)
        return revision.decode(), packed
