"""Request coalescing: one shared call for concurrent callers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

_T = TypeVar("_T")


class CoalescedCall(Generic[_T]):
    """Each caller gets the result of a call that began after its request. At most one call runs and one waits."""

    def __init__(self, call: Callable[[], Coroutine[None, None, _T]], *, name: str) -> None:
        self._call = call
        self._name = name
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[_T] | None = None

    async def __call__(self) -> _T:
        """Return the result, or raise the call's exception. A caller that gives up does not affect the others."""
        if self._next is None:
            self._next = asyncio.create_task(self._made(), name=self._name)
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def _made(self) -> _T:
        async with self._turn:
            self._next = None
            return await self._call()


def _seen(task: asyncio.Task[_T]) -> None:
    """Mark a task's exception as retrieved: all of its callers may have given up."""
    if not task.cancelled():
        task.exception()
