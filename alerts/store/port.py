"""The store as this package uses it: the functions of ``alerts.lua``."""

from typing import Any, Protocol, TypeAlias

from monitor.durability import Confirmation, Durability

Reply: TypeAlias = Any
"""The result of a function, as documented in its Lua file."""


class StorePort(Protocol):
    """Calls functions of the library, from one event loop. Handed in by the composition root.

    ``base``: the base of the function's keys, see ``alerts.store.tags``. Every method raises
    ``StoreUnavailableError`` if its call may not have been executed.
    """

    durability: Durability
    """What ``call_confirmed`` waits for."""
    partitions: int
    """Number of partitions, and of shards of what workers share."""

    async def call(self, function: str, base: str, *args: str | bytes | int) -> Reply:
        """Call a function. It may be sent again, so a replay must be harmless."""

    async def call_confirmed(self, function: str, base: str, *args: str | bytes | int) -> tuple[Reply, Confirmation]:
        """Call a function at most once, then wait until its writes are as durable as ``durability`` requires."""

    async def close(self) -> None:
        """Close the connections. Idempotent."""
