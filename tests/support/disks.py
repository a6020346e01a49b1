"""A disk that is full for one process, and has room again: no file of that process may grow past where it is.

It needs no mount and no privilege. ``RLIMIT_FSIZE`` of the running process is lowered (``prlimit``, Linux only), so a
write that goes past the limit is cut short and the next one fails with ``EFBIG``, as on a full disk it fails with
``ENOSPC``; a server that keeps an append-only file treats both alike. What differs: files that are smaller than the
limit may still be made and grow up to it, as on a disk that has room for small files only.
"""

import contextlib
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path


def fill(pid: int, directory: Path, *, room_bytes: int = 0) -> None:
    """Let the store ``pid``, whose files are in ``directory``, write ``room_bytes`` more, and then nothing.

    The embedded server's directory is ``<data_dir>/store``. Filling again sets the limit anew.

    Raises:
        ValueError: the process would be killed by the signal of the limit (``SIGXFSZ``). Servers that a Python
            interpreter has become do not: it ignores the signal, and that is inherited.
        ProcessLookupError: there is no such process.
    """
    if not _ignores(pid, signal.SIGXFSZ):
        raise ValueError(f"process {pid} does not ignore SIGXFSZ")
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (appended(directory).stat().st_size + room_bytes, most))


def clear(pid: int) -> None:
    """Let the process write again. Idempotent; harmless when it has ended."""
    with contextlib.suppress(ProcessLookupError):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@contextlib.contextmanager
def full(pid: int, directory: Path, *, room_bytes: int = 0) -> Iterator[None]:
    """``fill`` for as long as the context lasts."""
    fill(pid, directory, room_bytes=room_bytes)
    try:
        yield
    finally:
        clear(pid)


def appended(directory: Path) -> Path:
    """The file that a store with its files in ``directory`` appends to now."""
    files = (directory / "appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda file: int(file.name.rsplit(".", 3)[-3]))


def _ignores(pid: int, number: signal.Signals) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    mask = re.search(r"^SigIgn:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)
