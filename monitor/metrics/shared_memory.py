"""Counters that several processes share, in one block of shared memory.

Each process has a row, and only that process adds to it; all processes read the totals. A row outlives its process,
and the next process continues it. So a total never goes back, regardless of which process answers and which has died.
No lock is needed: a number is written atomically.
"""

import mmap
import os
import sys
import tempfile
from typing import Final

_BYTES: Final = 8
_LINE: Final = 8
"""Numbers in a cache line of the processor. Rows are aligned to it, so that processes do not slow each other down."""


def _row_slots(slots: int) -> int:
    return -(-slots // _LINE) * _LINE


def shared_memory(*, slots: int, rows: int) -> int:
    """Create memory for ``rows`` rows of ``slots`` numbers, all 0. Return its descriptor. No other program can open it.

    Raises:
        OSError: no memory can be created.
    """
    if sys.platform == "linux":
        fd = os.memfd_create("lastseen-counters")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, rows * _row_slots(slots) * _BYTES)
    return fd


class Table:
    """``rows`` of ``slots`` numbers; in the memory behind ``fd``, or in private memory of this process.

    A row is written like a list: ``table.rows[1][slot] += 1.0``.
    """

    def __init__(self, *, slots: int, rows: int = 1, fd: int | None = None) -> None:
        width = _row_slots(slots)
        memory = mmap.mmap(-1 if fd is None else fd, rows * width * _BYTES)
        numbers = memoryview(memory).cast("d")
        self.rows: Final = tuple(numbers[row * width : row * width + slots] for row in range(rows))

    def total(self, slot: int) -> float:
        """Return the total over all processes."""
        return sum(row[slot] for row in self.rows)
