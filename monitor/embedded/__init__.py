"""The embedded store: a Valkey server that belongs to this daemon alone, with its data directory.

Guarantees, and how they are kept:

- The server ends with the daemon, however the daemon ends. On Linux the kernel sends it SIGTERM when
  its parent dies (``PR_SET_PDEATHSIG``), and it shuts down cleanly. On other systems the next start
  asks the orphan to shut down.
- A terminal's ^C never reaches the server: it has its own session.
- Two daemons never share a data directory, and two servers never share its files. There are two
  ``flock`` locks, which the kernel releases when their last holder is gone. ``<data_dir>/lock`` is held
  by the daemon only: if it is taken, another daemon is alive. ``<data_dir>/store/lock`` is also held by
  the server, which inherits the descriptor: if only the second lock is taken, the server of a dead
  daemon still runs, and the start waits for its end.

A process ID is never a proof. IDs are reused, so the one in the lock file is only for messages and for
comparison. The first lock decides whether a daemon lives. An orphan is shut down through its own
socket, after it has reported the process ID that the lock file names. A signal is only sent to our own
child, whose ID can't be reused before we have waited for it.

The lock file contains a JSON object, ``LockRecord``. It is written in place, because replacing the file
would replace the lock; a partly written record reads as none.
"""

from monitor.embedded.backup import Backup, back_up
from monitor.embedded.errors import EmbeddedStoreError, StartAbandonedError
from monitor.embedded.memory import share_of_memory
from monitor.embedded.server import EmbeddedStore

__all__ = ["Backup", "EmbeddedStore", "EmbeddedStoreError", "StartAbandonedError", "back_up", "share_of_memory"]
