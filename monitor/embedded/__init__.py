"""The embedded store: a Valkey server that belongs to this daemon alone, and the data directory it has.

What holds, and how:

- The server ends with the daemon, whatever ends the daemon. On Linux the kernel sends it SIGTERM when
  its parent dies (``PR_SET_PDEATHSIG``), and it then shuts down cleanly. Elsewhere the next start asks
  the orphan to.
- A terminal's ^C never reaches it: it has its own session.
- Two daemons never share a data directory, and two servers never share its files. There are two
  ``flock`` locks, which the kernel releases when their last holder is gone. ``<data_dir>/lock`` is held
  by the daemon only: who can't have it has a living daemon before him. ``<data_dir>/store/lock`` is
  also held by the server, which inherits the descriptor: who has the first lock but can't have the
  second has a dead daemon's server before him, and waits for its end.

No process id is ever a proof. Ids are reused, so the one in the lock file is only text for the message
and for comparison: whether a daemon lives is what the first lock says; an orphan is told to stop
through its own socket, after it has said that it is the process that the lock file names; and a
signal is only sent to our own child, whose id can't be reused before we have waited for it.

In the lock file is a JSON object, ``LockRecord``. It is written in place, because replacing the file
would replace the lock; a half-written one reads as none.
"""

from monitor.embedded.backup import Backup, back_up
from monitor.embedded.errors import EmbeddedStoreError, StartAbandonedError
from monitor.embedded.memory import share_of_memory
from monitor.embedded.server import EmbeddedStore

__all__ = ["Backup", "EmbeddedStore", "EmbeddedStoreError", "StartAbandonedError", "back_up", "share_of_memory"]
