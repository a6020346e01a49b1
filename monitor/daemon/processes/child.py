"""One process of several, as its supervisor starts it: ``python -m monitor.daemon.processes.child CHANNEL``.

``CHANNEL`` is the descriptor of a socket, which speaks as ``handover`` says. When the supervisor closes its end, the
process stops.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
import sys
from typing import TYPE_CHECKING

from monitor.daemon.processes.handover import READY
from monitor.daemon.signals import StopSignal
from monitor.parent_death import OrphanedError, die_with_parent

if TYPE_CHECKING:
    from monitor.daemon.processes.handover import Assignment


def main() -> int:
    """Do what the supervisor says, until told to stop."""
    stop = StopSignal()
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        with channel.makefile("rb") as file:
            # From our own parent: nobody else has the other end.
            assignment: Assignment = pickle.load(file)  # noqa: S301
        # Its loop may be stuck, so not a signal that waits for it; a kill harms nothing that was confirmed.
        die_with_parent(assignment.share.supervisor_pid, signal.SIGKILL)
    except (EOFError, OrphanedError):
        return 0
    return _run(assignment, stop, channel)


def _run(assignment: Assignment, stop: StopSignal, channel: socket.socket) -> int:
    # Loaded only now: it takes a second, in which a process must be tied to its parent already.
    import structlog  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    from monitor import logs  # noqa: PLC0415
    from monitor.daemon.daemon import run  # noqa: PLC0415
    from monitor.daemon.errors import StartError  # noqa: PLC0415

    config = assignment.config
    logs.configure(level=config.log.level, form=config.log.format, paged=config.alerts.paged)
    structlog.contextvars.bind_contextvars(process=assignment.share.process)
    channel.setblocking(False)  # noqa: FBT003 - its only parameter

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def abandoned() -> None:
            loop.remove_reader(channel)
            signal.raise_signal(signal.SIGTERM)

        loop.add_reader(channel, abandoned)
        await run(
            config,
            store_url=assignment.store_url,
            ring=assignment.ring,
            listeners=[socket.socket(fileno=fd) for fd in assignment.listeners],
            share=assignment.share,
            stop=stop,
            on_ready=lambda: channel.sendall(READY),
        )
        loop.remove_reader(channel)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
    except StartError as error:
        channel.sendall(str(error).encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
