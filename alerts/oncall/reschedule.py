"""Having groups looked at again before their time: something that they wait for may be over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from alerts.groups.keys import Shape, shape_of

if TYPE_CHECKING:
    from alerts.store.group_store import GroupStore

PAGE: Final = 500


async def wake_waiting(groups: GroupStore, tenant: str, *, now_ms: int) -> int:
    """Make every group of a tenant due that waits for a moment; how many. Raises ``StoreUnavailableError``.

    For when a silence ends early: nothing says which groups it held. A group that has nothing to tell waits again.
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
    """Whether a group is a tenant's, by its key (``alerts.routing.routes``)."""
    if shape_of(key) is Shape.GROUP:
        return bool(json.loads(key[1:])["tenant"] == tenant)
    return key[1:].startswith(f"{len(tenant)}:{tenant}")
