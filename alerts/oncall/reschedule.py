"""Reschedules waiting groups when a silence ends early."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from alerts.groups.keys import Shape, shape_of

if TYPE_CHECKING:
    from alerts.store.group_store import GroupStore

PAGE: Final = 500


async def wake_waiting(groups: GroupStore, tenant: str, *, now_ms: int) -> int:
    """Make every group of a tenant due that waits for a time. Returns how many. Raises ``StoreUnavailableError``.

    Used when a silence ends early, because it is not recorded which groups a silence holds. A group with nothing to
    send waits again.
    """
    waiting: dict[str, None] = {}
    offset = 0
    while True:
        page = await groups.due(offset=offset, limit=PAGE)
        waiting |= {key: None for key in page if is_of(key, tenant)}
        if len(page) < PAGE:
            break
        offset += PAGE
    await groups.wake(list(waiting), now_ms=now_ms)
    return len(waiting)


def is_of(key: str, tenant: str) -> bool:
    """Whether a group belongs to a tenant, by its key (``alerts.groups.keys``)."""
    if shape_of(key) is Shape.GROUP:
        return bool(json.loads(key[1:])["tenant"] == tenant)
    return key[1:].startswith(f"{len(tenant)}:{tenant}")
