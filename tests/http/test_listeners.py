"""How processes share a port: evenly, closed to other processes, and no connection is lost with a process."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest

from monitor.http.listeners import dealt, relieve
from monitor.http.server import BACKLOG, ListenError, listen

CONNECTIONS = 256
PATIENCE_S = 20.0
LINUX_DEALS = pytest.mark.skipif(sys.platform != "linux", reason="the kernel deals connections out on Linux only")


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, ...]]:
    """The sockets of two processes on one port, or of as many as a test asks for."""
    sockets = dealt(listen("127.0.0.1", 0), count=getattr(request, "param", 2), backlog=BACKLOG)
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.fixture
def clients(pair: tuple[socket.socket, ...]) -> Iterator[list[socket.socket]]:
    """Connections that wait to be accepted."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(pair[0].getsockname())) for _ in range(CONNECTIONS)]


def accept_all(sock: socket.socket) -> int:
    taken = 0
    while True:
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return taken
        connection.close()
        taken += 1


@LINUX_DEALS
@pytest.mark.usefixtures("clients")
def test_connections_are_dealt_out_evenly_whichever_process_is_awake(pair: tuple[socket.socket, ...]) -> None:
    taken = [accept_all(sock) for sock in pair]
    assert sum(taken) == CONNECTIONS
    # Seven standard deviations of a fair coin.
    assert min(taken) > CONNECTIONS // 2 - 56


def test_a_port_that_is_shared_is_still_in_use_for_any_other_process(pair: tuple[socket.socket, ...]) -> None:
    host, port = pair[0].getsockname()
    with pytest.raises(ListenError, match=f"port {port} on 127.0.0.1 is in use"):
        listen(host, port)


@LINUX_DEALS
@pytest.mark.parametrize("pair", [2, 3], indirect=True, ids="{} processes".format)
def test_what_waits_at_processes_that_do_not_accept_is_taken_by_another(
    pair: tuple[socket.socket, ...], clients: list[socket.socket]
) -> None:
    own, *others = pair
    adopted: list[socket.socket] = []
    there = asyncio.Event()
    expected = CONNECTIONS - accept_all(own)

    async def adopt(connection: socket.socket) -> None:
        adopted.append(connection)
        if len(adopted) == expected:
            there.set()

    async def run() -> None:
        task = asyncio.create_task(relieve(others, adopt))
        await asyncio.wait_for(there.wait(), PATIENCE_S)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
    assert 0 < expected == len(adopted)
    names = {client.getsockname() for client in clients}
    assert {connection.getpeername() for connection in adopted} <= names
    for connection in adopted:
        connection.close()
