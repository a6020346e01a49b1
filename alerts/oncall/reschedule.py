"""Having threads looked at again before their time: something that they wait for may be over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from alerts.groups.keys import Shape, shape_of

if TYPE_CHECKING:
    from alerts.store.group_store import ThreadStore

PAGE: Final = 500


async def wake_waiting(threads: ThreadStore, tenant: str, *, now_ms: int) -> int:
    """Make every thread of a tenant due that waits for a moment; how many. Raises ``StoreUnavailableError``.

    For when a silence ends early: nothing says which threads it held. A thread that has nothing to tell waits again.
    """
    waiting: dict[str, None] = {}
    offset = 0
    while True:
        page = await threads.due(offset=offset, limit=PAGE)
        waiting |= {key: None for key in page if is_of(key, tenant)}
        if len(page) < PAGE:
            break
        offset += PAGE
    await threads.wake(list(waiting), now_ms=now_ms)
    return len(waiting)


def is_of(key: str, tenant: str) -> bool:
    """Whether a thread is a tenant's, by its key (``alerts.routing.routes``)."""
    if shape_of(key) is Shape.GROUP:
        return bool(json.loads(key[1:])["tenant"] == tenant)
    return key[1:].startswith(f"{len(tenant)}:{tenant}")
