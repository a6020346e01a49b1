"""Servers as child processes of a bench: started, pinned to cores, asked for their CPU time, stopped.

Everything listens on loopback, keeps its data in a temporary directory and ends with the bench; on Linux the
kernel ends it when the bench itself is killed.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from bench.tokens import master_token
from monitor import logs
from monitor.clock import monotonic_s
from monitor.daemon.config.model import Config, load
from monitor.daemon.signing_key import key_ring
from monitor.embedded import EmbeddedStore

ROOT: Final = Path(__file__).parent.parent
START_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 20.0
CALL_LIMIT_S: Final = 30.0
SETTLE_LIMIT_S: Final = 120.0
SETTLED_S: Final = 2.0
IDLE_CORES: Final = 0.05
"""What a server has that does nothing but look after itself, in a second on all its processes."""
Held = TypeVar("Held")

_POLL_S: Final = 0.02
_ADDRESS: Final = re.compile(r"listens on (http://\S+)")
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")

_TIED: Final = (
    "import os, sys; from monitor.parent_death import die_with_parent; "
    "die_with_parent(int(sys.argv[1]), int(sys.argv[2])); os.chdir(sys.argv[3]); os.execv(sys.argv[4], sys.argv[4:])"
)
"""Run by an interpreter that then becomes the server."""


class BenchError(Exception):
    """The bench could not be run, or what it measured was wrong; the message says what."""


def until(condition: Callable[[], Held], what: str, *, limit_s: float) -> Held:
    """The first result of ``condition`` that is true.

    Raises:
        BenchError: none within ``limit_s``.
    """
    give_up_s = monotonic_s() + limit_s
    pause = threading.Event()
    while not (held := condition()):
        if monotonic_s() > give_up_s:
            raise BenchError(f"not within {limit_s:g} s: {what}")
        pause.wait(_POLL_S)
    return held


# Processes ---------------------------------------------------------------------------------------------------------


def can_pin() -> bool:
    """Whether this system lets a process be kept on one core, and has two of them."""
    return hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1


def pin(pid: int, cores: Collection[int] | None) -> None:
    """Keep every thread of a process on these cores; None leaves it alone, and so does a system that can't pin."""
    if cores is None or not can_pin():
        return
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cores)


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used, in user and kernel, with that of its children that have ended.

    From ``/proc`` (Linux); 0 elsewhere, and for a process that is gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / _CLOCK_TICKS


def descendants(pid: int) -> list[int]:
    """The processes below this one, parents first (Linux; none elsewhere)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


class CpuMeter:
    """CPU time of named processes from its making on."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = dict(processes)
        self._before = {name: cpu_s(pid) for name, pid in processes.items()}

    def used_s(self) -> dict[str, float]:
        """CPU seconds by process since then."""
        return {name: cpu_s(pid) - self._before[name] for name, pid in self._processes.items()}


# Servers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes


def call(url: str, method: str, path: str, *, token: str | None = None, body: object = None) -> Answer:
    """One request on a connection of its own; a ``body`` that is not bytes is sent as JSON.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    headers = {} if body is None else {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=CALL_LIMIT_S)) as connection:
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        return Answer(status=answer.status, body=answer.read())


def _free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkout:
    """A version of the project, and the interpreter that has what it needs."""

    root: Path
    python: Path


THIS: Final = Checkout(root=ROOT, python=Path(sys.executable))


class Server:
    """A program that says ``listens on http://...`` on stderr once it does."""

    def __init__(
        self, name: str, words: list[str], *, directory: Path, env: Mapping[str, str], checkout: Checkout = THIS
    ) -> None:
        self.name = name
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        tied = [sys.executable, "-c", _TIED, str(os.getpid()), str(int(signal.SIGTERM)), str(checkout.root)]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*tied, str(checkout.python), *words],
                cwd=ROOT,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        try:
            self.url = until(self._address, f"{name} listens", limit_s=START_LIMIT_S) or ""
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self.process.pid

    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        return {self.name: self.pid}

    def output(self) -> str:
        """The last of what it has written."""
        return "".join(path.read_text("utf-8", "replace")[-4_000:] for path in (self._out, self._err))

    def settle(self) -> None:
        """Wait until it has done what it does after its load, such as the events of workers that are new.

        Raises:
            BenchError: it goes on.
        """

        def is_idle() -> bool:
            meter = CpuMeter(self.processes())
            threading.Event().wait(SETTLED_S)
            return sum(meter.used_s().values()) < IDLE_CORES * SETTLED_S

        until(is_idle, f"{self.name} is idle", limit_s=SETTLE_LIMIT_S)

    def stop(self) -> None:
        """Stop it as an operator does. Idempotent.

        Raises:
            BenchError: it had to be killed, or ended badly.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise BenchError(f"{self.name} did not stop within {STOP_LIMIT_S:g} s:\n{self.output()}") from None
        if status not in {0, -signal.SIGTERM}:
            raise BenchError(f"{self.name} ended with {status}:\n{self.output()}")

    def _address(self) -> str | None:
        if self.process.poll() is not None:
            raise BenchError(f"{self.name} ended with {self.process.returncode}:\n{self.output()}")
        found = _ADDRESS.search(self._err.read_text("utf-8", "replace"))
        return found[1] if found else None


class Daemon(Server):
    """A ready ``lastseen serve``, on its own embedded store unless ``env`` or ``file`` says otherwise.

    ``file`` is its configuration; what ``env`` says wins, and where it says None the daemon's own default holds.
    """

    def __init__(
        self,
        *,
        directory: Path,
        env: Mapping[str, str | None],
        arguments: tuple[str, ...] = (),
        file: Path | None = None,
        checkout: Checkout = THIS,
    ) -> None:
        wanted = {
            "LASTSEEN_SERVER__PORT": str(_free_port()),
            "LASTSEEN_STORE__DATA_DIR": str(directory / "data"),
            # The limit is asked and never met: a bench has few workers that beat as fast as they are answered.
            "LASTSEEN_LIMITS__WORKER_BEATS_PER_SECOND": "1000000",
            "LASTSEEN_LOG__LEVEL": "warning",
            "LASTSEEN_LOG__FORMAT": "json",
            **env,
        }
        settings = {name: value for name, value in wanted.items() if value is not None}
        self.config: Config = load(file, settings)
        self.url = f"http://127.0.0.1:{self.config.server.port}"
        self._master = master_token(self.config)
        words = ["-m", "monitor", "serve", *(() if file is None else ("--config", str(file))), *arguments]
        super().__init__("daemon", words, directory=directory, env={**_environment(), **settings}, checkout=checkout)
        try:
            until(self._ready, "/readyz answers 200", limit_s=START_LIMIT_S)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _address(self) -> str | None:
        """Where it listens: it says so in the log only, and in no line of the level that a bench has."""
        super()._address()
        with contextlib.suppress(OSError, http.client.HTTPException):
            call(self.url, "GET", "/livez")
            return self.url
        return None

    @property
    def store_pid(self) -> int | None:
        """The embedded store's process; None with another store."""
        if not self.config.store.embedded:
            return None
        return int(self._lock_record()["store_pid"])

    @property
    def store_url(self) -> str:
        """Where the store is, for redis-py."""
        if not self.config.store.embedded:
            return str(self.config.store.url)
        return f"unix://{self._lock_record()['socket']}"

    def processes(self) -> dict[str, int]:
        """``daemon``, or with several ``supervisor`` and ``daemon 1`` and so on; and ``store`` if it is its own."""
        store = self.store_pid
        # The store's children are its forks for saving, which come and go.
        stores = set() if store is None else {store, *descendants(store)}
        below = [pid for pid in descendants(self.pid) if pid not in stores]
        named = {f"daemon {number}": pid for number, pid in enumerate(below, 1)}
        named = {"supervisor": self.pid, **named} if named else {"daemon": self.pid}
        return named if store is None else {**named, "store": store}

    def pin(self, *, cores: Collection[int], store_cores: Collection[int]) -> None:
        """Keep the daemon's processes on ``cores`` and the store on ``store_cores``."""
        for name, pid in self.processes().items():
            pin(pid, store_cores if name == "store" else cores)

    def get(self, path: str) -> Any:
        """The JSON that a path answers with, asked with a token of tenant ``bench`` that may do everything.

        Raises:
            BenchError: another answer than 200.
        """
        return json.loads(self.text(path))

    def post(self, path: str, body: object) -> int:
        """The status that a body is answered with."""
        return call(self.url, "POST", path, token=self._master, body=body).status

    def text(self, path: str) -> str:
        """As ``get``, for what is not JSON."""
        answer = call(self.url, "GET", path, token=self._master)
        if answer.status != http.client.OK:
            raise BenchError(f"GET {path}: {answer.status} {answer.body[:500]!r}")
        return answer.body.decode()

    def _ready(self) -> bool:
        self._address()
        try:
            return call(self.url, "GET", "/readyz").status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def _lock_record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.config.store.data_dir / "lock").read_bytes())
        return record


def _environment() -> dict[str, str]:
    """This process's environment without what would configure a daemon."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("LASTSEEN_")}


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """An empty directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ls-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def stopping(*servers: Server) -> Iterator[None]:
    """Stop these servers in the end."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        yield


@contextlib.contextmanager
def daemon(env: Mapping[str, str | None] | None = None, *arguments: str, checkout: Checkout = THIS) -> Iterator[Daemon]:
    """A ready daemon on an empty data directory.

    ``env`` holds ``LASTSEEN_...`` keys, ``arguments`` follow ``lastseen serve``. It logs warnings only.

    Raises:
        BenchError: it did not start, or did not end well.
    """
    with directory() as place:
        started = Daemon(directory=place, env=env or {}, arguments=arguments, checkout=checkout)
        with stopping(started):
            yield started


@contextlib.contextmanager
def own_store() -> Iterator[tuple[str, int]]:
    """An empty Valkey with the embedded store's settings: its URL for redis-py, and its process id.

    To be called in the main thread.
    """
    with directory() as place:
        logs.configure(level="warning", form="console", stream=sys.stderr)
        store = EmbeddedStore(place)
        url = store.start()
        try:
            yield url, store.pid or 0
        finally:
            asyncio.run(store.stop())


# References --------------------------------------------------------------------------------------------------------


class Reference(Server):
    """One of ``bench.references``."""

    def __init__(self, name: str, *, directory: Path, env: Mapping[str, str], store_pid: int | None = None) -> None:
        self._store_pid = store_pid
        words = ["-m", f"bench.references.{name}"]
        super().__init__(name, words, directory=directory, env={**_environment(), **env})

    def processes(self) -> dict[str, int]:
        """Its own process, and ``store`` if it has one."""
        own = {self.name: self.pid}
        return own if self._store_pid is None else {**own, "store": self._store_pid}


@contextlib.contextmanager
def bare() -> Iterator[Reference]:
    """The ceiling: an ASGI app that reads the body and answers 204, on the daemon's server and settings."""
    with directory() as place:
        started = Reference("bare", directory=place, env={})
        with stopping(started):
            yield started


@contextlib.contextmanager
def published(config: Config) -> Iterator[Reference]:
    """The published service's way, on a store of its own; takes the tokens that are good under ``config``."""
    key = key_ring(config).signing()
    if key is None:
        raise BenchError("the published way needs an HS256 key")
    with directory() as place, own_store() as (url, store_pid):
        env = {
            "REFERENCE_REDIS": url,
            "REFERENCE_SECRET": key.key.decode(),
            "REFERENCE_AUDIENCE": config.auth.audience,
            "REFERENCE_ISSUER": config.auth.issuer,
        }
        started = Reference("published", directory=place, env=env, store_pid=store_pid)
        with stopping(started):
            yield started
