"""What a server says of itself that decides whether it can go on taking writes, and keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """The state of the server's memory and of its append-only file. Sizes in bytes."""

    used_bytes: int
    """What counts against the limit: without the buffers of replicas and of the append-only file."""
    limit_bytes: int
    """Above it no write is taken; 0: there is no limit."""
    append_only: bool
    """Whether it keeps an append-only file at all."""

    def over(self, share: float) -> bool:
        """Whether more than this share of the limit is used."""
        return self.limit_bytes > 0 and self.used_bytes > share * self.limit_bytes


def condition_of(memory: Mapping[str, Any], persistence: Mapping[str, Any]) -> Condition:
    """Read the sections of INFO (https://valkey.io/commands/info/)."""
    return Condition(
        used_bytes=int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0)),
        limit_bytes=int(memory.get("maxmemory", 0)),
        append_only=bool(int(persistence["aof_enabled"])),
    )
