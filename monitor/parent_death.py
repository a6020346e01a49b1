"""A child process that does not outlive its parent.

On Linux the kernel signals the child when the thread that started it ends, so children are started by the main
thread. On other systems nothing is done. Only the standard library is imported: the file is also run as a program, by
an interpreter that then becomes a server under the same process ID:

    python -I -S parent_death.py PARENT SIGNAL PROGRAM [ARGUMENT ...]

A ``preexec_fn`` is not used: it runs Python between fork and exec, which can hang beside other threads. The program
gets only the environment variables that it needs: others may hold secrets.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_OWNER_ONLY = 0o077


class OrphanedError(Exception):
    """The parent ended before the child began."""


def die_with_parent(parent: int, signal_number: int) -> None:
    """Have the kernel signal this process when its parent, the process ``parent``, ends.

    Raises:
        OrphanedError: the parent has already ended.
        OSError: the kernel refuses.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(number)}")
    # Checked after prctl: a parent that died before the call sends no signal.
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
