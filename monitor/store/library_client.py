"""A client for a second function library in the same store, such as that of the alerts."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from monitor.durability import Confirmation, Durability
from monitor.errors import StoreUnavailableError
from monitor.store.connection import Argument, Functions
from monitor.store.endpoint import Address
from monitor.store.fast_connections import RESENT, SENT_ONCE, TROUBLE
from monitor.store.library import Library

CONNECTIONS: Final = 8
_TIMEOUT_S: Final = 2.0
_CONFIRM_MS: Final = 2_000


class LibraryClient:
    """Calls functions of one library, on connections of its own: these calls and beats do not wait for each other.

    Every method raises ``StoreUnavailableError`` if its call may not have been executed. Belongs to one event loop.

    Args:
        address: the store's endpoint; it must be closed after this client.
        library: the library.
        namespace: part of every key, in its hash tag.
        partitions: number of partitions.
        durability: what ``call_confirmed`` waits for.
        confirming: maximum number of confirmed calls at once. These wait for the disk and block their connection
            meanwhile, so they have a separate pool.
        found: founds the store again, if it is empty.
    """

    def __init__(
        self,
        address: Address,
        library: Library,
        *,
        namespace: str,
        partitions: int,
        durability: Durability,
        confirming: int,
        found: Callable[[], Awaitable[None]],
    ) -> None:
        self.durability = durability
        self.partitions = partitions
        self._prefix = f"{namespace}." if namespace else ""
        self._client = address.client(CONNECTIONS, timeout_s=_TIMEOUT_S, retry=RESENT)
        once_s = _TIMEOUT_S + _CONFIRM_MS / 1000
        self._once = address.client(max(1, confirming), timeout_s=once_s, retry=SENT_ONCE)
        self._functions = Functions(library, loader=self._client, found=found)

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._client.aclose()
        await self._once.aclose()

    async def call(self, function: str, base: str, *args: Argument) -> Any:
        """Call a function; it may be sent again when no answer comes, so a replay must be harmless."""
        call = self._functions.call(self._client.execute_command, function, self._key(base), *args)
        return await _answer(f"{function} {base}", call)

    async def call_confirmed(self, function: str, base: str, *args: Argument) -> tuple[Any, Confirmation]:
        """Call a function once, then wait until its writes are as durable as ``durability`` requires."""
        call = self._functions.call_confirmed(
            self._once, self.durability, _CONFIRM_MS, function, self._key(base), *args
        )
        answer: tuple[Any, Confirmation] = await _answer(f"{function} {base}", call)
        return answer

    def _key(self, base: str) -> str:
        return base.replace("{", "{" + self._prefix, 1)


async def _answer(what: str, call: Awaitable[Any]) -> Any:
    try:
        return await call
    except TROUBLE as error:
        raise StoreUnavailableError(f"the store did not execute {what}: {error}") from error
