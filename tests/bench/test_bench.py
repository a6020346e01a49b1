"""The load generator's honesty, on a small real server whose answers a test chooses, and on a daemon."""

import asyncio
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import smoke
from bench.harness import ROOT
from bench.load.answers import Answer, BadAnswerError, read_answer
from bench.load.outcome import Outcome
from bench.load.plan import Ids, Plan, Schedule, Share
from bench.load.run import LoadError, run
from bench.results import Report, Spread, alternating
from tests.support import daemons

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
WAIT_S = 60.0


class TinyServer:
    """Answers each request with what ``answer`` makes of its number; None: never. ``hold`` comes before each."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self.url = ""
        self.answer = answer
        self.hold: Callable[[int], None] = lambda _: None
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.got_one = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                number = len(self.heads)
                self.heads.append(head)
                self.bodies.append(body)
                self.got_one.set()
                self.hold(number)
                answer = self.answer(number)
                if answer is None:
                    await reader.read()
                    return
                writer.write(answer)
                if not answer or b"connection: close" in head.lower() + answer.lower():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def tiny_server(answer: Callable[[int], bytes | None] = lambda _: NO_CONTENT) -> AsyncIterator[TinyServer]:
    made = TinyServer(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


def plan(url: str, **changes: Any) -> Plan:
    values: dict[str, Any] = {"url": url, "tokens": ["t1", "t2"], "rate": 500.0, "duration_s": 1.0, "connections": 4}
    return Plan(**{**values, **changes})


async def load(made: Plan, *, processes: int = 1) -> Outcome:
    async with asyncio.timeout(WAIT_S):
        return await asyncio.to_thread(run, made, processes=processes)


# The schedule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ramp_s", [0.0, 2.0])
@pytest.mark.parametrize("processes", [1, 3])
def test_the_processes_of_a_load_share_one_schedule_that_holds_the_rate(ramp_s: float, processes: int) -> None:
    shares = [
        Schedule(per_s=100.0, duration_s=3.0, ramp_s=ramp_s, share=Share(index=index, of=processes))
        for index in range(processes)
    ]
    times = sorted(one.time_s(number) for one in shares for number in range(one.total))
    assert len(times) == 300 + 100 * ramp_s / 2
    assert times[0] == 0
    steady = [time for time in times if time >= ramp_s]
    assert all(abs(later - earlier - 0.01) < 1e-6 for earlier, later in itertools.pairwise(steady))
    assert len([time for time in times if time < ramp_s / 2]) == len([time for time in times if time < ramp_s]) / 4


@pytest.mark.parametrize("ramp_s", [0.0, 2.0])
def test_what_is_due_is_what_the_schedule_has_before_now(ramp_s: float) -> None:
    schedule = Schedule(per_s=100.0, duration_s=1.0, ramp_s=ramp_s, share=Share(index=1, of=2))
    for number in range(schedule.total):
        assert schedule.due(schedule.time_s(number) - 1e-4) <= number < schedule.due(schedule.time_s(number) + 1e-4)
    assert schedule.due(1_000.0) == schedule.total


# Answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (NO_CONTENT, Answer(status=204, body=b"", last=False)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Answer(status=200, body=b"{}", last=False)),
        (b"HTTP/1.1 503 X\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n", Answer(status=503, body=b"", last=True)),
        (
            b"HTTP/1.1 422 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n",
            Answer(status=422, body=b"abcd", last=False),
        ),
    ],
)
def test_an_answer_is_read_when_it_is_complete_and_not_a_byte_earlier(data: bytes, answer: Answer) -> None:
    assert all(read_answer(data[:end]) is None for end in range(len(data)))
    assert read_answer(data) == answer


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        NO_CONTENT + NO_CONTENT,
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_answer_is_not_counted_as_one(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_answer(data)


# The load ----------------------------------------------------------------------------------------------------------


async def test_a_stall_is_charged_for_each_request_that_was_due_meanwhile() -> None:
    stall_s = 0.3

    def stall(number: int) -> None:
        if number == 200:
            threading.Event().wait(stall_s)  # blocks the server as a whole, as a stalled process does

    async with tiny_server() as server:
        server.hold = stall
        outcome = await load(plan(server.url, duration_s=2.0))
    # 150 of 1,000 requests fall due in the stall and wait for the rest of it: of the slowest hundredth each waits
    # for more than 0.28 s. Four connections that wait for their answers would have seen four slow requests.
    assert outcome.statuses == {204: 1_000}
    assert outcome.distribution().count == 1_000
    assert outcome.distribution().quantile_ms(99) >= 0.9 * stall_s * 1_000
    assert outcome.waited + outcome.late > 100


async def test_a_generator_that_is_stopped_says_that_it_was_late_itself() -> None:
    async with tiny_server() as server:
        loading = asyncio.create_task(load(plan(server.url, duration_s=2.0, connections=64)))
        await asyncio.wait_for(server.got_one.wait(), WAIT_S)
        (generator,) = multiprocessing.active_children()
        os.kill(generator.pid or 0, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.3)  # what is measured: how many requests fall due in it
        finally:
            os.kill(generator.pid or 0, signal.SIGCONT)
        outcome = await loading
    assert outcome.statuses == {204: 1_000}
    assert outcome.late > 100
    assert "THE GENERATOR DID NOT KEEP UP" in outcome.complaints()[0]


async def test_statuses_are_counted_and_only_2xx_counts_as_stored() -> None:
    answers = [
        NO_CONTENT,
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 422 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
    ]
    async with tiny_server(lambda number: answers[number % 4]) as server:
        outcome = await load(plan(server.url), processes=2)
    assert outcome.statuses == {204: 250, 503: 125, 422: 125}
    assert (outcome.planned, outcome.stored, outcome.failed, outcome.errors) == (500, 250, 250, {})
    assert outcome.connects == server.connections > 4


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"", "closed without an answer"), (b"SSH-2.0-x\r\n\r\n", "not an HTTP answer")]
)
async def test_a_request_without_an_answer_is_an_error_by_kind(answer: bytes, kind: str) -> None:
    async with tiny_server(lambda number: answer if number % 10 == 0 else NO_CONTENT) as server:
        outcome = await load(plan(server.url))
    assert outcome.statuses == {204: 450}
    assert outcome.errors == {kind: 50}
    assert outcome.failed == 50


async def test_a_server_that_never_answers_ends_the_load_in_bounded_time_and_every_request_is_accounted_for() -> None:
    async with tiny_server(lambda _: None) as server:
        outcome = await load(plan(server.url, rate=50.0, timeout_s=0.4))
    assert outcome.planned == outcome.errors.total() == outcome.failed == 50
    assert set(outcome.errors) == {"timeout", "not sent"}
    latencies = outcome.distribution()
    assert latencies.count == 50
    assert latencies.quantile_ms(1) >= 400


async def test_without_keep_alive_every_beat_makes_its_own_connection() -> None:
    async with tiny_server() as server:
        outcome = await load(plan(server.url, keep_alive=False))
    assert outcome.statuses == {204: 500}
    assert outcome.connects == server.connections == 500
    assert all(b"Connection: close\r\n" in head for head in server.heads)


async def test_a_closed_loop_sends_until_the_end_and_no_further() -> None:
    async with tiny_server() as server:
        outcome = await load(plan(server.url, rate=None, duration_s=0.5))
    assert outcome.planned == outcome.sent == outcome.statuses[204] == len(server.heads) > 0
    assert (outcome.late, outcome.waited, outcome.failed) == (0, 0, 0)


async def test_in_turn_every_worker_beats_equally_often_with_its_own_token() -> None:
    async with tiny_server() as server:
        await load(plan(server.url, ids=Ids.TURN, workers=50), processes=2)
    beats = [json.loads(body) for body in server.bodies]
    assert set(Counter(beat["worker_id"] for beat in beats).values()) == {10}
    assert len({beat["worker_id"] for beat in beats}) == 50
    tokens: dict[str, set[bytes]] = {}
    for head, beat in zip(server.heads, beats, strict=True):
        tokens.setdefault(beat["worker_id"], set()).add(head.partition(b"Bearer ")[2].partition(b"\r\n")[0])
    assert all(len(used) == 1 for used in tokens.values())
    assert set.union(*tokens.values()) == {b"t1", b"t2"}


async def test_zipf_prefers_few_workers_and_uniform_none() -> None:
    often: dict[Ids, int] = {}
    for ids in (Ids.ZIPF, Ids.UNIFORM):
        async with tiny_server() as server:
            await load(plan(server.url, ids=ids, workers=1_000))
        often[ids] = Counter(json.loads(body)["worker_id"] for body in server.bodies).most_common(1)[0][1]
    assert often[Ids.ZIPF] > 30
    assert often[Ids.UNIFORM] < 15


async def test_a_batch_is_an_array_of_beats_and_one_that_was_taken_in_part_is_no_success() -> None:
    def answer(number: int) -> bytes:
        body = b'{"rejected":[]}' if number % 2 else b'{"rejected":[{"index":0}]}'
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async with tiny_server(answer) as server:
        outcome = await load(plan(server.url, rate=1_000.0, batch=100, metadata_bytes=1_000))
    assert (outcome.planned, outcome.stored, outcome.rejected) == (10, 5, 5)
    assert all(head.startswith(b"POST /api/v1/workers/heartbeats ") for head in server.heads)
    beats = [beat for body in server.bodies for beat in json.loads(body)]
    assert len(beats) == 1_000
    assert all(len(json.dumps(beat["worker_metadata"], separators=(",", ":"))) == 1_000 for beat in beats)


async def test_what_cannot_be_run_is_refused_with_the_option_to_change() -> None:
    async with tiny_server() as server:
        url = server.url
        for made, option in (
            (plan("https://example.org"), "--url"),
            (plan(url, rate=0.0), "--rate"),
            (plan(url, tokens=[]), "--tokens"),
            (plan(url, duration_s=10_000.0), "--duration"),
        ):
            with pytest.raises(LoadError, match=option):
                await load(made)
        with pytest.raises(LoadError, match="--connections"):
            await load(plan(url), processes=5)
    with pytest.raises(LoadError, match="can't connect"):
        await load(plan(url))


# The command -------------------------------------------------------------------------------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.load", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )


def test_the_command_loads_a_daemon_whose_configuration_it_is_given(tmp_path: Path) -> None:
    with daemons.home() as home:
        home.write(daemons.ANY_PORT + f'[store]\ndata_dir = "{home.directory / "data"}"\n')
        daemon = home.start()
        usual = ("--url", daemon.url, "--rate", "100", "--duration", "1", "--workers", "50", "--ids", "turn")
        done = command(*usual, "--config", str(home.config), "--tenant", "acme", "--json", str(tmp_path / "out"))
        assert done.returncode == 0, done
        figures = json.loads((tmp_path / "out").read_bytes())["figures"]
        assert figures["answered 204"] == figures["requests planned"] == 100
        assert len(daemon.worker_ids()) == 50

        batches = command(*usual, "--batch", "10", "--config", str(home.config), "--tenant", "acme")
        assert batches.returncode == 0, batches
        (tmp_path / "tokens").write_text("not.a.token\n")
        refused = command(*usual, "--token-file", str(tmp_path / "tokens"))
        assert refused.returncode == 1, refused
        assert "answered 401" in refused.stdout


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "lastseen.toml"
    config.write_text(f'[store]\ndata_dir = "{tmp_path}"\n')
    done = command("--config", str(config))
    assert done.returncode == 2
    assert f"there is no signing key at {tmp_path}" in done.stderr


# Results -----------------------------------------------------------------------------------------------------------


def test_variants_take_turns_and_ratios_are_taken_within_a_round(tmp_path: Path) -> None:
    figures = iter([10.0, 20.0, 40.0, 10.0, 30.0, 90.0])
    order: list[str] = []

    def measure(variant: str) -> float:
        order.append(variant)
        return next(figures)

    rounds = alternating(3, ["a", "b"], measure)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert rounds.ratio("b", "a", lambda value: value) == Spread(median=3.0, least=2.0, most=4.0)
    report = Report("test")
    report.table("of", ["x", "y"], [["a", 1.5]])
    report.keep("raw", [1.0])
    report.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out").read_bytes())
    assert saved["tables"] == [{"caption": "of", "columns": ["x", "y"], "rows": [["a", 1.5]]}]
    assert saved["raw"] == [1.0]


def test_every_bench_is_among_the_long_checks_and_all_but_what_needs_the_repository_among_the_short_ones() -> None:
    benches = {path.stem for path in Path(smoke.__file__).parent.glob("*.py") if "App(" in path.read_text("utf-8")}
    assert benches >= {"intake", "processes"}
    assert benches - {"compare"} == {line.split()[0].removeprefix("bench.") for line in smoke.COMMANDS}
    long_check = (ROOT / ".ci" / "long_check.py").read_text("utf-8")
    named = {name for name in benches if f'"{name}' in long_check or f'"bench.{name}' in long_check}
    assert named == benches
