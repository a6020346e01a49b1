"""The part of a server's INFO that decides whether it can take writes and keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """The state of the server's memory and of its append-only file. Sizes in bytes."""

    used_bytes: int
    """Memory that counts against the limit: without the buffers of replicas and of the append-only file."""
    limit_bytes: int
    """Above this limit the server takes no writes; 0: no limit."""
    append_only: bool
    """Whether the server keeps an append-only file."""

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
