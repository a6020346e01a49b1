"""Says, once a day for each tenant, that tokens which are in use will soon expire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from monitor.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.auth import Authenticator

log = structlog.get_logger(__name__)

LOOK_S: Final = 600.0
SOON_MS: Final = 7 * 86_400_000
AGAIN_MS: Final = 86_400_000
SHOWN: Final = 5


class ExpiryWatch:
    """Belongs to one event loop. Of several processes each speaks of the tokens that it has seen."""

    def __init__(self, authenticator: Authenticator, *, now_ms: Callable[[], int]) -> None:
        self._authenticator = authenticator
        self._now_ms = now_ms
        self._told_ms: dict[str, int] = {}

    async def run(self) -> None:
        """Look, until cancelled; not at once, when hardly a token has been seen."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Log a line for each tenant that has not had one within a day."""
        now_ms = self._now_ms()
        self._told_ms = {tenant: at_ms for tenant, at_ms in self._told_ms.items() if now_ms - at_ms < AGAIN_MS}
        for tenant, ends in self._authenticator.expiring(now_ms=now_ms, within_ms=SOON_MS).items():
            if tenant not in self._told_ms:
                self._told_ms[tenant] = now_ms
                first = sorted((end_ms, subject) for subject, end_ms in ends)
                subjects = list(dict.fromkeys(subject for _, subject in first))[:SHOWN]
                log.warning(
                    "auth.tokens_expiring",
                    tenant=tenant,
                    tokens=len(ends),
                    subjects=subjects,
                    first=rfc3339(round(first[0][0])),
                )
