"""A store behind Sentinel for tests: a primary, its replica and the Sentinels that watch them, all on loopback.

Everything is a process that is killed by its id in the end, and on Linux the kernel kills it when the test run
itself dies. Calls here block; a test on a loop makes them by ``asyncio.to_thread``. ``Watched.url`` is what
``store.url`` takes.

- ``watched.primary()`` is the node that the Sentinels name now; ``watched.replicas()`` are the others.
- ``node.kill()``, ``node.pause()``, ``node.resume()``, ``node.start()``: kill -9, SIGSTOP, SIGCONT, and start again on
  the data that it has, in the part that it had at first: a primary that comes back believes that it still is one, until
  a Sentinel demotes it, about ``DEMOTED_AFTER_S`` later.
- ``watched.failover()`` orders one, as an operator does; ``watched.another(than=node)`` waits until another node is
  primary, after a kill or a pause.
- ``watched.sentinels[k]`` can be killed, paused and started again too.
"""

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from monitor.clock import monotonic_s
from tests.support import servers
from tests.support.daemons import until

SERVICE: Final = "lastseen"
DOWN_AFTER_MS: Final = 500
DEMOTED_AFTER_S: Final = 2.0
"""How long a former primary that is back may take beats before a Sentinel says that it is a replica; 8 s by default."""
SETTLE_S: Final = 30.0
"""For what takes about a second on an idle machine."""
FIRST_PORT: Final = 20_000
LAST_PORT: Final = 32_000
"""Below the ports that the kernel gives to outgoing connections."""

_QUICK: Final = {
    "info-period": 500,
    # A replica whose INFO is older than five of these is not promoted; it comes once a second when the primary is down.
    "ping-period": 300,
    "ask-period": 200,
    "publish-period": round(DEMOTED_AFTER_S * 250),
    "election-timeout": 1_000,
    "min-link-reconnect-period": 200,
    # A machine under load must not make them distrust their own clock and stand still for 30 s.
    "tilt-trigger": 20_000,
    "tilt-period": 1_000,
}
"""Times of a Sentinel, in milliseconds, that are a second or more by default."""


def free_ports(count: int) -> list[int]:
    """Ports on which no server listens, and which no other run of tests on this machine picks until this process ends:
    a server that is killed and started again leaves its port free for a moment.
    """
    chance = random.SystemRandom()
    taken = Path(tempfile.gettempdir()) / "lastseen-test-ports"
    taken.mkdir(exist_ok=True)
    found: list[int] = []
    while len(found) < count:
        port = chance.randint(FIRST_PORT, LAST_PORT)
        held = os.open(taken / str(port), os.O_CREAT | os.O_RDWR)  # open to the end of the process, and so is its lock
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(held)
        else:
            found.append(port)
    return found


@dataclass(kw_only=True)
class Node:
    """One server of the store; it listens on a TCP port, and on the socket of ``server``."""

    server: servers.Server
    binary: Path
    port: int
    options: Sequence[str]

    @property
    def url(self) -> str:
        """It alone, whatever its part is now."""
        return self.server.url

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def kill(self) -> None:
        """Kill -9, and wait for its end. Idempotent."""
        self.server.kill()

    def pause(self) -> None:
        self.server.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.server.process.send_signal(signal.SIGCONT)

    def start(self) -> None:
        """Start it again, when it was killed."""
        self.server = servers.start(self.binary, self.server.directory, *self.options)

    def ask(self, *command: str | int) -> Any:
        """The answer of this very server."""
        with redis.Redis.from_url(self.url, socket_timeout=SETTLE_S) as client:
            return client.execute_command(*command)

    def role(self) -> str:
        """``master`` or ``slave``, as it says."""
        return str(self.ask("ROLE")[0].decode())


@dataclass(kw_only=True)
class Sentinel:
    """One Sentinel process."""

    binary: Path
    directory: Path
    port: int
    certificate: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def serves(self) -> bool:
        """Whether it has been started and was not killed."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, or start it again on what it had written down."""
        config = self.directory / "sentinel.conf"
        interpreter = [sys.executable, "-I", "-S", "-c", servers._EXEC_TIED_TO_PARENT, str(os.getpid())]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*interpreter, str(self.binary), str(config), "--sentinel"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._answers, f"the Sentinel at {self.port} answers: {self.log()}", timeout_s=SETTLE_S)
        self.ask("DEBUG", *(str(word) for pair in _QUICK.items() for word in pair))

    def watch(self, node: Node) -> None:
        """Start it, when it was killed, without what it knew: ``node`` is the primary, whatever that says of itself."""
        self.configure(f"sentinel monitor {SERVICE} 127.0.0.1 {node.port} 1")
        self.start()

    def configure(self, *lines: str) -> None:
        listening = [f"{name} {value}" for name, value in _listening(self.port, self.certificate).items()]
        lines = ("bind 127.0.0.1", *listening, f"dir {self.directory}", *lines)
        (self.directory / "sentinel.conf").write_text("".join(f"{line}\n" for line in lines))

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(redis.RedisError):
            return bool(self._command("PING"))
        return False

    def ask(self, *command: str) -> Any:
        """The answer to ``SENTINEL`` and these words; of pairs, as a list."""
        return self._command("SENTINEL", *command)

    def _command(self, *command: str) -> Any:
        with redis.Redis(
            port=self.port,
            socket_timeout=SETTLE_S,
            decode_responses=True,
            protocol=2,
            ssl=self.certificate is not None,
            ssl_ca_certs=str(self.certificate),
            ssl_check_hostname=False,
        ) as client:
            client.response_callbacks.clear()  # what the server says, and not what the client makes of it
            return client.execute_command(*command)

    def facts(self) -> dict[str, str]:
        """What it knows of the service: ``flags``, ``num-slaves``, ``num-other-sentinels`` and so on."""
        answer = self.ask("MASTER", SERVICE)
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Kill -9, and wait for its end. Idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)


@dataclass(kw_only=True)
class Watched:
    """See the module. ``nodes[0]`` is the primary at first."""

    nodes: list[Node]
    sentinels: list[Sentinel] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the service, by way of its Sentinels."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{SERVICE}"

    def node_at(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def primary(self) -> Node:
        """The primary that the first Sentinel that answers names."""
        sentinel = next(one for one in self.sentinels if one.serves)
        return self.node_at(int(sentinel.ask("GET-MASTER-ADDR-BY-NAME", SERVICE)[1]))

    def replicas(self) -> list[Node]:
        primary = self.primary()
        return [node for node in self.nodes if node is not primary]

    def another(self, *, than: Node, timeout_s: float = SETTLE_S) -> Node:
        """Wait until another one is primary, by the word of every Sentinel and its own; it."""

        def found() -> Node | None:
            named = {one.ask("GET-MASTER-ADDR-BY-NAME", SERVICE)[1] for one in self.sentinels if one.serves}
            if len(named) != 1 or (node := self.node_at(int(named.pop()))) is than:
                return None
            return node if node.role() == "master" else None

        try:
            return until(found, "another primary", timeout_s=timeout_s)  # type: ignore[return-value]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.sentinels[0].log()[-4_000:]}") from None

    def failover(self, *how: str) -> Node:
        """Order a failover and wait for its end; the new primary. ``COORDINATED``: the old one waits for it."""
        old = self.primary()
        deadline_s = monotonic_s() + SETTLE_S
        while True:
            try:
                self.sentinels[0].ask("FAILOVER", SERVICE, *how)
                return self.another(than=old)
            except redis.ResponseError:  # INPROG or NOGOODSLAVE: one is under way, or the replica is not known yet
                assert monotonic_s() < deadline_s, self.sentinels[0].log()[-4_000:]

    def settled(self) -> None:
        """Wait until every replica follows the primary, and each Sentinel knows all of them."""
        primary = self.primary()
        others, watchers = len(self.nodes) - 1, [one for one in self.sentinels if one.serves]

        def follows() -> bool:
            return len(primary.ask("ROLE")[2]) == others and all(
                node.ask("ROLE")[3] == b"connected" for node in self.nodes if node is not primary
            )

        def known() -> bool:
            return all(
                (facts := one.facts())["flags"] == "master"
                and int(facts["num-slaves"]) == others
                and int(facts["num-other-sentinels"]) == len(self.sentinels) - 1
                and _healthy(one)
                for one in watchers
            )

        until(follows, "the replicas follow the primary", timeout_s=SETTLE_S)
        until(known, "the Sentinels know every node", timeout_s=SETTLE_S)

    def close(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
        for node in self.nodes:
            node.kill()


def _listening(port: int, certificate: Path | None) -> dict[str, str]:
    """Settings of a server or Sentinel that listens there."""
    if certificate is None:
        return {"port": str(port)}
    files = dict.fromkeys(("tls-cert-file", "tls-key-file", "tls-ca-cert-file"), str(certificate))
    return {"port": "0", "tls-port": str(port), **files, "tls-auth-clients": "no", "tls-replication": "yes"}


def _healthy(sentinel: Sentinel) -> bool:
    replicas = [dict(zip(one[::2], one[1::2], strict=True)) for one in sentinel.ask("REPLICAS", SERVICE)]
    return all(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in replicas)


@contextlib.contextmanager
def watched(
    binary: Path | None = None,
    *,
    replicas: int = 1,
    sentinels: int = 1,
    options: Sequence[str] = (),
    sentinel_lines: Sequence[str] = (),
    certificate: Path | None = None,
    down_after_ms: int = DOWN_AFTER_MS,
) -> Iterator[Watched]:
    """A primary, ``replicas`` and ``sentinels``, settled; everything is gone afterwards.

    ``binary`` serves for all of them: Valkey, if it is not given. ``options`` are for the servers, ``sentinel_lines``
    go into the configuration of the Sentinels. With a ``certificate``, which holds its key too and is its own
    authority, everything is TLS; the Valkey here has none. A majority of the Sentinels has to agree before a failover.
    """
    program = binary or servers.valkey_binary()
    with tempfile.TemporaryDirectory(prefix="ls-") as name:
        root = Path(name)
        ports = free_ports(1 + replicas + sentinels)
        primary_port = ports[0]
        held = Watched(nodes=[])
        try:
            for number, port in enumerate(ports[: 1 + replicas]):
                directory = root / f"n{number}"
                directory.mkdir()
                words = ["--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0", *options]
                words += [
                    word for name, value in _listening(port, certificate).items() for word in (f"--{name}", value)
                ]
                words += ["--replicaof", f"127.0.0.1 {primary_port}"] if number else []
                server = servers.start(program, directory, *words)
                held.nodes.append(Node(server=server, binary=program, port=port, options=words))
            primary = held.nodes[0]
            until(lambda: len(primary.ask("ROLE")[2]) == replicas, "the replicas follow", timeout_s=SETTLE_S)
            for number, port in enumerate(ports[1 + replicas :]):
                directory = root / f"s{number}"
                directory.mkdir()
                sentinel = Sentinel(binary=program, directory=directory, port=port, certificate=certificate)
                sentinel.configure(
                    f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} {sentinels // 2 + 1}",
                    f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
                    f"sentinel failover-timeout {SERVICE} 2000",
                    *sentinel_lines,
                )
                held.sentinels.append(sentinel)
                sentinel.start()
            held.settled()
            yield held
        finally:
            held.close()
