"""At an acceptance: what was given up at this receiver is offered again (P31)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alerts.groups.roles import Role
from alerts.groups.state import Draft
from alerts.store.group_store import Change, Want

if TYPE_CHECKING:
    from alerts.store.group_store import ThreadStore


async def offer_given_up(threads: ThreadStore, *, now_ms: int) -> None:
    """Make the pages due that were given up, of at most 100 threads; one that changes meanwhile has its turn next time.

    Raises:
        StoreUnavailableError: it is not known to be written.
    """
    standing = await threads.standing(now_ms=now_ms)
    keys = dict.fromkeys(note.thread for note in standing if note.role is Role.DOWN)
    changes = []
    for seen in await threads.look([Want(thread=key) for key in keys]):
        thread = seen.thread
        if thread is None or thread.given_up is None or thread.frozen is not None or thread.given_up.due_ms > now_ms:
            continue
        if thread.timing.resend:
            thread.remind_ms = now_ms
        elif thread.again_ms:
            thread.again_ms = now_ms
        changes.append(Change(draft=Draft(thread, now_ms), version=seen.version, due_ms=now_ms))
    await threads.save(changes, now_ms=now_ms)
