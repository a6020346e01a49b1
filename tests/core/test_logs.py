"""What the daemon writes about itself: one form for our lines and those of the libraries."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from structlog.typing import FilteringBoundLogger

from monitor import logs
from monitor.printable import Paged

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ESCAPE = "\x1b["


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the logging of the test run as it was; `configure` is for a whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


def ours() -> FilteringBoundLogger:
    """A logger made now: one that was used before keeps the configuration that it was used with."""
    log: FilteringBoundLogger = structlog.get_logger()
    return log


def library() -> logging.Logger:
    return logging.getLogger("some.library")


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_lines_are_json_with_a_name_a_level_and_a_time_in_utc() -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="json", stream=stream)
    ours().info("worker.stale", worker_id="名 \n\"'", seq=2, gaps=[1, 2], nothing=None)
    (line,) = lines_of(stream)
    assert TIMESTAMP.fullmatch(line.pop("timestamp"))
    assert line == {
        "event": "worker.stale",
        "level": "info",
        "worker_id": "名 \n\"'",
        "seq": 2,
        "gaps": [1, 2],
        "nothing": None,
    }
    assert stream.getvalue().count("\n") == 1


def test_what_libraries_say_comes_out_in_the_same_form() -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="json", stream=stream)
    library().warning("%s of %d", "one", 2)
    ours().warning("one of 2")
    theirs, mine = lines_of(stream)
    assert theirs.pop("logger") == "some.library"
    assert TIMESTAMP.fullmatch(theirs.pop("timestamp"))
    del mine["timestamp"]
    assert theirs == mine == {"event": "one of 2", "level": "warning"}


@pytest.mark.parametrize("whose", ["ours", "a library's"])
def test_an_exception_has_its_traceback_in_the_one_line_of_it(whose: str) -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="json", stream=stream)
    try:
        _fails()
    except ValueError as error:
        if whose == "ours":
            ours().error("sweep.failed", exc_info=error)
        else:
            library().exception("sweep.failed")
    (line,) = lines_of(stream)
    assert (line["event"], line["level"]) == ("sweep.failed", "error")
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "in _fails\n" in line["exception"]
    assert line["exception"].endswith("ValueError: the reason")
    assert "exc_info" not in line


def _fails() -> None:
    raise ValueError("the reason")


@pytest.mark.parametrize("whose", ["ours", "a library's"])
def test_an_exception_is_shown_on_a_terminal_too(whose: str) -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="console", stream=stream)
    try:
        _fails()
    except ValueError:
        log: Any = ours() if whose == "ours" else library()
        log.exception("sweep.failed")
    text = stream.getvalue()
    assert "sweep.failed" in text.splitlines()[0]
    assert "in _fails\n" in text
    assert "ValueError: the reason" in text


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", io.StringIO, True),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
        ("console", Terminal, False),
    ],
)
def test_auto_is_json_unless_the_stream_is_a_terminal(
    form: Literal["auto", "json", "console"], stream: type[io.StringIO], *, is_json: bool
) -> None:
    out = stream()
    logs.configure(level="info", form=form, stream=out)
    ours().info("daemon.ready", port=1)
    library().warning("daemon.ready")
    text = out.getvalue()
    assert len(text.splitlines()) == 2
    assert text.count("daemon.ready") == 2
    assert text.startswith("{") is is_json
    # Colours are for terminals, and never in JSON.
    assert (ESCAPE in text) is (stream is Terminal and not is_json)


@pytest.mark.parametrize(
    ("level", "own", "libraries"),
    [
        ("debug", ["debug", "info", "warning", "error", "critical"], ["warning", "error", "critical"]),
        ("info", ["info", "warning", "error", "critical"], ["warning", "error", "critical"]),
        ("warning", ["warning", "error", "critical"], ["warning", "error", "critical"]),
        ("error", ["error", "critical"], ["error", "critical"]),
    ],
)
def test_lines_below_the_level_are_not_written_and_libraries_are_heard_from_warnings_on(
    level: str, own: list[str], libraries: list[str]
) -> None:
    stream = io.StringIO()
    logs.configure(level=level, form="json", stream=stream)
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(ours(), name)("own")
        getattr(library(), name)("library")
    lines = lines_of(stream)
    assert [line["level"] for line in lines if line["event"] == "own"] == own
    assert [line["level"] for line in lines if line["event"] == "library"] == libraries


def test_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(KeyError):
        logs.configure(level="loud", form="json", stream=io.StringIO())


def test_configured_again_it_writes_each_line_once_and_to_the_new_place() -> None:
    old, new = io.StringIO(), io.StringIO()
    logs.configure(level="info", form="json", stream=old)
    logs.configure(level="info", form="json", stream=new)
    ours().info("a")
    library().warning("b")
    assert old.getvalue() == ""
    assert [line["event"] for line in lines_of(new)] == ["a", "b"]


def test_by_default_it_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", form="auto")
    ours().info("daemon.ready")
    library().warning("careful")
    out, err = capsys.readouterr()
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["daemon.ready", "careful"]
    assert err == ""


def test_what_is_bound_to_the_task_is_in_every_line_of_it() -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="json", stream=stream)
    with structlog.contextvars.bound_contextvars(request="r1"):
        ours().info("a")
        library().warning("b")
    ours().info("c")
    assert [line.get("request") for line in lines_of(stream)] == ["r1", "r1", None]


@pytest.mark.parametrize(("encoding", "worker_id"), [("latin-1", "名"), ("ascii", "é"), ("utf-8", "\ud800")])
def test_a_worker_s_id_cannot_make_a_line_fail_whatever_the_encoding_of_the_stream(
    encoding: str, worker_id: str
) -> None:
    raw = io.BytesIO()
    logs.configure(level="info", form="json", stream=io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    ours().info("worker.stale", worker_id=worker_id)
    assert json.loads(raw.getvalue())["worker_id"] == worker_id


class Broken(io.StringIO):
    """A log whose reader has gone, or whose disk is full."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_log_that_cannot_be_written_is_no_reason_to_fail_at_what_it_would_have_reported() -> None:
    logs.configure(level="info", form="json", stream=Broken())
    ours().info("delivery.delivered")


FORGED = "\n2026-11-30 [info] forged"
EVIL = ("\x1b[2J", "\x07", "\x9b31m", "\u202e", "\u2066", "\u200b", "\u2028", "\r", "\x00", "\x7f", FORGED)


def _fails_saying(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("evil", EVIL)
def test_c11_nothing_that_others_wrote_reaches_a_terminal_as_it_is(evil: str) -> None:
    stream = io.StringIO()
    logs.configure(level="info", form="console", stream=stream)
    said = f"a{evil}b"
    ours().info("notification", page=f"DOWN {said}")
    ours().info(said, status=said, nested={said: [said]}, other=ValueError(said))
    library().warning("it says %s", said)
    for log in (ours(), library()):
        try:
            _fails_saying(said)
        except ValueError:
            log.exception("sweep.failed")
    ours().error("request.failed", exception=f"Traceback\nValueError: {said}")
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("2026-11-30 [info] forged") for line in lines)
    assert stream.getvalue().count(evil.encode("unicode_escape").decode().split("2026")[0]) >= 5


def test_c21_a_page_on_a_terminal_is_one_line_and_its_fields_come_at_debug() -> None:
    paged = Paged(kinds=frozenset({"worker.stale"}), receivers=frozenset({"log"}))

    def written(level: str, form: Literal["json", "console"]) -> list[str]:
        stream = io.StringIO()
        logs.configure(level=level, form=form, stream=stream, paged=paged)
        ours().info("worker.stale", worker_id="w")
        ours().info("notification", page="DOWN w (dev): no heartbeat", receiver="log", type="worker.stale")
        ours().info("delivery.delivered", receiver="log")
        ours().info("delivery.delivered", receiver="ops")
        ours().info("worker.stopped", worker_id="v")
        return stream.getvalue().splitlines()

    page, other, kind = written("info", "console")
    assert page.split("] ")[1] == "DOWN w (dev): no heartbeat"
    assert ("receiver=ops" in other, "worker.stopped" in kind) == (True, True)
    assert len(written("debug", "console")) == 5
    assert re.search(r"DOWN w \(dev\): no heartbeat +receiver=log type=worker.stale", written("debug", "console")[1])
    programs = [json.loads(line) for line in written("info", "json")]
    assert [line["event"] for line in programs] == [
        *("worker.stale", "notification", "delivery.delivered", "delivery.delivered", "worker.stopped")
    ]
    assert "page" not in programs[1]
