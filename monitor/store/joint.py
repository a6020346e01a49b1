"""One call for all who ask at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


class Joint(Generic[_T]):
    """Each caller gets the result of a call that began after it asked: one call is under way, and one more may wait."""

    def __init__(self, call: Callable[[], Coroutine[None, None, _T]], *, name: str) -> None:
        self._call = call
        self._name = name
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[_T] | None = None

    async def __call__(self) -> _T:
        """The result, or what the call raised. A caller that gives up takes nothing from the others."""
        if self._next is None:
            self._next = asyncio.create_task(self._made(), name=self._name)
            self._next.add_done_callback(_seen)
        return await asyncio.shield(self._next)

    async def _made(self) -> _T:
        async with self._turn:
            self._next = None
            return await self._call()


def _seen(task: asyncio.Task[_T]) -> None:
    """Take note of what a task raised: all who asked for it may have given up on it."""
    if not task.cancelled():
        task.exception()
