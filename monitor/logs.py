"""The daemon's log: one line per fact, JSON for machines and readable on a terminal.

Our own lines are structlog's, with a dotted constant as event name. Lines of libraries (stdlib logging) get the
same form. No token ever gets here: requests are not logged.
"""

import contextlib
import io
import logging
import sys
from typing import Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from monitor.printable import Paged, escaped

_LINES: Final = ("exception", "stack")
"""Fields with several lines."""


class Unfailing(io.TextIOBase):
    """A stream that never raises: not for a full disk, a closed reader or a character that can't be encoded.

    The failed line is lost. The work that it is about (a beat, a delivery) goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if possible."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person is likely to read it."""
        return self._stream.isatty()


def is_console(form: Literal["auto", "json", "console"], stream: TextIO) -> bool:
    """Whether the lines of a stream are for people."""
    return stream.isatty() if form == "auto" else form == "console"


def configure(
    *,
    level: str,
    form: Literal["auto", "json", "console"],
    stream: TextIO | None = None,
    paged: Paged = Paged(),  # noqa: B008 - immutable
) -> None:
    """Send every line at ``level`` and above to ``stream``, by default stdout.

    ``auto`` is console on a terminal and JSON elsewhere. On the console a page is one line that begins with its
    sentence. Its fields, and lines with the same content, appear at level debug.
    """
    out = cast("TextIO", Unfailing(stream or sys.stdout))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = is_console(form, out)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = (
        [
            _ForPeople(paged=None if threshold <= logging.DEBUG else paged),
            structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=_traceback),
        ]
        if console
        else [_without_page, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.WARNING))


class _ForPeople:
    """Formats lines for a terminal. ``paged`` None: nothing is left out."""

    def __init__(self, *, paged: Paged | None) -> None:
        self._paged = paged

    def __call__(self, _logger: object, _method: str, line: EventDict) -> EventDict:
        if self._paged is not None and self._paged.has(line):
            raise structlog.DropEvent
        page = line.pop("page", None)
        if page is not None and self._paged is not None:
            line = {"event": page, "level": line["level"], "timestamp": line["timestamp"]}
        elif page is not None:
            line["event"] = page
        return {name: value if name == "exc_info" else _shown(name, value) for name, value in line.items()}


def _shown(name: str, value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return _indented(text) if name in _LINES else escaped(text)


def _indented(text: str) -> str:
    """Indent several lines, so that none of them looks like a log line."""
    return "\n".join(f"  {escaped(line)}" for line in text.split("\n"))


def _traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Replaces the default formatter, which shows local variables: they hold tokens and bodies."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(_indented(text.getvalue()))


def _without_page(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Drop the page: programs read the fields."""
    line.pop("page", None)
    return line
