"""Fixtures that every test may use, and the rule that CI skips nothing."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import servers


def _skipped(config: pytest.Config) -> list[str]:
    """What this run skipped, as `where: why`; expected failures are no skips."""
    terminal: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None:
        return []
    lines: list[str] = []
    for report in terminal.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        lines.append(f"{report.nodeid}: {reason}")
    return lines


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


def pytest_configure() -> None:
    """Under nohup SIGHUP is ignored, also by the daemons that tests start; one that is handled here is not for them."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test fails the run: a check that was not made has not passed."""
    if _is_ci() and session.exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the skipped tests that failed the run."""
    skipped = _skipped(config)
    if not (_is_ci() and skipped):
        return
    terminalreporter.section("skipped, which CI counts as failed", red=True)
    for line in skipped:
        terminalreporter.line(line, red=True)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The embedded server's own build; shared by the session and never emptied."""
    with servers.running(servers.valkey_binary()) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The distribution's Redis; shared by the session and never emptied."""
    with servers.running(_redis_binary_or_skip()) as server:
        yield server.url


@pytest.fixture(scope="session")
def _empty_valkey() -> Iterator[servers.Server]:
    with servers.running(servers.valkey_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def _empty_redis() -> Iterator[servers.Server]:
    with servers.running(_redis_binary_or_skip()) as server:
        yield server


@pytest.fixture(params=["valkey", "redis"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty store, once on Valkey and once on Redis; no other fixture's data is in it."""
    server: servers.Server = request.getfixturevalue(f"_empty_{request.param}")
    server.empty()
    return server.url


def _redis_binary_or_skip() -> Path:
    binary = servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return binary
