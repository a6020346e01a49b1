"""A child process, started by the supervisor: ``python -m monitor.daemon.processes.child CHANNEL``.

``CHANNEL`` is the descriptor of a socket with the protocol of ``handover``. When the supervisor closes its end, the
process stops.
"""

import asyncio
import pickle
import signal
import socket
import sys

from monitor.daemon.processes.handover import READY, Assignment
from monitor.daemon.signals import StopSignal
from monitor.parent_death import OrphanedError, die_with_parent


def main() -> int:
    """Run the supervisor's assignment until a stop signal."""
    stop = StopSignal()
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        with channel.makefile("rb") as file:
            # Trusted: only the parent process has the other end.
            assignment: Assignment = pickle.load(file)  # noqa: S301
        # SIGKILL, because the loop may be stuck and would not handle another signal. Confirmed data is safe.
        die_with_parent(assignment.share.supervisor_pid, signal.SIGKILL)
    except (EOFError, OrphanedError):
        return 0
    return _run(assignment, stop, channel)


def _run(assignment: Assignment, stop: StopSignal, channel: socket.socket) -> int:
    # Imported after die_with_parent: the imports take a second, and the parent may die in that time.
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
