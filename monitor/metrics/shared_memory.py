"""Numbers that several processes count together, in one piece of memory that they share.

Each process has a row, and only it adds to it; all read the sums. A row is not the process's own: it stays when the
process ends, and the one that follows it goes on adding. So a sum never goes back, whichever process is asked and
whichever has died. No lock is needed: a number is written at one go.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from typing import Final

_BYTES: Final = 8
_LINE: Final = 8
"""Numbers in a line of the processor's cache: rows begin at one, so that processes do not slow each other down."""


def _row_slots(slots: int) -> int:
    return -(-slots // _LINE) * _LINE


def shared_memory(*, slots: int, rows: int) -> int:
    """The descriptor of new memory for ``rows`` rows of ``slots`` numbers, all 0. No other program can open it.

    Raises:
        OSError: there is none to be had.
    """
    if sys.platform == "linux":
        fd = os.memfd_create("lastseen-counters")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, rows * _row_slots(slots) * _BYTES)
    return fd


class Table:
    """``rows`` of ``slots`` numbers; in the memory behind ``fd``, or in memory of this process alone.

    A row is written like a list: ``table.rows[1][slot] += 1.0``.
    """

    def __init__(self, *, slots: int, rows: int = 1, fd: int | None = None) -> None:
        width = _row_slots(slots)
        memory = mmap.mmap(-1 if fd is None else fd, rows * width * _BYTES)
        numbers = memoryview(memory).cast("d")
        self.rows: Final = tuple(numbers[row * width : row * width + slots] for row in range(rows))

    def total(self, slot: int) -> float:
        """What all processes together have counted."""
        return sum(row[slot] for row in self.rows)
