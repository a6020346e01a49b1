"""Keeps the authenticator's list of revoked tokens in sync with the store and ``auth.revoked_file``."""

import asyncio
from pathlib import Path
from typing import Final

import msgspec
import structlog

from monitor.auth import Authenticator, Revocation, Revocations, read_revocations
from monitor.errors import StoreUnavailableError
from monitor.store import Store
from monitor.store.revocations import RevocationList

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
"""Polling interval. A revocation takes effect within 5 seconds, even with a slow store."""
_revocation: Final = msgspec.msgpack.Decoder(Revocation).decode


class RevocationWatch:
    """Polls the revocations for one event loop. If a source cannot be read, its last known list stays in force."""

    def __init__(self, authenticator: Authenticator, store: Store, file: Path | None) -> None:
        self._authenticator = authenticator
        self._list = RevocationList(store)
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._revision = ""
        self._in_file: list[Revocation] = []
        self._in_store: list[Revocation] = []
        self._logged_error: str | None = None

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Check whether the list has changed, and apply it if so."""
        is_new = self._look_at_file()
        try:
            revision, packed = await self._list.read(self._revision)
        except StoreUnavailableError:
            pass  # the probe reports that
        else:
            if revision != self._revision:
                self._revision, self._in_store, is_new = revision, [_revocation(one) for one in packed], True
        if is_new:
            self._authenticator.revoke(Revocations((*self._in_file, *self._in_store)))
            log.info("auth.revocations_changed", in_file=len(self._in_file), in_store=len(self._in_store))

    def _look_at_file(self) -> bool:
        if self._file is None:
            return False
        try:
            status = self._file.stat()
            seen = status.st_mtime_ns, status.st_size, status.st_ino
            if seen == self._seen:
                return False
            self._in_file = read_revocations(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if str(error) != self._logged_error:
                log.error(  # noqa: TRY400 - a fault of the file, not a bug
                    "auth.revoked_file_unreadable", file=str(self._file), error=str(error)
                )
            self._logged_error = str(error)
            return False
        self._seen, self._logged_error = seen, None
        return True
