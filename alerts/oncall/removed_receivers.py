"""What becomes of the threads of a receiver that is configured no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from alerts.groups import group_rules
from alerts.groups.attempts import bury, settle
from alerts.groups.state import Draft, Outcome
from alerts.store.group_store import Change

if TYPE_CHECKING:
    from alerts.store.group_store import ThreadStore

REASON: Final = "undeliverable: receiver removed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What was ended: notifications and events that were to be told, DOWNs that were told and whose end can't be."""

    queued: int
    told: int


async def end_threads(threads: ThreadStore, *, now_ms: int) -> Ended:
    """End every thread of a receiver; what was in attempts is a dead letter.

    Raises:
        StoreUnavailableError: some may be left; ask again.
    """
    queued = told = 0
    while some := await threads.some():
        changes = []
        for one in some:
            thread = one.thread
            queued += len(thread.pending) + (thread.frozen is not None) + thread.untold
            told += thread.told
            draft = Draft(thread, now_ms)
            if thread.frozen is not None:
                bury(draft, reason=REASON)
            settle(draft)
            for event in thread.pending:
                draft.tell(event, Outcome.DEAD_LETTERED)
            group_rules.close(draft, receiver=threads.receiver, outcome=Outcome.DEAD_LETTERED, reason=REASON)
            changes.append(Change(draft=draft, version=one.version, over=True))
        await threads.save(changes, now_ms=now_ms)
    return Ended(queued=queued, told=told)
