"""Real daemons for tests: `lastseen` as its users run it, workers and webhook receivers around it.

Everything is a process or a socket on loopback. What a test starts ends with it, by process id, and on
Linux the kernel ends it when the test run itself dies.
"""

import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from standardwebhooks import Webhook, WebhookVerificationError

from monitor.clock import monotonic_s
from tests.support import servers

LASTSEEN: Final = Path(sys.executable).with_name("lastseen")
WAIT_S: Final = 40.0
"""For what takes a second or two on an idle machine."""
PAUSE_S: Final = 0.02
BEAT: Final = "/api/v1/workers/heartbeat"
WEBHOOK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ANY_PORT: Final = "[server]\nport = 0\n"

Held = TypeVar("Held")


def until(condition: Callable[[], Held], what: str, *, timeout_s: float = WAIT_S) -> Held:
    """The first result of ``condition`` that is true; fails, naming ``what``, when none is within the time."""
    give_up_s = monotonic_s() + timeout_s
    pause = threading.Event()
    while not (held := condition()):
        assert monotonic_s() < give_up_s, f"not within {timeout_s:g} s: {what}"
        pause.wait(PAUSE_S)
    return held


def gone(pid: int) -> bool:
    """Whether the process has ended; one that its parent has not waited for yet counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip() or state.startswith("Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the daemon answered; the names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    url: str, method: str, path: str, *, token: str | None = None, body: object = None, timeout_s: float = WAIT_S
) -> Answer:
    """One request on a connection of its own.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)
    headers = {"content-type": "application/json"} if body is not None else {}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    try:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(status=answer.status, headers=names, body=answer.read())
    finally:
        connection.close()


class Daemon:
    """One run of `lastseen serve`. It ends by ``stop``, by ``kill``, or with its `Home`."""

    def __init__(self, home: "Home", name: str, *arguments: str, env: Mapping[str, str]) -> None:
        self._home = home
        self._out, self._err = home.directory / f"{name}.out", home.directory / f"{name}.err"
        tied = [sys.executable, "-I", "-S", "-c", servers._EXEC_TIED_TO_PARENT, str(os.getpid())]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*tied, str(LASTSEEN), "serve", *arguments],
                cwd=home.directory,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.url = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def output(self) -> str:
        """All that it has written, stdout first."""
        return self._out.read_text(encoding="utf-8") + self._err.read_text(encoding="utf-8")

    def lines(self, event: str | None = None, **facts: object) -> list[dict[str, Any]]:
        """Its log so far, of ``event`` with ``facts`` only; every line of it is JSON."""
        complete = self._out.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        parsed: list[dict[str, Any]] = [json.loads(line) for line in complete]
        wanted = facts if event is None else {**facts, "event": event}
        return [line for line in parsed if all(line.get(name) == value for name, value in wanted.items())]

    def wait_for(
        self, event: str, *, count: int = 1, timeout_s: float = WAIT_S, **facts: object
    ) -> list[dict[str, Any]]:
        """The lines of ``event`` with ``facts``, once there are ``count`` of them."""

        def found() -> list[dict[str, Any]] | None:
            ended = self.process.poll() is not None
            lines = self.lines(event, **facts)
            assert len(lines) >= count or not ended, f"ended without {event} {facts}:\n{self.output()}"
            return lines if len(lines) >= count else None

        try:
            return until(found, f"{count} of {event} {facts}", timeout_s=timeout_s) or []
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()[-4_000:]}") from None

    def ready(self) -> "Daemon":
        """Wait until it accepts beats."""
        self.url = str(self.wait_for("daemon.ready")[0]["url"])
        return self

    def call(self, method: str, path: str, *, body: object = None) -> Answer:
        """A request with a token that may do everything."""
        return call(self.url, method, path, token=self._home.master, body=body)

    def beat(self, worker_id: str, **fields: object) -> Answer:
        return self.call("POST", BEAT, body={"worker_id": worker_id, "environment_name": "prod", **fields})

    def disconnect(self, worker_id: str, **fields: object) -> Answer:
        return self.call("POST", f"/api/v1/workers/{worker_id}/disconnect", body=fields)

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status == 200, (path, answer)
        return answer.json()

    def worker_ids(self) -> set[str]:
        """Ids of all workers that it knows."""
        found: set[str] = set()
        cursor = ""
        while True:
            page = self.get(f"/api/v1/workers?limit=1000{cursor}")
            found.update(worker["worker_id"] for worker in page["workers"])
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        self.process.send_signal(number)

    def exit_status(self, *, timeout_s: float = WAIT_S) -> int:
        """Wait until the process ends. Returns the exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """Stop the daemon as an operator does. Its exit status must be 0."""
        self.signal(signal.SIGTERM)
        assert self.exit_status() == 0, self.output()

    def kill(self) -> None:
        """Kill -9, and wait for its end."""
        self.process.kill()
        self.process.wait()


@dataclass(kw_only=True, slots=True)
class Home:
    """A directory with a configuration, the secrets that it names and the data; daemons may follow one another."""

    directory: Path
    master: str = ""
    """A token of tenant ``acme`` with every scope; see ``make_master``."""
    daemons: list[Daemon] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False)

    @property
    def config(self) -> Path:
        return self.directory / "lastseen.toml"

    @property
    def lock(self) -> dict[str, Any]:
        """The lock file: which process holds the data directory."""
        record: dict[str, Any] = json.loads((self.directory / "data" / "lock").read_bytes())
        return record

    @property
    def store_pid(self) -> int:
        """The embedded server's process id."""
        return int(self.lock["store_pid"])

    def write(self, text: str, name: str = "lastseen.toml") -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `lastseen` to its end."""
        return subprocess.run(
            [str(LASTSEEN), *arguments],
            cwd=self.directory,
            env={**_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )

    def token(self, *scopes: str, tenant: str = "acme", worker_id: str | None = None) -> str:
        """A token as an operator makes it."""
        words = ["token", "create", "--config", str(self.config), "--tenant", tenant]
        words += [word for scope in scopes for word in ("--scope", scope)]
        made = self.run(*words, *(() if worker_id is None else ("--worker-id", worker_id)))
        assert made.returncode == 0, made
        return made.stdout.strip()

    def make_master(self) -> None:
        """Make the token that the daemons' ``call`` uses. The configuration has to be there."""
        self.master = self.token("heartbeat:write", "workers:read", "metrics:read", "admin", "operator")

    def take_keys_of(self, other: "Home") -> None:
        """Have the generated key of another home, so that its master token is good here too."""
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        shutil.copy(other.directory / "data" / "signing-key", data)
        self.master = other.master

    def launch(self, *arguments: str, env: Mapping[str, str] | None = None) -> Daemon:
        """Start a daemon on this configuration and do not wait for anything."""
        words = arguments or ("--config", str(self.config))
        daemon = Daemon(self, f"run-{next(self._numbers)}", *words, env={**_environment(), **(env or {})})
        self.daemons.append(daemon)
        return daemon

    def start(self) -> Daemon:
        """Start a daemon on this configuration, with a master token for it; it accepts beats."""
        daemon = self.launch().ready()
        if not self.master:
            self.make_master()
        return daemon

    def close(self) -> None:
        """End every daemon, and wait until the embedded server has followed."""
        for daemon in self.daemons:
            daemon.kill()
        with contextlib.suppress(OSError, ValueError):  # never there, or emptied by a clean stop
            pid = self.store_pid
            try:
                until(lambda: gone(pid), f"the end of the store, process {pid}")
            except AssertionError:
                os.kill(pid, signal.SIGKILL)
                raise


def _environment() -> dict[str, str]:
    """This process's environment without what would configure a daemon."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("LASTSEEN_")}


@contextlib.contextmanager
def home() -> Iterator[Home]:
    """An empty home, in a directory whose name is short enough for a socket; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ls-", ignore_cleanup_errors=True) as name:
        made = Home(directory=Path(name))
        made.write(WEBHOOK_SECRET, "ops-secret")
        try:
            yield made
        finally:
            made.close()


# Webhook receivers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One request that reached the receiver with a good signature, and how it was answered (None: not at all)."""

    webhook_id: str
    body: bytes
    answered: int | None

    @property
    def type(self) -> str:
        return str(json.loads(self.body)["type"])

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data


class Receiver:
    """A webhook receiver that checks signatures with the Standard Webhooks library.

    Its port is its own from the start, and closed until ``open``. ``answer`` is the status that it
    answers with; None: it takes the request and never answers.
    """

    def __init__(self, secret: str = WEBHOOK_SECRET, *, path: str = "/hook") -> None:
        self.answer: int | None = 204
        self.attempts: list[Attempt] = []
        self.bad: list[str] = []
        self._path = path
        self._webhook = Webhook(secret)
        self._closing = threading.Event()
        self._server = _WebhookServer(self)
        self._server.server_bind()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self._path}"

    def section(self, name: str = "ops") -> str:
        """It in the configuration; impatient, so that tests are quick."""
        return (
            f'[alerts]\nretry_initial = "100ms"\nretry_max = "200ms"\n'
            f"[alerts.mass_failure]\nenabled = false\n"  # each worker is notified by itself
            f'[[alerts.receivers]]\nname = "{name}"\ntype = "webhook"\nurl = "{self.url}"\n'
            f'secret_file = "ops-secret"\nallow_private = true\ntimeout = "1s"\n'
        )

    def open(self) -> None:
        """Start listening."""
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(PAUSE_S,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def of(self, kind: str | None = None, worker_id: str | None = None) -> list[Attempt]:
        """The attempts so far, of this type and about this worker only."""
        return [
            attempt
            for attempt in list(self.attempts)
            if kind in {None, attempt.type} and worker_id in {None, attempt.data["worker_id"]}
        ]

    def wait_for(self, kind: str, worker_id: str, *, count: int = 1) -> list[Attempt]:
        """The attempts of this type about this worker, once there are ``count`` of them."""

        def found() -> list[Attempt] | None:
            assert not self.bad, self.bad
            attempts = self.of(kind, worker_id)
            return attempts if len(attempts) >= count else None

        return until(found, f"{count} of {kind} for {worker_id}; there are {self.attempts}") or []

    def take(self, headers: dict[str, str], body: bytes) -> int | None:
        """Judge one request; the status to answer with. Called by the server's threads."""
        answered = self.answer
        try:
            self._webhook.verify(body, headers)
            self.attempts.append(Attempt(webhook_id=headers["webhook-id"], body=body, answered=answered))
        except (WebhookVerificationError, ValueError, KeyError) as error:
            self.bad.append(f"{error!r}: {headers} {body!r}")
            return 400
        if answered is None:
            self._closing.wait(WAIT_S)
        return answered


class _WebhookServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _WebhookHandler, bind_and_activate=False)

    def server_bind(self) -> None:
        """As the base class does, without asking for the host's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A daemon that was killed leaves its connections; what matters is noted by the receiver."""


class _WebhookHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _WebhookServer

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        status = self.server.receiver.take(headers, body)
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class names it
        """Log nothing."""


# Workers -----------------------------------------------------------------------------------------------------------


class Stream:
    """Beats of ever new workers, one after another in a thread, and their answers.

    Ends by ``end``, or by itself when no server answers.
    """

    def __init__(self, url: str, token: str, prefix: str) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[Answer] = []
        self._url, self._token, self._prefix = url, token, prefix
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        number = 0
        while not self._ending.is_set():
            number += 1
            worker_id = f"{self._prefix}-{number}"
            try:
                answer = call(
                    self._url,
                    "POST",
                    BEAT,
                    token=self._token,
                    body={"worker_id": worker_id, "environment_name": "prod"},
                )
            except (OSError, http.client.HTTPException):
                return
            if answer.status == 204:
                self.acknowledged.append(worker_id)
            else:
                self.refused.append(answer)


_CURL_LOOP: Final = """
while :; do
  curl --silent --show-error --noproxy '*' --max-time 5 --output /dev/null --write-out '%{http_code}\\n' \\
    --header "Authorization: Bearer $TOKEN" --header 'Content-Type: application/json' \\
    --data "$BODY" "$URL"
  sleep 0.3
done
"""


class CurlWorker:
    """A worker as a shell script with curl: it beats about every third of a second until it is killed."""

    def __init__(self, url: str, token: str, worker_id: str, log: Path) -> None:
        self.worker_id = worker_id
        self._url, self._token, self._log = url, token, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        body = json.dumps({"worker_id": self.worker_id, "environment_name": "prod", "status": "busy"})
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _CURL_LOOP],
                env={"PATH": os.environ["PATH"], "TOKEN": self._token, "BODY": body, "URL": self._url + BEAT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill -9 the script and its curl; idempotent."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def answers(self) -> list[str]:
        """The statuses that it got, and what curl complained about."""
        return self._log.read_text(encoding="utf-8").split("\n")[:-1]
