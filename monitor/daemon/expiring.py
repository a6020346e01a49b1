"""Warns, once a day for each tenant, of tokens in use that will expire soon."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from monitor.auth import Authenticator
from monitor.events import rfc3339

log = structlog.get_logger(__name__)

LOOK_S: Final = 600.0
SOON_MS: Final = 7 * 86_400_000
AGAIN_MS: Final = 86_400_000
SHOWN: Final = 5


class ExpiryWatch:
    """Watches the tokens of one event loop. Each of several processes warns of the tokens that it has seen."""

    def __init__(self, authenticator: Authenticator, *, now_ms: Callable[[], int]) -> None:
        self._authenticator = authenticator
        self._now_ms = now_ms
        self._warned_ms: dict[str, int] = {}

    async def run(self) -> None:
        """Check periodically, until cancelled. The first check is delayed: at the start no token has been seen."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Log a warning for each tenant that had none within a day."""
        now_ms = self._now_ms()
        self._warned_ms = {tenant: at_ms for tenant, at_ms in self._warned_ms.items() if now_ms - at_ms < AGAIN_MS}
        for tenant, ends in self._authenticator.expiring(now_ms=now_ms, within_ms=SOON_MS).items():
            if tenant not in self._warned_ms:
                self._warned_ms[tenant] = now_ms
                first = sorted((end_ms, subject) for subject, end_ms in ends)
                subjects = list(dict.fromkeys(subject for _, subject in first))[:SHOWN]
                log.warning(
                    "auth.tokens_expiring",
                    tenant=tenant,
                    tokens=len(ends),
                    subjects=subjects,
                    first=rfc3339(round(first[0][0])),
                )
