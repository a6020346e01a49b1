"""The list of revoked tokens, shared by all daemons of one store."""

from typing import Final

from monitor.store.results import STORED
from monitor.store.store import Store

MOST_IN_ALL: Final = 10_000


class RevocationList:
    """The stored list. Both methods raise ``StoreUnavailableError``, and a replay is harmless."""

    def __init__(self, store: Store) -> None:
        self._write = store.connection.write

    async def add(self, tenant: str, claim: str, value: str, *, most: int) -> int:
        """Revoke from now on. Return the number of the server's run, for ``Store.confirm``.

        0: nothing was done, the tenant has ``most`` revocations, or there are ``MOST_IN_ALL``.
        """
        _, outcome, run = await self._write("revoke", 0, tenant, claim, value, most, MOST_IN_ALL)
        return int(run) if outcome == STORED else 0

    async def read(self, known: str) -> tuple[str, list[bytes]]:
        """Return the revision and all revocations, packed as ``Revocation``; none if ``known`` is the revision."""
        _, revision, packed = await self._write("revoked", 0, known)
        return revision.decode(), packed
