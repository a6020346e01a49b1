"""A child process that does not outlive its parent.

On Linux the kernel sees to it: it signals the child when the thread that started it ends, so children are started
by the main thread. Elsewhere nothing is done. Only the standard library is imported: the file is also run as a
program, by an interpreter that then becomes a server, under the same process id:

    python -I -S tied.py PARENT SIGNAL PROGRAM [ARGUMENT ...]

Not a ``preexec_fn``: that runs Python between fork and exec, and beside other threads it can hang. The program gets
none of the environment, where secrets may be, but what it needs to run.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_OWNER_ONLY = 0o077


class OrphanedError(Exception):
    """The parent ended before its child began."""


def die_with_parent(parent: int, signal_number: int) -> None:
    """Have this process sent a signal when its parent, the process ``parent``, ends.

    Raises:
        OrphanedError: it has ended already.
        OSError: the kernel refuses.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(number)}")
    # Looked at after prctl, since a parent that died before sends no signal.
    if os.getppid() != parent:
        raise OrphanedError("the parent ended before its child began")


def _become(parent: int, signal_number: int, command: list[str]) -> None:
    os.umask(_OWNER_ONLY)
    die_with_parent(parent, signal_number)
    kept = {name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ}
    os.execve(command[0], command, kept)  # noqa: S606 - the program is the caller's choice


if __name__ == "__main__":
    try:
        _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    except OrphanedError as error:
        sys.exit(str(error))
