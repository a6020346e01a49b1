"""P27: the outgoing heartbeat goes out while all is well, stops while anything is not, and disturbs nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from monitor.clock import monotonic_s
from monitor.daemon.config.model import load
from monitor.daemon.config.sources import ConfigError
from monitor.daemon.watchdog import Watchdog
from monitor.metrics.registry import PingOutcome
from monitor.reasons import Reason
from tests.support.receiver_cases import Does
from tests.support.receiver_cases.http_peer import serve

WAIT_S: Final = 20.0
FAILURES: Final = {
    Does.REFUSE: "HTTP 413",
    Does.BE_GONE: "HTTP 410",
    Does.BREAK: "HTTP 500",
    Does.REDIRECT: "HTTP 307",
    Does.HANG: "no answer within 0.2 s",
    Does.CUT: "the connection was closed before an answer",
    Does.BABBLE: "the answer is not HTTP",
}


class Pinging:
    """A running watchdog. ``reasons`` may be changed; ``next`` waits for the outcome of a ping."""

    def __init__(self, url: str, **changes: Any) -> None:
        self.reasons: list[str] = []
        self.looks = 0
        self._outcomes: asyncio.Queue[PingOutcome] = asyncio.Queue()
        values: dict[str, Any] = {"interval_s": 0.05, "timeout_s": WAIT_S, "allow_private": True, **changes}
        self._watchdog = Watchdog(url=url, reasons=self._reasons, on_outcome=self._outcomes.put_nowait, **values)

    async def _reasons(self) -> list[str]:
        await asyncio.sleep(0)
        self.looks += 1
        return list(self.reasons)

    async def next(self, outcome: PingOutcome) -> None:
        """Wait for a ping with this outcome. Earlier pings with other outcomes are skipped."""
        async with asyncio.timeout(WAIT_S):
            while await self._outcomes.get() is not outcome:
                pass

    async def only(self, outcome: PingOutcome, times: int) -> None:
        """The next pings have this outcome."""
        async with asyncio.timeout(WAIT_S):
            assert {await self._outcomes.get() for _ in range(times)} == {outcome}

    def is_quiet(self) -> bool:
        """No other ping has an outcome."""
        return self._outcomes.empty()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[list[EventDict]]:
        """Its log."""
        with capture_logs() as logs:
            task = asyncio.create_task(self._watchdog.run())
            yield logs
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def said(logs: list[EventDict]) -> list[str]:
    return [line["event"] for line in logs]


async def test_p27_while_all_is_well_a_plain_get_goes_out_at_each_interval() -> None:
    async with serve(Does.ACCEPT) as peer:
        pinging = Pinging(f"http://{peer.address}/api/push/abc?status=up&msg=OK")
        async with pinging.running() as logs:
            await pinging.only(PingOutcome.SENT, 5)
    assert len(peer.received) >= 5
    assert all(one.startswith(b"GET /api/push/abc?status=up&msg=OK HTTP/1.1\r\n") for one in peer.received)
    assert all(one.endswith(b"\r\n\r\n") for one in peer.received)
    assert said(logs) == []


async def test_p27_while_a_reason_stands_nothing_is_sent_and_that_is_said_once_and_its_end_too() -> None:
    async with serve(Does.ACCEPT) as peer:
        pinging = Pinging(f"http://{peer.address}/")
        async with pinging.running() as logs:
            await pinging.next(PingOutcome.SENT)
            pinging.reasons = [Reason.DELIVERY_LAG]
            await pinging.next(PingOutcome.WITHHELD)
            sent = len(peer.received)
            await pinging.only(PingOutcome.WITHHELD, 3)
            assert len(peer.received) == sent
            pinging.reasons = []
            await pinging.next(PingOutcome.SENT)
            assert len(peer.received) > sent
    assert [(line["event"], line["reasons"]) for line in logs] == [
        ("watchdog.withheld", ["delivery_lag"]),
        ("watchdog.resumed", ["delivery_lag"]),
    ]


async def test_what_passes_within_moments_withholds_nothing() -> None:
    async with serve(Does.ACCEPT) as peer:
        pinging = Pinging(f"http://{peer.address}/", interval_s=WAIT_S)
        pinging.reasons = [Reason.SWEEP_LAG]  # as after every start
        async with pinging.running() as logs:
            asyncio.get_running_loop().call_later(0.1, pinging.reasons.clear)
            await pinging.only(PingOutcome.SENT, 1)
    assert said(logs) == []


async def test_p27_a_ping_that_is_withheld_is_counted_once_an_interval_however_often_it_is_looked_at() -> None:
    pinging = Pinging("http://127.0.0.1:9/", interval_s=WAIT_S)
    pinging.reasons = [Reason.DELIVERY_LAG]
    async with pinging.running():
        began_s = monotonic_s()
        await pinging.only(PingOutcome.WITHHELD, 1)
        assert monotonic_s() - began_s >= 5, "what passes within 5 s withholds nothing"
        looks = pinging.looks
        async with asyncio.timeout(WAIT_S):
            while pinging.looks < looks + 2:  # noqa: ASYNC110 - no event signals a check
                await asyncio.sleep(0.05)
        assert pinging.is_quiet()


async def test_p27_a_ping_that_failed_is_tried_again_after_ten_seconds_of_a_longer_interval() -> None:
    async with serve(Does.BREAK) as peer:
        pinging = Pinging(f"http://{peer.address}/", interval_s=3_600)
        async with pinging.running():
            await pinging.only(PingOutcome.FAILED, 1)
            began_s = monotonic_s()
            await pinging.only(PingOutcome.FAILED, 1)
            assert monotonic_s() - began_s > 9


@pytest.mark.parametrize("does", FAILURES)
async def test_a_ping_that_fails_is_said_once_and_counted_and_the_next_is_sent_all_the_same(does: Does) -> None:
    async with serve(does) as peer:
        pinging = Pinging(f"http://{peer.address}/secret", timeout_s=0.2)
        async with pinging.running() as logs:
            await pinging.only(PingOutcome.FAILED, 3)
    assert len(peer.received) >= 3
    assert all(b"GET /secret " in one for one in peer.received)  # no redirect was followed
    assert [(line["event"], line["reason"]) for line in logs] == [("watchdog.ping_failed", FAILURES[does])]


async def test_a_server_that_is_not_there_is_named_without_the_secret_path_and_its_return_is_said() -> None:
    async with serve(Does.ACCEPT) as peer:
        address = peer.address
    pinging = Pinging(f"http://{address}/secret")
    async with pinging.running() as logs:
        await pinging.only(PingOutcome.FAILED, 2)
        host, port = address.split(":")
        server = await asyncio.start_server(_answer_at_length, host, int(port))
        async with server:
            await pinging.next(PingOutcome.SENT)  # whose answer has no end
    assert said(logs) == ["watchdog.ping_failed", "watchdog.ping_succeeded"]
    assert address in logs[0]["reason"]
    assert "secret" not in str(logs)


async def _answer_at_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """200 and a body that goes on until the client has had enough."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
    try:
        while not writer.is_closing():
            writer.write(b"x" * 4_096)
            await writer.drain()
    except OSError:
        writer.close()


async def test_a_private_address_is_refused_unless_that_is_allowed() -> None:
    async with serve(Does.ACCEPT) as peer:
        pinging = Pinging(f"http://{peer.address}/", allow_private=False)
        async with pinging.running() as logs:
            await pinging.only(PingOutcome.FAILED, 1)
    assert peer.received == []
    assert "allow_private" in logs[0]["reason"]


# The configuration -------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), {})
    return [line.removeprefix(f"{folder}/") for line in caught.value.lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'url = "ftp://x/secret"',
            'config.toml:2: watchdog.url: must be an http:// or https:// URL, got "ftp://x/***"',
        ),
        ('url = "https://me:pw@x/"', "config.toml:2: watchdog.url: must not hold user and password"),
        ('interval = "500ms"', "config.toml:2: watchdog.interval: must be between 1s and 1d"),
        ("interval = 60", 'config.toml:2: watchdog.interval: a duration needs a unit: write "60s"'),
        ('timeout = "2m"', "config.toml:2: watchdog.timeout: must be between 1s and 60s"),
        ('method = "POST"', "config.toml:2: watchdog.method: unknown key"),
        ('url = "https://x/"\nurl_file = "u"', "config.toml:3: watchdog.url_file: cannot be combined with url"),
        ('url_file = "none"', "config.toml:2: watchdog.url_file: cannot read the file"),
        (
            'url_file = "bad"',
            "config.toml:2: watchdog.url_file: the content of the file must be an http:// or https:// URL",
        ),
        ('url_file = "raw"', "config.toml:2: watchdog.url_file: the content of the file is not UTF-8"),
    ],
)
def test_what_is_wrong_with_the_section_is_named_with_its_line_and_without_the_secret(
    tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "bad").write_text("hc-ping.com/secret\n")
    (tmp_path / "raw").write_bytes(b"https://x/\xff")
    (line,) = refused(tmp_path, f"[watchdog]\n{text}\n")
    assert line.startswith(expected)
    assert "secret" not in line
    assert "pw" not in line


def test_the_url_may_be_in_a_file_or_in_the_environment_and_shows_nowhere(tmp_path: Path) -> None:
    url = "https://hc-ping.com/5f1c0"
    (tmp_path / "u").write_text(url + "\n")
    config = load(write(tmp_path, '[watchdog]\nurl_file = "u"'), {})
    assert config.watchdog.target == url
    assert "5f1c0" not in repr(config)
    config = load(write(tmp_path, ""), {"LASTSEEN_WATCHDOG__URL": url})
    assert config.watchdog.target == url
    assert "5f1c0" not in repr(config)
    assert load(write(tmp_path, ""), {}).watchdog.target == ""


def test_a_private_address_is_warned_of(tmp_path: Path) -> None:
    section = '[watchdog]\nurl = "http://10.0.0.1/"\n'
    found = [line for line in load(write(tmp_path, section), {}).warnings if line.startswith("watchdog")]
    assert [bool(re.search(r"private address 10\.0\.0\.1", line)) for line in found] == [True]
    allowed = load(write(tmp_path, section + "allow_private = true"), {}).warnings
    assert [line for line in allowed if line.startswith("watchdog")] == []
