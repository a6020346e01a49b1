"""What a daemon that was paused finds in its sockets when it goes on."""

import signal
import socket
from typing import Final

from monitor.clock import monotonic_s
from tests.support.daemons import ANY_PORT, BEAT, Daemon, Home, until

PAUSED_S: Final = 1.5
"""Longer than an iteration of a loop that was not paused."""


def request(token: str, worker_id: str) -> bytes:
    """A beat."""
    body = f'{{"worker_id": "{worker_id}", "environment_name": "prod"}}'.encode()
    head = (
        f"POST {BEAT} HTTP/1.1\r\nhost: lastseen\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(daemon: Daemon, token: str, worker_id: str) -> socket.socket:
    """The connection of a beat whose answer is not read yet."""
    sock = socket.create_connection(("127.0.0.1", daemon.port), timeout=30)
    sock.sendall(request(token, worker_id))
    return sock


def answered(sock: socket.socket) -> bytes:
    """The whole answer to a beat, which has no body."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        more = sock.recv(4_096)
        assert more, "the daemon closed the connection"
        answer += more
    return answer


def pass_by() -> None:
    """Wait for the duration of the pause."""
    since_s = monotonic_s()
    until(lambda: monotonic_s() > since_s + PAUSED_S, "the pause")


def test_p1_a_beat_whose_sender_has_given_up_is_not_taken_by_a_daemon_that_was_paused(home: Home) -> None:
    home.write(ANY_PORT)
    daemon = home.start()
    assert daemon.beat("before").status == 204
    daemon.signal(signal.SIGSTOP)
    with send(daemon, home.master, "patient") as patient:
        send(daemon, home.master, "gone").close()
        pass_by()
        daemon.signal(signal.SIGCONT)
        assert patient.recv(100).startswith(b"HTTP/1.1 204")
    # Connections are read in the order in which they were made: by now the other one has been.
    assert daemon.beat("after").status == 204
    assert daemon.worker_ids() == {"before", "patient", "after"}
    daemon.stop()


def test_p1_nor_is_one_that_came_over_a_connection_that_was_open_before_the_pause(home: Home) -> None:
    home.write(ANY_PORT)
    daemon = home.start()
    with send(daemon, home.master, "before-0") as gone, send(daemon, home.master, "before-1") as patient:
        for sock in (gone, patient):
            assert answered(sock).startswith(b"HTTP/1.1 204")
        daemon.signal(signal.SIGSTOP)
        gone.sendall(request(home.master, "gone"))
        gone.close()
        patient.sendall(request(home.master, "patient"))
        pass_by()
        daemon.signal(signal.SIGCONT)
        assert answered(patient).startswith(b"HTTP/1.1 204")
    assert daemon.beat("after").status == 204
    assert daemon.worker_ids() == {"before-0", "before-1", "patient", "after"}
    daemon.stop()


def test_a_beat_of_a_client_that_does_not_await_the_answer_is_taken_by_a_daemon_that_was_not_paused(home: Home) -> None:
    home.write(ANY_PORT)
    daemon = home.start()
    assert daemon.beat("before").status == 204
    with send(daemon, home.master, "hasty") as hasty:
        hasty.shutdown(socket.SHUT_WR)
        until(lambda: "hasty" in daemon.worker_ids(), "the beat is stored")
    daemon.stop()
