"""Silences in the store: each call is one function of ``silences.lua``, which lists the keys."""

from collections.abc import Sequence
from typing import Final

import msgspec

from alerts.groups.silences import Silence, SilenceState, TooManySilencesError, UnknownSilenceError
from alerts.store.port import StorePort
from alerts.store.retention import Retention
from alerts.store.tags import shared_base

CALL_LIMIT: Final = 100
"""Maximum tenants in one call, so that the store is never blocked for long."""
SILENCES_MOST: Final = 1_000
"""Maximum silences of a tenant that have not ended. As many ended ones are kept, the newest."""

_USUAL: Final = Retention()
_TENANTS_CACHED: Final = 1_000

_silence = msgspec.json.Decoder(Silence).decode


class SilenceStore:
    """Stores silences. Every method raises ``StoreUnavailableError`` if its call may not have been executed.

    Times are milliseconds of the store's clock. Belongs to one event loop. ``retention``: how long ended silences
    are kept.
    """

    def __init__(self, store: StorePort, retention: Retention = _USUAL) -> None:
        self._store = store
        self._retention = retention
        self._known: dict[str, tuple[bytes, list[Silence]]] = {}

    async def add(self, silence: Silence, *, now_ms: int) -> None:
        """Add a silence, which must end after its start and after ``now_ms``. Idempotent.

        Raises:
            TooManySilencesError: the tenant has ``SILENCES_MOST`` silences that are not over.
        """
        added = await self._store.call(
            "silences_add",
            self._base(silence.tenant),
            *(silence.tenant, now_ms, self._retention.age_ms, SILENCES_MOST, SILENCES_MOST),
            *(silence.id, silence.ends_ms, msgspec.json.encode(silence)),
        )
        if not added:
            raise TooManySilencesError(
                f"tenant {silence.tenant!r} has {SILENCES_MOST} silences that are not over, which is the most"
            )

    async def end(self, tenant: str, silence_id: str, *, by: str, now_ms: int) -> Silence:
        """End a silence now, even if it has not begun. Idempotent: a silence that is over does not change.

        Raises:
            UnknownSilenceError: the tenant has no silence with this id, or no longer has it.
        """
        known = await self.get(tenant, silence_id)
        if known.state(now_ms) is SilenceState.ENDED:
            return known
        ended = msgspec.structs.replace(known, ended_ms=now_ms, ended_by=by)
        done = await self._store.call(
            "silences_end",
            self._base(tenant),
            tenant,
            now_ms,
            self._retention.age_ms,
            SILENCES_MOST,
            silence_id,
            msgspec.json.encode(ended),
        )
        return ended if done else await self.get(tenant, silence_id)

    async def get(self, tenant: str, silence_id: str) -> Silence:
        """Get one silence.

        Raises:
            UnknownSilenceError: the tenant has no silence with this id, or no longer has it.
        """
        found = await self._store.call("silences_get", self._base(tenant), tenant, silence_id)
        if found is None:
            raise UnknownSilenceError(f"tenant {tenant!r} has no silence {silence_id!r}")
        return _silence(found)

    async def list_for(self, tenant: str, *, now_ms: int) -> list[Silence]:
        """A tenant's silences, newest first: at most ``SILENCES_MOST`` that are not over, and as many that are over."""
        rows = await self._store.call("silences_list", self._base(tenant), tenant)
        found = [one for one in map(_silence, rows) if one.over_ms >= now_ms - self._retention.age_ms]
        return sorted(found, key=lambda one: (one.created_ms, one.id), reverse=True)

    async def active(self, tenants: Sequence[str]) -> dict[str, list[Silence]]:
        """The silences of tenants that are active or may become active.

        May be called often: a tenant's silences are cached, and the store sends them again only after a change.
        """
        found: dict[str, list[Silence]] = {}
        by_base: dict[str, list[str]] = {}
        for tenant in tenants:
            by_base.setdefault(self._base(tenant), []).append(tenant)
        for base, of_base in by_base.items():
            for start in range(0, len(of_base), CALL_LIMIT):
                some = of_base[start : start + CALL_LIMIT]
                asked = [part for tenant in some for part in (tenant, self._known.get(tenant, (b"", []))[0])]
                known = dict(self._known)
                answer = await self._store.call("silences_of", base, *asked)
                for tenant, (version, rows) in zip(some, answer, strict=True):
                    found[tenant] = known.get(tenant, (b"", []))[1] if rows is None else list(map(_silence, rows))
                    self._remember(tenant, version, found[tenant])
        return found

    def _base(self, tenant: str) -> str:
        return shared_base(tenant, self._store.partitions)

    def _remember(self, tenant: str, version: bytes, silences: list[Silence]) -> None:
        self._known.pop(tenant, None)
        if version:
            self._known[tenant] = (version, silences)
            if len(self._known) > _TENANTS_CACHED:
                del self._known[next(iter(self._known))]
